"""What a run will do, decided before its first step: data, classes, folds, device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.settings import TrainConfig, cores
from mepipe.shards import Content, Faces, Sample, Shards
from mepipe.shards.content import AnyContent, maker
from mepipe.workspace import Workspace, digest
from mepipe_model.fitted import check_inputs, is_fitted
from mepipe_model.inputs import open_data, settled, wanted_corpora
from mepipe_model.protocols import Fold, make_folds, named_parts, only_corpus


@dataclass(frozen=True)
class Plan:
    """A run before it starts: settings without blanks, samples, folds, device."""

    config: TrainConfig
    corpora: tuple[str, ...]
    composite: str | None
    missing: list[str]
    samples: list[Sample]
    targets: list[int]
    classes: tuple[str, ...]
    unlabelled: int
    folds: list[Fold]
    parts: dict[str, str]  # of the test set, by subject (DFME: testA, testB)
    device: str
    fingerprint: str
    flow: dict[str, Any]  # how it was made; {} where faces are read
    faces: dict[str, Any]  # how they were made; {} where flow is read

    @property
    def kind(self) -> str:
        """Flow, image or sequence."""
        return self.config.input or "flow"

    @property
    def data_name(self) -> str:
        return self.composite or "+".join(self.corpora)


def make_plan(ws: Workspace, config: TrainConfig, *, elsewhere: str | None = None) -> Plan:
    """Everything that is decided before the first step. Raises DataError when there is nothing to train on.

    elsewhere: another machine will train, on cpu or cuda: it checks the bytes of the data, and this one need not have
    a GPU.
    """
    config = settled(ws, config)
    kind = config.input or "flow"
    if kind != "flow" and (config.shift or config.noise):
        raise UsageError("--shift and --noise go with flow, not with faces", do="leave them out")
    if kind == "flow" and config.erase:
        raise UsageError("--erase goes with faces, not with flow", do="leave it out")
    corpora, composite = wanted_corpora(ws, config.data, kind)
    data = open_data(ws, kind, corpora, config.classes, composite)
    if not len(data):
        whose = f"is on the list of {composite}" if composite else f"has a label of the {config.classes}-class set"
        raise DataError(f"none of {len(data.shards)} samples of {', '.join(corpora)} {whose}")
    if not elsewhere and (damaged := data.shards.damaged()):
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        do = f"run {maker(data.shards.paths[0])} again"
        raise DataError(f"{damaged[0]}{more}: its bytes do not match their checksum", do=do)
    samples = data.samples
    if isinstance(data.content, Content):
        check_inputs(ws, config.model, samples, data.content)
    if config.ddp > 1 and is_fitted(config.model):
        raise UsageError(f"{config.model} is fitted at once, and --ddp shares steps", do="leave --ddp out")
    assert config.protocol is not None, "settled above"
    folds = make_folds(config.protocol, samples, k=config.k, seed=config.seed)
    folds = only_corpus(folds, config.protocol, config.test_corpus)
    identity = [[s.key, s.subject, t] for s, t in zip(samples, data.targets, strict=True)]
    fingerprint = digest(identity if kind == "flow" else [kind, data.classes, identity])
    device = elsewhere or pick_device(config.device)
    # part of the run's identity, like every setting: sums over threads differ in their last digits
    threads = config.threads or max(1, cores() // len(folds))
    return Plan(
        config=replace(
            config,
            data=(composite,) if composite else corpora,
            threads=threads,
            head_motion=settled_head_motion(config, data.content),
        ),
        corpora=corpora,
        composite=composite,
        missing=list(data.missing),
        samples=samples,
        targets=data.targets,
        classes=data.classes,
        unlabelled=data.unlabelled,
        folds=folds,
        parts=named_parts(samples, folds),
        device=device,
        fingerprint=fingerprint,
        flow=flow_facts(data.shards, data.content) if isinstance(data.content, Content) else {},
        faces={} if kind == "flow" else {"parameters": data.shards.parameters},
    )


def settled_head_motion(config: TrainConfig, content: AnyContent) -> str:
    """``--head-motion`` without auto. Raises UsageError where it is to be removed and the input is no flow in px."""
    from mepipe_model.models import model_info

    if isinstance(content, Faces):
        if config.head_motion == "remove" and config.input:
            raise UsageError(f"--head-motion remove needs flow, not an {config.input}", do="leave --head-motion out")
        return "keep"
    in_px = not content.normalised and model_info(config.model).flow is not None
    if config.head_motion == "remove" and not in_px:
        what = "normalised arrays" if content.normalised else f"the frames that {config.model} reads"
        raise UsageError(f"--head-motion remove needs flow in px, not {what}", do="use --head-motion keep")
    return "remove" if in_px and config.head_motion != "keep" else "keep"


def flow_facts(shards: Shards, content: Content) -> dict[str, Any]:
    """What config.json keeps of the shards: how they were made and what their channels hold."""
    facts = {"parameters": shards.parameters, "channels": list(content.channels), "normalised": content.normalised}
    return facts if content.span is None else {**facts, "span": list(content.span)}


def pick_device(wanted: str) -> str:
    """``cpu`` or ``cuda``. Raises MepipeError when CUDA is asked for and absent."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise MepipeError("--device cuda: no CUDA GPU is usable here", do="use --device cpu, or run mepipe doctor")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
