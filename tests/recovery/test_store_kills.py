"""No bar that was acknowledged is lost or wrong, whoever of its writers is killed, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kills", [24, pytest.param(200, marks=pytest.mark.full)])
def test_no_acknowledged_bar_is_lost_when_writers_and_compactors_are_killed(
    tmp_path: Path, kills: int
) -> None:
    """Four processes on two series, killed again and again in the middle of what they do."""
    script = Path(__file__).with_name("store_kills.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store"), str(kills), "11"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= kills
    assert (counts["lost"], counts["wrong"], counts["unsound"]) == (0, 0, 0)
    assert counts["died_by_itself"] == 0
    assert counts["acknowledged"] > 100 * kills
