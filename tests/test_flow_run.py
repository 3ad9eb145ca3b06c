"""`mepipe flow` between its crops and its shards: threads in order, what is kept, what is computed again."""

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from flow_command import kinds, prepare

from mepipe.errors import DataError
from mepipe.flow import TVL1Params, get_engine, tvl1
from mepipe.flow.images import average_frames
from mepipe.flow.output import AHEAD, Made, Output, Part
from mepipe.flow.pairs import plan, reach_of
from mepipe.flow.run import flow_corpora
from mepipe.flow.strain import strain
from mepipe.flow.workers import Workers, in_order
from mepipe.settings import FlowConfig
from mepipe.shards import (
    FLOW_SHAPE,
    PX_STRAIN,
    Sample,
    ShardWriter,
    list_shards,
    open_shards,
    verify_shards,
    write_shard,
)
from mepipe.shards.read import readable_shards
from mepipe.workspace import TEMP_MARK, Workspace, digest

# --- threads ---


def test_results_come_in_order_however_long_each_takes():
    with Workers(3) as workers:
        delays = [0.03, 0.0, 0.01, 0.02, 0.0]
        got = in_order(workers, lambda i: time.sleep(delays[i]) or i, range(5), ahead=4)
        assert list(got) == [0, 1, 2, 3, 4]


def test_no_more_than_the_stated_number_is_under_way():
    """Memory does not grow with the number of clips: nothing is taken before there is room for it."""
    taken = []
    with Workers(2) as workers:
        results = in_order(workers, lambda i: i, (taken.append(i) or i for i in range(100)), ahead=5)
        for i in results:
            assert len(taken) <= i + 5
    assert len(taken) == 100


def test_an_error_comes_at_its_turn_and_nothing_else_begins():
    begun = []

    def work(i):
        begun.append(i)
        if i == 2:
            raise DataError("the third")
        return i

    with Workers(1) as workers:
        results = in_order(workers, work, range(1000), ahead=3)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(DataError, match="the third"):
            next(results)
        workers.stop()
    assert len(begun) <= 5


def test_threads_that_do_not_come_back_are_not_waited_for():
    never = threading.Event()
    workers = Workers(2)
    workers.submit(never.wait)
    begin = time.monotonic()
    workers.stop(patience=0.1)
    assert time.monotonic() - begin < 1
    never.set()


@pytest.mark.parametrize("name", ["native", "opencv"])
def test_one_caller_a_thread_gives_what_a_batch_gives(name):
    rng = np.random.default_rng(0)
    onset, apex = rng.integers(0, 256, (2, 6, 40, 33), dtype=np.uint8)
    params = TVL1Params(nscales=2, warps=2, inner=8)
    engine = get_engine(name, threads=3)
    before = cv2.getNumThreads()
    with Workers(3) as workers:
        flows = in_order(workers, lambda i: engine.flow(onset[i : i + 1], apex[i : i + 1], params)[0], range(6), 6)
        np.testing.assert_array_equal(np.stack(list(flows)), engine.flow(onset, apex, params))
    assert cv2.getNumThreads() == before


# --- writing beside the work ---

SAMPLES = [Sample("casme2", "sub01", f"c{i}", key=str(i)) for i in range(5)]
FLOWS = np.random.default_rng(0).standard_normal((5, *FLOW_SHAPE)).astype(np.float32)
FLOWS[:, 2] = np.hypot(FLOWS[:, 0], FLOWS[:, 1])
MADE_BY = {"engine": "opencv", "parameters": {}, "versions": {}}


def feed(output, part, count):
    for sample, flow in list(zip(part.samples, FLOWS, strict=True))[:count]:
        output.put(Made(part, sample, flow))


def new_output():
    return Output(lambda path: ShardWriter(path, **MADE_BY))


def test_shards_appear_whole_and_in_order(tmp_path):
    parts = [Part(tmp_path / f"casme2-{n:05d}.h5", SAMPLES, None) for n in range(2)]
    output = new_output()
    for part in parts:
        feed(output, part, 5)
    output.finish()
    for part in parts:
        shards = open_shards(part.path)
        assert shards.samples == SAMPLES
        np.testing.assert_array_equal(shards.read_all(), FLOWS)


def test_a_stopped_run_keeps_what_it_has_of_a_shard(tmp_path):
    part = Part(tmp_path / "casme2-00000.h5", SAMPLES, None)
    output = new_output()
    feed(output, part, 3)
    output.keep()
    assert open_shards(part.path).samples == SAMPLES[:3]
    assert verify_shards(part.path) == []


def test_a_stopped_run_never_leaves_fewer_wanted_samples_than_there_were(tmp_path):
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES[:3], FLOWS[:3], **MADE_BY)
    for written, left in ((2, 3), (4, 4)):
        (old,) = readable_shards(list_shards(tmp_path, ["casme2"]))
        output = new_output()
        feed(output, Part(path, SAMPLES, old), written)
        output.keep()
        assert open_shards(path).samples == SAMPLES[:left]
    assert not list(tmp_path.glob(f"{TEMP_MARK}*"))


def test_what_goes_wrong_while_writing_is_raised_to_who_computes(tmp_path):
    part = Part(tmp_path / "casme2-00000.h5", [SAMPLES[0]] * (3 * AHEAD), None)
    output = new_output()
    spoiled = Made(part, SAMPLES[0], FLOWS[0] * np.nan)

    def put_more_than_it_takes_ahead():  # a writer that died must not block
        for _ in part.samples:
            output.put(spoiled)

    with pytest.raises(DataError, match="holds NaN"):
        put_more_than_it_takes_ahead()
    output.keep()
    assert not list(tmp_path.iterdir())


# --- what is computed, what is taken over ---


def grey(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY)


def config(**given):
    return FlowConfig(engine="native", nscales=1, warps=1, inner=5, outer=1, **given)


def test_the_key_of_a_pair_is_still_the_hash_of_its_two_crops_and_settings(own):
    """Flow computed by earlier versions stays valid."""
    ws = Workspace(own.work)
    flow_corpora(ws, config=config())
    (pair, *_) = plan(ws, "casme2")
    crops = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*pair.onset, *pair.apex)]
    shards = open_shards(ws.flow)
    engine = get_engine("native")
    assert shards.samples[0].key == digest([*crops, engine.identity(), shards.parameters])
    assert shards.samples[0] == replace(pair.sample, key=shards.samples[0].key)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_flow_is_that_of_the_engine_on_the_crops_whatever_the_size_of_shards(own, engine):
    """Also where an engine takes batches (torch) and their ends do not fall on the ends of shards."""
    ws = Workspace(own.work)
    flow_corpora(ws, config=replace(config(shard_size=2, batch=3), engine=engine))
    shards = open_shards(ws.flow)
    assert len(shards.paths) == 5
    params = TVL1Params(**shards.parameters)
    for flow, s in shards:
        crops = ws.prepared("casme2") / s.subject / s.clip
        onset, apex = (grey(crops / f"{n}.png") for n in (s.onset, s.apex))
        np.testing.assert_allclose(flow, tvl1(onset, apex, engine=engine, params=params), atol=1e-6)


def test_a_part_of_a_shard_is_taken_over_and_the_rest_computed(own):
    ws = Workspace(own.work)
    flow_corpora(ws, config=config())
    whole = open_shards(ws.flow)
    flows, samples = whole.read_all(), whole.samples
    about = {"engine": whole.engine, "parameters": whole.parameters, "versions": whole.versions}
    write_shard(whole.paths[0], samples[:4], flows[:4], **about)
    summary = flow_corpora(ws, config=config())
    assert (summary.reused, summary.computed) == (4, 5)
    assert open_shards(ws.flow).samples == samples
    np.testing.assert_array_equal(open_shards(ws.flow).read_all(), flows)


def test_a_missing_crop_is_told_before_anything_is_computed(own):
    ws = Workspace(own.work)
    shutil.rmtree(ws.flow)
    crop = plan(ws, "casme2")[-1].apex[0]
    crop.unlink()
    with pytest.raises(DataError, match=r"cannot read its crops \(there is no .*; run mepipe prepare casme2 RAW again"):
        flow_corpora(ws, config=config())
    assert not list(ws.root.rglob("*.h5"))


def test_a_damaged_crop_names_the_clip_and_keeps_what_was_computed_before(own):
    ws = Workspace(own.work)
    shutil.rmtree(ws.flow)
    crop = plan(ws, "casme2")[-1].apex[0]
    crop.write_bytes(crop.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated PNG"):
        flow_corpora(ws, config=config(jobs=1))
    kept = open_shards(ws.flow)
    assert kept.samples
    assert not kept.damaged()
    assert not list(ws.flow.glob(f"{TEMP_MARK}*"))


# --- the strain ---


def test_strain_is_the_fourth_channel_and_needs_no_new_flow(own):
    ws = Workspace(own.work)
    flow_corpora(ws, config=config())
    plain = open_shards(ws.flow)
    flows, before = plain.read_all(), plain.paths[0].read_bytes()
    summary = flow_corpora(ws, config=config(strain=True))
    assert summary.computed == 0
    shards = open_shards(ws.flow)
    assert shards.content == PX_STRAIN
    got = shards.read_all()
    np.testing.assert_array_equal(got[:, :3], flows)
    np.testing.assert_array_equal(got[:, 3], strain(flows))
    assert verify_shards(ws.flow) == []
    assert flow_corpora(ws, config=config(strain=True)).computed == 0
    assert flow_corpora(ws, config=config()).computed == 0
    assert plain.paths[0].read_bytes() == before  # a file without strain is what it always was


def test_strain_computed_at_once_equals_strain_added_later(own):
    ws = Workspace(own.work)
    flow_corpora(ws, config=config())
    flow_corpora(ws, config=config(strain=True))
    later = open_shards(ws.flow).read_all()
    assert flow_corpora(ws, config=config(strain=True, force=True)).computed == len(later)
    np.testing.assert_array_equal(open_shards(ws.flow).read_all(), later)


def test_strain_of_half_precision_flow_is_not_made_of_rounded_values(own):
    """float16 flow of the same settings is taken over as it lies there; its strain has to come from the flow itself."""
    ws = Workspace(own.work)
    flow_corpora(ws, config=config(dtype="float16"))
    assert flow_corpora(ws, config=config(dtype="float16", shard_size=4)).computed == 0
    assert flow_corpora(ws, config=config(dtype="float16", strain=True)).computed == 9
    assert verify_shards(ws.flow) == []
    assert flow_corpora(ws, config=config(dtype="float16", strain=True, shard_size=4)).computed == 0
    assert flow_corpora(ws, config=config()).computed == 9


# --- the mean of neighbouring frames ---


def add_neighbours(ws, numbers=(-1, 1)):
    """Noisy copies of onset and apex beside them, as --frames around leaves the neighbours."""
    rng = np.random.default_rng(0)
    for pair in plan(ws, "casme2"):
        for path in (*pair.onset, *pair.apex):
            image = cv2.imread(str(path))
            for step in numbers:
                noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
                beside = path.with_name(f"{int(path.stem) + step}.png")
                if not beside.exists():
                    cv2.imwrite(str(beside), noisy)


def test_averaged_flow_is_that_of_the_mean_frames_and_says_so(own, capsys):
    ws = Workspace(own.work)
    add_neighbours(ws)
    flow_corpora(ws, config=config())
    single = open_shards(ws.flow).samples
    lines = []
    summary = flow_corpora(ws, config=config(average=1), say=lines.append)
    assert summary.computed == 9
    assert "averaged: 3 frames each around onset and apex; fewer in 0 of 9 clips" in lines[-1]
    shards = open_shards(ws.flow)
    assert shards.parameters["average"] == 1
    assert not {s.key for s in shards.samples} & {s.key for s in single}
    for flow, s in shards:
        assert (s.onset_frames, s.apex_frames) == (3, 3)
        crops = ws.prepared("casme2") / s.subject / s.clip
        means = [
            average_frames(np.stack([grey(crops / f"{n + step}.png") for step in (-1, 0, 1)]))
            for n in (s.onset, s.apex)
        ]
        params = TVL1Params(nscales=1, warps=1, inner=5, outer=1)
        np.testing.assert_array_equal(flow, tvl1(*means, engine="native", params=params))
    assert flow_corpora(ws, config=config(average=1)).computed == 0
    assert flow_corpora(ws, config=config()).computed == 9


def test_a_changed_neighbour_makes_the_flow_stale(own):
    ws = Workspace(own.work)
    add_neighbours(ws)
    flow_corpora(ws, config=config(average=1))
    neighbour = plan(ws, "casme2", 1)[0].onset[0]
    cv2.imwrite(str(neighbour), cv2.imread(str(neighbour)) // 2)
    assert flow_corpora(ws, config=config(average=1)).computed == 1


def test_a_clip_ends_somewhere_and_takes_the_frames_it_has(own):
    ws = Workspace(own.work)
    add_neighbours(ws, (1, -1))
    plan(ws, "casme2", 1)[0].onset[0].unlink()  # the clip begins with its onset
    flow_corpora(ws, config=config(average=1))
    counts = [(s.onset_frames, s.apex_frames) for s in open_shards(ws.flow).samples]
    assert counts == [(2, 3)] + [(3, 3)] * 8


@pytest.mark.parametrize(
    ("onset", "apex", "average", "reach"), [(1, 9, 3, 3), (1, 8, 3, 3), (1, 7, 3, 2), (1, 3, 1, 0), (1, 2, 5, 0)]
)
def test_no_frame_counts_for_both_onset_and_apex(onset, apex, average, reach):
    assert reach_of(onset, apex, average) == reach
    assert onset + reach < apex - reach


@pytest.mark.parametrize(("there", "average", "frames"), [((), 1, "around"), ((-1, 1), 2, "all")])
def test_neighbours_that_were_not_prepared_are_an_error_that_says_how_to_get_them(own, there, average, frames):
    ws = Workspace(own.work)
    add_neighbours(ws, there)
    first = plan(ws, "casme2")[0].sample
    with pytest.raises(DataError, match=f"^{first}: .*; run mepipe prepare casme2 RAW --frames {frames}$"):
        flow_corpora(ws, config=config(average=average))


def test_a_model_of_averaged_flow_is_asked_about_averaged_flow(own):
    """predict makes a clip's flow from its crops as the run's shards were made."""
    from mepipe_model.predict import averaged, flow_like
    from mepipe_model.runs import Run

    ws = Workspace(own.work)
    add_neighbours(ws)
    flow_corpora(ws, config=config(average=1))
    shards = open_shards(ws.flow)
    run = Run(own.work, {"data": {"flow": {"parameters": shards.parameters}}})
    assert averaged(run) == 1
    flow, s = shards[3]
    crops = {int(p.stem): cv2.imread(str(p)) for p in (ws.prepared("casme2") / s.subject / s.clip).glob("*.png")}
    np.testing.assert_array_equal(flow_like(run, crops, s.onset, s.apex), flow)


PEAK = """
import atexit, sys
from mepipe.cli import main

def tell():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("peak", line.split()[1])

atexit.register(tell)
main(sys.argv[1:])
"""


def peak_megabytes(ws):
    """Of `mepipe flow` in a process of its own, which reads it itself: getrusage counts the parent's too."""
    quick = {"nscales": 1, "warps": 1, "inner": 1, "outer": 1, "median": 0, "pad": 0, "epsilon": 0, "shard-size": 16}
    options = [word for name, value in quick.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-c", PEAK, "-w", str(ws.root), "flow", "--engine", "native", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the peak there")
def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    """All flow of the larger corpus would be 200 MB more."""
    made = kinds()
    few, many = Workspace(tmp_path / "few"), Workspace(tmp_path / "many")
    for ws, count in ((few, 60), (many, 400)):
        prepare(ws, [made[n % len(made)] for n in range(count)])
    peaks = peak_megabytes(few), peak_megabytes(many)
    assert peaks[1] < peaks[0] + 30
