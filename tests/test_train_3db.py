"""`train --data 3db`: exactly the clips and labels of the MEGC2019 list, and a clip that lacks is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mepipe.datasets.composite import members
from mepipe.errors import DataError, UsageError
from mepipe.settings import TrainConfig
from mepipe.shards import Sample, write_shard
from mepipe.workspace import Workspace
from mepipe_model.train import train_run

FLOW = np.zeros((3, 224, 224), np.float32)


def write_flow(ws: Workspace, leave_out: tuple[str, str] = ("", "")) -> None:
    """Shards that hold every clip of the list, with the annotation's labels left blank, and some others."""
    for corpus in ("casme2", "samm", "smic-hs"):
        own = [m for m in members("3db") if m.corpus == corpus and (m.subject, m.clip) != leave_out]
        samples = [Sample(corpus, m.subject, m.clip, key=f"{m}") for m in own]
        samples += [
            Sample(corpus, "sub01" if corpus == "casme2" else "006", f"other{i}", label3="negative") for i in range(3)
        ]
        write_shard(
            ws.flow / f"{corpus}-00000.h5", samples, (FLOW for _ in samples),
            engine="opencv", parameters={}, versions={}, dtype="float16", compression="gzip",
        )  # fmt: skip


@pytest.fixture(scope="module")
def ws(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("3db"))
    workspace.flow.mkdir(parents=True)
    write_flow(workspace)
    return workspace


def dry_run(ws: Workspace, *data: str, **options) -> str:
    return "\n".join(train_run(ws, TrainConfig(data=data, dry_run=True, device="cpu", **options)).lines())


def test_the_dry_run_shows_the_published_counts(ws):
    text = dry_run(ws, "3db")
    assert (
        "3db: 442 clips (negative 250, positive 109, surprise 83, 9 not on the list of 3db left out), 68 folds" in text
    )
    assert "casme2 145, samm 133, smic-hs 164" in text
    assert "missing" not in text
    assert sum(line.startswith("  fold ") for line in text.splitlines()) == 68


def test_all_three_corpora_mean_3db_without_being_told(ws):
    assert dry_run(ws) == dry_run(ws, "3db")


def test_a_clip_that_lacks_is_named_and_counted(ws, tmp_path):
    other = Workspace(tmp_path)
    other.flow.mkdir()
    for path in ws.flow.iterdir():
        (other.flow / path.name).hardlink_to(path)
    (other.flow / "samm-00000.h5").unlink()
    write_flow(other, leave_out=("006", "006_1_2"))
    text = dry_run(other, "3db")
    assert "3db: 441 of 442 clips" in text
    assert "missing: samm 006/006_1_2" in text


def test_a_corpus_that_lacks_is_an_error(ws, tmp_path):
    other = Workspace(tmp_path)
    other.flow.mkdir()
    (other.flow / "casme2-00000.h5").hardlink_to(ws.flow / "casme2-00000.h5")
    with pytest.raises(DataError, match="no flow of samm, which 3db needs"):
        dry_run(other, "3db")


def test_a_composite_stands_alone_and_has_three_classes(ws):
    with pytest.raises(UsageError, match="stands alone"):
        dry_run(ws, "3db", "casme2")
    with pytest.raises(UsageError, match="has 3 classes"):
        dry_run(ws, "3db", classes=7)


@pytest.mark.parametrize(
    "words", [["--data", "casme2", "samm"], ["--data", "casme2,samm"], ["--data", "casme2", "--data", "samm"]]
)
def test_data_takes_several_words(ws, run_mepipe, words, tmp_path: Path):
    done = run_mepipe("-w", ws.root, "train", *words, "--dry-run")
    assert done.stdout.startswith("casme2+samm: 6 clips (negative 6")
