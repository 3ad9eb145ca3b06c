"""The benchmarks run, and benchmarks/README.md says what their results say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import tables

FOLDER = tables.HERE
SCRIPTS = [b for b in tables.benchmarks() if b.commands]


def test_the_readme_is_what_the_results_say():
    assert tables.README.read_text() == tables.page(), "run python benchmarks/tables.py"


def test_every_script_says_how_to_run_it_and_keeps_its_result():
    helpers = {"flow_pairs", "tables"}
    assert {b.name for b in SCRIPTS} == {p.stem for p in FOLDER.glob("*.py")} - helpers
    for benchmark in SCRIPTS:
        assert benchmark.commands[0].startswith(f"python benchmarks/{benchmark.name}.py")
        assert f"{benchmark.name}.json" in (FOLDER / f"{benchmark.name}.py").read_text()


def test_every_result_is_shown_with_its_machine():
    page = tables.page()
    for path in (FOLDER / "results").glob("*.json"):
        result = json.loads(path.read_text())
        assert result["machine"]
        section = page.split(f"\n## {path.stem}\n")[1].split("\n## ")[0]
        assert tables.taken_on(result) in section


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0123456, "0.0123"),
        (1.8e-5, "1.80e-05"),
        (1037.27, "1037"),
        (34000.4, "34,000"),
        (0, "0"),
        (None, ""),
        (True, "True"),
        ("float16", "float16"),
        ([0.6372, 0.7741], "0.637 to 0.774"),
    ],
)
def test_a_figure_is_shown_with_three_digits(value, shown):
    assert tables.show(value) == shown


def test_a_nest_becomes_one_table_for_each_set_of_columns():
    nest = {"a": {"x": {"ms": 1.5, "ratio": 2.0}, "y": {"ms": 3, "ratio": 4}}, "b": {"x": {"ms": 5, "ratio": 6}}}
    (table,) = tables.tables("speed", nest)
    assert table.splitlines() == [
        "| speed |  | ms | ratio |",
        "| --- | --- | --- | --- |",
        "| a | x | 1.5 | 2 |",
        "|  | y | 3 | 4 |",
        "| b | x | 5 | 6 |",
    ]
    assert len(list(tables.tables("speed", {**nest, "c": {"s": 1}}))) == 2
    assert list(tables.tables("cost", {"one|two": 1.0})) == ["| cost |  |\n| --- | --- |\n| one\\|two | 1 |"]


def test_a_script_without_a_result_is_said_to_be_not_run(tmp_path):
    text = '"""What it shows.\n\n    python benchmarks/{0}.py\n\nMore.\n"""\n{1}\n'
    (tmp_path / "fast.py").write_text(text.format("fast", ""))
    (tmp_path / "on_gpu.py").write_text(text.format("on_gpu", "import torch; torch.cuda.is_available()"))
    (tmp_path / "library.py").write_text('"""No command."""\n')
    page = tables.page(tmp_path)
    assert "## fast\n\nWhat it shows.\n\n```\npython benchmarks/fast.py\n```\n\nMore.\n\n*Not run: no result" in page
    assert "*Not run: no GPU at hand.*" in page
    assert "library" not in page


def test_the_check_fails_when_the_readme_is_old(tmp_path):
    for path in ("tables.py", "README.md"):
        (tmp_path / path).write_text((FOLDER / path).read_text())
    done = subprocess.run([sys.executable, tmp_path / "tables.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "run python benchmarks/tables.py" in done.stderr


def test_the_speed_benchmarks_run_on_a_small_pair():
    import flow_engines
    import flow_threads

    from mepipe.flow import TVL1Params

    times = flow_engines.measure(1, TVL1Params(pad=0, nscales=1, warps=1, inner=2, outer=1), side=32)
    assert {"opencv", "torch", "torch, plain", "scikit-image", "Farneback", "OpenCV, no padding"} <= set(times)
    assert flow_engines.factors(times)["opencv"] == {"clean": 1.0, "noisy": 1.0}
    rates = flow_threads.measure(2, 1, 2, side=32)
    for cases in rates.values():
        for row in cases.values():
            assert row["factor"] == pytest.approx(row["2 threads"] / row["1 thread"])
    assert "opencv" in rates
