"""Tab: the completion function is run as the shells run it, and imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_after_the_documented_line(here):
    """The line of the docs, then the function it defines, called as readline calls it."""
    code = (
        f'PATH={MEPIPE.parent}:$PATH; eval "$(mepipe completion bash)"\n'
        "COMP_WORDS=(mepipe train --model merba_t); COMP_CWORD=3; COMP_LINE='mepipe train --model merba_t'\n"
        '_mepipe_completion mepipe merba_t --model; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["merba_tiny"]
