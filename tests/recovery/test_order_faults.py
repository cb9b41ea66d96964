"""Journal and venue have the same, whatever goes wrong between emsd and the venue."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("venue", "submits", "seed"),
    [
        ("spot", 18, 3),
        ("usdtm", 18, 4),
        ("kraken", 10, 5),
        pytest.param("spot", 1000, 1, marks=pytest.mark.full),
        pytest.param("usdtm", 1000, 2, marks=pytest.mark.full),
        pytest.param("kraken", 1000, 3, marks=pytest.mark.full),
    ],
)
def test_the_journal_has_what_the_venue_has_when_orders_go_through_every_fault(
    tmp_path: Path, venue: str, submits: int, seed: int
) -> None:
    """Orders, fills, fees, positions; none twice, none of nobody's, none that stands rejected."""
    script = Path(__file__).with_name("order_faults.py")
    command = [sys.executable, str(script), "--submits", str(submits), "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--venue", venue, "--folder", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    counts = json.loads(done.stdout)
    assert counts["wrong"] == []
    assert not counts["differences"]
    assert counts["orders_lost"] == 0
    assert not counts.get("positions_differ")
    assert counts["verifies"]
    assert counts["ended_in_order"]
    assert counts["submits"] == submits
    assert counts["unknown"] > 0 or submits < 18
    assert counts["venue_orders"] > submits / 10
