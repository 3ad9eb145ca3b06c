"""What mepipe survives: every fault is made on purpose, and what is left is compared with an undisturbed run.

    python benchmarks/faults.py [--clips 20000] [--inputs 10000] [--only killed] [--out benchmarks/results/faults.json]

This is `make faults`.  It runs the tests of tests/faults with their long ones (40 kills and more of each command at
random moments), a corpus of `--clips` small clips through prepare and flow with an eye on memory and file handles, and
the fuzzing of benchmarks/fuzz.py with `--inputs` mutated inputs for each parser.  One table: kind of fault, times
tried, survived, lost (something was wrong afterwards), seconds.  0 clips or inputs leave that part out; `--only` takes
a word of a test's name or file.  What is left out keeps the row it has in `--out`.

A clip of the long run has frames of 64 x 64 px and a given face box, its flow one cheap iteration: what may grow is
what is kept of each clip.  MB is the resident memory of the command and its workers together, handles their open files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from flow_engines import RESULTS, machine

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]
from faultkit import QUICK_FLOW, Small, environment, small_corpus, without_landmarks  # noqa: E402

# what a test is about, by a word of its file or name; the first that fits counts
KINDS = {
    "test_killed": "killed (SIGKILL) at a random moment",
    "test_worker_deaths": "a worker process dies",
    "test_locks": "two commands at once, stale locks",
    "test_interrupted": "Ctrl-C",
    "test_bit_rot": "bit rot",
    "test_sameness": "other order, other number of workers",
    "test_long_runs": "memory and handles, short runs",
    "read_only": "read-only workspace",
    "vanish": "input folder goes away",
    "may_not_be": "permission denied",
    "handles": "too few file handles",
    "full": "disk full",
    "one_byte": "disk full",
    "atomic": "disk full",
    "sweep": "disk full",
}
GROWTH = 100  # MB more at the end than at the first look count as lost: 5 kB a clip, of which the row itself is 2
EVERY = 2000  # clips between two looks
SUBJECT = 40  # clips of one subject
DRAWN = 40  # clips that are drawn; the others are links to their frames


@dataclass
class Row:
    """One line of the table."""

    tried: int = 0
    survived: int = 0
    lost: int = 0
    seconds: float = 0.0

    def add(self, tried: int, lost: int, seconds: float) -> None:
        self.tried, self.lost = self.tried + tried, self.lost + lost
        self.survived, self.seconds = self.survived + tried - lost, self.seconds + seconds


# --- the tests ---


def run_tests(only: str) -> tuple[dict[str, Row], list[str]]:
    """(rows by kind, why tests were skipped) of tests/faults with its long tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += ["-m", "long or not long", "-k", only, str(TESTS / "faults")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=HERE.parent, env=environment, check=False, stdout=sys.stderr)
        cases = list(ElementTree.parse(report).iter("testcase"))
    rows: dict[str, Row] = {}
    skipped = []
    for case in cases:
        if (why := case.find("skipped")) is not None:
            skipped.append(f"{case.get('name')}: {why.get('message')}")
            continue
        told = {p.get("name"): p.get("value") for p in case.iter("property")}
        failed = case.find("failure") is not None or case.find("error") is not None
        tried = int(told.get("tried") or 1)
        lost = max(int(told.get("lost") or 0), int(failed))
        rows.setdefault(told.get("kind") or kind_of(case), Row()).add(tried, lost, float(case.get("time") or 0))
    return rows, skipped


def kind_of(case: ElementTree.Element) -> str:
    """The kind of fault of a test that does not say it itself."""
    name = f"{case.get('classname')} {case.get('name')}"
    return next((kind for word, kind in KINDS.items() if word in name), "other")


# --- memory and handles of long runs ---


def long_run(clips: int, every: int = EVERY) -> Iterator[tuple[str, float, list[dict[str, float]]]]:
    """(command, seconds, looks) of prepare and flow over ``clips`` clips, one look every so many."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        small_corpus(here, -(-clips // SUBJECT), SUBJECT, kinds=DRAWN)
        shadow = without_landmarks(here)["PYTHONPATH"].split(os.pathsep)[0]
        for command in ("prepare", "flow"):
            begun = time.monotonic()
            env = {**environment(Path(shadow)), "OMP_NUM_THREADS": "1"}
            words = [sys.executable, __file__, "--watch", command, "--folder", folder, "--every", str(every)]
            done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
            yield command, time.monotonic() - begun, json.loads(done.stdout)


def watch(command: str, folder: Path, every: int) -> None:
    """Run ``command`` in this process and print what it holds every so many clips, as JSON."""
    from mepipe import get_corpus
    from mepipe.flow.run import flow_corpora
    from mepipe.prepare import prepare_corpus
    from mepipe.settings import FlowConfig, PrepareConfig
    from mepipe.workspace import Workspace

    small = Small(folder / "raw", folder / "boxes.csv")
    looks: list[dict[str, float]] = []

    def look(done: int, total: int) -> None:
        if done % every == 0 or done == total:
            looks.append({"clips": done, **held()})
            print(f"{command} {done} of {total}: {looks[-1]}", file=sys.stderr, flush=True)

    ws = Workspace(folder / "ws")
    if command == "prepare":
        config = PrepareConfig(detector="given", detector_file=str(small.boxes))
        summary = prepare_corpus(ws, get_corpus("casme2"), small.raw, config, look)
        assert summary.counts["refused"] == 0
    else:
        values = zip(QUICK_FLOW[2::2], QUICK_FLOW[3::2], strict=True)
        quick = {name.removeprefix("--"): int(value) for name, value in values}
        flow_corpora(ws, config=FlowConfig(engine="opencv", dtype="float16", **quick), progress=look)
    print(json.dumps(looks))


def held() -> dict[str, float]:
    """Resident memory and open files of this process and its children."""
    pids = [str(os.getpid()), *(p.parent.name for p in Path("/proc").glob("[0-9]*/status") if is_ours(p))]
    memory, handles = 0.0, 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            handles += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:  # it has just ended
            continue
        memory += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0) / 1024
    return {"MB": round(memory, 1), "handles": handles}


def is_ours(status: Path) -> bool:
    try:
        return f"\nPPid:\t{os.getpid()}\n" in status.read_text()
    except OSError:
        return False


# --- all of it ---


def fuzzed(inputs: int) -> dict[str, Row]:
    """What benchmarks/fuzz.py counts."""
    script = HERE / "fuzz.py"
    if not inputs or not script.is_file():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "fuzz.json"
        command = [sys.executable, str(script), "--inputs", str(inputs), "--json", str(report)]
        subprocess.run(command, cwd=HERE.parent, check=False, stdout=sys.stderr)
        found = json.loads(report.read_text())["parsers"]
    return {
        name: Row(*(row[count] for count in ("tried", "survived", "lost", "seconds"))) for name, row in found.items()
    }


def show(rows: dict[str, Row]) -> None:
    print(f"{'kind of fault':50}{'tried':>8}{'survived':>10}{'lost':>7}{'seconds':>10}")
    for kind, row in rows.items():
        print(f"{kind:50}{row.tried:8}{row.survived:10}{row.lost:7}{row.seconds:10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000, help="of the long run; 0: none")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each parser; 0: none")
    parser.add_argument("--only", default="", help="tests with this in their name; pytest's -k")
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.json")
    parser.add_argument("--watch", choices=("prepare", "flow"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=EVERY, help="clips between two looks of the long run")
    options = parser.parse_args()
    if options.watch:
        watch(options.watch, options.folder, options.every)
        return
    rows, skipped = run_tests(options.only)
    long_runs: dict[str, dict[str, dict[str, float]]] = {}
    for command, seconds, looks in long_run(options.clips, options.every) if options.clips else ():
        grown = looks[-1]["MB"] - looks[0]["MB"]
        lost = options.clips if grown > GROWTH or looks[-1]["handles"] > looks[0]["handles"] + 8 else 0
        rows.setdefault(f"memory and handles: clips of {command}", Row()).add(options.clips, lost, seconds)
        long_runs[command] = {f"{one['clips']:.0f} clips": {k: one[k] for k in ("MB", "handles")} for one in looks}
    rows |= fuzzed(options.inputs)
    show(rows)
    for line in skipped:
        print(f"skipped: {line}")
    before = json.loads(options.out.read_text()) if options.out.is_file() else {}
    report = {
        "machine": machine(),
        "faults": {**before.get("faults", {}), **{kind: asdict(row) for kind, row in rows.items()}},
        "long_runs": {**before.get("long_runs", {}), **long_runs},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    if any(row.lost for row in rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
