"""A real pikerd in its own process for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Pikerd

from piker import service


@pytest.fixture
def pikerd(piker_dirs: Path) -> Iterator[Pikerd]:
    """Run a pikerd that can start ``sample.*`` services; it must end in order."""
    running = Pikerd()
    yield running
    if running.process.poll() is None:
        assert running.end() == 0
    assert service.read_pikerd() is None
