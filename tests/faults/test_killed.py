"""Every command is killed at random moments and run again; the result must equal an uninterrupted run's.

In short one kill of prepare, with ``-m slow`` five of each command (ten of flow), with ``-m long`` forty and more.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time

import pytest
from faultkit import (
    QUICK_FLOW,
    TRAIN,
    Target,
    crops,
    done,
    leftovers,
    predictions,
    random_kills,
    samples,
    start,
    unequal,
)

from mepipe.workspace import TEMP_MARK

SEVERAL = [pytest.param(5, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.long)]
FEW_OR_MANY = pytest.mark.parametrize("kills", [1, *SEVERAL])


@pytest.fixture
def judge(tally):
    """Print the moments of the kills, count them, and fail where one has cost something."""

    def tell(kind, kills):
        print(kills)
        tally(f"killed: {kind}", len(kills.moments), len(kills.lost))
        assert not kills.lost

    return tell


def both(tmp_path, source, name):
    """A folder to be whole and one to be killed in, each with what the command needs in its ``ws``."""
    for folder in ("whole", "killed"):
        (tmp_path / folder / "ws").mkdir(parents=True)
        if source is not None:
            shutil.copytree(source / name, tmp_path / folder / "ws" / name)
    return tmp_path / "whole", tmp_path / "killed"


@FEW_OR_MANY
def test_prepare_killed_at_random_moments_gives_the_same_crops(made, tmp_path, judge, kills):
    args = ["-w", "ws", "prepare", "casme2", made.raw, "--frames", "all", "--jobs", "2"]
    target = Target(args, crops, "prepared")
    judge("prepare", random_kills(target, *both(tmp_path, None, ""), kills, seed=0))


@pytest.mark.parametrize("kills", SEVERAL)
def test_train_killed_at_random_moments_gives_the_same_predictions(made, tmp_path, judge, kills):
    """With a resumable state after every epoch, so that most kills find one."""
    args = ["-w", "ws", "train", "--model", "merba_tiny", "--epochs", "3", "--jobs", "2", "--threads", "1"]
    target = Target(args, predictions, "runs", program=TRAIN)
    whole, killed = both(tmp_path, made.work, "flow")
    judge("train", random_kills(target, whole, killed, kills, seed=2))
    weights = [name for name in predictions(whole / "ws") if name.endswith("weights.safetensors")]
    assert len(weights) == 3, "there was something to lose"


@pytest.mark.long
def test_flow_killed_at_moments_over_all_its_time_gives_the_same_values(made, tmp_path, judge):
    args = ["-w", "ws", "flow", "--engine", "opencv", "--shard-size", "2", "--pad", "8", "--warps", "2"]
    whole, killed = both(tmp_path, made.work, "prepared")
    judge("flow", random_kills(Target(args, samples, "flow"), whole, killed, 40, seed=3))


@pytest.mark.slow
def test_flow_killed_ten_times_at_random_moments_gives_the_same_values(made, tmp_path, tally):
    """Each kill gets a third of the work done, most often."""
    args = ["-w", "ws", "flow", "--engine", "opencv", "--shard-size", "2", "--pad", "8", "--warps", "2"]
    target = Target(args, samples, "flow")
    whole, folder = both(tmp_path, made.work, "prepared")
    seconds, idle = timed(args, whole), timed(args, whole)
    right = samples(whole / "ws")
    rng, killed, moments = random.Random(1), 0, []
    while killed < 10:
        moments.append(rng.uniform(0.6 * idle, idle + 0.6 * (seconds - idle)))
        process = start(args, folder)
        try:
            process.communicate(timeout=moments[-1])
            shutil.rmtree(folder / "ws/flow")  # it was faster: begin again
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    print(f"seed 1: at {moments} s")
    tally("killed: flow", killed)
    code, said = done(args, folder)
    assert not unequal(target, code, said, whole / "ws", folder / "ws", right)
    assert len(right) == 9
    assert len(list((folder / "ws/flow").glob("*.h5"))) == 5
    assert not leftovers(tmp_path)


def timed(args, cwd):
    begin = time.monotonic()
    assert done(args, cwd)[0] == 0
    return time.monotonic() - begin


@pytest.mark.parametrize(
    ("command", "places"),
    [
        ("prepare", ["prepared/casme2", "prepared/casme2/sub01"]),
        ("flow", ["flow"]),
        pytest.param("train", ["runs/mine", "runs/mine/folds", "runs/mine/folds/casme2_sub01"], marks=pytest.mark.long),
    ],
)
def test_whatever_a_killed_command_was_writing_is_swept_by_the_next(
    small, small_env, small_work, tmp_path, command, places
):
    """In each folder that it writes to, also where the moment is too short to be met by chance."""
    shutil.copytree(small_work, tmp_path / "ws")
    train = ["train", "--model", "ststnet", "--epochs", "1", "--jobs", "1", "--threads", "1", "--run", "mine"]
    args = {"prepare": small.prepare, "flow": ["flow", *QUICK_FLOW, "--shard-size", "4"], "train": train}[command]
    if command == "train":
        assert done(["-w", "ws", *args], tmp_path)[0] == 0
    for place in places:
        (tmp_path / "ws" / place / f"{TEMP_MARK}1-2-half").write_bytes(b"half")
    assert done(["-w", "ws", *args], tmp_path, env=small_env)[0] == 0
    assert not leftovers(tmp_path)
