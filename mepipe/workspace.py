"""Where results lie, and how a file gets there: whole, or not at all.

Layout   WORKSPACE/prepared/<corpus>/  flow/  faces/  runs/<run>/
Writing  temp file in the same folder, flush, fsync, rename, fsync of the folder
Locks    one writer per stage; a lock whose process is dead is taken over (locks.py)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from stat import S_IMODE
from typing import Any

from mepipe.errors import DataError, MepipeError
from mepipe.locks import held, lock_path
from mepipe.shares import Share

# What the system says where the machine is in the way, not the data and not a bug of ours: what can be done.
MACHINE: dict[int, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    **dict.fromkeys((errno.ENOMEM, errno.EAGAIN), "free memory or processes, or lower --jobs,"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "fix the permission, or choose another workspace with -w,"),
    errno.EROFS: "make it writable, or choose another workspace with -w,",
    **dict.fromkeys((errno.EIO, errno.ENXIO, errno.ENODEV), "check the disk"),
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN), "bring the network disk back"),
}

TEMP_MARK = ".mepipe-tmp-"  # every unfinished file or folder of ours carries it; sweep() removes such
DEEPEST = 4  # levels of folders of ours: prepared/<corpus>/<subject>/<clip>, runs/<run>/folds/<fold>
_NAME = re.compile(r"[^\W_][\w\-+. ()&,]*", re.ASCII)  # what a subject or clip may be called as a folder of ours
# what Windows takes for a device in any folder, whatever suffix follows: a workspace may lie on its disk
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})


class Workspace:
    """A folder that holds everything mepipe writes. Nothing is written outside it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def prepared(self, corpus: str) -> Path:
        return self.root / "prepared" / safe_name(corpus)

    @property
    def flow(self) -> Path:
        return self.root / "flow"

    @property
    def faces(self) -> Path:
        return self.root / "faces"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def prepared_corpora(self) -> list[str]:
        """Corpora whose ``prepare`` has finished at least once (they have a clips.csv)."""
        return sorted(p.parent.name for p in self.root.glob("prepared/*/clips.csv"))

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def locks(self) -> Path:
        return self.root / ".locks"

    @contextlib.contextmanager
    def lock(self, stage: str, share: Share | None = None, patience: float = 0.0) -> Iterator[None]:
        """Hold ``stage`` (say ``prepare-casme2``), or one part of it, for this process.

        Parts of one cut are held beside each other; the whole excludes them all.  Raises MepipeError if another holds
        it, for ``patience`` seconds.
        """
        path = lock_path(self.locks, safe_name(stage), share)
        self.check_links()
        make_folder(path.parent)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_patiently(path, stage, share, patience))
            except OSError as e:
                raise write_failed(path, e) from e
            yield

    def check_links(self) -> None:
        """Raises DataError for a folder in here that is a link out of here: what is written there is elsewhere."""
        home = os.path.realpath(self.root)
        for link in _linked_folders(self.root, DEEPEST):
            if not Path(os.path.realpath(link)).is_relative_to(home):
                do = "remove the link, or choose the place of the whole workspace with -w"
                raise DataError(f"{link} is a link out of the workspace", do=do)


def _linked_folders(folder: Path, levels: int) -> Iterator[str]:
    """The folders below ``folder`` that are links, so many levels down; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # absent, or one that says itself what is wrong when it is needed
        return
    for entry in entries:
        if entry.is_symlink():
            if entry.is_dir():
                yield entry.path
        elif levels > 1 and entry.is_dir():
            yield from _linked_folders(Path(entry.path), levels - 1)


def _patiently(path: Path, stage: str, share: Share | None, patience: float) -> contextlib.ExitStack:
    """The lock, once it is held. Raises MepipeError when it is another's for ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(held(path, stage, share))
            return stack
        except MepipeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


# --- writing ---------------------------------------------------------------------------------------


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents; a clear error where the system says no."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        do = machine_error(e).do if e.errno in MACHINE else "choose another workspace with -w"
        raise MepipeError(f"cannot create {path}: {e.strerror}", do=do) from e
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it to ``path``.

    On any failure the temporary is removed and ``path`` is untouched.  A full or read-only disk
    becomes a MepipeError that names the file.
    """
    if path.exists() and not path.is_file():  # renamed over a device, a file would take its place
        raise MepipeError(f"cannot write {path}: it is there and no regular file", do="choose another place")
    temp = temp_beside(path)
    try:
        make_folder(path.parent)
        temp.touch()
        mode = S_IMODE(temp.stat().st_mode)  # what the user's umask gives
        yield temp
        if S_IMODE(temp.stat().st_mode) != mode:  # safetensors makes files that nobody else can read
            temp.chmod(mode)
        fsync(temp)
        temp.replace(path)
        fsync(path.parent)
    except OSError as e:
        raise write_failed(path, e) from e
    finally:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_file(path) as temp:
        temp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def replace_folder(temp: Path, final: Path) -> None:
    """Put the finished folder ``temp`` where ``final`` is; an older ``final`` goes first.

    Killed between the two renames, ``final`` is absent and the next run makes it again.
    """
    for file in temp.iterdir():
        fsync(file)
    fsync(temp)
    if final.exists():
        old = temp_beside(final)
        final.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    temp.rename(final)
    fsync(final.parent)


def write_failed(path: Path, e: OSError) -> MepipeError:
    """What to raise when ``path`` could not be written: with the remedy for what the system said."""
    return MepipeError(f"cannot write {path}: {e.strerror or e}", do=machine_error(e).do)


def machine_error(e: OSError, path: str | Path | None = None) -> MepipeError:
    """An OSError with a reason of ``MACHINE`` as the one line of a command that the machine has stopped."""
    number, where = e.errno or 0, path or e.filename
    what = f"{where}: " if where else ""
    remedy = MACHINE.get(number, "make room or fix the permission")
    do = f"what is finished is kept; {remedy} and run the same command again"
    return MepipeError(f"{what}{os.strerror(number) if number else e}", do=do)


def temp_beside(path: Path) -> Path:
    return path.with_name(f"{TEMP_MARK}{os.getpid()}-{time.monotonic_ns():x}-{path.name}"[:200])


def sweep(folder: Path, mine: Callable[[Path], bool] | None = None) -> int:
    """Remove unfinished files and folders that a killed run left in ``folder`` (to two levels). Returns how many.

    mine: of what path-to-be a part of the work is the only writer; what other parts are at work on stays.
    """
    swept = 0
    for pattern in (f"{TEMP_MARK}*", f"*/{TEMP_MARK}*", f"*/*/{TEMP_MARK}*"):
        for left in folder.glob(pattern):
            if mine is not None and not mine(_meant(left)):
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
            swept += 1
    return swept


def _meant(temp: Path) -> Path:
    """The path that the temporary ``temp`` would have had."""
    return temp.with_name(temp.name.removeprefix(TEMP_MARK).split("-", 2)[-1])


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- names, hashes, versions -----------------------------------------------------------------------


def safe_name(name: str) -> str:
    """``name`` if it can be one folder of ours. Raises DataError for ``..``, separators, control characters."""
    device = name.split(".")[0].rstrip().casefold() in _DEVICES
    if not _NAME.fullmatch(name) or name.endswith((" ", ".")) or len(name) > 100 or device:
        shown = name if len(name) <= 100 else name[:100] + "..."
        raise DataError(f"{shown!r} cannot be a folder name", do="rename it: letters, digits, _ - + . and spaces")
    return name


def digest(value: Any) -> str:
    """A short stable hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    h = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def versions(*distributions: str) -> dict[str, str | None]:
    """Installed versions without importing anything; None for what is absent."""
    return {"mepipe": _mepipe_version(), **{d: _version(d) for d in distributions}}


def _mepipe_version() -> str:
    from mepipe import __version__

    return __version__


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
