"""What every model offers the training loop: a head, its configuration, and parameter groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mepipe_model.models.heads import Head

if TYPE_CHECKING:
    from mepipe_model.models.starting import Loaded

# State-space parameters: decaying A_log pulls every decay rate towards A = -1 (Mamba excludes it;
# MambaVision means to and does not, since timm never reads its mark).
STATE_NAMES = ("A_log",)


class FlowModel(nn.Module):
    """Maps a batch to raw logits (B, K'); ``head`` turns those into loss and labels.

    The batch is flow (B, 3, H, W) float32, or what else the registry's ``takes`` names: an image (B, 3, H, W), a
    sequence (B, T, 3, H, W).  A model whose facts say ``landmarks="taken"`` has forward(x, landmarks=None), with
    (B, 68, 2) float32 in px of the crop, NaN where they are not known; ``wants_landmarks`` says whether the options it
    was built with make use of them.
    """

    head: Head
    wants_landmarks = False
    loaded: tuple[Loaded, ...] = ()  # what came from files of the user's own

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self._config = config

    @property
    def config(self) -> dict[str, Any]:
        """All resolved options, JSON values only; ``create_model(**config)`` rebuilds the model."""
        return dict(self._config)

    def parameter_groups(self, weight_decay: float, decay_state: bool = False) -> list[dict[str, Any]]:
        """Two optimiser groups: matrices and kernels decay; vectors and state parameters do not.

        Vectors are biases, norms, layer scales and D.  decay_state: decay A_log like the matrices,
        as training MambaVision's released code with timm does.
        """
        decay: list[nn.Parameter] = []
        keep: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            state = name.rsplit(".", 1)[-1] in STATE_NAMES and not decay_state
            (keep if parameter.ndim < 2 or state else decay).append(parameter)
        return [
            {"params": decay, "weight_decay": weight_decay},
            {"params": keep, "weight_decay": 0.0},
        ]

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class PreparingModel(FlowModel):
    """A model with an input preparation of its own: forward(x) = network(prepare(x)).

    The preparation has no parameters and looks at one clip at a time, so that a trainer may do it once per clip
    instead of once per step.
    """

    def prepare(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) flow in px -> what ``network`` looks at."""
        raise NotImplementedError

    def network(self, x: Tensor) -> Tensor:
        """Prepared input -> logits (B, num_classes)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.prepare(x))
