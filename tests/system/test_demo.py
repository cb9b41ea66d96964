"""The first command of a newcomer: it shows live candles, tells what it saw, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PATIENCE_S = 60


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a headless demo."""
    return subprocess.Popen(
        [sys.executable, "-m", "piker.cli", "demo", "--headless", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def directory(demo: subprocess.Popen[str]) -> Path:
    """Return the demo's own directory, once its pikerd runs in it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for pid in children(demo.pid):
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:  # it was there for a moment only
                continue
            for entry in environment.split(b"\0"):
                name, _, value = entry.partition(b"=")
                file = Path(os.fsdecode(value)) / "pikerd.json"
                if name == b"PIKER_RUNTIME_DIR" and file.exists():
                    return file.parent.parent
        time.sleep(0.05)
    pytest.fail("the demo's pikerd did not start")


def test_demo_tells_what_it_saw_when_its_time_is_up() -> None:
    """At least two markets; as many bars as seconds, beside the history that was there before."""
    said, complaints = start("--seconds", "4", "--json", "--symbols", "2").communicate()
    assert complaints == ""
    report = json.loads(said)
    assert len(report["symbols"]) == 2
    for fqme in report["symbols"]:
        assert report["quotes"][fqme] > 0
        assert report["ticks"][fqme] > 20
        assert 3 <= report["bars_1s"][fqme] <= 4 + PATIENCE_S
        assert report["bars_incomplete"][fqme] <= 1  # the second it began in, until it is filled
    assert report["reconnects"] == 0
    assert report["data_quality"] == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_leaves_nothing_when_it_is_told_to_end_again_and_again(number: int) -> None:
    """An impatient Ctrl-C in the middle of ending does not leave processes and files behind."""
    demo = start("--json")
    folder = directory(demo)
    started = children(demo.pid)
    while demo.poll() is None:
        demo.send_signal(number)
        time.sleep(0.03)
    assert demo.returncode in (0, 130), demo.communicate()
    assert demo.communicate()[1] == ""
    assert not folder.exists()
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
