"""A run's folder: what is in it, how it is named, how it is found again.

RUN/config.json          all resolved settings, versions, seed, device, hashes of the shards
RUN/folds/<fold>/        log.csv, predictions.csv, weights.safetensors + weights.json, state.pt while training,
                         fold.json written last
RUN/predictions.csv      pooled; RUN/metrics.json; RUN/report.html
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.limits import TABLE_BYTES, read_file, read_json
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace, digest, hash_file, safe_name, write_text
from mepipe_model.runcheck import check_config

FORMAT, VERSION = "mepipe.run", 1
NEEDED = ("corpus", "subject", "clip", "true", "pred")  # columns of a predictions.csv
ORACLE_FILE = "predictions-oracle-leaky.csv"  # beside predictions.csv, where --select oracle was asked for
LEAKY = "oracle (leaky)"  # the only name under which a score that saw the test subject is shown
# settings that do not change any number of a run
BESIDE = frozenset(
    {"folds", "jobs", "executor", "shard", "run", "resume", "force", "dry_run", "weights", "logger", "data"}
)
# settings younger than some runs: at these values, which is what was done before, a run keeps the name it had
LATER: dict[str, Any] = {
    "test_corpus": None,
    "input": None,
    "class_weights": "none",
    "compile": False,
    "channels_last": False,
    "deterministic": False,
    "ddp": 1,
    "head_motion": "keep",
    "shift": 0.0,
    "noise": 0.0,
    "erase": 0.0,
    "decay": 0.98,
    "sam": 0.0,
}
# of config.json's data: what must be equal for predictions to belong to one experiment
SAME_DATA = ("corpora", "composite", "classes", "clips", "folds", "flow", "faces")


@dataclass(frozen=True)
class Prediction:
    """One row of predictions.csv; true and pred are class names."""

    corpus: str
    subject: str
    clip: str
    fold: str
    true: str
    pred: str
    probabilities: tuple[float, ...]


class Run:
    """A run folder and its config.json."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> TrainConfig:
        return train_config(self.config["settings"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.config["data"]["classes"])

    @property
    def fold_ids(self) -> list[str]:
        return list(self.config["data"]["folds"])

    @property
    def parts(self) -> dict[str, str]:
        """``<corpus>_<subject>`` -> part of the test set, each scored apart (DFME: testA, testB); {} without."""
        return dict(self.config["data"].get("parts") or {})

    def fold(self, fold_id: str) -> Path:
        return self.folder / "folds" / safe_name(fold_id)

    def fold_facts(self, fold_id: str) -> dict[str, Any] | None:
        """fold.json of a finished fold; None while it is not finished."""
        return read_json(self.fold(fold_id) / "fold.json", missing_ok=True)

    def finished(self) -> list[str]:
        return [f for f in self.fold_ids if (self.fold(f) / "fold.json").is_file()]

    def predictions(self, name: str = "predictions.csv", folds: Collection[str] | None = None) -> list[Prediction]:
        """The predictions of all finished folds, or of those of ``folds`` alone, in the order of the folds."""
        out = []
        for fold in (f for f in self.finished() if folds is None or f in folds):
            check_written(self.fold(fold), name)
            out += read_predictions(self.fold(fold) / name)[0]
        return out


def check_written(fold: Path, name: str) -> None:
    """Raises DataError for predictions that are not what the fold's training wrote; older folds do not say."""
    wrote = ((read_json(fold / "fold.json") or {}).get("sha256") or {}).get(name)
    if wrote is not None and wrote != hash_file(fold / name):
        do = f"put it back, or remove {fold / 'fold.json'} and the same train command trains this fold again"
        raise DataError(f"{fold / name} is not what its training wrote", do=do)


def train_config(settings: dict[str, Any]) -> TrainConfig:
    """TrainConfig from config.json; settings this version does not know are an error, absent ones take defaults.

    Of LATER they take what was done before they could be set.
    """
    known = {f.name for f in fields(TrainConfig)}
    unknown = set(settings) - known
    if unknown:
        raise DataError(f"the run has settings this version does not know: {', '.join(sorted(unknown))}")
    lists = {k: tuple(v) for k, v in settings.items() if isinstance(v, list)}
    return TrainConfig(**LATER | settings | lists)


def run_name(settings: TrainConfig, data_name: str, fingerprint: str, device: str) -> str:
    """A name that is equal for equal settings, data and kind of device, so that the same command resumes."""
    mark = digest([decisive(settings), fingerprint, device])[:8]
    return safe_name(f"{settings.protocol}-{data_name}-{settings.model}-{mark}")


def decisive(settings: TrainConfig) -> dict[str, Any]:
    """The settings that change a number of a run."""
    values = asdict(settings)
    return {k: v for k, v in values.items() if k not in BESIDE and not (k in LATER and v == LATER[k])}


def differences(run: Run, other: Run, *aside: str) -> list[str]:
    """What of settings and data differs between two runs, but for the settings ``aside``: "lr 0.001 and 0.002", ..."""
    first, second = decisive(run.settings), decisive(other.settings)
    names = sorted((first.keys() | second.keys()) - set(aside))
    out = [f"{n} {_value(first.get(n))} and {_value(second.get(n))}" for n in names if first.get(n) != second.get(n)]
    one, two = run.config["data"], other.config["data"]
    return out + [_data_difference(n, one.get(n), two.get(n)) for n in SAME_DATA if one.get(n) != two.get(n)]


def _value(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _data_difference(name: str, one: Any, two: Any) -> str:
    if isinstance(one, list) and isinstance(two, list):
        return f"{name}: {', '.join(map(str, sorted(set(one) ^ set(two)))) or 'another order'} in one of them only"
    return f"{name} of the data {one} and {two}"


def find_run(ws: Workspace, name: str | Path) -> Run:
    """The run called ``name`` in the workspace, or the run in the folder ``name``. Raises UsageError, DataError."""
    for folder in (ws.runs / str(name), Path(name)):
        if (folder / "config.json").is_file():
            return load_run(folder)
    known = sorted(p.parent.name for p in ws.runs.glob("*/config.json"))
    raise UsageError(f"there is no run {str(name)!r} in {ws.runs}", do=f"runs here: {', '.join(known) or 'none'}")


def load_run(folder: Path) -> Run:
    config = read_json(folder / "config.json")
    assert config is not None
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        found = f"{config.get('format')!r} version {config.get('version')!r}"
        do = "it is no run, or one of another version: train again under another --run"
        raise DataError(f"{folder / 'config.json'} is {found}; this mepipe reads {FORMAT!r} version {VERSION}", do=do)
    check_config(folder / "config.json", config)
    return Run(folder, config)


# --- predictions.csv -------------------------------------------------------------------------------


def write_predictions(path: Path, rows: Sequence[Prediction], classes: Sequence[str]) -> None:
    """predictions.csv: corpus, subject, clip, fold, true, pred, p_<class>...

    Those of epochs chosen on the test subject have a column ``selection`` that says so, also under another name.
    """
    out, leaky = io.StringIO(), path.name == ORACLE_FILE
    writer = csv.writer(out, lineterminator="\n")
    header = ["corpus", "subject", "clip", "fold", "true", "pred", *(f"p_{c}" for c in classes)]
    writer.writerow(header + ["selection"] * leaky)
    for r in rows:
        names = [r.corpus, r.subject, r.clip, r.fold, r.true, r.pred]
        writer.writerow([*names, *(f"{p:.6f}" for p in r.probabilities), *[LEAKY] * leaky])
    write_text(path, out.getvalue())


def is_leaky(source: str) -> bool:
    """Whether ``source`` is a file of predictions whose epoch was chosen on the test subject, by name or column."""
    path = Path(source)
    if path.name == ORACLE_FILE or not path.is_file():
        return path.name == ORACLE_FILE
    text = read_file(path, TABLE_BYTES).decode("utf-8-sig", "replace")
    with suppress(csv.Error):  # who reads the predictions tells it
        return any(row.get("selection") == LEAKY for row in csv.DictReader(io.StringIO(text, newline="")))
    return False


def read_predictions(path: Path) -> tuple[list[Prediction], tuple[str, ...]]:
    """Rows and class names of a predictions.csv, ours or anybody's. Raises DataError that names the row.

    Columns corpus, subject, clip, true, pred in any order; fold and p_<class> where there are any.
    """
    try:
        text = read_file(path, TABLE_BYTES).decode("utf-8-sig")
        table = list(csv.reader(io.StringIO(text, newline="")))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"cannot read {path}: {e}") from e
    header = [c.strip() for c in table[0]] if table else []
    absent = [c for c in NEEDED if c not in header]
    if absent:
        do = f"columns: {', '.join(NEEDED)}; fold and p_<class> may follow"
        raise DataError(f"{path} has no column {', '.join(absent)}", do=do)
    given = tuple(c.removeprefix("p_") for c in header if c.startswith("p_"))
    if len(set(header)) < len(header) or not "".join(header).isprintable():
        raise DataError(f"{path}: its header has a column twice, or one that cannot be shown")
    rows = [(n, dict(zip(header, row, strict=False))) for n, row in enumerate(table[1:], start=2) if row]
    return [_prediction(path, n, row, given) for n, row in rows], given or _occurring(row for _, row in rows)


def _prediction(path: Path, n: int, row: dict[str, str], classes: tuple[str, ...]) -> Prediction:
    if any(row.get(c) is None for c in NEEDED):
        raise DataError(f"{path} row {n} has too few cells")
    for name in ("true", "pred"):
        if not row[name].strip():
            raise DataError(f"{path} row {n}: {name} is empty", do="give every clip a class, or take the row out")
    try:
        probabilities = tuple(float(row[f"p_{c}"]) for c in classes)
    except (KeyError, ValueError) as e:
        raise DataError(f"{path} row {n}: a probability is missing or no number ({e})") from e
    if not all(map(math.isfinite, probabilities)):
        raise DataError(f"{path} row {n}: a probability is no finite number")
    for name in ("true", "pred"):
        if classes and row[name] not in classes:
            raise DataError(f"{path} row {n}: class {row[name]!r} is none of {', '.join(classes)}")
    names = (row["corpus"], row["subject"], row["clip"], row.get("fold") or "", row["true"], row["pred"])
    if not "".join(names).isprintable():
        raise DataError(f"{path} row {n}: a name holds control characters")
    return Prediction(*names, probabilities)


def _occurring(rows: Iterable[dict[str, str]]) -> tuple[str, ...]:
    """The classes of a file without p_ columns: those that occur as truth or prediction."""
    return tuple(sorted({row.get(name) or "" for row in rows for name in ("true", "pred")}))


def writable_run(folder: Path, fingerprint: str, config: Callable[[], dict[str, Any]]) -> Run:
    """Open the run's folder when it is there with the same fingerprint, or create it with its config.json.

    config: makes that of a new run; it hashes all data.
    """
    from mepipe.workspace import make_folder, write_json

    if (folder / "config.json").is_file():
        run = load_run(folder)
        if run.config["fingerprint"] != fingerprint:
            raise MepipeError(
                f"{folder} is a run with other settings or data", do="choose another --run, or --force to start again"
            )
        return run
    for fold in sorted(folder.glob("folds/*")):
        if (read_json(fold / "fold.json", missing_ok=True) or {}).get("run") != fingerprint:
            what = f"{folder} has no config.json, and {fold.name} was trained with other settings, or with unknown ones"
            raise MepipeError(what, do="put it back, choose another --run, or --force to start again")
    facts = config()
    make_folder(folder)
    write_json(folder / "config.json", facts)
    return Run(folder, facts)
