"""What ``mepipe models`` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mepipe_model.models import list_models, model_info


def known_models() -> list[dict[str, Any]]:
    """Every registered model as a dictionary of its ModelInfo."""
    return [asdict(model_info(name)) for name in list_models()]


def listing() -> str:
    """The text: parameters, input, operations, source with its fidelity, published score."""
    lines = []
    for m in known_models():
        lines.append(f"{m['name']:14} {m['params']:11,} parameters  {m['summary']}")
        lines.append(f"{'':14} input      {m['input']}")
        if m["macs"]:
            size = "x".join(map(str, m["shape"]))
            lines.append(f"{'':14} operations {m['macs'] / 1e9:.4g} G multiply-accumulates for {size}")
        lines.append(f"{'':14} source     {m['source']} ({m['fidelity']})")
        lines.append(f"{'':14} published  {m['published']}")
    return "\n".join(lines)
