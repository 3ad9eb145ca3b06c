"""Shards: what is written can be read by anyone, what is damaged is never read, and no half file is left."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest

from mepipe.errors import DataError, MepipeError, UsageError
from mepipe.flow.strain import strain
from mepipe.shards import (
    FLOW_SHAPE,
    PX,
    PX_STRAIN,
    Sample,
    ShardWriter,
    list_shards,
    open_shards,
    shard_hash,
    verify_shards,
    write_shard,
)

MADE_BY = {"engine": "opencv", "parameters": {"pad": 16}, "versions": {"mepipe": "0.1.0", "opencv": None}}
SAMPLES = [
    Sample("casme2", "sub01", "EP02_01f", "happiness", "positive", "happiness", "", 46, 59, 86, "a1"),
    Sample("casme2", "sub02", "EP ñ 表情", "others", "", "", "train", 1, 2, 3, "b2"),
    Sample("casme2", "sub02", "EP03", "disgust", "negative", "disgust", "test", 10, 20, 30, "c3"),
]


def make_flow(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (2, 28, 28)).astype(np.float32)
    flow = coarse.repeat(8, axis=1).repeat(8, axis=2)
    return np.concatenate([flow, np.hypot(*flow)[None]])


FLOWS = [make_flow(i) for i in range(3)]


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES, FLOWS, **MADE_BY)
    return path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# --- the format ---


def test_any_hdf5_reader_finds_what_the_format_promises(shard):
    with h5py.File(shard) as f:
        assert f["flow"].shape == (3, *FLOW_SHAPE)
        assert f["flow"].dtype == np.float32
        assert f["flow"].chunks == (1, *FLOW_SHAPE)
        np.testing.assert_array_equal(f["flow"][1], FLOWS[1])
        assert f["clip"].asstr()[()].tolist() == [s.clip for s in SAMPLES]
        assert {f[n].dtype.name for n in ("onset", "apex", "offset")} == {"int32"}
        assert f["apex"][()].tolist() == [59, 2, 20]
        text = ("corpus", "subject", "clip", "emotion", "label3", "label7", "split", "key")
        assert all(h5py.check_string_dtype(f[n].dtype).encoding == "utf-8" for n in text)
        attributes = dict(f.attrs)
    assert attributes["format"] == "mepipe.flow"
    assert attributes["version"] == 1
    assert attributes["complete"]
    assert not attributes["normalised"]
    assert attributes["engine"] == "opencv"
    assert json.loads(attributes["parameters"]) == {"pad": 16}
    assert json.loads(attributes["versions"]) == {"mepipe": "0.1.0", "opencv": None}


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 0.002)])
def test_what_was_written_is_read(tmp_path, dtype, compression, error):
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES, iter(FLOWS), **MADE_BY, dtype=dtype, compression=compression)
    shards = open_shards(path)
    assert (shards.dtype, shards.compression, shards.engine) == (dtype, compression, "opencv")
    assert shards.parameters == {"pad": 16}
    assert shards.samples == SAMPLES
    for i, flow in enumerate(FLOWS):
        read, sample = shards[i]
        assert sample == SAMPLES[i]
        assert read.dtype == np.float32
        assert np.abs(read - flow).max() <= error
    np.testing.assert_array_equal(shards.read_all(), np.stack([shards.flow(i) for i in range(3)]))
    assert verify_shards(path) == []


def test_float16_is_widened_exactly_as_hdf5_would(tmp_path):
    """Every finite float16, subnormal ones and both zeros included."""
    finite = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)].astype(np.float32)
    flow = np.resize(finite, FLOW_SHAPE)
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES[:1], [flow], **MADE_BY, dtype="float16")
    np.testing.assert_array_equal(open_shards(path).flow(0).view(np.uint32), flow.view(np.uint32))


def test_incompressible_samples_are_read_from_gzip_shards(tmp_path):
    """HDF5 leaves the gzip filter out for a chunk that it would enlarge."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**32, FLOW_SHAPE, dtype=np.uint32).view(np.float32)
    noise = np.where(np.isfinite(noise), noise, np.float32(1))
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES[:2], [noise, FLOWS[0]], **MADE_BY, compression="gzip")
    shards = open_shards(path)
    np.testing.assert_array_equal(shards.flow(0), noise)
    np.testing.assert_array_equal(shards.flow(1), FLOWS[0])


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, SAMPLES, FLOWS, **MADE_BY)
    assert shard_hash(tmp_path / "a") == shard_hash(tmp_path / "b")
    write_shard(tmp_path / "b", SAMPLES, FLOWS[::-1], **MADE_BY)
    assert shard_hash(tmp_path / "a") != shard_hash(tmp_path / "b")


def test_an_empty_shard_is_a_shard(tmp_path):
    write_shard(tmp_path / "samm-00000.h5", [], [], **MADE_BY)
    shards = open_shards(tmp_path)
    assert len(shards) == 0
    assert shards.read_all().shape == (0, *FLOW_SHAPE)


# --- many files ---


def test_a_folder_is_read_in_order_and_by_corpus(tmp_path):
    for corpus, number in (("samm", 0), ("casme2", 1), ("casme2", 0)):
        sample = replace(SAMPLES[0], corpus=corpus, clip=f"{corpus}{number}")
        write_shard(tmp_path / f"{corpus}-{number:05d}.h5", [sample], [FLOWS[number]], **MADE_BY)
    (tmp_path / ".mepipe-tmp-1-casme2-00002.h5").write_bytes(b"left by a killed run")
    (tmp_path / "notes.h5").write_bytes(b"of the user")
    assert [p.name for p in list_shards(tmp_path)] == ["casme2-00000.h5", "casme2-00001.h5", "samm-00000.h5"]
    assert [s.clip for s in open_shards(tmp_path).samples] == ["casme20", "casme21", "samm0"]
    assert [s.clip for s in open_shards(tmp_path, ["samm"]).samples] == ["samm0"]
    assert [s.clip for s in open_shards(list_shards(tmp_path), ["samm"]).samples] == ["samm0"]
    with pytest.raises(DataError, match=r"no flow shards of smic-hs in .* \(there: casme2, samm\)"):
        open_shards(tmp_path, ["smic-hs"])


def test_shards_are_a_sequence(shard):
    shards = open_shards([shard, shard])
    assert len(shards) == 6
    assert shards[-1][1] == SAMPLES[2]
    assert [sample for _, sample in shards[1:3]] == SAMPLES[1:3]
    assert [sample.clip for _, sample in shards] == [s.clip for s in SAMPLES] * 2
    with pytest.raises(IndexError):
        shards[6]


def test_files_of_different_settings_are_not_taken_for_one(tmp_path, shard):
    others = [replace(s, clip=f"other {s.clip}") for s in SAMPLES]
    write_shard(tmp_path / "casme2-00001.h5", others, FLOWS, **{**MADE_BY, "parameters": {"pad": 0}})
    shards = open_shards(tmp_path)
    assert len(shards) == 6
    with pytest.raises(DataError, match="different parameters"):
        _ = shards.parameters


def test_a_copied_shard_is_refused_instead_of_doubling_the_data(tmp_path, shard):
    copy = tmp_path / "casme2-00007.h5"
    copy.write_bytes(shard.read_bytes())
    with pytest.raises(DataError, match=r"is both in .*00000\.h5 and in .*00007\.h5"):
        open_shards(tmp_path)


def test_damaged_samples_are_named(tmp_path, shard):
    assert open_shards(shard).damaged() == []
    data = bytearray(shard.read_bytes())
    at = data.find(FLOWS[1].astype("<f4").tobytes()[:64])
    data[at + 1000] ^= 1
    shard.write_bytes(data)
    (line,) = open_shards(shard).damaged()
    assert "sample 1" in line


# --- four channels ---


def strained(flows):
    flows = np.stack(flows)
    return np.concatenate([flows, strain(flows)[:, None]], axis=1)


@pytest.mark.parametrize(("dtype", "compression"), [("float32", None), ("float16", None), ("float16", "gzip")])
def test_strain_may_be_stored_beside_the_flow(tmp_path, dtype, compression):
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES, strained(FLOWS), **MADE_BY, dtype=dtype, compression=compression, content=PX_STRAIN)
    assert verify_shards(path) == []
    shards = open_shards(path)
    assert shards.content == PX_STRAIN
    np.testing.assert_array_equal(shards.read_all(), strained(FLOWS).astype(dtype).astype(np.float32))
    first = open_shards(path, channels=3)
    assert first.content == PX
    np.testing.assert_array_equal(first.read_all(), shards.read_all()[:, :3])
    np.testing.assert_array_equal(first.flow(1), shards.flow(1)[:3])
    with h5py.File(path) as f:
        assert f.attrs["version"] == 1
        assert json.loads(f.attrs["channels"]) == ["u", "v", "magnitude", "strain"]


def test_a_strain_that_is_not_that_of_the_flow_is_found(tmp_path):
    path = tmp_path / "casme2-00000.h5"
    flows = strained(FLOWS)
    flows[1, 3, 40, 40] += 0.01
    write_shard(path, SAMPLES, flows, **MADE_BY, content=PX_STRAIN)
    (finding,) = verify_shards(path)
    assert (finding.index, finding.problem) == (1, "its strain is not that of u and v")


def test_four_channels_that_are_called_three_are_refused(tmp_path):
    """What a reader that knows three channels only makes of a file with four, and the other way round."""
    for flows, content, other in ((strained(FLOWS), PX_STRAIN, PX), (FLOWS, PX, PX_STRAIN)):
        path = tmp_path / "casme2-00000.h5"
        write_shard(path, SAMPLES, flows, **MADE_BY, content=content)
        edit(path, lambda f, other=other: f.attrs.__setitem__("channels", json.dumps(other.channels)))
        with pytest.raises(DataError, match=r"flow is float32 \(3, [34], 224, 224\); expected"):
            open_shards(path)


def test_averaged_frames_are_recorded_where_there_are_any(tmp_path):
    path = tmp_path / "casme2-00000.h5"
    averaged = [replace(SAMPLES[0], onset_frames=2, apex_frames=3), *SAMPLES[1:]]
    write_shard(path, averaged, FLOWS, **MADE_BY)
    assert open_shards(path).samples == averaged
    write_shard(path, SAMPLES, FLOWS, **MADE_BY)
    with h5py.File(path) as f:
        assert not {"onset_frames", "apex_frames"} & set(f)


# --- what is no shard ---


def edit(path, change):
    with h5py.File(path, "r+") as f:
        change(f)


def swap_flow(make):
    def change(f):
        del f["flow"]
        make(f)

    return change


def virtual(f):
    layout = h5py.VirtualLayout((3, *FLOW_SHAPE), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "flow", (3, *FLOW_SHAPE))
    f.create_virtual_dataset("flow", layout)


DAMAGE = {
    "not complete": (lambda f: f.attrs.__delitem__("complete"), "not complete"),
    "complete is false": (lambda f: f.attrs.__setitem__("complete", False), "not complete"),
    "another format": (lambda f: f.attrs.__setitem__("format", "mepipe.masks"), "format is 'mepipe.masks'"),
    "no format": (lambda f: f.attrs.__delitem__("format"), "format is None"),
    "a later version": (lambda f: f.attrs.__setitem__("version", 2), "version 2"),
    "broken parameters": (lambda f: f.attrs.__setitem__("parameters", "{"), "cannot be read"),
    "external link": (swap_flow(lambda f: f.__setitem__("flow", h5py.ExternalLink("/etc/x.h5", "flow"))), "no dataset"),
    "soft link": (swap_flow(lambda f: f.__setitem__("flow", h5py.SoftLink("/checksum"))), "no dataset"),
    "group": (swap_flow(lambda f: f.create_group("flow")), "not a dataset"),
    "external storage": (
        swap_flow(lambda f: f.create_dataset("flow", (3, *FLOW_SHAPE), "f4", external=[("/etc/hostname", 0, 1806336)])),
        "not a dataset inside",
    ),
    "virtual": (swap_flow(virtual), "not a dataset inside"),
    "shape": (swap_flow(lambda f: f.create_dataset("flow", (3, 2, 224, 224), "f4")), "flow is float32"),
    "type": (swap_flow(lambda f: f.create_dataset("flow", (3, *FLOW_SHAPE), "f8")), "flow is float64"),
    "other chunks": (
        swap_flow(lambda f: f.create_dataset("flow", (3, *FLOW_SHAPE), "f4", chunks=(3, 3, 32, 32))),
        "pieces of",
    ),
    "other filter": (
        swap_flow(lambda f: f.create_dataset("flow", data=FLOWS, chunks=(1, *FLOW_SHAPE), compression="lzf")),
        "something else than gzip",
    ),
    "holes": (
        swap_flow(lambda f: f.create_dataset("flow", (3, *FLOW_SHAPE), "f4", chunks=(1, *FLOW_SHAPE))),
        "never written",
    ),
    "no subjects": (lambda f: f.__delitem__("subject"), "'subject'"),
    "too few clips": (lambda f: (f.__delitem__("clip"), f.__setitem__("clip", ["a", "b"])), "clip is"),
    "text for numbers": (lambda f: (f.__delitem__("apex"), f.__setitem__("apex", ["1", "2", "3"])), "apex is"),
}


@pytest.mark.parametrize(("change", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_no_whole_shard_is_refused_by_name(shard, change, reason):
    edit(shard, change)
    with pytest.raises(DataError) as e:
        open_shards(shard)
    message = str(e.value)
    assert str(shard) in message
    assert reason in message
    assert "\n" not in message
    assert [f.path for f in verify_shards(shard)] == [shard]


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "casme2-00000.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"casme2-00000\.h5"):
        open_shards(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"casme2-00007.h5: there is no such file"):
        open_shards(tmp_path / "casme2-00007.h5")


def test_a_truncated_shard_is_never_read(shard):
    whole = shard.read_bytes()
    for length in (len(whole) // 3, len(whole) - 1):
        shard.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"casme2-00000\.h5"):
            open_shards(shard).read_all()


# --- verifying ---


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_flipped_bit_is_found_and_its_sample_named(tmp_path, compression):
    path = tmp_path / "casme2-00000.h5"
    write_shard(path, SAMPLES, FLOWS, **MADE_BY, compression=compression)
    with h5py.File(path) as f:
        place = f["flow"].id.get_chunk_info_by_coord((1, 0, 0, 0))
    data = bytearray(path.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 1
    path.write_bytes(data)
    (finding,) = verify_shards(tmp_path)
    assert (finding.path, finding.index) == (path, 1)
    assert "casme2 sub02/EP ñ 表情" in str(finding)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [(lambda x: x.__setitem__((0, 0, 0), np.nan), "NaN"), (lambda x: x.__setitem__(2, x[2] * 1.01), "magnitude")],
)
def test_values_that_cannot_be_flow_are_found(shard, spoil, problem):
    import zlib

    def change(f):
        flow = f["flow"][2]
        spoil(flow)
        f["flow"][2] = flow
        f["checksum"][2] = zlib.crc32(flow.tobytes())

    edit(shard, change)
    (finding,) = verify_shards([shard])
    assert finding.index == 2
    assert problem in finding.problem


# --- writing ---


@pytest.mark.parametrize(
    ("flow", "problem"),
    [
        (np.zeros((2, 224, 224), np.float32), r"float32 \(2, 224, 224\)"),
        (np.zeros(FLOW_SHAPE, np.uint8), "uint8"),
        (np.full(FLOW_SHAPE, np.nan, np.float32), "NaN"),
    ],
)
def test_a_flow_that_cannot_be_stored_is_named_and_no_file_is_left(tmp_path, flow, problem):
    with pytest.raises(DataError, match=problem) as e:
        write_shard(tmp_path / "casme2-00000.h5", SAMPLES, [FLOWS[0], flow, FLOWS[2]], **MADE_BY)
    assert "sub02/EP ñ" in str(e.value)
    assert names(tmp_path) == []


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    flow = np.full(FLOW_SHAPE, 7e4, np.float32)
    with pytest.raises(DataError, match="more than float16"):
        write_shard(tmp_path / "a.h5", SAMPLES[:1], [flow], **MADE_BY, dtype="float16")


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_text_that_hdf5_cannot_hold_is_a_clear_error(tmp_path, text):
    with pytest.raises(DataError, match="emotion"):
        write_shard(tmp_path / "a.h5", [replace(SAMPLES[0], emotion=text)], FLOWS[:1], **MADE_BY)
    assert names(tmp_path) == []


@pytest.mark.parametrize("flows", [FLOWS[:2], [*FLOWS, FLOWS[0]]])
def test_as_many_flows_as_samples(tmp_path, flows):
    with pytest.raises(DataError, match="3 samples but"):
        write_shard(tmp_path / "a.h5", SAMPLES, flows, **MADE_BY)
    assert names(tmp_path) == []


def test_a_shard_holds_no_more_than_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mepipe.shards.write.MAX_SAMPLES", 2)
    with pytest.raises(UsageError, match="more than 2 samples"):
        write_shard(tmp_path / "a.h5", SAMPLES, FLOWS, **MADE_BY)


@pytest.mark.parametrize("option", [{"dtype": "float64"}, {"compression": "lzf"}])
def test_unknown_storage_options_are_usage_errors(tmp_path, option):
    with pytest.raises(UsageError, match="valid"):
        write_shard(tmp_path / "a.h5", SAMPLES, FLOWS, **MADE_BY, **option)


def test_a_failing_producer_leaves_the_old_shard_and_nothing_else(shard):
    before = shard.read_bytes()

    def flows():
        yield FLOWS[2]
        raise FileNotFoundError("a crop is gone")

    with pytest.raises(FileNotFoundError, match="a crop is gone"):
        write_shard(shard, SAMPLES, flows(), **MADE_BY)
    assert shard.read_bytes() == before
    assert names(shard.parent) == [shard.name]


def run_python(code, *arguments):
    prelude = """
        import os, sys, signal, resource
        import numpy as np
        from pathlib import Path
        from mepipe.errors import MepipeError
        from mepipe.shards import Sample, write_shard, ShardWriter
        made_by = dict(engine="e", parameters={}, versions={})
        flow = np.ones((3, 224, 224), np.float32)
        path = Path(sys.argv[1])
    """
    program = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)


def test_a_killed_writer_leaves_nothing_that_reads_as_a_shard(tmp_path):
    code = """
        with ShardWriter(path, **made_by) as shard:
            for i in range(5):
                shard.append(Sample("casme2", "s", str(i)), flow)
            shard._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_python(code, tmp_path / "casme2-00000.h5")
    assert done.returncode == -signal.SIGKILL
    assert list_shards(tmp_path) == []
    (left,) = tmp_path.iterdir()
    with pytest.raises(DataError):
        open_shards(left)


@pytest.mark.parametrize("megabytes", [0, 0.5, 1.0, 1.9, 2.42])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, megabytes):
    """A limit on the file size fails like a full disk: in a write, or only when the file is flushed."""
    code = """
        limit = int(float(sys.argv[2]) * 1e6)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_shard(path, [Sample("casme2", "s", str(i)) for i in range(4)], [flow] * 4, **made_by)
        except MepipeError as e:
            print(e)
            sys.exit(1)
    """
    done = run_python(code, tmp_path / "casme2-00000.h5", megabytes)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"cannot write {tmp_path / 'casme2-00000.h5'}")
    assert done.stderr == ""
    assert names(tmp_path) == []


def test_an_unwritable_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MepipeError, match="file"):
        write_shard(tmp_path / "file" / "casme2-00000.h5", SAMPLES, FLOWS, **MADE_BY)


# --- processes ---


def read_sums(shards):
    return [float(np.float64(shards.flow(i).sum())) for i in range(len(shards))]


SUMS = [float(np.float64(flow.sum())) for flow in FLOWS]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_opened_shards_can_be_used_in_other_processes(shard, method):
    shards = open_shards(shard)
    assert read_sums(shards) == SUMS
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_sums, [shards] * 4, chunksize=1) == [SUMS] * 4
    assert read_sums(shards) == SUMS


def test_forked_children_that_share_the_open_file_do_not_disturb_each_other(shard):
    shards = open_shards(shard)

    def read_often(out):
        out.put(all(read_sums(shards) == SUMS for _ in range(20)))

    context = multiprocessing.get_context("fork")  # the open file is inherited, not pickled
    answers = context.Queue()
    children = [context.Process(target=read_often, args=(answers,)) for _ in range(3)]
    for child in children:
        child.start()
    assert all(read_sums(shards) == SUMS for _ in range(20))
    assert [answers.get(timeout=60) for _ in children] == [True] * 3
    for child in children:
        child.join()


def test_threads_may_share_shards(shard):
    shards = open_shards(shard)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: read_sums(shards), range(8))) == [SUMS] * 8


def test_a_shard_replaced_while_in_use_is_never_mixed_with_the_new_one(shard):
    shards = open_shards(shard)
    carried = pickle.dumps(shards)
    write_shard(shard, SAMPLES[::-1], FLOWS[::-1], **MADE_BY)
    assert read_sums(shards) == SUMS  # still the file that was opened
    with pytest.raises(DataError, match="replaced while in use"):
        pickle.loads(carried).flow(0)
    assert read_sums(open_shards(shard)) == SUMS[::-1]


def test_closed_shards_open_again_when_read(shard):
    shards = open_shards(shard)
    shards.close()
    assert read_sums(shards) == SUMS
    descriptor = shards.files[0]._file.fileno()
    shards.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_writer_can_be_fed_sample_by_sample(tmp_path):
    path = tmp_path / "casme2-00000.h5"
    with ShardWriter(path, **MADE_BY) as writer:
        for sample, flow in zip(SAMPLES, FLOWS, strict=True):
            writer.append(sample, flow)
            assert list_shards(tmp_path) == []
    assert read_sums(open_shards(tmp_path)) == SUMS
