"""Operators of the models: the selective scan with its backends, and the scan directions.

``scan_backend`` says which path a device will take, so a run can print it.  Names load on first
use: ``mepipe_model.ops.directions`` alone does not need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mepipe_model.ops.directions import parse_scans, scan_inverse, scan_order
    from mepipe_model.ops.scan import SCAN_BACKENDS, scan_backend, selective_scan

__all__ = ["SCAN_BACKENDS", "parse_scans", "scan_backend", "scan_inverse", "scan_order", "selective_scan"]

_HOME = {
    "SCAN_BACKENDS": "scan",
    "scan_backend": "scan",
    "selective_scan": "scan",
    "parse_scans": "directions",
    "scan_inverse": "directions",
    "scan_order": "directions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
