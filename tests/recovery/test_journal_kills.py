"""Nothing that the journal acknowledged is lost or doubled, and no damage to it goes unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(script: str, *args: object) -> dict[str, object]:
    """Run a script of this folder; return what it counted."""
    path = Path(__file__).with_name(script)
    command = [sys.executable, str(path), *(str(arg) for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts: dict[str, object] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize("kills", [20, pytest.param(500, marks=pytest.mark.full)])
def test_no_acknowledged_record_is_lost_or_doubled_when_writers_are_killed(
    tmp_path: Path, kills: int
) -> None:
    """By the clock, and in the middle of commits and checkpoints."""
    counts = run("journal_kills.py", tmp_path / "journal", kills, 17)
    names = ("lost", "doubled", "changed", "unsound", "died_by_itself")
    assert [counts[name] for name in names] == [0] * 5, counts
    acknowledged = counts["acknowledged"]
    assert isinstance(acknowledged, int)
    assert acknowledged > 20 * kills
    assert counts["snapshots"]


@pytest.mark.parametrize("mutations", [300, pytest.param(10_000, marks=pytest.mark.full)])
def test_every_mutation_is_seen_when_a_journal_is_opened(tmp_path: Path, mutations: int) -> None:
    """Bits, lengths and rows, in all states. What heals lies in the log, or is none of the log."""
    counts = run("journal_mutations.py", tmp_path, mutations, 23)
    assert counts["missed"] == []
    assert counts["unverified"] == []
    healed = counts["healed"]
    assert isinstance(healed, dict)
    copied = {f"{how} rows.db, {at}" for how in ("flip", "cut") for at in ("announced", "copied")}
    assert {what for what in healed if " unwritten rows.db-wal" not in what} <= copied
