"""A task of a cluster that is asked to end soon: it keeps what it has, to be started again.

The asking is a file, which processes of a node and nodes of a job all see; its name is in the environment.
"""

from __future__ import annotations

import os
from pathlib import Path

from mepipe.errors import MepipeError

VARIABLE = "MEPIPE_STOP_FILE"
STOPPED = 75  # exit code of a task that has kept its work and is to be started again: sysexits.h, EX_TEMPFAIL


class Stopped(MepipeError):
    """The work was asked to end, has kept what there was, and goes on when it is started again."""

    exit_code = STOPPED


def stop_wanted() -> bool:
    """Whether somebody has asked; never outside of such a task."""
    path = os.environ.get(VARIABLE)
    return path is not None and Path(path).exists()
