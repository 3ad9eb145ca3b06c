from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = [
    *("apex evaluate", "datasets", "demo", "doctor", "evaluate", "faces", "flow", "models", "predict"),
    *("prepare", "report", "shards verify", "synth", "train", "verify"),
]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_quick_and_loads_nothing_heavy(command, tmp_path):
    code = (
        "import sys, time; start = time.perf_counter(); from mepipe.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'cv2', 'dlib', 'pandas', 'numpy', 'h5py', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    best = min(timed([sys.executable, "-c", code], tmp_path) for _ in range(5))
    assert best < 0.5


def timed(command, cwd) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    return time.perf_counter() - start


def error_of(done) -> str:
    """The one error line of a failed command; nothing else may look like an error or a traceback."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["prepare", "casmeii", "."], 2, "did you mean 'casme"),
        (["prepare", "casme2", "absent"], 2, "absent is not a folder"),
        (["prepare", "casme2", "."], 1, "no annotation sheet"),
        (["prepare", "casme2"], 2, "Missing argument 'RAW'"),
        (["prepare", "casme2", ".", "--jobs", "0"], 2, "--jobs is 0"),
        (["prepare", "casme2", ".", "--apex", "guess"], 2, "no apex spotter is called 'guess'"),
        (["prepare", "casme2", ".", "--detector", "haar"], 2, "'haar' is not one of"),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["flow"], 1, "nothing is prepared"),
        (["flow", "samm"], 1, "samm is not prepared"),
        (["flow", "--median", "4"], 2, "TV-L1 median is 4"),
        (["flow", "--engine", "magic"], 2, "no flow engine is called 'magic'"),
        (["train"], 1, "run mepipe flow first"),
        (["train", "--data"], 2, "--data needs the name of a corpus"),
        (["train", "--data", "--dry-run"], 2, "--data needs the name of a corpus"),
        (["train", "--protocol", "lozo"], 2, "'lozo' is not one of"),
        (["train", "--resume", "absent"], 2, "there is no run 'absent'"),
        (["train", "--data", "samm"], 1, "no flow shards in"),
        (["report", "absent"], 2, "there is no run, no prepared corpus and no table 'absent'"),
        (["evaluate", "absent"], 2, "there is no run 'absent'"),
        (["predict", "absent", "x"], 2, "there is no run 'absent'"),
        (["shards", "verify"], 1, "no shards in"),
        (["synth", "casmeii", "x"], 2, "casme2"),
        (["synth", "casme2", "x", "--subjects", "0"], 2, "subjects"),
    ],
)
def test_a_wrong_request_is_one_line_and_the_right_exit_code(run_mepipe, args, code, says):
    done = run_mepipe(*args)
    assert says in error_of(done)
    assert done.returncode == code


def test_gpu_without_cuda_is_an_error_that_says_so(run_mepipe):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    done = run_mepipe("flow", "--gpu")
    assert done.returncode == 1
    assert "CUDA" in error_of(done)
    done = run_mepipe("train", "--device", "cuda", "--data", "casme2")
    assert done.returncode == 1


@pytest.mark.parametrize("group", [[], ["shards"], ["apex"]])
def test_a_bare_group_shows_its_help(run_mepipe, group):
    done = run_mepipe(*group)
    assert done.returncode == 2
    assert "Commands:" in done.stdout
    assert "\\n" not in done.stdout + done.stderr


def test_debug_shows_the_traceback(run_mepipe):
    done = run_mepipe("--debug", "prepare", "casme2", ".")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_a_bug_of_ours_is_one_line_without_debug(run_mepipe, monkeypatch, capsys):
    from mepipe import cli

    monkeypatch.setattr("mepipe.datasets.listing.listing", lambda: 1 / 0)
    with pytest.raises(SystemExit) as end:
        cli.main(["datasets"])
    assert end.value.code == 1
    assert "error: internal error, ZeroDivisionError" in capsys.readouterr().err


def test_lists_are_readable_by_scripts(run_mepipe):
    corpora = json.loads(run_mepipe("datasets", "--json").stdout)
    assert {"casme2"} <= {c["corpus"] for c in corpora}
    models = json.loads(run_mepipe("models", "--json").stdout)
    assert {"merba", "merba_tiny"} <= {m["name"] for m in models}
    doctor = json.loads(run_mepipe("doctor", "--json").stdout)
    assert doctor["healthy"] is True


def test_doctor_fails_where_optflow_is_gone(monkeypatch):
    import cv2

    from mepipe.doctor import diagnose

    monkeypatch.delattr(cv2, "optflow")
    diagnosis = diagnose()
    (finding,) = [f for f in diagnosis.findings if f.name == "opencv"]
    assert not diagnosis.healthy
    assert not finding.ok
    assert "overwritten" in finding.found
    assert "pip uninstall" in finding.do


def test_the_workspace_is_where_it_is_said(made_raw, run_mepipe, tmp_path):
    args = ("prepare", "casme2", made_raw, "--shard", "1/9")
    assert run_mepipe("-w", "here", *args).returncode == 0
    assert run_mepipe(*args, env={**os.environ, "MEPIPE_WORKSPACE": str(tmp_path / "there")}).returncode == 0
    assert run_mepipe(*args).returncode == 0
    for folder in ("here", "there", "mepipe-work"):
        assert (tmp_path / folder / "prepared/casme2/clips.csv").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "mepipe-work", "there"], "nothing outside"


def test_strict_fails_when_a_clip_is_refused(own_raw, run_mepipe):
    clip = next(own_raw.glob("CASME2_RAW_selected/*/*"))
    for frame in clip.iterdir():
        frame.unlink()
    assert run_mepipe("prepare", "casme2", own_raw).returncode == 0
    done = run_mepipe("prepare", "casme2", own_raw, "--strict")
    assert done.returncode == 1
    assert "1 clips were refused" in error_of(done)
    assert clip.name in done.stdout


def test_progress_is_silent_off_a_terminal(made, run_mepipe):
    done = run_mepipe("-w", made.work, "shards", "verify")
    assert done.stderr == ""


def test_the_main_job_works_as_the_readme_writes_it(run_mepipe, tmp_path):
    """From an empty folder: synth, then the three commands, one after the other."""
    for line in (
        "synth casme2 ./raw --subjects 2 --clips 3",
        "prepare casme2 ./raw",
        "flow",
        "train --protocol loso --model merba_tiny --epochs 1",
    ):
        done = run_mepipe(*line.split())
        assert done.returncode == 0, (line, done.stderr)
    (run,) = (tmp_path / "mepipe-work/runs").iterdir()
    assert f"page        {Path('mepipe-work/runs') / run.name / 'report.html'}" in done.stdout
    assert "<svg" in (run / "report.html").read_text() or "data:image" in (run / "report.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mepipe-work", "raw"]


def test_a_script_that_calls_the_command_keeps_its_signals():
    """It may fork afterwards, and a handler of Python's can lose a child's first signal: a pool then never ends."""
    code = (
        "import signal\nfrom mepipe.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    print(signal.getsignal(signal.SIGTERM).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "SIG_DFL"
