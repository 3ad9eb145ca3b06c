"""The fuzz harness: mutated inputs to every parser of strangers' bytes, each in a worker process that may die of one.

A target is (name, sound inputs, suffix, parse); parse(path) must return a value or raise one of mepipe's own errors.
Anything else counts as lost: another exception, a crash, more than SECONDS, more than MEMORY.  Every input follows
from (target, number): what is lost can be made again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

SECONDS = 20.0  # for one input on a busy machine; the limits stop a shard's reader after 2
START = 180.0  # for a worker to load its libraries
MEMORY = 6 << 30  # bytes of address space: torch alone maps 3


@dataclass
class Result:
    """What one target did with its inputs. refused: answered with one of our errors; lost: number -> what happened."""

    target: str
    tried: int = 0
    refused: int = 0
    lost: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def survived(self) -> int:
        return self.tried - len(self.lost)

    def row(self) -> dict[str, object]:
        """As benchmarks/fuzz.py prints it."""
        return {
            "fault": f"fuzz {self.target}", "tried": self.tried, "survived": self.survived, "lost": len(self.lost),
            "refused": self.refused, "seconds": round(self.seconds, 1), "examples": dict(list(self.lost.items())[:10]),
        }  # fmt: skip


# --- mutators: (bytes, generator, all sound inputs) -> bytes ---------------------------------------


def mutated(sound: list[bytes], rng: random.Random) -> bytes:
    """One of the sound inputs with one to three kinds of damage."""
    data = bytearray(rng.choice(sound))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATORS)(data, rng, sound)
    return bytes(data)


def _spot(data: bytearray, rng: random.Random) -> int:
    """A place; half of them near either end, where headers and tables lie."""
    where = rng.random()
    edge = min(len(data), 512)
    if where < 0.35:
        return rng.randrange(edge + 1)
    if where < 0.5:
        return len(data) - rng.randrange(edge + 1)
    return rng.randrange(len(data) + 1)


def flip_bits(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if data:
            data[min(_spot(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)
    return data


def set_bytes(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    """Extreme numbers over 1 to 8 bytes: sizes, counts and offsets."""
    at, size = _spot(data, rng), rng.choice((1, 2, 4, 8))
    value = rng.choice((bytes(size), b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), b"\xff" * (size - 1) + b"\x7f",
                        rng.randbytes(size), (1).to_bytes(size, "little"), (1).to_bytes(size, "big")))  # fmt: skip
    data[at : at + size] = value
    return data


def truncate(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    return data[: _spot(data, rng)]


def cut_out(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    at = _spot(data, rng)
    del data[at : at + rng.choice((1, 2, 8, 100, 4096))]
    return data


def insert(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    at, size = _spot(data, rng), rng.choice((1, 4, 64, 4096))
    data[at:at] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), b"A" * size))
    return data


def splice(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    """A block of a sound input, somewhere else."""
    other = rng.choice(sound)
    begin = rng.randrange(len(other) + 1)
    at = _spot(data, rng)
    size = rng.choice((4, 32, 512))
    data[at : at + rng.choice((0, size))] = other[begin : begin + size]
    return data


NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"0x10", b"1.5", b"", b"null", b"true", b'"', b"[[")
WORDS = (b"../../x", b"/etc/passwd", b"\0", b"\n", b"\xff\xfe", "\u202e".encode(), "\u0661".encode(), b",", b";", b'"',
         b"C:\\x", b"con", b"x" * 300, b"{", b"}", b"]", b"\\ud800", b"=1+1", b"&a;", b"<!DOCTYPE a>")  # fmt: skip


def edit_text(data: bytearray, rng: random.Random, sound: list[bytes]) -> bytearray:
    """Another number in a number's place, or a word of trouble somewhere."""
    digits = [i for i in range(len(data)) if 48 <= data[i] <= 57][:5000]
    if digits and rng.random() < 0.6:
        at = rng.choice(digits)
        end = at
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        data[at:end] = rng.choice(NUMBERS)
        return data
    at = _spot(data, rng)
    data[at:at] = rng.choice(WORDS)
    return data


MUTATORS = (flip_bits, flip_bits, set_bytes, set_bytes, truncate, cut_out, insert, splice, edit_text, edit_text)


# --- one worker: argv = module, folder, inputs, first, targets ----------------------------------------------


def work(module: str, folder: Path, inputs: int, first: int, targets: list[str]) -> None:
    """Try inputs 0 to ``inputs`` of each target, from the ``first`` of all on, and print a line of JSON for each."""
    os.environ["MEPIPE_MAX_SHARD_SECONDS"] = "2"
    os.environ["MEPIPE_MAX_IMAGE_PIXELS"] = str(1 << 22)  # decoding 67 million again and again would only take longer
    from mepipe.errors import MepipeError

    known = import_module(module).TARGETS
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for place in range(first, inputs * len(targets)):
        target, number = targets[place // inputs], place % inputs
        if place == first or number == 0:
            made = known[target]
            path = folder / f"{target}{made.suffix}"
            sound = made.sound(folder)
            for data in sound:  # a parser that refuses everything would survive anything
                path.write_bytes(data)
                made.parse(path)
        path.write_bytes(mutated(sound, random.Random(f"{target} {number}")))
        print(json.dumps([place, None]), flush=True)
        try:
            made.parse(path)
            said = "value"
        except MepipeError as e:
            said = "refused" if "\n" not in str(e) else "an error of several lines"
        except BaseException as e:
            said = f"{type(e).__name__}: {e}"[:200]
        print(json.dumps([place, said]), flush=True)


def fuzz(
    targets: Sequence[str], inputs: int, module: str = "security.targets", seconds: float = SECONDS
) -> list[Result]:
    """Give each target its mutated inputs 0 to ``inputs`` - 1. A worker that dies or hangs is replaced by another.

    module: where the TARGETS are.  seconds: for one input.
    """
    results = [Result(target) for target in targets]
    first, clock = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mepipe-fuzz-", dir=_memory()) as folder:
        while first < inputs * len(targets):
            for place, said in _answers(Path(folder), inputs, first, targets, module, seconds):
                result, now = results[place // inputs], time.monotonic()
                result.tried += 1
                result.refused += said == "refused"
                result.seconds += now - clock
                if said not in ("value", "refused"):
                    result.lost[place % inputs] = said
                clock, first = now, place + 1
    return results


def _memory() -> str | None:
    """A folder in memory, where there is one: millions of files need no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _answers(
    folder: Path, inputs: int, first: int, targets: Sequence[str], module: str, seconds: float
) -> Iterator[tuple[int, str]]:
    """(place, what happened) as one worker gets on; the last is what killed it, if anything did."""
    tests = Path(__file__).resolve().parents[1]
    code = f"import sys; sys.path.insert(0, {str(tests)!r}); from security.fuzzing import main; main()"
    command = [sys.executable, "-c", code, module, str(folder), str(inputs), str(first), *targets]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
    errors = folder / "stderr.txt"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=env)
    try:
        yield from _lines(process, errors, first, inputs * len(targets), seconds)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _lines(
    process: subprocess.Popen[bytes], errors: Path, first: int, last: int, seconds: float
) -> Iterator[tuple[int, str]]:
    trying, finished, buffered = None, first, b""
    while finished < last:
        if not select.select([process.stdout], [], [], seconds if trying is not None else START)[0]:
            yield _required(trying, errors), f"no answer in {seconds:.0f} s"
            return
        block = os.read(process.stdout.fileno(), 1 << 16)
        if not block:
            code = process.wait()
            yield _required(trying, errors), f"died of {signal.Signals(-code).name if code < 0 else code}"
            return
        *lines, buffered = (buffered + block).split(b"\n")
        for place, said in map(json.loads, lines):
            trying = place
            if said is not None:
                yield place, said
                finished, trying = place + 1, None


def _required(trying: int | None, errors: Path) -> int:
    if trying is None:
        raise RuntimeError(f"the worker could not begin: {errors.read_text(errors='replace')[-2000:]}")
    return trying


def main() -> None:
    module, folder, inputs, first, *targets = sys.argv[1:]
    work(module, Path(folder), int(inputs), int(first), targets)


@dataclass(frozen=True)
class Target:
    """A parser and what it is fed. sound(folder): inputs that it takes."""

    sound: Callable[[Path], list[bytes]]
    suffix: str
    parse: Callable[[Path], object]
