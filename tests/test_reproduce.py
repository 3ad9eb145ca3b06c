"""``mepipe reproduce``: published figures as they are printed, marked, beside the runs of their settings."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.evaluate import LEAKY
from mepipe_model.models import create_model
from mepipe_model.recipes import model_options
from mepipe_model.reproduce import TABLES, reproduce
from mepipe_model.reproduce.run import command_of
from mepipe_model.reproduce.tables import published
from mepipe_model.train import train_run

TINY = {"epochs": 1, "batch_size": 8, "device": "cpu", "jobs": 1, "threads": 1}
SPLITS = {"a": "train", "b": "train", "c": "testA", "d": "testB"}


@pytest.fixture(scope="module")
def ws(tmp_path_factory) -> Workspace:
    """A workspace with a few made-up clips of DFME."""
    workspace = Workspace(tmp_path_factory.mktemp("dfme"))
    write_flow(workspace, samples("dfme", SPLITS, clips=4))
    return workspace


def row_of(result, method, part="testB"):
    (row,) = [r for r in result.as_dict()["rows"] if (r["method"], r["part"]) == (method, part)]
    return row


# --- the published figures ---


def test_every_published_row_says_how_it_was_evaluated():
    assert {name: len(published(name)) for name in TABLES} == {"table4": 14, "table5": 40, "table6": 3, "table7": 6}
    for name in TABLES:
        assert {p.part for p in published(name)} == set(TABLES.get(name).parts)
        for p in published(name):
            assert all(0.1 < value < 1 for value in p.figures.values())


def test_one_configuration_has_one_figure_in_all_tables_of_the_paper():
    """MERba-DGCM on Test B stands in tables IV, VI and VII; the text gives DGCM's gain as 2.31 and 1.88 points."""
    by = {(n, p.part, p.method): p.figures for n in TABLES for p in published(n)}
    full = by["table4", "testB", "MERba-DGCM"]
    assert full == by["table6", "testB", "local/global"] == by["table7", "testB", "a+b+c+d"]
    for part, gain in (("testA", 0.0231), ("testB", 0.0188)):
        dgcm, base = (by["table4", part, m]["UF1"] for m in ("MERba-DGCM", "MERba-base"))
        assert dgcm - base == pytest.approx(gain, abs=1e-9)


def test_the_registry_quotes_the_same_figures():
    from mepipe_model.models import model_info

    by = {(n, p.part, p.method): p.figures for n in TABLES for p in published(n)}
    quoted = model_info("merba").published
    for key in (("table5", "combined", "MERba"), ("table4", "testA", "MERba-DGCM"), ("table4", "testB", "MERba-DGCM")):
        assert f"{by[key]['UF1']:.4f}" in quoted


def test_what_is_known_to_choose_on_the_test_subject_is_marked(tmp_path):
    result = reproduce(Workspace(tmp_path / "none"), "table5")
    marked = {r["method"] for r in result.as_dict()["rows"] if r["published"]["choice"] == "test"}
    assert marked == {"HTNet", "SLSTT"}
    lines = result.lines()
    assert sum("0.8603!" in line for line in lines) == 1
    assert any("! the epoch was chosen on the test subjects" in line for line in lines)
    assert any("0.8840?" in line for line in lines), "the paper does not say on what MERba's epoch was chosen"
    assert any("0.7353 " in line for line in lines), "STSTNet's last epoch carries no mark"


# --- without runs ---


def test_a_table_is_laid_out_without_torch(tmp_path):
    """Loading it takes seconds, and there is nothing to compute; the rows of fitted models asked for it once."""
    code = (
        "import sys; from mepipe.workspace import Workspace; from mepipe_model.reproduce import reproduce\n"
        f"reproduce(Workspace({str(tmp_path)!r}), 'table5').lines()\n"
        "assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("table", list(TABLES))
def test_without_runs_the_commands_are_told_and_nothing_is_written(tmp_path, table):
    ws = Workspace(tmp_path / "ws")
    result = reproduce(ws, table)
    assert list(result.commands) == list(TABLES.get(table).ours)
    assert all(command.startswith("mepipe train --protocol ") for command in result.commands.values())
    assert not ws.root.exists()
    assert "no run yet" in "\n".join(result.lines())


def test_the_rows_of_the_ablations_are_models_that_exist():
    """Every row's options build, at tiny size, and no two rows of a table are the same model."""
    for name in ("table4", "table6", "table7"):
        table = TABLES.get(name)
        settings = [table.config(m, "merba_tiny", {}) for m, o in table.ours.items() if o.model == "merba"]
        configs = [
            json.dumps(create_model(c.model, num_classes=7, **model_options(c)).config, sort_keys=True)
            for c in settings
        ]
        assert len(set(configs)) == len(configs)


def test_the_full_model_of_all_three_tables_is_one_run():
    commands = [
        command_of(TABLES.get(table).config(method, "merba", {}), ())
        for table, method in (("table4", "MERba-DGCM"), ("table6", "local/global"), ("table7", "a+b+c+d"))
    ]
    assert len(set(commands)) == 1


def test_a_command_says_every_setting_that_is_not_a_default():
    config = TrainConfig(protocol="loso", data=("casme2", "samm"), select="inner", options=("a=1", "b=x y"), force=True)
    assert command_of(config, [0, 1]) == (
        "mepipe train --protocol loso --data casme2 samm --model merba --select inner --force "
        "--set a=1 --set 'b=x y' --seeds 0 1"
    )


def test_wrong_names_are_refused_with_the_valid_ones(tmp_path):
    ws = Workspace(tmp_path)
    for wrong, message in (
        ({"table": "table8"}, "no table is called 'table8'"),
        ({"table": "table7", "base": "mebra"}, "no model is called 'mebra'"),
        ({"table": "table7", "only": ["a+c"]}, r"table7 has no row 'a\+c'; valid: a, a\+b"),
    ):
        with pytest.raises(UsageError, match=message):
            reproduce(ws, **wrong)


# --- with runs ---


def test_train_fills_the_rows_asked_for_and_finds_them_again(ws):
    args = {"base": "merba_tiny", "only": ["a", "a+b+c+d"], "options": TINY}
    made = reproduce(ws, "table7", train=True, **args)
    assert not made.failed
    assert not made.commands
    names = {m: f.runs[0].name for m, f in made.found.items()}
    again = reproduce(ws, "table7", **args)
    assert {m: f.runs[0].name for m, f in again.found.items()} == names
    for method, name in names.items():
        metrics = json.loads((ws.runs / name / "metrics.json").read_text())
        row = row_of(again, method)
        assert row["yours"]["figures"]["UF1"] == {"mean": metrics["per_part"]["testB"]["UF1"], "sd": None}
    assert row_of(again, "a+b")["yours"] is None
    heads = again.as_dict()["columns"]
    assert heads["published"].startswith("published: DFME training set")
    assert heads["yours"] == "yours: holdout, fixed (last epoch), 1 epochs, seed 0, merba_tiny in MERba's place"
    # the same run is the last row of table VI
    other = reproduce(ws, "table6", base="merba_tiny", only=["local/global"], options=TINY)
    assert row_of(other, "local/global")["yours"]["runs"] == [names["a+b+c+d"]]


def test_the_table_is_written_as_markdown_and_csv(ws):
    reproduce(ws, "table7", base="merba_tiny", only=["a"], options=TINY, train=True)
    rows = list(csv.DictReader((ws.root / "tables/table7.csv").read_text().splitlines()))
    assert len(rows) == 6 * 3
    first = rows[0]
    assert (first["method"], first["figure"], first["published"], first["published_choice"]) == (
        "a", "UF1", "0.3814", "unstated",
    )  # fmt: skip
    assert 0 <= float(first["yours"]) <= 1
    text = (ws.root / "tables/table7.md").read_text()
    assert "| a | Test B | 0.3814? | 0.3713? | 0.3746? | " in text
    assert "published, holdout: UF1" in text
    assert "yours, holdout: UF1" in text


def test_runs_of_other_settings_are_named_and_not_shown(ws):
    options = {**TINY, "lr": 1e-3}
    run = train_run(ws, TABLES.get("table7").config("c+d", "merba_tiny", options)).folder.name
    result = reproduce(ws, "table7", base="merba_tiny", only=["c+d"], options=TINY)
    assert row_of(result, "c+d")["yours"] is None
    assert any(f"not shown: c+d: {run} (lr 0.001 instead of 0.002)" in line for line in result.lines())
    assert row_of(reproduce(ws, "table7", base="merba_tiny", options=options), "c+d")["yours"]["runs"] == [run]


def test_several_seeds_give_mean_and_spread_and_an_oracle_run_its_own_marked_columns(tmp_path):
    """Table V with two clips of the list per corpus; both runs are partial, which is said."""
    from mepipe.datasets.composite import members
    from mepipe.shards import Sample

    ws = Workspace(tmp_path)
    for corpus in ("casme2", "samm", "smic-hs"):
        own = [m for m in members("3db") if m.corpus == corpus]
        listed = [next(m for m in own if m.subject == s) for s in list(dict.fromkeys(m.subject for m in own))[:2]]
        write_flow(ws, [Sample(m.corpus, m.subject, m.clip, label3=m.label3, key=str(m)) for m in listed])
    options = {**quick(select="oracle", folds="1,3,5").as_dict()}
    options = {k: options[k] for k in (*TINY, "select", "folds")}
    result = reproduce(ws, "table5", only=["STSTNet"], seeds=[0, 1], options=options, train=True)
    assert not result.failed
    row = row_of(result, "STSTNet", "combined")
    scores = [json.loads((ws.runs / name / "metrics.json").read_text()) for name in row["yours"]["runs"]]
    assert row["yours"]["seeds"] == [0, 1]
    assert row["yours"]["figures"]["UF1"]["mean"] == pytest.approx(sum(m["UF1"] for m in scores) / 2)
    assert row[LEAKY]["figures"]["UF1"]["mean"] == pytest.approx(sum(m[LEAKY]["UF1"] for m in scores) / 2)
    text = "\n".join(result.lines())
    assert "3 of 6 folds are finished: not a result yet" in text
    assert "436 clips of the list are missing" in text
    assert f"yours, {LEAKY}" in text
    assert " ± " in text
    assert "STSTNet" in result.commands, "a part of a run does not fill its row"


def test_a_row_that_cannot_be_trained_does_not_end_the_others(ws, monkeypatch):
    import mepipe_model.train as training

    real = training.train_run

    def fails_once(ws, config, *args):
        if "scans=a+b" in config.options:
            raise DataError("this row alone")
        return real(ws, config, *args)

    monkeypatch.setattr(training, "train_run", fails_once)
    args = {"base": "merba_tiny", "only": ["a", "a+b"], "options": TINY}
    result = reproduce(ws, "table7", train=True, **args)
    assert result.failed == {"a+b": "this row alone"}
    assert row_of(result, "a")["yours"]
    assert "a+b" in result.commands


def test_the_command_prints_json_and_fails_when_a_row_failed(tmp_path, run_mepipe):
    done = run_mepipe("reproduce", "table6", "--json")
    assert done.returncode == 0, done.stderr
    assert [r["method"] for r in json.loads(done.stdout)["rows"]] == ["local/local", "global/global", "local/global"]
    done = run_mepipe("reproduce", "table6", "--base", "merba_tiny", "--train", "--epochs", "1")
    assert done.returncode == 1
    assert "no flow shards" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: 3 rows failed: local/local, global/global, local/global")
    assert not (tmp_path / "mepipe-work" / "tables").exists()
