"""No acknowledged order or fill is lost or doubled, whichever process is killed, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kills", "seed", "how"),
    [
        (5, 3, "--paper"),
        (4, 4, "--live"),
        pytest.param(1000, 1, "--paper", marks=pytest.mark.full),
        pytest.param(1000, 2, "--live", marks=pytest.mark.full),
    ],
)
def test_nothing_acknowledged_is_lost_when_emsd_and_its_broker_are_killed(
    tmp_path: Path, kills: int, seed: int, how: str
) -> None:
    """Three clients trade meanwhile; restarting twice comes to what restarting once did."""
    script = Path(__file__).with_name("order_kills.py")
    command = [sys.executable, str(script), "--kills", str(kills), "--seed", str(seed), how]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    counts = json.loads(done.stdout)
    assert counts["wrong"] == []
    assert (counts["orders_lost"], counts["orders_doubled"]) == (0, 0)
    assert (counts["fills_lost"], counts["fills_doubled"], counts["overfilled"]) == (0, 0, 0)
    assert (counts["restarts_differ"], counts["net_differs"]) == (0, False)
    assert counts["ends_differ"] == []
    assert (counts["due"], counts["oversold"]) == ([], [])  # of brackets
    assert counts["verifies"]
    assert counts["ended_in_order"]
    assert counts["standing"] == 10
    assert sum(counts["kills"].values()) >= kills
    assert counts["acked"] > 3 * kills
    assert not counts.get("differences")
    if how == "--paper":
        assert (counts["balances_after_restarts"], counts["balances_differ"]) == (1, [])
