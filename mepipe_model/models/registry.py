"""The table of models.  Family modules fill it and import torch only inside their builders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from mepipe.errors import UsageError
from mepipe.registry import Registry

if TYPE_CHECKING:
    from mepipe_model.models.base import FlowModel

# modules of this package that register models when imported
FAMILIES = ("merba", "mambavision", "baselines", "handcrafted", "ms_vssm", "msstnet", "fermam")

Builder = Callable[..., "FlowModel"]

# What a model can be given, B samples at a time:
#   scaled    (B, 3, H, W) float32 flow (u, v, magnitude), scaled by the trainer
#   px        the same in px: the model prepares its own input (base.PreparingModel)
#   frames    (T, H, W) uint8 grey, the aligned frames of one clip
#   image     (B, 3, H, W) float32 RGB in 0..1, an aligned face, scaled by the trainer (data.Scale) and not by the model
#   sequence  (B, T, 3, H, W) float32 RGB in 0..1, T aligned frames in their order, scaled by the trainer
Takes = Literal["scaled", "px", "frames", "image", "sequence"]
FLOW: tuple[Takes, ...] = ("scaled", "px")


@dataclass(frozen=True)
class ModelInfo:
    """What a reader should know before training a model.

    fidelity: "paper" written from a paper's text, "code" checked against the authors' code,
    "reconstruction" where essential details are ours.  params: trainable parameters as built by
    ``create_model(name)``.  macs: multiply-accumulates of one sample of ``shape`` (counting.multiply_accumulates), 0
    where a model has no network.  published: scores the source reports, and what to know about them.
    takes: what the model can read, what it was made for first (Takes).  Of flow in "px" the trainer says by the option
    ``third`` whether the third channel is the magnitude or the strain.
    shape: of one sample as the source has it, (3, H, W) or (T, 3, H, W); other sizes are taken too.
    landmarks: "taken" as a second argument, (B, 68, 2) float32 (x, y) in px of the crop, or None; a sample whose points
    are not known has NaN.
    trained_by: "epochs" of gradient steps, or "fit" at once (svm.FittedModel).  normalised: whether the model can
    take arrays that someone else scaled and that have lost their zero.
    """

    name: str
    summary: str
    input: str
    source: str
    fidelity: Literal["paper", "code", "reconstruction"]
    published: str
    params: int
    macs: int = 0
    takes: tuple[Takes, ...] = ("scaled",)
    shape: tuple[int, ...] = (3, 224, 224)
    landmarks: Literal["taken", "unused"] = "unused"
    trained_by: Literal["epochs", "fit"] = "epochs"
    normalised: Literal["taken", "refused"] = "taken"

    @property
    def native(self) -> Takes:
        """What the model was made for."""
        return self.takes[0]

    @property
    def flow(self) -> Takes | None:
        """How it takes flow, "scaled" or "px"; None where it cannot."""
        return next((kind for kind in self.takes if kind in FLOW), None)


_MODELS: Registry[tuple[ModelInfo, Builder]] = Registry("model")


def register_model(name: str, **about: Any) -> Callable[[Builder], Builder]:
    """Decorator for a builder ``(name, options) -> FlowModel``.

    ``options`` is a dict with ``num_classes`` and whatever the caller passed.

    Parameters
    ----------
    name
        What ``create_model`` and ``--model`` call it.
    **about
        The fields of ModelInfo.

    Returns
    -------
    Callable
        The decorator; it gives back what it decorates.

    Raises
    ------
    ValueError
        The name is taken.
    """
    info = ModelInfo(name=name, **about)

    def put(builder: Builder) -> Builder:
        _MODELS.register(name)((info, builder))
        return builder

    return put


def create_model(name: str, *, num_classes: int = 3, **options: Any) -> FlowModel:
    """Build a model with fresh weights, drawn from torch's global generator.

    ``create_model(**model.config)`` builds the same architecture again.

    Parameters
    ----------
    name
        As ``list_models`` has them.
    num_classes
        3, 5 or 7 as a rule.
    **options
        The model's own, as ``--set KEY=VALUE``.

    Returns
    -------
    FlowModel
        What ``model_info(name).takes`` says to raw logits; ``model.head`` makes loss and labels of them.

    Raises
    ------
    UsageError
        An unknown model, an unknown option or a value out of range.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise UsageError(f"num_classes={num_classes!r}: a model needs a whole number of at least 2 classes")
    _, builder = _known().get(name)
    return builder(name, {"num_classes": num_classes, **options})


def list_models() -> list[str]:
    """Names of all registered models; does not import torch.

    Returns
    -------
    list[str]
        In the order of registration.
    """
    return _known().names()


def model_info(name: str) -> ModelInfo:
    """What is known about a model, without building it.

    Parameters
    ----------
    name
        As ``list_models`` has them.

    Returns
    -------
    ModelInfo
        Input, source, fidelity, published scores, parameters.

    Raises
    ------
    UsageError
        No model has that name.
    """
    return _known().get(name)[0]


@lru_cache(maxsize=1)
def _known() -> Registry[tuple[ModelInfo, Builder]]:
    for family in FAMILIES:
        import_module(f"mepipe_model.models.{family}")
    return _MODELS
