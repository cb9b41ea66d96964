"""Fixtures every room shares: recorded data, private directories, no leftovers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from piker import config

settings.register_profile("piker", deadline=None)  # no test asserts a time
settings.load_profile("piker")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recorded venue data, or skip where it is absent."""
    if not (SHARED / "venues").is_dir():
        pytest.skip("recorded venue data (../shared/venues) is not on this machine")
    return SHARED


@pytest.fixture
def piker_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move config, data and runtime directories of this test (and its children) to tmp_path."""
    for var, name in config.DIRECTORY_VARS.items():
        path = tmp_path / name
        path.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv(var, str(path))
    monkeypatch.setenv("PIKER_REGISTRY", "127.0.0.1:0")
    return tmp_path


@pytest.fixture(autouse=True)
def _no_leaked_environment() -> Iterator[None]:
    """Fail a test that leaves PIKER_* variables changed."""
    before = {k: v for k, v in os.environ.items() if k.startswith("PIKER_")}
    yield
    after = {k: v for k, v in os.environ.items() if k.startswith("PIKER_")}
    assert {k: v for k, v in after.items() if k != "PIKER_LOG"} == {
        k: v for k, v in before.items() if k != "PIKER_LOG"
    }
