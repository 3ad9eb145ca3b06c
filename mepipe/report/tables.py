"""The tables and sentences of a page: pure functions from what a run holds to rows and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from mepipe.settings import TrainConfig
from mepipe.workspace import versions
from mepipe_model.metrics import Scores, confusion_matrix
from mepipe_model.runs import Prediction, Run

PROTOCOL = {
    "loso": "Leave one subject out: each clip is predicted by a model trained without any clip of its subject. The "
    "predictions of all folds are pooled and scored once.",
    "kfold": "Groups of whole subjects: each clip is predicted by a model trained without any clip of its subject's "
    "group. The predictions of all folds are pooled and scored once.",
    "holdout": "The corpus's own split: one model, trained on its training part, judged once on the rest.",
    "cross": "Leave one corpus out: each corpus is predicted by a model trained on the other corpora alone. The "
    "figures of each corpus are the result; whether one person is in two corpora cannot be known.",
    "folds": "The corpus's own folds: each clip is predicted by the model of the fold it is tested in. The predictions "
    "of all folds are pooled and scored once.",
    "random-leaky": "Samples at random, whoever is seen (leaky): frames of one person, and of one clip, are in "
    "training and in test. The figures are not comparable to honest ones.",
}


@dataclass(frozen=True)
class SubjectRow:
    """How well one subject's clips were recognised."""

    corpus: str
    subject: str
    clips: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.clips


def subject_rows(rows: Sequence[Prediction]) -> list[SubjectRow]:
    """One row per subject, the worst first; of equal ones the one with more clips first."""
    clips = Counter((r.corpus, r.subject) for r in rows)
    right = Counter((r.corpus, r.subject) for r in rows if r.true == r.pred)
    table = [SubjectRow(*key, n, right[key]) for key, n in clips.items()]
    return sorted(table, key=lambda s: (s.accuracy, -s.clips, s.corpus, s.subject))


def constant_answer(rows: Sequence[Prediction], classes: Sequence[str]) -> tuple[str, Scores]:
    """The best that can be had without looking: always the most frequent class, and its scores."""
    true = [r.true for r in rows]
    counts = Counter(true)
    answer = max(classes, key=lambda c: counts[c])
    return answer, Scores(tuple(classes), confusion_matrix(true, [answer] * len(true), classes))


# --- words -----------------------------------------------------------------------------------------


def selection_words(settings: TrainConfig, facts: dict[str, dict[str, Any]]) -> str:
    """The rule by which the judged epoch was chosen, in words."""
    if settings.select == "inner":
        judged = sorted(int(f["judged_epoch"]) for f in facts.values() if "judged_epoch" in f)
        span = f" (epochs {judged[0]} to {judged[-1]}, median {judged[len(judged) // 2]})" if judged else ""
        return (
            "Inner: in each fold the epoch with the best UF1 on held-out training subjects is judged"
            f"{span}. The test subject is not looked at."
        )
    return f"Fixed: the last epoch ({settings.epochs}) is judged in every fold. Nothing is chosen on test clips."


def summary(run: Run, rows: Sequence[Prediction]) -> str:
    data, settings = run.config["data"], run.settings
    subjects = len({(r.corpus, r.subject) for r in rows})
    return (
        f"{settings.model} on {' + '.join(data['corpora'])}, {len(run.classes)} classes: {len(rows)} clips of "
        f"{subjects} {'subject' if subjects == 1 else 'subjects'} predicted"
    )


def duration(seconds: float) -> str:
    """Seconds as a reader says them: 42 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# --- settings and provenance -----------------------------------------------------------------------


def setting_rows(settings: TrainConfig) -> list[tuple[str, str, str, bool]]:
    """(name, value, what it means, whether it differs from the default) of every resolved setting."""
    values = asdict(settings)
    return [(f.name, value_text(values[f.name]), f.metadata["help"], values[f.name] != f.default)
            for f in fields(settings)]  # fmt: skip


def value_text(value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def provenance_rows(run: Run, facts: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """(what, value): model, data, device, seed, times, versions; enough to know where each number comes from."""
    config = run.config
    model, data, device = config.get("model", {}), config["data"], config.get("device", {})
    seconds = sum(float(f.get("seconds", 0)) for f in facts.values())
    rows = [
        ("model", model.get("name", run.settings.model)),
        ("source of the model", model.get("source", "")),
        ("fidelity to it", model.get("fidelity", "")),
        ("corpora", ", ".join(data["corpora"])),
        ("clips", str(data.get("clips", ""))),
        ("device", f"{device.get('type', '')}: {device.get('name', '')}"),
        ("seed", str(run.settings.seed)),
        ("started", config.get("started", "")),
        ("training time", f"{duration(seconds)}, summed over {len(facts)} folds"),
        ("settings and data", config.get("fingerprint", "")),
    ]
    rows += [(f"version of {name}", v or "not installed") for name, v in config.get("versions", {}).items()]
    rows.append(("this page made by", f"mepipe {versions()['mepipe']}"))
    return [(name, str(value)) for name, value in rows if value]


def shard_rows(run: Run) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in run.config["data"].get("shards", {}).items()]


def fold_rows(facts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What each fold.json says, in the order of the folds; absent values are empty."""
    names = ("train_clips", "validation_clips", "test_clips", "epochs", "judged_epoch", "seconds")
    return [{"fold": fold, **{n: f.get(n, "") for n in names}} for fold, f in facts.items()]
