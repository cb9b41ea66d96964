"""A real pikerd in its own process for a test, as in tests/system."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piker import service

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from daemons import Pikerd


@pytest.fixture
def pikerd(piker_dirs: Path) -> Iterator[Pikerd]:
    """Run a pikerd that can start ``sample.*`` services; it must survive the test."""
    running = Pikerd()
    yield running
    assert running.process.poll() is None, "pikerd died of the attack"
    assert running.end() == 0
    assert service.read_pikerd() is None
