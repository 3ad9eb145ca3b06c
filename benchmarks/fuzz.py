"""Mutated inputs to every parser of strangers' bytes: how many, how many survived, how many were lost.

    python benchmarks/fuzz.py [--inputs 10000] [--json benchmarks/results/fuzz.json]        all parsers
    python benchmarks/fuzz.py --only shard --inputs 300 --json shard.json                   one of them

Survived: a value, or one of mepipe's own errors in one line.  Lost: another exception, a crash of the process, or no
answer in 20 s; the number beside it makes the same input again.  Exits 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flow_engines import RESULTS, machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from security.fuzzing import fuzz
from security.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="per parser")
    parser.add_argument("--only", action="append", choices=list(TARGETS), help="this parser; may be repeated")
    parser.add_argument("--json", type=Path, default=RESULTS / "fuzz.json", help="write the rows here")
    args = parser.parse_args()
    rows = {}
    print(f"{'fault':22} {'tried':>7} {'survived':>9} {'lost':>5} {'seconds':>8}")
    for target in args.only or TARGETS:
        (result,) = fuzz([target], args.inputs)
        row = result.row()
        rows[row.pop("fault")] = row
        print(f"{target:22} {row['tried']:7} {row['survived']:9} {row['lost']:5} {row['seconds']:8}", flush=True)
        for number, said in result.lost.items():
            print(f"    input {number}: {said}", flush=True)
    report = {"machine": machine(), "inputs": args.inputs, "parsers": rows}
    args.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return int(any(row["lost"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
