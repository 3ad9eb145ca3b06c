"""What ``mepipe datasets`` prints: the corpora, then the composites."""

from __future__ import annotations

from typing import Any

from mepipe.datasets import get_corpus, list_corpora
from mepipe.datasets.base import blamed
from mepipe.datasets.composite import COMPOSITES


def known_corpora() -> list[dict[str, Any]]:
    """Every corpus with its published counts, layout and where to apply for it.

    clips and subjects are None where no count is published; fps is 0 where it differs from clip to clip.  kind:
    micro-expression, or of labelled faces image or sequence.
    """
    out = []
    for name in list_corpora():
        corpus = get_corpus(name)
        with blamed(corpus, "listing its counts"):
            whole = next((c for c in corpus.published() if not c.part and not c.emotion), None)
        out.append(
            {
                "corpus": name,
                "title": corpus.title,
                "clips": whole.clips if whole else None,
                "subjects": whole.subjects if whole else None,
                "fps": corpus.fps,
                "kind": getattr(corpus, "kind", "micro-expression"),
                "layout": corpus.layout,
                "licence": corpus.licence,
                "counts_from": whole.source if whole else "",
            }
        )
    return out


def known_composites() -> list[dict[str, Any]]:
    """Every composite with its counts: of clips, subjects, labels, and of clips in each corpus."""
    return [
        {
            "composite": c.name,
            "title": c.title,
            "clips": c.clips,
            "subjects": c.subjects,
            "labels": dict(c.labels),
            "corpora": {corpus: clips for corpus, (clips, _) in c.corpora.items()},
            "source": c.source,
        }
        for c in map(COMPOSITES.get, COMPOSITES)
    ]


def listing() -> str:
    lines = []
    for c in known_corpora():
        lines.append(f"{c['corpus']:10} {c['title']}: {_counts(c)}, {_kind(c)}")
        lines.append(f"{'':10} layout   {c['layout']}")
        lines.append(f"{'':10} licence  {c['licence']}")
        if c["counts_from"]:
            lines.append(f"{'':10} counts   {c['counts_from']}")
    for c in known_composites():
        parts = " + ".join(f"{n} {corpus}" for corpus, n in c["corpora"].items())
        labels = ", ".join(f"{n} {label}" for label, n in c["labels"].items())
        lines.append(f"{c['composite']:10} {c['title']}: {_counts(c)}: {labels}")
        lines.append(f"{'':10} members  {parts}")
        lines.append(f"{'':10} counts   {c['source']}")
    return "\n".join(lines)


def _kind(c: dict[str, Any]) -> str:
    if c["kind"] == "image":
        return "labelled images"
    rate = f"{c['fps']:g} fps" if c["fps"] else "mixed frame rates"
    return f"labelled sequences, {rate}" if c["kind"] == "sequence" else rate


def _counts(c: dict[str, Any]) -> str:
    if c["clips"] is None:
        return "counts not stated"
    return f"{c['clips']} clips" + (f" of {c['subjects']} subjects" if c["subjects"] else "")
