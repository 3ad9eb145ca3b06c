"""What the reader of ``mepipe train`` is told: the data, the model, the recipe, the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

from mepipe.settings import TrainConfig
from mepipe_model.fitted import STEPS, is_fitted
from mepipe_model.plan import Plan
from mepipe_model.protocols import LEAKY, Fold, unseen_classes
from mepipe_model.recipes import learning_rate, model_options
from mepipe_model.runs import Run

HEAVY = 20_000_000  # parameters: above this a CPU takes days, and the reader should know at once
CURVE = 20  # points of a learning-rate curve: it fits a screen
WIDTH = 40  # characters of its highest bar


def fold_line(run: Run, fold_id: str, done: int, total: int, seconds: float) -> str:
    facts = run.fold_facts(fold_id) or {}
    left = seconds / done * (total - done)
    more = f"about {left / 60:.0f} min left" if left > 100 else f"about {left:.0f} s left"
    return (
        f"fold {done}/{total} {fold_id}: {facts.get('train_clips')} training clips, {facts.get('test_clips')} test "
        f"clips, {facts.get('seconds')} s; {more}"
    )


def start_lines(plan: Plan, run: Run, wanted: int, left: int) -> list[str]:
    params, scan, start = model_facts(plan)
    lines = [
        f"run {run.name} in {run.folder}",
        f"{data_line(plan)}; {wanted - left} of {wanted} folds are done",
        *composite_lines(plan),
        *content_lines(plan),
        *unseen_lines(plan),
        f"{plan.config.model}: {params:,} parameters on {plan.device}{scan}",
        *start,
    ]
    if plan.config.compile:
        lines.append("the network is compiled by torch.compile, its local mixers are not; the first steps take long")
    if plan.device == "cpu" and params > HEAVY and left:
        lines.append(
            f"warning: {plan.config.model} on a CPU takes about a second per clip and epoch; "
            "use a GPU, or --model merba_tiny to try things out"
        )
    if plan.config.select == "oracle":
        lines.append("warning: --select oracle looks at the test subject; its scores are not comparable to honest ones")
    return lines


# option -> (the setting that decides, its values with which the option does nothing)
UNUSED = {
    "patience": ("select", ("fixed", "oracle")),
    "k": ("protocol", ("loso", "holdout", "cross", "folds")),
    "decay": ("schedule", ("cosine", "constant")),
    "cooldown": ("schedule", ("constant", "exponential")),
    "min_lr": ("schedule", ("constant", "exponential")),
}


def unused_lines(given: TrainConfig, used: TrainConfig) -> list[str]:
    """A warning for every option that was given and that nothing reads.

    given: as the user wrote it; used: the same with all that a recipe fills.
    """
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    lines = []
    for name, (decided_by, values) in UNUSED.items():
        value, decision = getattr(given, name), getattr(used, decided_by)
        if value not in (defaults[name], 0) and decision in values:
            option, other = (f"--{n.replace('_', '-')}" for n in (name, decided_by))
            lines.append(f"warning: {option} {value} changes nothing with {other} {decision}")
    return lines


def model_facts(plan: Plan) -> tuple[int, str, list[str]]:
    """Parameters of the model as it will be built, which selective scan runs ("" for a model without one), and what
    came from a checkpoint.

    A wrong checkpoint is told here and not by a worker.
    """
    import torch

    from mepipe_model.models import create_model
    from mepipe_model.ops import scan_backend

    model = create_model(plan.config.model, num_classes=len(plan.classes), **model_options(plan.config))
    scan = ""
    if "scan_backend" in model.config:
        name, why = scan_backend(torch.device(plan.device), model.config["scan_backend"])
        scan = f"; selective scan: {name} ({why})"
    started = [line for loaded in model.loaded for line in loaded.lines()]
    return sum(p.numel() for p in model.parameters()), scan, started


def data_line(plan: Plan) -> str:
    counts = Counter(plan.classes[t] for t in plan.targets)
    per_class = ", ".join(f"{c} {counts[c]}" for c in plan.classes)
    reason = f"not on the list of {plan.composite}" if plan.composite else "without such a label"
    out = f", {plan.unlabelled} {reason} left out" if plan.unlabelled else ""
    of = f" of {len(plan.samples) + len(plan.missing)}" if plan.missing else ""
    folds = f"{len(plan.folds)} {'fold' if len(plan.folds) == 1 else 'folds'}"
    return f"{plan.data_name}: {len(plan.samples)}{of} clips ({per_class}{out}), {folds}"


def content_lines(plan: Plan) -> list[str]:
    """A line when the data are not flow in px."""
    if plan.config.protocol == LEAKY:
        leak = "one person is in training and in test: its scores are not comparable to honest ones"
        return [f"warning: --protocol {LEAKY}: {leak}"]
    if not plan.flow.get("normalised"):
        return []
    return [f"  imported arrays: {', '.join(plan.flow['channels'])}, normalised before they came here"]


def unseen_lines(plan: Plan) -> list[str]:
    """A warning for every fold that tests a class none of its training clips has."""
    lines = []
    for fold in plan.folds:
        if unseen := unseen_classes(fold, plan.targets):
            names = ", ".join(plan.classes[c] for c in unseen)
            lines.append(f"  warning: fold {fold.id} has test clips of {names} and no training clip of it")
    return lines


def composite_lines(plan: Plan) -> list[str]:
    """Clips per corpus of a composite, and every clip of its list that has no flow here."""
    if plan.composite is None:
        return []
    sizes = Counter(s.corpus for s in plan.samples)
    per_corpus = ", ".join(f"{c} {sizes[c]}" for c in plan.corpora)
    return [f"  {plan.composite}: {per_corpus}", *(f"  missing: {m}" for m in plan.missing)]


def recipe_lines(plan: Plan, wanted: Sequence[Fold]) -> list[str]:
    """The dry run: data, folds, resolved settings, and the learning rate at some epochs."""
    c = plan.config
    assert c.batch_size is not None
    steps = -(-max(len(f.train) for f in plan.folds) // c.batch_size)
    fitted = is_fitted(c.model)
    told = {k: v for k, v in c.as_dict().items() if not (fitted and k in STEPS)}
    settings = ", ".join(f"{k}={v}" for k, v in told.items() if v not in (None, ()) and v is not False)
    folds = [f"  fold {n} {f.id}: {len(f.train)} training clips, {len(f.test)} test clips"
             for n, f in enumerate(plan.folds, start=1) if f in wanted]  # fmt: skip
    rates = [f"{c.model} is fitted at once, without epochs"] if fitted else curve_lines(c, steps)
    how = [f"device: {plan.device}", f"settings: {settings}", *rates]
    return [data_line(plan), *composite_lines(plan), *folds, *unseen_lines(plan), *how]


def curve_lines(config: TrainConfig, steps: int) -> list[str]:
    """The learning rate at the start of epochs, as a drawn curve: all of the warm-up, the cooldown's first, and
    some CURVE in between.

    steps: per epoch, in the largest fold.
    """
    epochs, warmup, cooldown = config.epochs or 0, config.warmup or 0, config.cooldown or 0
    marks = {*range(min(warmup, CURVE) + 1), *range(0, epochs, -(-epochs // CURVE)), epochs - cooldown, epochs - 1}
    rates = {e: learning_rate(config, e * steps, steps) for e in sorted(marks) if e < epochs}
    peak = max(rates.values()) or 1.0
    bars = {e: "#" * max(1, round(WIDTH * rate / peak)) for e, rate in rates.items()}
    what = f"learning rate: epoch 1: {rates[0]:.3e}, highest shown {peak:.3e}, {steps} steps per epoch"
    return [what, *(f"  epoch {e + 1:4}  {rates[e]:.3e}  {bars[e]}" for e in rates)]
