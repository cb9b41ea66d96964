"""No bar that a fill returned is lost or wrong, whoever of those that fill is killed, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (8, 3),
        pytest.param(200, 1, marks=pytest.mark.full),
        pytest.param(200, 2, marks=pytest.mark.full),
    ],
)
def test_no_bar_that_was_returned_is_lost_when_fills_and_compaction_are_killed(
    tmp_path: Path, kills: int, seed: int
) -> None:
    """Four programs fill one store from one venue, a fifth compacts; the last fill is complete."""
    script = Path(__file__).with_name("fill_kills.py")
    command = [sys.executable, str(script), "--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    print(done.stdout)
    assert counts["died_by_itself"] == 0, done.stderr
    assert (counts["lost"], counts["holes"], counts["wrong"]) == (0, 0, 0)
    assert (counts["wrong_answers"], counts["damaged"], counts["unsound"]) == (0, 0, 0)
    assert (counts["wrong_at_the_end"], counts["unsound_at_the_end"]) == (0, 0)
    assert counts["left_over"] == []
    assert counts["kills"] >= kills
    assert counts["fills_cut"] >= kills // 2
    assert counts["fills_that_fetched"] > kills // 2
    assert counts["acknowledged"] > 1000 * kills
