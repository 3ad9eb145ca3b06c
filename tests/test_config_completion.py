"""Tab: the completion function is run as the shells run it, and imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mepipe.cli import cli
from mepipe.completion import WHAT

MEPIPE = Path(sys.executable).with_name("mepipe")


def completed(line: str, cwd: Path) -> list[str]:
    """What bash would offer after ``line``; a line that ends in a space begins a new word."""
    number = len(line.split()) - (not line.endswith(" "))
    environment = {**os.environ, "COMP_WORDS": line, "COMP_CWORD": str(number), "_MEPIPE_COMPLETE": "bash_complete"}
    done = subprocess.run([MEPIPE], env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [item.partition(",")[2] for item in done.stdout.split()]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder whose workspace has two prepared corpora, shards of one and a run."""
    folder = tmp_path_factory.mktemp("here")
    for name in (
        "prepared/casme2/clips.csv",
        "prepared/samm/clips.csv",
        "flow/samm-00000.h5",
        "runs/first/config.json",
    ):
        path = folder / "mepipe-work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "raw_folder").mkdir()
    (folder / "other/runs/second").mkdir(parents=True)
    (folder / "other/runs/second/config.json").touch()
    return folder


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("mepipe pre", ["predict", "prepare"]),
        ("mepipe prepare smic-", ["smic-hs", "smic-vis", "smic-nir"]),
        ("mepipe train --model merba_t", ["merba_tiny"]),
        ("mepipe train --model=merba_t", ["merba_tiny"]),
        ("mepipe flow --engine ", ["auto", "opencv", "native", "torch", "triton"]),
        ("mepipe flow ", ["casme2", "samm"]),
        ("mepipe train --data ", ["samm"]),
        ("mepipe train --data casme2 sa", ["samm"]),
        ("mepipe train --protocol l", ["loso"]),
        ("mepipe train --resu", ["--resume"]),
        ("mepipe report f", ["first"]),
        ("mepipe -w other export ", ["second"]),
        ("mepipe reproduce table", ["table4", "table5", "table6", "table7"]),
        ("mepipe prepare casme2 raw --apex res", ["residual"]),
        ("mepipe completion z", ["zsh"]),
        ("mepipe config s", ["show"]),
    ],
)
def test_tab_completes(line, some, here):
    assert completed(line, here) == some


def test_completing_imports_nothing_heavy(here):
    """Models, engines and runs are listed without torch, cv2 or h5py, or Tab would take seconds."""
    code = (
        "import sys, click; from mepipe.cli import cli; from mepipe import completion as c\n"
        "ctx = click.Context(cli); names = [n for f in set(c.WHAT.values()) for n in f(ctx)]\n"
        "assert {'casme2', 'merba', 'native', 'residual', 'first', 'tensorboard'} <= set(names), names\n"
        "assert not {'torch', 'cv2', 'dlib', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True)


def test_every_entry_completes_a_parameter_that_is_there():
    there = set()

    def walk(command: click.Command) -> None:
        there.update((name, p.name) for p in command.params for name in ("", command.name))
        for below in getattr(command, "commands", {}).values():
            walk(below)

    walk(cli)
    assert set(WHAT) <= there


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell, run_mepipe, tmp_path):
    done = run_mepipe("completion", shell)
    assert "_MEPIPE_COMPLETE" in done.stdout
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here to read its script")
    script = tmp_path / "script"
    script.write_text(done.stdout)
    subprocess.run([program, "-n", script], check=True)


# --- the shells themselves: the line of the docs, what a person types, Tab -------------------------------

LINES = {  # typed before Tab -> the line after it
    "mepipe train --model merba_t": "mepipe train --model merba_tiny ",
    "mepipe train --protocol=loso --model=merba_t": "mepipe train --protocol=loso --model=merba_tiny ",
    "mepipe -w other report s": "mepipe -w other report second ",
    "mepipe prepare casme2 raw_f": "mepipe prepare casme2 raw_folder/",
    "mepipe prepare casme2 . --landmarks raw_f": "mepipe prepare casme2 . --landmarks raw_folder/",
}
# Ctrl-T writes the line as it stands into a file; the last word is split, so that its echo is not taken for it
INTERACTIVE = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind -x '\"\\C-t\": printf %s \"$READLINE_LINE\" > $LINE_FILE'; DOCUMENTED; echo rea''dy\n",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit; compinit -u -D; show() { print -rn -- $BUFFER > $LINE_FILE }; zle -N show; "
        "bindkey '^T' show; DOCUMENTED; echo rea''dy\n",
    ),
}


def documented(shell: str) -> str:
    """The line that docs/settings.md gives for ``shell``."""
    page = Path(__file__).parents[1] / "docs/settings.md"
    (line,) = re.findall(rf"^\| {shell} \|.*\| `(.*)` \|$", page.read_text("utf-8"), re.MULTILINE)
    return line.replace("\\|", "|")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{MEPIPE.parent}:{os.environ['PATH']}", "TERM": "dumb", **more}


@pytest.fixture
def terminal():
    """``terminal(command, **how)``: a process on a terminal of its own, and what reads and types there."""
    with contextlib.ExitStack() as stack:

        def start(command: list[str], **how) -> Callable[[str, Callable[[bytes], object]], None]:
            ours, theirs = pty.openpty()
            stack.callback(os.close, ours)
            process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **how
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            os.close(theirs)
            shown = b""

            def type_until(keys: str, done: Callable[[bytes], object]) -> None:
                nonlocal shown
                os.write(ours, keys.encode())
                end = time.monotonic() + 60
                while not done(shown):
                    assert time.monotonic() < end, shown
                    if select.select([ours], [], [], 0.05)[0]:
                        shown += os.read(ours, 4096)

            return type_until

        yield start


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_tab_completes_what_is_typed_into_the_shell(shell, terminal, here, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here to type into")
    command, setup = INTERACTIVE[shell]
    file = tmp_path / "line"
    type_until = terminal(command, cwd=here, env=environment(LINE_FILE=str(file)))
    type_until(setup.replace("DOCUMENTED", documented(shell)), lambda shown: b"ready" in shown)
    lines = {}
    for typed in LINES:
        type_until(f"\x15{typed}\t\x14", lambda shown: file.is_file() and file.stat().st_size)  # ^U empties the line
        lines[typed] = file.read_text()
        file.unlink()
    assert lines == LINES


def test_tab_completes_in_fish(here):
    """fish tells what it would complete by itself: every candidate stands for the last word."""
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("no fish here to ask")
    asks = "; ".join(f"complete -C '{typed}'; echo ==" for typed in LINES)
    code = f"{documented('fish')}; {asks}"
    command = [fish, "--no-config", "-c", code]
    done = subprocess.run(command, cwd=here, env=environment(), capture_output=True, text=True, check=True)
    offered = [answer.strip().split("\t")[0] for answer in done.stdout.split("==\n")[:-1]]
    assert offered == [line.split()[-1] for line in LINES.values()]
