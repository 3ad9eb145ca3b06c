"""--logger: TensorBoard and loggers of others are told every epoch and fold; a broken one costs its curves only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.errors import MepipeError, UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.loggers import LOGGERS, RunLogger, list_loggers, register_logger
from mepipe_model.runs import find_run
from mepipe_model.train import train_run


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02"]))
    return workspace


@pytest.fixture
def mine(monkeypatch):
    """A logger called "mine" that keeps what it is told."""
    monkeypatch.setattr(LOGGERS, "_things", dict(LOGGERS._things))
    told = []

    @register_logger("mine")
    class Mine(RunLogger):
        def epoch(self, fold, values):
            told.append(("epoch", fold, values["epoch"], values["loss"]))

        def fold(self, fold, facts):
            told.append(("fold", fold, facts["epochs"]))

        def end(self, metrics):
            told.append(("end", metrics["UF1"]))

    return told


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_hook_is_told_every_epoch_in_order_then_the_fold_then_the_scores(ws, mine, jobs):
    """Also of folds in worker processes."""
    outcome = train_run(ws, quick(logger=("mine",), jobs=jobs))
    run = find_run(ws, outcome.folder.name)
    for fold in run.fold_ids:
        rows = [line.split(",") for line in (run.fold(fold) / "log.csv").read_text().splitlines()[1:]]
        assert [e[2:] for e in mine if e[:2] == ("epoch", fold)] == [(float(r[0]), float(r[2])) for r in rows]
        assert mine.index(("fold", fold, 2)) > max(i for i, e in enumerate(mine) if e[:2] == ("epoch", fold))
    assert mine[-1] == ("end", outcome.metrics["UF1"])
    assert len(mine) == 2 * 2 + 2 + 1


def test_a_logger_changes_neither_the_run_s_name_nor_a_number(ws, mine):
    plain = train_run(ws, quick())
    again = train_run(ws, quick(logger=("mine",), force=True))
    assert plain.folder == again.folder
    assert plain.metrics == again.metrics


def test_what_is_finished_is_not_told_again(ws, mine):
    train_run(ws, quick())
    train_run(ws, quick(logger=("mine",)))
    assert [e[0] for e in mine] == ["end"]


def test_a_logger_that_fails_is_told_nothing_more_and_the_run_goes_on(ws, mine):
    @register_logger("broken")
    class Broken(RunLogger):
        def epoch(self, fold, values):
            raise OSError("no space\nleft")

    said = []
    outcome = train_run(ws, quick(logger=("broken", "mine")), say=said.append)
    assert outcome.metrics["folds"]["finished"] == 2
    (warning,) = [line for line in said if line.startswith("warning: the logger broken failed")]
    assert r"OSError: no space\nleft" in warning
    assert len(mine) == 7, "the others are told all"


def test_an_unknown_logger_is_told_before_anything_is_trained(ws):
    with pytest.raises(UsageError, match=r"no logger is called 'tensorbord'; did you mean 'tensorboard'"):
        train_run(ws, quick(logger=("tensorbord",)))
    assert not list(ws.runs.glob("*/folds/*"))


def test_tensorboard_is_a_line_where_it_is_not_installed(ws, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MepipeError, match=r"--logger tensorboard needs .* pip install 'mepipe\[tensorboard\]'"):
        train_run(ws, quick(logger=("tensorboard",)))


def test_tensorboard_reads_the_curves_that_the_csv_files_hold(ws):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = train_run(ws, quick(logger=("tensorboard",)))

    def scalars(name: str, tag: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(outcome.folder / "tensorboard" / name)).Reload()
        return [(e.step, e.value) for e in events.Scalars(tag)]

    for fold in outcome.folder.glob("folds/*"):
        rows = [line.split(",") for line in (fold / "log.csv").read_text().splitlines()[1:]]
        assert scalars(fold.name, "loss") == [(int(r[0]), pytest.approx(float(r[2]))) for r in rows]
    assert scalars("pooled", "UF1") == [(2, pytest.approx(outcome.metrics["UF1"]))]


PLUGIN = """
from pathlib import Path
from mepipe_model.loggers import RunLogger

class Lines(RunLogger):
    def epoch(self, fold, values):
        with Path("lines.txt").open("a") as f:
            print(fold, int(values["epoch"]), file=f)
"""


@pytest.mark.slow  # it installs a package
def test_an_installed_package_brings_a_logger_by_its_entry_point(ws, tmp_path):
    """A real distribution on the path, the real command, as docs/extending.md shows it."""
    site = tmp_path / "site"
    (site / "lines-1.dist-info").mkdir(parents=True)
    (site / "lines-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1\n")
    (site / "lines-1.dist-info" / "entry_points.txt").write_text("[mepipe.loggers]\nlines = plugin_lines:Lines\n")
    (site / "plugin_lines.py").write_text(PLUGIN)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from mepipe.cli import main\n"
        f"main(['-w', '.', 'train', '--logger', 'lines', '--model', 'ststnet', '--epochs', '1', '--folds', '1'])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert Path(tmp_path / "lines.txt").read_text() == "casme2_sub01 1\n"


def test_older_runs_without_the_setting_can_go_on(ws, mine):
    folder = train_run(ws, quick(folds="1")).folder
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["settings"]["logger"]
    file.write_text(json.dumps(config))
    train_run(ws, TrainConfig(resume=folder.name, logger=("mine",), jobs=1))
    assert mine[-1][0] == "end"
    assert "tensorboard" in list_loggers()
