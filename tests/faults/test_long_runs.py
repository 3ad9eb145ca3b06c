"""Memory and file handles of prepare and flow stay flat; `make faults` looks at 20,000 clips, this at 240."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells memory and handles there")
@pytest.mark.slow
def test_memory_and_handles_do_not_grow_with_the_number_of_clips():
    """Flow of the later two thirds alone would be 50 MB, held in memory."""
    from runpy import run_path

    long_run = run_path(str(Path(__file__).parents[2] / "benchmarks/faults.py"))["long_run"]
    for command, _, looks in long_run(240, every=80):
        assert [look["clips"] for look in looks] == [80, 160, 240], command
        assert looks[-1]["MB"] < looks[0]["MB"] + 20, command
        assert looks[-1]["handles"] <= looks[0]["handles"] + 2, command
