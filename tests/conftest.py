from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("MEPIPE_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "real"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of small real data beside the project; tests that need it skip where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real data at {REAL} (set MEPIPE_REAL_DATA)")
    return REAL
