"""mepipe_model: from flow shards to an evaluated model.

``create_model("merba", num_classes=3)`` builds a model by name, ``list_models()`` gives the names.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["create_model", "list_models"]

if TYPE_CHECKING:
    from mepipe_model.models import create_model, list_models


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mepipe_model import models

        return getattr(models, name)
    raise AttributeError(f"module 'mepipe_model' has no attribute {name!r}")
