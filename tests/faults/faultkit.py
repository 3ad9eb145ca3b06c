"""What the fault tests share: corpora of small frames, commands that are killed or held back, and what must be equal.

``random_kills`` is the harness: it starts a command, kills it with SIGKILL at a random moment of its duration, looks
that nothing half-written lies under a final name, starts it again, and so on until it has been killed often enough.
Whenever it finishes, everything it left must equal what an uninterrupted run left, to the byte and the sample.
"""

from __future__ import annotations

import csv
import ctypes
import os
import random
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tiny import CASME2, sheet

from mepipe.shards import list_shards, open_shards
from mepipe.workspace import TEMP_MARK

MEPIPE = (sys.executable, "-m", "mepipe")
TRAIN = (sys.executable, str(Path(__file__).with_name("every_epoch.py")))  # mepipe with a state after each epoch
ALIVE = 300  # seconds after which a command counts as hanging
ONSET, APEX, OFFSET = 1, 4, 6  # frames of every clip of ``small_corpus``
# of flow that takes milliseconds a pair
QUICK_FLOW = (
    "--engine", "opencv", "--pad", "0", "--nscales", "1", "--warps", "1", "--inner", "2", "--outer", "1",
    "--median", "0",
)  # fmt: skip
EMOTIONS = ("happiness", "disgust", "surprise", "repression")


# --- a corpus ---


@dataclass(frozen=True)
class Small:
    """A corpus in CASME II's layout with frames of 64 x 64 px, and the boxes that stand in for a detector."""

    raw: Path
    boxes: Path

    @property
    def prepare(self) -> list[str]:
        """The words of `mepipe prepare` for it."""
        return ["prepare", "casme2", str(self.raw), "--detector", "given", "--detector-file", str(self.boxes)]

    def folder(self, subject: str, clip: str) -> Path:
        return self.raw / "CASME2_RAW_selected" / subject / clip


def small_corpus(folder: Path, subjects: int, clips: int, kinds: int = 0) -> Small:
    """``clips`` clips of each subject.  kinds: so many clips are drawn and linked again and again; 0: each its own."""
    small = Small(folder / "raw", folder / "boxes.csv")
    rows, boxes = [], ["subject,clip,x,y,width,height"]
    for n in range(subjects * clips):
        subject, clip = f"sub{n // clips + 1:02d}", f"EP{n:05d}"
        rows.append((subject[3:], clip, None, ONSET, APEX, OFFSET, None, "4", EMOTIONS[n % len(EMOTIONS)]))
        boxes.append(f"{subject},{clip},12,12,40,40")
        _frames(small, n, kinds, clips)
    small.boxes.write_text("\n".join(boxes) + "\n")
    sheet(small.raw / "CASME2-coding-20140508.xlsx", CASME2, rows)
    return small


def _frames(small: Small, n: int, kinds: int, clips: int) -> None:
    folder = small.folder(f"sub{n // clips + 1:02d}", f"EP{n:05d}")
    folder.mkdir(parents=True)
    like = n % kinds if kinds else n
    source = small.folder(f"sub{like // clips + 1:02d}", f"EP{like:05d}")
    rng = np.random.default_rng(n)
    base = cv2.GaussianBlur(rng.integers(0, 256, (72, 72, 3), np.uint8), (0, 0), 3)
    for i, number in enumerate((ONSET, APEX, OFFSET)):
        path = folder / f"img{number}.jpg"
        if like == n:
            path.write_bytes(cv2.imencode(".jpg", base[i : i + 64, i : i + 64])[1].tobytes())
        else:
            os.link(source / path.name, path)


def without_landmarks(folder: Path) -> dict[str, str]:
    """An environment in which no landmark file is found: its 100 MB would be read by every command anew."""
    (folder / "shadow/face_recognition_models").mkdir(parents=True, exist_ok=True)
    (folder / "shadow/face_recognition_models/__init__.py").touch()
    return environment(folder / "shadow")


def environment(*paths: Path) -> dict[str, str]:
    """Our environment with ``paths`` before all other places of Python modules."""
    old = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *([old] if old else [])])}


# --- commands ---


def start(args: Sequence[object], cwd: Path, program: Sequence[str] = MEPIPE, **kw: Any) -> subprocess.Popen[str]:
    """The command at work in ``cwd``; its stderr can be read."""
    command = [*program, *map(str, args)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **kw)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, stderr) of a command that has to end by itself; one that hangs is killed and raises."""
    try:
        said = process.communicate(timeout=ALIVE)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, said


def done(args: Sequence[object], cwd: Path, program: Sequence[str] = MEPIPE, **kw: Any) -> tuple[int, str]:
    """(exit code, stderr) of the command."""
    return finished(start(args, cwd, program, **kw))


def last_line(said: str) -> str:
    """The last line of stderr."""
    return said.splitlines()[-1] if said.splitlines() else ""


def lower_rights() -> None:
    """For ``preexec_fn``: root obeys permissions from here on, as any other user does."""
    if os.geteuid() == 0:
        pr_capbset_drop, dac_override, dac_read_search = 24, 1, 2  # linux/prctl.h, linux/capability.h
        for capability in (dac_override, dac_read_search):
            ctypes.CDLL(None).prctl(pr_capbset_drop, capability, 0, 0, 0)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A real file system of a few MB in ``folder``. Raises PermissionError where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("no right to mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# --- what a workspace holds ---


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and locks that nobody has removed."""
    return [p for p in folder.rglob("*") if p.name.startswith(TEMP_MARK) or p.parent.name == ".locks"]


def _unfinished(path: Path) -> bool:
    return any(part.startswith(TEMP_MARK) for part in path.parts)


def clip_records(ws: Path) -> list[Path]:
    """The clip.json of every clip that is finished."""
    return [p for p in (ws / "prepared").glob("*/*/*/clip.json") if not _unfinished(p)]


def crops(ws: Path) -> dict[str, Any]:
    """Every file of ``prepared`` by name, as its bytes; prepare.json holds the time of day."""
    files = [p for p in (ws / "prepared").rglob("*") if p.is_file() and p.name != "prepare.json" and not _unfinished(p)]
    return {str(p.relative_to(ws)): p.read_bytes() for p in files}


def samples(ws: Path) -> dict[str, Any]:
    """Every sample of every shard by name: all that is known of it, and the CRC-32 of its flow, read anew."""
    if not list_shards(ws / "flow"):  # a file that was being written carries a name of its own until it is whole
        return {}
    shards = open_shards(ws / "flow")
    found = {str(s): (s, zlib.crc32(shards.flow(i))) for i, s in enumerate(shards.samples)}
    assert len(found) == len(shards), "a sample is there twice"
    shards.close()
    return found


def predictions(ws: Path) -> dict[str, Any]:
    """Every row of every predictions.csv by file and number, and all weights as their bytes."""
    found: dict[str, Any] = {}
    for path in (p for p in (ws / "runs").rglob("*") if not _unfinished(p)):
        name = str(path.relative_to(ws))
        if path.name == "predictions.csv":
            with path.open(newline="", encoding="utf-8") as file:
                found |= {f"{name} row {n}": row for n, row in enumerate(csv.reader(file))}
        elif path.name == "weights.safetensors":
            found[name] = path.read_bytes()
    return found


def listing(ws: Path) -> set[str]:
    """Every file of the workspace."""
    return {str(p.relative_to(ws)) for p in ws.rglob("*") if p.is_file()}


# --- the harness ---


@dataclass
class Target:
    """A command that is killed.

    results: of a workspace, what must be equal, by name.  makes: the folder of the workspace to remove to begin again.
    """

    args: list[object]
    results: Callable[[Path], dict[str, Any]]
    makes: str
    program: Sequence[str] = MEPIPE
    env: dict[str, str] | None = None


@dataclass
class Kills:
    """What ``random_kills`` saw. lost: of each kill after which something was wrong, what."""

    seed: int
    seconds: float = 0.0
    moments: list[float] = field(default_factory=list)
    completed: int = 0
    lost: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        moments = ", ".join(f"{m:.2f}" for m in self.moments)
        return f"seed {self.seed}: killed {len(self.moments)} times of {self.seconds:.1f} s at {moments} s"


def random_kills(target: Target, whole: Path, folder: Path, kills: int, seed: int) -> Kills:
    """Kill ``target`` in ``folder`` at ``kills`` random moments, drawn evenly over the time it takes uninterrupted.

    It runs uninterrupted in ``whole`` first; both folders hold what it needs in their ``ws``.
    """
    seen, rng = Kills(seed), random.Random(seed)
    begun = time.monotonic()
    code, said = done(target.args, whole, target.program, env=target.env)
    assert code == 0, said
    seen.seconds = time.monotonic() - begun
    right = target.results(whole / "ws")
    while len(seen.moments) < kills:
        moment = rng.uniform(0.0, seen.seconds)
        process = start(target.args, folder, target.program, env=target.env)
        try:
            said = process.communicate(timeout=moment)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            seen.moments.append(moment)
            _note(seen, f"after the kill at {moment:.2f} s", half_written(target, folder / "ws", right))
            continue
        _note(seen, "finished", unequal(target, process.returncode, said, whole / "ws", folder / "ws", right))
        seen.completed += 1
        shutil.rmtree(folder / "ws" / target.makes)  # it was faster: begin again
    code, said = done(target.args, folder, target.program, env=target.env)
    _note(seen, "in the end", unequal(target, code, said, whole / "ws", folder / "ws", right))
    return seen


def _note(seen: Kills, when: str, wrong: str) -> None:
    if wrong:
        seen.lost.append(f"{when}: {wrong}")


def half_written(target: Target, ws: Path, right: dict[str, Any]) -> str:
    """What lies under a final name without being what an uninterrupted run puts there, "" for nothing."""
    try:
        found = target.results(ws)
    except Exception as e:  # whatever a reader of half a file may say
        return repr(e)
    return ", ".join(sorted(k for k, v in found.items() if right.get(k) != v))


def unequal(target: Target, code: int, said: str, whole: Path, ws: Path, right: dict[str, Any]) -> str:
    """In what a finished run differs from the uninterrupted one, "" for nothing."""
    if code != 0:
        return f"exit code {code}: {said}"
    found = target.results(ws)
    wrong = sorted(k for k in right.keys() | found.keys() if right.get(k) != found.get(k))
    files = sorted(listing(whole) ^ listing(ws))
    return "; ".join(
        f"{what}: {', '.join(map(str, which))}"
        for what, which in (("unequal", wrong), ("only in one", files), ("left over", leftovers(ws)))
        if which
    )
