"""The process that ``apart`` starts: it reads shards' headers through HDF5, and may die of one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from mepipe.errors import DataError
from mepipe.executors import die_with_parent


def serve() -> None:
    """Answer paths on standard input, one JSON line each, until it ends. argv[1]: the most memory in bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, once
    die_with_parent()
    from mepipe.shards.header import read_header

    _limit_memory(int(sys.argv[1]))
    _say({"ready": True})
    for line in sys.stdin:
        path = Path(json.loads(line))
        try:
            _say({"header": read_header(path)})
        except DataError as e:
            _say({"error": e.what, "do": e.do})


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def _limit_memory(most: int) -> None:
    """Let no file make this process take more, where the system can say so; nor leave a dump of it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
