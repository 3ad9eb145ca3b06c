"""``train --protocol cross``: trained on some corpora, judged on another."""

from __future__ import annotations

import json
import re

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.errors import UsageError
from mepipe.shards import Sample
from mepipe.workspace import Workspace
from mepipe_model.runs import decisive
from mepipe_model.train import train_run

CORPORA = ("casme2", "samm", "smic-hs")


@pytest.fixture(scope="module")
def ws(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("cross"))
    for n, corpus in enumerate(CORPORA):
        write_flow(workspace, samples(corpus, ["a", "b"]), seed=n)
    return workspace


def test_each_corpus_is_judged_by_a_model_that_never_saw_it(ws):
    outcome = train_run(ws, quick(protocol="cross", data=CORPORA))
    rows = [line.split(",") for line in (outcome.folder / "predictions.csv").read_text().splitlines()[1:]]
    assert len(rows) == 18
    assert all(fold == corpus for corpus, _, _, fold, *_ in rows)
    assert set(outcome.metrics["per_corpus"]) == set(CORPORA)
    facts = json.loads((outcome.folder / "folds/samm/fold.json").read_text())
    assert (facts["train_clips"], facts["test_clips"]) == (12, 6)


def test_one_test_corpus_is_a_run_of_its_own_with_one_fold(ws):
    whole = train_run(ws, quick(protocol="cross", data=CORPORA))
    one = train_run(ws, quick(protocol="cross", data=CORPORA, test_corpus="samm"))
    assert one.folder != whole.folder
    assert one.metrics["folds"] == {"finished": 1, "of": 1}
    assert one.metrics["confusion"] == whole.metrics["per_corpus"]["samm"]["confusion"]
    with pytest.raises(UsageError, match="--test-corpus: no clips of 'dfme'"):
        train_run(ws, quick(protocol="cross", data=CORPORA, test_corpus="dfme"))


def test_a_class_that_no_training_corpus_has_is_told(tmp_path):
    ws = Workspace(tmp_path)
    write_flow(ws, samples("casme2", ["a", "b"], clips=2))
    write_flow(ws, samples("samm", ["a", "b"]))
    text = "\n".join(train_run(ws, quick(protocol="cross", data=("casme2", "samm"), dry_run=True)).lines())
    assert "warning: fold samm has test clips of surprise and no training clip of it" in text
    assert "fold casme2 has test clips" not in text


def test_a_composite_is_split_by_its_corpora(tmp_path):
    """3db: membership and labels by the list, also across corpora."""
    from mepipe.datasets.composite import members

    ws = Workspace(tmp_path)
    for corpus in CORPORA:
        own = [m for m in members("3db") if m.corpus == corpus][:4]
        rows = [Sample(corpus, m.subject, m.clip, key=str(m)) for m in own]
        write_flow(ws, [*rows, Sample(corpus, own[0].subject, "not on the list", label3="positive")])
    text = "\n".join(train_run(ws, quick(protocol="cross", data=("3db",), dry_run=True)).lines())
    assert "3db: 12 of 442 clips" in text
    assert re.search(r"fold 3 smic-hs: 8 training clips, 4 test clips", text)


def test_settings_younger_than_a_run_do_not_rename_it():
    names = decisive(quick())
    assert "test_corpus" not in names
    assert decisive(quick(protocol="cross", test_corpus="samm"))["test_corpus"] == "samm"
