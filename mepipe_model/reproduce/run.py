"""``mepipe reproduce``: find the runs that fill a table, train what is missing when asked, lay both side by side."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mepipe.errors import MepipeError, UsageError
from mepipe.progress import Progress
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace, write_text
from mepipe_model.fitted import STEPS, is_fitted
from mepipe_model.models import model_info
from mepipe_model.reproduce import text
from mepipe_model.reproduce.matching import Found, all_runs, find
from mepipe_model.reproduce.tables import TABLES, Table
from mepipe_model.running import Say
from mepipe_model.seeds import shared


@dataclass(frozen=True)
class Reproduction:
    """A table of the paper and what the workspace has of it.

    found: method -> runs and figures.  commands: method -> what trains it, for rows without a whole run.
    failed: method -> why its training ended.  files: what was written.
    """

    table: Table
    base: str
    found: Mapping[str, Found]
    commands: Mapping[str, str]
    failed: Mapping[str, str]
    notes: Sequence[str]
    files: Sequence[Path] = ()

    def lines(self) -> list[str]:
        return text.lines(self)

    def as_dict(self) -> dict[str, Any]:
        return text.as_dict(self)


def reproduce(
    ws: Workspace,
    table: str,
    *,
    base: str = "merba",
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
    train: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Reproduction:
    """The table of the paper beside the runs of this workspace that have its settings.

    Writes WORKSPACE/tables/<table>.md and .csv when there is a run to show.

    Parameters
    ----------
    ws
        Where the runs are.
    table
        "table4" to "table7".
    base
        The model in MERba's place (merba_tiny tries the command out and says nothing about the paper).
    only
        These methods.
    seeds
        Runs of these seeds; default: any that is there, seed 0 where one is trained.
    options
        Of TrainConfig, beyond what the table prescribes; runs are found by them too.
    train
        Train what is missing.
    progress
        progress(done, total) counts epochs.
    say
        say(line) tells what is done.

    Returns
    -------
    Reproduction
        The rows; one that cannot be trained is in ``failed`` and does not end the others.

    Raises
    ------
    UsageError
        An unknown table, method or model, or a wrong option.
    """
    spec = TABLES.get(table).only(only)
    model_info(base)  # an unknown name is an error now
    configs = {m: config_of(spec, m, base, options or {}) for m in spec.ours}
    failed = train_missing(ws, configs, seeds or (0,), progress, say or (lambda line: None)) if train else {}
    runs, notes = all_runs(ws)
    found = {}
    for method, config in configs.items():
        try:
            found[method] = find(runs, config, seeds)
        except UsageError:
            raise
        except MepipeError as e:  # the row's model cannot run here (scikit-learn is missing, say)
            found[method] = Found(notes=[str(e)])
    commands = {m: command_of(c, seeds) for m, c in configs.items() if not whole(found[m], seeds)}
    result = Reproduction(spec, base, found, commands, failed, notes)
    if not any(f.cells for f in found.values()):
        return result
    folder = ws.root / "tables"
    result = replace(result, files=(folder / f"{table}.md", folder / f"{table}.csv"))
    for path, content in zip(result.files, (text.markdown(result), text.table_csv(result)), strict=True):
        write_text(path, content)
    return result


def config_of(table: Table, method: str, base: str, options: Mapping[str, Any]) -> TrainConfig:
    """The row's settings; a model that is fitted at once takes no options of gradient steps."""
    config = table.config(method, base, options)
    if not is_fitted(config.model):
        return config
    aside = (*STEPS, "select", "compile")
    return table.config(method, base, {k: v for k, v in options.items() if k not in aside})


def whole(found: Found, seeds: Sequence[int]) -> bool:
    """Whether nothing is missing of a row: a finished run, of each seed asked for."""
    done = {r.settings.seed for r in found.runs if len(r.finished()) == len(r.fold_ids)}
    return done.issuperset(seeds) if seeds else bool(done)


def train_missing(
    ws: Workspace, configs: Mapping[str, TrainConfig], seeds: Sequence[int], progress: Progress | None, say: Say
) -> dict[str, str]:
    """Train each row that has no whole run, under each seed. Returns method -> reason of those that ended early.

    Raises UsageError: a wrong option is wrong for all rows.
    """
    from mepipe_model.train import train_run

    failed = {}
    work = [(m, replace(c, seed=s)) for m, c in configs.items() for s in seeds]
    for n, (method, config) in enumerate(work):
        try:
            if whole(find(all_runs(ws)[0], config, [config.seed]), [config.seed]) and not config.force:
                continue
            say(f"{method}, seed {config.seed} ({n + 1} of {len(work)})")
            train_run(ws, config, progress and shared(progress, n, len(work)), say)
        except UsageError:
            raise
        except MepipeError as e:
            failed[method] = str(e)
            say(f"{method}: {e}")
    return failed


def command_of(config: TrainConfig, seeds: Sequence[int]) -> str:
    """The ``mepipe train`` command of these settings."""
    words = ["mepipe", "train"]
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value == f.default and f.name not in ("protocol", "model"):
            continue
        flag = "--set" if f.name == "options" else "--" + f.name.replace("_", "-")
        if f.name == "options":
            words += [w for pair in value for w in (flag, pair)]
        elif isinstance(value, tuple):
            words += [flag, *value]
        elif value is True:
            words.append(flag)
        else:
            words += [flag, str(value)]
    if len(seeds) > 1:
        words += ["--seeds", *map(str, seeds)]
    elif seeds and seeds[0]:
        words += ["--seed", str(seeds[0])]
    return shlex.join(words)
