"""Fixtures every room shares: recorded data, private directories, no leftovers."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from piker import config
from piker.brokers import limits

settings.register_profile("piker", deadline=None)  # no test asserts a time
settings.load_profile("piker")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what they put behind
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests press Ctrl-C

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recorded venue data, or skip where it is absent."""
    if not (SHARED / "venues").is_dir():
        pytest.skip("recorded venue data (../shared/venues) is not on this machine")
    return SHARED


@pytest.fixture
def piker_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Move config, data and runtime directories of this test (and its children) to tmp_path.

    What markets a venue has is forgotten: the port of an earlier test's venue may be another's now.
    So is what earlier tests used up of a venue's limits, and that they were told to wait.

    A daemon that still runs in them afterwards is ended, and fails the test.
    """
    for var, name in config.DIRECTORY_VARS.items():
        path = tmp_path / name
        path.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv(var, str(path))
    monkeypatch.setenv("PIKER_REGISTRY", "127.0.0.1:0")
    for provider in ("binance", "kraken"):
        api = sys.modules.get(f"piker.brokers.{provider}.api")
        if api is not None:
            api._cache.clear()
    limits._budgets.clear()
    limits._made.clear()
    yield tmp_path
    left = _pid_of_pikerd(tmp_path / "run")
    if left is not None:
        os.kill(left, signal.SIGTERM)
        pytest.fail(f"the test left a pikerd behind, pid {left}")


def _pid_of_pikerd(runtime: Path) -> int | None:
    """Return the pid of the pikerd that runs in a directory, if one does."""
    try:
        pid = int(json.loads((runtime / "pikerd.json").read_bytes())["pid"])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"pikerd" in command else None


@pytest.fixture(autouse=True)
def _no_leaked_environment() -> Iterator[None]:
    """Fail a test that leaves PIKER_* variables changed."""
    before = {k: v for k, v in os.environ.items() if k.startswith("PIKER_")}
    yield
    after = {k: v for k, v in os.environ.items() if k.startswith("PIKER_")}
    assert {k: v for k, v in after.items() if k != "PIKER_LOG"} == {
        k: v for k, v in before.items() if k != "PIKER_LOG"
    }
