"""What ``mepipe datasets`` prints."""

from __future__ import annotations

from typing import Any

import data_manifests
from mepipe.datasets import get_corpus, list_corpora


def known_corpora() -> list[dict[str, Any]]:
    """Every corpus with its published counts, layout and where to apply for it."""
    counts = {r["corpus"]: r for r in data_manifests.rows("counts")}
    out = []
    for name in list_corpora():
        corpus, row = get_corpus(name), counts.get(name, {})
        out.append(
            {
                "corpus": name,
                "title": corpus.title,
                "clips": int(row["clips"]) if row else None,
                "subjects": int(row["subjects"]) if row else None,
                "fps": corpus.fps,
                "layout": corpus.layout,
                "licence": corpus.licence,
                "counts_from": row.get("source", ""),
            }
        )
    return out


def listing() -> str:
    lines = []
    for c in known_corpora():
        lines.append(f"{c['corpus']:10} {c['title']}: {c['clips']} clips of {c['subjects']} subjects, {c['fps']:g} fps")
        lines.append(f"{'':10} layout   {c['layout']}")
        lines.append(f"{'':10} licence  {c['licence']}")
        lines.append(f"{'':10} counts   {c['counts_from']}")
    return "\n".join(lines)
