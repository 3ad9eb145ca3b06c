"""Models by name: ``create_model("merba", num_classes=7, head="dgcm")``.

Listing and describing models does not import torch; building one does.  A model of your own
registers with ``register_model`` and is then known to every command of the same process.
"""

from mepipe_model.models.registry import ModelInfo, create_model, list_models, model_info, register_model

__all__ = ["ModelInfo", "create_model", "list_models", "model_info", "register_model"]
