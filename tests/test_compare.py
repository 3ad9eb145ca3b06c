"""``mepipe compare``: one table of several models under one protocol."""

from __future__ import annotations

import csv
import json

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.cli import main
from mepipe.errors import MepipeError, UsageError
from mepipe.workspace import Workspace
from mepipe_model.comparing import compare_models, settings_for
from mepipe_model.evaluate import compare_runs
from mepipe_model.models import model_info

pytest.importorskip("sklearn", reason="bi_woof is fitted by scikit-learn: pip install 'mepipe[svm]'")
PAIR = ("ststnet", "bi_woof")  # one is trained by epochs, one fitted: both in this process, in a second


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    """Five subjects of noise: enough for intervals."""
    workspace = Workspace(tmp_path_factory.mktemp("compare"))
    write_flow(workspace, samples("casme2", ["a", "b", "c", "d", "e"], clips=3))
    return workspace


@pytest.fixture(scope="module")
def table(ws):
    return compare_models(ws, PAIR, quick(epochs=1, protocol="kfold", k=2))


def test_every_model_has_a_row_with_intervals_and_its_difference_from_the_first(ws, table):
    first, second = table.entries
    assert [e.model for e in table.entries] == list(PAIR)
    assert first.params == model_info("ststnet").params
    scores = first.metrics[0]
    low, high = scores["interval"]["UF1"]
    assert low <= scores["UF1"] <= high
    assert first.figure("UF1") == f"{scores['UF1']:.4f} ({low:.2f} to {high:.2f})"
    assert first.against is None
    expected = compare_runs(ws, [second.runs[0].name], first.runs[0].name).differences["UF1"]
    assert second.against == expected
    assert table.head.startswith("casme2: kfold, 2 folds, 15 clips, 3 classes, fixed (last epoch), seed 0")
    text = "\n".join(table.lines())
    assert all(name in text for name in (*PAIR, "WF1", "603", first.figure("UF1")))


def test_the_runs_are_those_of_train_and_are_not_trained_again(ws, table):
    before = {e.runs[0].folder: (e.runs[0].folder / "predictions.csv").stat().st_mtime_ns for e in table.entries}
    said: list[str] = []
    again = compare_models(ws, PAIR, quick(epochs=1, protocol="kfold", k=2), say=said.append)
    assert again.lines() == table.lines()
    assert sum("2 of 2 folds are done" in line for line in said) == 2
    assert {e.runs[0].folder for e in again.entries} == set(before)


def test_the_table_is_written_as_markdown_and_csv(table):
    markdown, values = table.files
    with values.open(newline="") as f:
        rows = list(csv.reader(f))
    assert rows == table.rows()
    assert [line.split(" | ")[0].strip("| ") for line in markdown.read_text().splitlines()[4:]] == list(PAIR)


def test_several_seeds_give_mean_and_deviation(ws):
    spread = compare_models(ws, PAIR, quick(epochs=1, protocol="kfold", k=2), seeds=[0, 1])
    assert [len(e.runs) for e in spread.entries] == [2, 2]
    assert "±" in spread.entries[0].figure("UAR")
    assert "seed 0, 1" in spread.head


def test_a_model_that_cannot_train_is_named_and_the_others_have_their_rows(ws):
    table = compare_models(ws, ("lbp_top", *PAIR), quick(epochs=1, protocol="kfold", k=2))
    assert [e.model for e in table.entries] == list(PAIR)
    assert "no aligned frames" in table.failed["lbp_top"]
    with pytest.raises(MepipeError, match="ststnet: 99 folds need 99 subjects"):
        compare_models(ws, PAIR, quick(epochs=1, protocol="kfold", k=99))


def test_what_shares_steps_does_not_reach_a_model_that_is_fitted():
    together = quick(ddp=2, compile=True)
    assert [(c.ddp, c.compile) for c in (settings_for(together, m) for m in PAIR)] == [(2, True), (1, False)]


def test_what_is_no_comparison_is_refused(ws):
    with pytest.raises(UsageError, match="compare needs two models, got ststnet"):
        compare_models(ws, ["ststnet", "ststnet"])
    with pytest.raises(UsageError, match="no model is called 'ststne'"):
        compare_models(ws, ["ststnet", "ststne"])
    with pytest.raises(UsageError, match=r"oracle is oracle \(leaky\)"):
        compare_models(ws, PAIR, quick(select="oracle"))


def test_models_may_stand_after_the_data_on_the_command_line(ws, table, capsys):
    words = ["compare", "--data", "casme2", *PAIR, "--protocol", "kfold", "--k", "2", "--json"]
    settings = ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--jobs", "1", "--threads", "1"]
    with pytest.raises(SystemExit) as end:
        main(["-w", str(ws.root), "--no-progress", *words, *settings])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert [m["model"] for m in told["models"]] == list(PAIR)
    assert told["models"][0]["runs"] == [table.entries[0].runs[0].name], "the same settings are the same run"
