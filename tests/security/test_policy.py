"""SECURITY.md says what is so: its tests exist, its limits are those in force."""

from __future__ import annotations

import re
from pathlib import Path

from mepipe.limits import LIMITS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_limit_stands_there_with_its_default_and_reason():
    table = dict(re.findall(r"^\| `(MEPIPE_MAX_\w+)` \| ([^|]+) \|", TEXT, re.MULTILINE))
    assert set(table) == {limit.variable for limit in LIMITS}
    for limit in LIMITS:
        assert table[limit.variable] == f"{limit.default:,} {limit.unit}"
        assert limit.why in TEXT


def test_every_promise_names_a_test_that_is_there():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "test" in line.rsplit("|", 2)[1]]
    assert len(rows) > 8
    for row in rows:
        for name in re.findall(r"`([\w/.]+\.py)`", row.rsplit("|", 2)[1]):
            places = [ROOT / name, ROOT / "tests/security" / name]
            assert any(p.is_file() for p in places), name
