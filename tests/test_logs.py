"""Progress, -v, --log-file, --json: what people see, what scripts read, what a night's run leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import click
import pytest
from tinyflow import QUICK, samples, write_flow

from mepipe import progress
from mepipe.cli import cli
from mepipe.logs import LOG, Session
from mepipe.workspace import Workspace

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (INFO|DEBUG|ERROR|WARNING) +\d+ ")
WORDS = [w for key, value in QUICK.items() for w in (f"--{key.replace('_', '-')}", str(value))]


def on_a_terminal(args: list[str], cwd) -> tuple[int, str]:
    """Exit code and stderr of mepipe where stderr is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # a new one has no columns at all
    command = [sys.executable, "-m", "mepipe", *args]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    return process.wait(), text.decode()


@pytest.fixture
def work(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path / "mepipe-work")
    write_flow(workspace, samples("casme2", ["sub01", "sub02"]))
    return workspace


def test_progress_has_rate_and_time_left_on_a_terminal_and_a_line_a_stage(tmp_path):
    small = ["synth", "smic-nir", "raw", "--subjects", "1", "--clips", "2"]
    code, text = on_a_terminal(small, tmp_path)
    assert code == 0
    assert re.search(r"synth: 100%.*3/3 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(clip/s|s/clip)\]", text)
    assert text.count("\n") == 1
    code, text = on_a_terminal(["--no-progress", *small[:2], "again", *small[3:]], tmp_path)
    assert (code, text) == (0, "")


@pytest.mark.slow
def test_what_a_training_says_on_the_terminal_and_in_its_log_file(run_mepipe, tmp_path, work):
    log = tmp_path / "logs" / "night.log"
    code, text = on_a_terminal(["-v", "--log-file", str(log), "train", *WORDS], tmp_path)
    assert code == 0
    told = [line for line in text.replace("\r", "\n").split("\n") if "fold 1/2" in line]
    assert len(told) == 1, "-v does not tell again what was told"
    assert told[0].strip().startswith("fold 1/2"), "it stands above the bar"
    lines = log.read_text().splitlines()
    assert all(LINE.match(line) for line in lines)
    text = "\n".join(lines)
    assert f"command: mepipe -v --log-file {log} train --model ststnet" in text
    assert re.search(r"versions: python 3\.\d+\.\d+, mepipe \d.*numpy.*torch", text)
    assert "epochs = 2 (command line)" in text
    assert "select = fixed (default)" in text
    assert re.search(r"train: 4 of 4 epochs in [\d.]+ s \([\d.]+/s\)", text)
    assert re.search(r"fold 2/2 casme2_sub0\d", text), "what stderr says is in the log as well"
    assert re.search(r"exit code 0 after [\d.]+ s$", lines[-1])
    # the same run once more, for scripts: one object on stdout whatever is told on stderr
    got = json.loads(run_mepipe("train", *WORDS, "--json").stdout)
    (run,) = got["runs"]
    assert got["scores"]["clips"] == 6
    assert (tmp_path / run["page"]).is_file()


def test_an_error_is_in_the_log_with_the_exit_code(run_mepipe, tmp_path):
    log = tmp_path / "log"
    log.write_text("what was there\n")
    assert run_mepipe("--log-file", log, "shards", "verify").returncode == 1
    first, *_, error, _, last = log.read_text().splitlines()
    assert first == "what was there", "a log is appended to"
    assert re.search("ERROR .*no shards in", error)
    assert "exit code 1" in last


def test_v_says_more_on_stderr_and_nothing_on_stdout(run_mepipe, work):
    quiet, some, more = (run_mepipe(*v, "shards", "ls") for v in ((), ("-v",), ("-vv",)))
    assert quiet.stderr == ""
    assert quiet.stdout == some.stdout == more.stdout
    assert 0 < some.stderr.count("\n") < more.stderr.count("\n")
    assert "INFO    command: mepipe -v shards ls" in some.stderr
    assert "versions: python" in more.stderr


def test_an_internal_error_leaves_its_traceback_in_the_file_only(tmp_path, monkeypatch, capsys):
    from mepipe import cli as module

    monkeypatch.setattr("mepipe.datasets.listing.listing", lambda: 1 / 0)
    log = tmp_path / "log"
    with pytest.raises(SystemExit):
        module.main(["--log-file", str(log), "datasets"])
    assert "Traceback" not in capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in log.read_text()
    assert not [h for h in LOG.handlers if h.level], "the next command in this process has a log of its own"


def test_names_from_strangers_cannot_forge_lines(tmp_path):
    session = Session(["prepare", "x\n2020-01-01T00:00:00+0000 INFO    1 all is well"])
    session.open(0, tmp_path / "log")
    progress.say("clip \x1b[2J\n fake")
    session.end(0)
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(LINE.match(line) for line in lines)
    assert any(r"clip \x1b[2J\n fake" in line for line in lines)


def test_a_log_file_that_cannot_be_written_is_one_line(run_mepipe, tmp_path):
    (tmp_path / "file").touch()
    done = run_mepipe("--log-file", "file/log", "datasets")
    assert done.returncode == 1
    assert re.fullmatch(r"error: --log-file: cannot write file/log: .*\n", done.stderr)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_a_full_disk_ends_the_log_and_not_the_command(run_mepipe):
    done = run_mepipe("--log-file", "/dev/full", "datasets")
    assert done.returncode == 0
    assert done.stderr == "warning: the log file /dev/full can no longer be written; it ends here\n"


def leaves(command: click.Command, path: tuple[str, ...] = ()):
    """Every command with its words: ``("shards", "ls"), command``."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from leaves(below, (*path, name))
    else:
        yield " ".join(path), command


# they print a text to be taken as it is: a script for a shell, the name of the file that was written
WITHOUT_JSON = {"completion", "config init"}


def test_every_command_that_a_script_reads_has_json():
    lacking = {name for name, command in leaves(cli) if not any("--json" in p.opts for p in command.params)}
    assert lacking <= WITHOUT_JSON


def test_json_is_all_that_stdout_holds(run_mepipe, work):
    """Also where the exit code is 1."""
    done = run_mepipe("shards", "verify", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["findings"]) == 6, "the made-up noise has no magnitude"
    made = json.loads(run_mepipe("synth", "smic-nir", "raw", "--subjects", 1, "--clips", 2, "--json").stdout)
    assert (made["clips"], made["out"]) == (2, "raw")
    prepared = json.loads(run_mepipe("prepare", "smic-nir", "raw", "--dry-run", "--json").stdout)
    assert prepared["counts"] == {"ok": 2, "repaired": 0, "refused": 0}


def test_the_answers_of_prepare_and_flow_for_scripts(made, run_mepipe):
    flow = json.loads(run_mepipe("-w", made.work, "flow", "--json").stdout)
    assert flow["reused"] == 9
    assert [p.rsplit("/", 1)[1] for p in flow["shards"]["casme2"]] == ["casme2-00000.h5"]
