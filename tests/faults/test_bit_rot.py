"""A byte that has changed on the disk is found, named, never trained on, and made right by the same command."""

from __future__ import annotations

import random
import shutil

import pytest
from faultkit import QUICK_FLOW, crops, done, last_line, samples

from mepipe.shards import ShardFile
from mepipe.workspace import Workspace

FLOW = ("-w", "ws", "flow", *QUICK_FLOW, "--shard-size", "4")


def flip(path, at):
    """Change one bit of byte ``at``."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


@pytest.fixture
def ws(small_work, tmp_path):
    shutil.copytree(small_work, tmp_path / "ws")
    return tmp_path / "ws"


def test_a_flipped_byte_is_found_named_refused_and_made_right(ws, small_work, run_mepipe, tmp_path):
    path = ws / "flow/casme2-00001.h5"
    shard = ShardFile(path)
    flip(path, shard._layout.offsets[2] + 123_456)
    where = f"{path.relative_to(tmp_path)} sample 2 ({shard.samples[2]})"
    shard.close()
    found = run_mepipe("-w", "ws", "shards", "verify")
    assert found.returncode == 1
    assert f"{where}: its bytes do not match their checksum" in found.stdout
    trained = run_mepipe("-w", "ws", "train", "--model", "ststnet", "--epochs", "1")
    assert trained.returncode == 1
    assert where in last_line(trained.stderr)
    assert "do not match their checksum; run mepipe flow again" in last_line(trained.stderr)
    assert not (ws / "runs").exists()
    again = run_mepipe(*FLOW)
    assert "(1 computed by opencv" in again.stdout
    assert samples(ws) == samples(small_work)
    assert run_mepipe("-w", "ws", "shards", "verify").returncode == 0


def test_a_flipped_byte_anywhere_in_a_shard_costs_no_value(ws, small_work, tmp_path):
    """In the names and numbers too: whatever still reads is as it was written, or the checks tell."""
    from mepipe.errors import MepipeError
    from mepipe.shards import verify_shards

    path, right = ws / "flow/casme2-00001.h5", samples(small_work)
    shard = ShardFile(path)
    flow = [range(at, at + shard._layout.sizes[i]) for i, at in enumerate(shard._layout.offsets)]
    shard.close()
    rng, silent = random.Random(0), []
    places = [n for n in range(path.stat().st_size) if not any(n in one for one in flow)]
    for at in rng.sample(places, 60):
        flip(path, at)
        try:
            told = verify_shards(path)
            changed = [s for s in ShardFile(path).samples if right.get(str(s), (None,))[0] != s]
        except MepipeError:
            told, changed = ["refused"], []
        if changed and not told:
            silent.append((at, changed))
        flip(path, at)
    assert not silent
    assert not verify_shards(path)


def test_a_flipped_byte_in_a_crop_is_refused_by_flow_and_made_right_by_prepare(
    ws, small, small_env, small_work, tmp_path
):
    """In each of them at another place: PNG has checksums of its own, and prepare keeps one of each file."""
    shutil.rmtree(ws / "flow")
    pictures = sorted((ws / "prepared/casme2").rglob("*.png"))
    rng = random.Random(0)
    for picture in pictures[5:9]:
        flip(picture, rng.randrange(picture.stat().st_size))
    code, said = done(FLOW, tmp_path)
    assert code == 1
    assert pictures[5].parent.name in last_line(said)
    assert "run mepipe prepare casme2 RAW again" in last_line(said)
    assert done(["-w", "ws", *small.prepare], tmp_path, env=small_env) == (0, "")
    assert crops(ws) == crops(small_work)
    assert done(FLOW, tmp_path)[0] == 0
    assert samples(ws) == samples(small_work)


def test_only_the_damaged_clip_is_prepared_again(ws, small, small_env, tmp_path):
    pictures = sorted((ws / "prepared/casme2").rglob("*.png"))
    times = {path: path.stat().st_mtime_ns for path in pictures}
    flip(pictures[5], 1000)
    assert done(["-w", "ws", *small.prepare], tmp_path, env=small_env) == (0, "")
    again = [path for path, before in times.items() if path.stat().st_mtime_ns != before and path != pictures[5]]
    assert {path.parent for path in again} <= {pictures[5].parent}


def test_crops_made_before_checksums_were_kept_are_still_taken_as_they_are(ws, small, small_env, tmp_path):
    import json

    records = list(Workspace(ws).prepared("casme2").rglob("clip.json"))
    for record in records:
        facts = json.loads(record.read_text())
        del facts["crc32"]
        record.write_text(json.dumps(facts))
    times = [path.stat().st_mtime_ns for path in records]
    assert done(["-w", "ws", *small.prepare], tmp_path, env=small_env) == (0, "")
    assert [path.stat().st_mtime_ns for path in records] == times
