"""Engine ``torch`` with ``compile=True``: the numbers of the readable form, and the packages its loops are kept in.

Compiling takes a minute or two, so only the slow test does it; the others run the functions that would be compiled.
"""

import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from flow_pairs import pair

from mepipe.errors import MepipeError, UsageError
from mepipe.flow import TVL1Params, get_engine
from mepipe.flow import torch_ahead as ahead
from mepipe.flow import torch_compiled as compiled
from mepipe.flow import torch_loops as loops
from mepipe.flow.torch_ops import median
from mepipe.flow.torch_scratch import Scratch

BASE = TVL1Params(fixed=True, inner=15, nscales=3)
_ODD = torch.full((64,), 1 + 2.0**-12)
FMA = bool(torch.addcmul(-(_ODD * _ODD), _ODD, _ODD).all())  # whether torch rounds a product and a sum once here
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")


@pytest.fixture(scope="module")
def images():
    """Still enough for the window of one whole pixel, moving more than that, and one of many pixels."""
    made = [pair(peak, noise, 71, seed)[:2] for seed, (peak, noise) in enumerate([(0.3, 0.0), (2.0, 1.5), (14, 1.0)])]
    return tuple(np.stack(part)[:, :, :66] for part in zip(*made, strict=True))


def uncompiled(loop):
    """What ``load`` gives, but for the compiler."""

    def call(tensors):
        assert [t.dtype == torch.int32 for t in tensors] == [kind in loops.KEYS for kind in loop.kinds]
        result = loop.function(*tensors)
        return [result] if isinstance(result, torch.Tensor) else result

    return call


@pytest.fixture
def not_compiled(monkeypatch):
    monkeypatch.setattr(compiled, "load", uncompiled)
    monkeypatch.setattr(shutil, "which", lambda name: name)


def flows(images, params):
    return (get_engine("torch", **form).flow(*images, params) for form in ({"compile": True}, {"plain": True}))


OPTIONS = [
    {},
    {"median": 3},
    {"median": 0},
    {"gamma": 0.1},
    {"pad": 0},
    {"fixed": False, "warps": 2},
    {"fixed": False, "epsilon": 0.0, "inner": 3, "outer": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_rounds_as_the_readable_form_does(images, options, monkeypatch, not_compiled):
    """Products and sums of the warp are fused by the compiler only, so the warp is the one of the strips here."""
    monkeypatch.setattr(compiled, "WINDOW", 3)  # as if all shifts were too far apart for it
    fast, plain = flows(images, replace(BASE, **options))
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.1}], ids=str)
def test_its_warp_is_that_of_the_readable_form(images, options, not_compiled):
    still = tuple(part[:2] for part in images)
    fast, plain = flows(still, replace(BASE, **options))
    difference = np.abs(fast - plain)
    assert difference.max() < 2e-2
    assert difference.mean() < 1e-4
    assert difference.max() > 0 or not FMA  # it was the other warp


@pytest.mark.slow
@needs_compiler
def test_compiled_code_gives_the_numbers_of_the_readable_form(images):
    if not FMA:
        pytest.skip("the readable form fuses products and sums where the CPU does")
    for options in ({}, {"gamma": 0.1}, {"fixed": False, "nscales": 5, "inner": 30}):
        fast, plain = flows(images, replace(BASE, **options))
        np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (64, 51)])
def test_the_median_of_two_rows_at_once_is_the_median(k, height, width, not_compiled):
    images = torch.randn(2, height, width, generator=torch.Generator().manual_seed(k))
    expected = median(images, k)
    found = torch.full((2, height, width + 5), 7.0)
    found[..., :width] = images
    compiled.CompiledMedian(found[..., :width], k, Scratch(), compiled.CompiledSolver(TVL1Params()))()
    torch.testing.assert_close(found[..., :width], expected, rtol=0, atol=0)
    assert (found[..., width:] == 7.0).all()


def test_the_root_of_a_sum_of_squares_is_rounded_as_the_c_library_does():
    random = torch.Generator().manual_seed(0)
    for scale in (1e-3, 0.05, 1.0, 30.0):
        a, b = scale * torch.randn(2, 500_000, generator=random)
        expected = (a.double().square() + b.double().square()).sqrt().float()
        assert (torch.sqrt(a * a + b * b) != expected).float().mean() > 0.1  # what it puts right
        assert torch.equal(loops.hypot(a, b), expected)
    assert loops.hypot(torch.tensor([0.0, 3.0]), torch.tensor([0.0, -4.0])).tolist() == [0.0, 5.0]


def test_threads_have_loops_of_their_own(images, not_compiled):
    engine, found = get_engine("torch", compile=True), {}
    expected = engine.flow(*images, BASE)
    threads = [threading.Thread(target=lambda n=n: found.update({n: engine.flow(*images, BASE)})) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for flow in found.values():
        np.testing.assert_array_equal(flow, expected)


# --- packages ---


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages of text in place of compiled code: one that says "cut short" cannot be opened."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def opened(package):
        if package.read_text() == "cut short":
            raise RuntimeError("not a ZIP archive")
        return package.read_text()

    monkeypatch.setattr(ahead, "_open", opened)
    monkeypatch.setattr(ahead, "_compile", lambda loop, package: package.write_text(f"code of {loop.name}"))
    return tmp_path


def test_a_loop_is_compiled_once(packages, monkeypatch):
    assert ahead.load(loops.dual()) == "code of dual"
    monkeypatch.setattr(ahead, "_compile", lambda loop, package: pytest.fail("compiled again"))
    assert ahead.load(loops.dual()) == "code of dual"
    assert [p.name for p in ahead.folder().iterdir()] == ["dual.pt2"]  # and nothing it was made in


def test_a_package_that_cannot_be_opened_is_made_anew(packages):
    ahead.folder().mkdir(parents=True)
    (ahead.folder() / "dual.pt2").write_text("cut short")
    assert ahead.load(loops.dual()) == "code of dual"


def test_each_kind_of_processor_and_each_torch_has_packages_of_its_own(packages, monkeypatch):
    here = ahead.folder()
    assert here == ahead.folder()
    monkeypatch.setattr(ahead, "_cpu", lambda: "another")
    other = ahead.folder()
    monkeypatch.setattr(torch, "__version__", "2.99")
    assert len({here, other, ahead.folder()}) == 3


def test_what_cannot_be_compiled_is_one_line(packages, monkeypatch):
    def fail(loop, package):
        package.write_text("half of it")
        raise OSError("C++ compile error\nand all that the compiler said")

    monkeypatch.setattr(ahead, "_compile", fail)
    with pytest.raises(MepipeError, match=r"^torch could not compile dual: C\+\+ compile error; leave compile out$"):
        ahead.load(loops.dual())
    assert list(ahead.folder().iterdir()) == []


def test_threads_compile_one_at_a_time(packages, monkeypatch):
    """torch.export fails in two threads at once; each loop is also made only once."""
    made, at_work = [], []

    def slowly(loop, package):
        at_work.append(loop.name)
        time.sleep(0.05)
        assert len(at_work) == 1
        made.append(at_work.pop())
        package.write_text("code")

    monkeypatch.setattr(ahead, "_compile", slowly)
    wanted, found = [loops.dual(), loops.dual(), loops.warp(), loops.warp()], []
    threads = [threading.Thread(target=lambda loop=loop: found.append(ahead.load(loop))) for loop in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["code"] * 4
    assert sorted(made) == ["dual", "warp"]


@pytest.mark.parametrize("where", ["the folder is a file", "the package is a folder", "nothing can be opened there"])
def test_a_folder_that_cannot_be_used_is_one_line(packages, monkeypatch, where):
    if where == "the folder is a file":
        ahead.folder().write_text("")
    elif where == "the package is a folder":
        (ahead.folder() / "dual.pt2" / "x").mkdir(parents=True)
    else:
        ahead.load(loops.dual())
        monkeypatch.setattr(ahead, "_open", lambda package: (packages / "no" / "probe").touch())
    with pytest.raises(MepipeError, match=r"compiled code cannot be kept: .*set TORCHINDUCTOR_CACHE_DIR to a folder"):
        ahead.load(loops.dual())


# --- the engine ---


def test_without_a_compiler_compile_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MepipeError, match="needs a C\\+\\+ compiler") as e:
        get_engine("torch", compile=True)
    assert e.value.exit_code == 1


def test_a_torch_that_cannot_compile_ahead_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.delattr(torch._inductor, "aoti_compile_and_package")
    with pytest.raises(MepipeError, match=r"compile=True needs torch 2\.6 or later, here is"):
        get_engine("torch", compile=True)


def test_it_is_for_the_strips(not_compiled):
    assert get_engine("torch", compile=True).path.startswith("loops compiled ahead of time: ")
    with pytest.raises(UsageError, match="plain=True"):
        get_engine("torch", plain=True, compile=True)
