"""A fold's model as one file for other programs, checked against the model it was made from.

Formats    safetensors (weights; the header holds their description), torchscript, onnx
Graph      input ``flow`` (batch, 3, 224, 224) float32: u, v, magnitude in px as the shards hold them.  The scaling
           of the fold and a model's own preparation are inside.
Outputs    ``logits`` (batch, K'), ``probabilities`` (batch, classes), ``label`` (batch,) int64: the decision, which
           with two heads need not be the largest probability
Described  JSON with classes, channels, model options and fold, under the key ``mepipe``: safetensors header,
           TorchScript extra file ``mepipe.json``, ONNX metadata
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mepipe.errors import MepipeError, UsageError
from mepipe.shards import FLOW_SHAPE
from mepipe.workspace import Workspace, atomic_file
from mepipe_model.data import Scale
from mepipe_model.foldmodels import usable_folds
from mepipe_model.models import create_model, model_info
from mepipe_model.models.base import FlowModel
from mepipe_model.models.lbp_top import LbpTop
from mepipe_model.runs import Run, find_run
from mepipe_model.weights import load_weights

FORMATS = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}
OUTPUTS = ("logits", "probabilities", "label")
# Largest difference from the model that is accepted, relative to its largest output (at least 1): float32 sums in
# another order differ by 1e-7 to 1e-6 here, a wrong layer by far more.
BOUND = 1e-4
CHECKED = (1, 3)  # batch sizes tried: the file must serve any
OPSET = 17  # the first with layer normalisation as one operator
TYPICAL_MOTION = 1.0  # px; of the flow that is tried


@dataclass(frozen=True)
class Exported:
    """What ``export_run`` wrote. difference: the largest of logits and probabilities from the model's."""

    path: Path
    run: str
    fold: str
    folds: int
    format: str
    difference: float
    bound: float

    def lines(self) -> list[str]:
        more = f", one of {self.folds}; --fold chooses" if self.folds > 1 else ""
        head = f"{self.run}, fold {self.fold}{more}: {self.format} -> {self.path}"
        return [head, f"  largest difference from the model {self.difference:.1e}, allowed {self.bound:.1e}"]


class Graph(nn.Module):
    """What is exported: removal of head motion, scaling, model, probabilities and decision."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: FlowModel, scale: Scale, still: bool = False) -> None:
        super().__init__()
        self.model, self.scale, self.still = model, scale, still
        self.register_buffer("mean", torch.tensor(scale.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(scale.std).view(-1, 1, 1))

    def forward(self, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flow = by_sorting(flow) if self.still else flow
        x = flow if self.scale == Scale.none() else (flow - self.mean) / self.std
        logits = self.model(x)
        return logits, self.model.head.probabilities(logits), self.model.head.decide(logits)


def by_sorting(x: Tensor) -> Tensor:
    """``data.without_head_motion`` in operations that ONNX has: it knows no median."""
    ordered = x[:, :2].flatten(2).sort(2).values
    uv = x[:, :2] - ordered[..., (ordered.shape[2] - 1) // 2, None, None]
    return torch.cat((uv, uv.square().sum(1, keepdim=True).sqrt()), 1)


def export_run(ws: Workspace, run: str, format: str, fold: str | None = None, out: Path | None = None) -> Exported:
    """Write the model of one fold of ``run`` as one file, checked against the model.

    Parameters
    ----------
    ws
        The workspace that run names are looked up in.
    run
        A name or a folder.
    format
        "safetensors", "torchscript" or "onnx".
    fold
        None is the first that has weights.
    out
        The file; None is RUN/export/<fold> with the format's suffix.

    Returns
    -------
    Exported
        The file, and how far its output is from the model's.

    Raises
    ------
    UsageError, DataError
        No such run, fold or weights.
    MepipeError
        A package is missing, or the file does not give what the model gives: then nothing is written.
    """
    if format not in FORMATS:
        raise UsageError(f"--format is {format!r}", do=f"valid: {', '.join(FORMATS)}")
    the_run = find_run(ws, run)
    check_exportable(the_run, format)
    folds = usable_folds(the_run, fold)
    model, scale = load_weights(the_run.fold(folds[0]))
    path = out or the_run.folder / "export" / f"{the_run.fold(folds[0]).name}{FORMATS[format]}"
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder", do="name a file")
    original = Graph(model, scale, the_run.settings.head_motion == "remove").eval()
    about = json.dumps(description(the_run, folds[0], model, scale))
    with atomic_file(path) as temp, torch.no_grad():
        written = WRITERS[format](temp, original, about)
        difference, bound = largest_difference(original, written)
        if not difference <= bound:
            what = f"the {format} file differs from the model by {difference:.1e}, more than {bound:.1e}"
            raise MepipeError(what, do="nothing was written; please report it with the run's config.json")
    return Exported(path, the_run.name, folds[0], len(folds), format, difference, bound)


def check_exportable(run: Run, format: str) -> None:
    """Raises UsageError for a model without a graph, MepipeError for a missing package."""
    name = run.settings.model
    if run.settings.input is not None:
        do = f"its weights are {run.folder}/folds/<fold>/weights.safetensors"
        raise UsageError(f"{run.name} reads faces; only models of flow are exported", do=do)
    if format != "safetensors" and model_info(name).native == "frames":
        what = f"--format {format}: {name} counts patterns in clips of any length, which is no graph"
        raise UsageError(what, do="use --format safetensors, which holds the SVM")
    missing = [p for p in ("onnx", "onnxruntime") if format == "onnx" and find_spec(p) is None]
    if missing:
        raise MepipeError(f"--format onnx needs {' and '.join(missing)}", do="pip install 'mepipe[export]'")


def description(run: Run, fold: str, model: FlowModel, scale: Scale) -> dict[str, Any]:
    """What a reader of the file must know."""
    flow = run.config["data"].get("flow", {})
    return {
        "run": run.name,
        "fold": fold,
        "classes": list(run.classes),
        "channels": flow.get("channels", ["u", "v", "magnitude"]),
        "normalised": bool(flow.get("normalised")),
        "model": model.config,
        "scale": {"mean": scale.mean, "std": scale.std},
        "head_motion": run.settings.head_motion or "keep",
    }


def largest_difference(original: Graph, written: Callable[[Tensor], Any]) -> tuple[float, float]:
    """The largest difference of logits, probabilities over several inputs, and the one that is allowed.

    A label that differs counts as infinite where the model's two largest probabilities are further apart than that.
    """
    worst, largest = 0.0, 1.0
    for seed, size in enumerate(CHECKED):
        x = typical_input(original.model, size, seed)
        want = original(x)
        got = [torch.as_tensor(np.asarray(t)) for t in written(x)]
        largest = max(largest, float(want[0].abs().max()))
        for a, b in zip(want[:2], got[:2], strict=True):
            worst = max(worst, float((a - b).abs().nan_to_num(nan=float("inf")).max()))
        top = want[1].topk(2, -1).values
        clear = top[:, 0] - top[:, 1] > BOUND
        if bool(((want[2] != got[2]) & clear).any()):
            worst = float("inf")
    return worst, BOUND * largest


def typical_flow(size: int, seed: int) -> Tensor:
    """(size, 3, 224, 224): smooth motion with noise, and its magnitude."""
    g = torch.Generator().manual_seed(seed)
    coarse = TYPICAL_MOTION * torch.randn(size, 2, 7, 7, generator=g)
    uv = F.interpolate(coarse, size=FLOW_SHAPE[1:], mode="bicubic")
    uv = uv + 0.1 * TYPICAL_MOTION * torch.randn(uv.shape, generator=g)
    return torch.cat((uv, uv.norm(dim=1, keepdim=True)), 1)


def typical_input(model: FlowModel, size: int, seed: int) -> Tensor:
    """What ``model`` reads of ``size`` clips: flow, or for LBP-TOP grey frames, as few as it takes."""
    if not isinstance(model, LbpTop):
        return typical_flow(size, seed)
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size, model.shortest, *FLOW_SHAPE[1:]), generator=g)


# --- formats: each writes the graph and returns what a reader of the file computes --------------------


def _safetensors(path: Path, graph: Graph, about: str) -> Callable[[Tensor], Any]:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_file({k: v.contiguous() for k, v in graph.model.state_dict().items()}, path, {"mepipe": about})
    with safe_open(path, "pt") as file:
        read = json.loads(file.metadata()["mepipe"])
    model = create_model(**read["model"])
    model.load_state_dict(load_file(path))
    scale = Scale(tuple(read["scale"]["mean"]), tuple(read["scale"]["std"]))
    return Graph(model, scale, read.get("head_motion") == "remove").eval()


def _torchscript(path: Path, graph: Graph, about: str) -> Callable[[Tensor], Any]:
    with tracing():
        traced = torch.jit.trace(portable(graph), (typical_flow(2, 0),), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={"mepipe.json": about})
        return torch.jit.load(str(path))


def _onnx(path: Path, graph: Graph, about: str) -> Callable[[Tensor], Any]:
    """By torch's exporter from traces: for the 49 steps of a scan it takes a thirtieth of the time of the newer one."""
    import onnx
    import onnxruntime

    with tracing():
        torch.onnx.export(
            portable(graph),
            (typical_flow(2, 0),),
            str(path),
            input_names=["flow"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in ("flow", *OUTPUTS)},
            opset_version=OPSET,
            dynamo=False,
        )
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {"mepipe": about})
    onnx.checker.check_model(made)
    onnx.save(made, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(list(OUTPUTS), {"flow": x.numpy()})


WRITERS: dict[str, Callable[[Path, Graph, str], Callable[[Tensor], Any]]] = {
    "safetensors": _safetensors,
    "torchscript": _torchscript,
    "onnx": _onnx,
}


def portable(graph: Graph) -> Graph:
    """The graph with the selective scan in plain torch operations, where it has one."""
    config = graph.model.config
    if "scan_backend" not in config:
        return graph
    model = create_model(**{**config, "scan_backend": "doubling"})
    model.load_state_dict(graph.model.state_dict())
    return Graph(model, graph.scale, graph.still).eval()


@contextmanager
def tracing() -> Iterator[None]:
    """Our autograd functions as their plain forward, which a trace records operation by operation; no warnings.

    A trace cannot hold an autograd function, and what is exported has no backward.
    """
    ours: list[Any] = [f for f in _functions(torch.autograd.Function) if f.__module__.startswith("mepipe_model.")]
    for function in ours:
        function.apply = classmethod(lambda cls, *args: cls.forward(_NothingSaved(), *args))
    try:
        with warnings.catch_warnings():
            # sizes that are the same for every clip become constants of the trace: meant so
            warnings.simplefilter("ignore")
            yield
    finally:
        for function in ours:
            del function.apply


def _functions(base: type) -> Iterator[type]:
    """All classes below ``base``."""
    below: list[type] = base.__subclasses__()
    for function in below:
        yield function
        yield from _functions(function)


class _NothingSaved:
    """The context of a forward that has no backward."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Nothing to keep."""


__all__ = ["FORMATS", "Exported", "export_run"]
