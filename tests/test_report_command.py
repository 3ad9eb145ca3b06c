"""Which page ``mepipe report`` writes for which names."""

from __future__ import annotations

import shutil

import pytest
from test_report import make_run

from mepipe.errors import UsageError
from mepipe.report.command import TABLES, report
from mepipe.workspace import write_text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("command"), crops=False, flow=False)
    shutil.copytree(run.folder, run.ws.runs / "again")
    header = "corpus,subject,clip,onset,apex,offset,fps,emotion,label3,label7,split,apex_source,status,reason,detector,"
    header += "align,aus,score,box_x,box_y,box_width,box_height,eye_distance,key\n"
    for corpus in ("samm", "again"):
        write_text(run.ws.prepared(corpus) / "clips.csv", header)
    return run


def test_one_run_two_runs_a_corpus_and_a_table_each_have_their_page(run):
    ws = run.ws
    assert report(ws, [run.name]) == run.folder / "report.html"
    assert report(ws, [str(run.folder)]) == run.folder / "report.html"
    assert report(ws, [run.name, "again"]) == run.folder / "against-again.html"
    assert report(ws, ["samm"]) == ws.prepared("samm") / "report.html"
    assert report(ws, ["table6"]) == ws.root / "tables" / "table6.html"


def test_a_run_comes_before_a_corpus_of_its_name(run):
    assert report(run.ws, ["again"]) == run.ws.runs / "again" / "report.html"


def test_the_tables_are_those_of_reproduce():
    from mepipe_model.reproduce import TABLES as REPRODUCED

    assert tuple(REPRODUCED) == TABLES


@pytest.mark.parametrize(
    ("names", "saliency", "words"),
    [
        (["nothing"], None, "runs here: again, made-up; prepared corpora here: again, samm; tables here: table4"),
        (["a", "b", "c"], None, "name one or two"),
        (["samm"], "gradient", "--saliency explains the clips of one run"),
        (["made-up", "again"], "gradient", "--saliency explains the clips of one run"),
    ],
)
def test_what_has_no_page_is_a_usage_error_that_says_what_has(run, names, saliency, words):
    with pytest.raises(UsageError, match=words):
        report(run.ws, names, saliency)
