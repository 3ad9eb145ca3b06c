"""Put on PYTHONPATH as sitecustomize: decoding a frame of one clip, a real process dies or the input goes away.

MEPIPE_TEST_DEATH   segfault | sigkill | memory | vanish
MEPIPE_TEST_FRAME   part of the path of the frames that are deadly
MEPIPE_TEST_ONCE    a file that the first death removes; without the file nothing dies.  Unset: each time
MEPIPE_TEST_FOLDER  what vanish renames
"""

import ctypes
import os
import signal
from pathlib import Path

from mepipe import frames

decode = frames.decode_image


def deadly_decode(data, path, *args, **kw):
    if os.environ["MEPIPE_TEST_FRAME"] in str(path) and still_deadly():
        die(os.environ["MEPIPE_TEST_DEATH"])
    return decode(data, path, *args, **kw)


def still_deadly():
    once = os.environ.get("MEPIPE_TEST_ONCE")
    if once is None:
        return True
    try:
        Path(once).unlink()  # by one process only
    except FileNotFoundError:
        return False
    return True


def die(how):
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "sigkill":  # as the kernel does when memory runs out
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "memory":
        raise MemoryError
    elif how == "vanish":
        folder = os.environ["MEPIPE_TEST_FOLDER"]
        Path(folder).rename(folder + ".away")


frames.decode_image = deadly_decode
