"""A real pikerd in its own process, as a person would start and end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from piker import service

__all__ = ["Pikerd"]

HERE = Path(__file__).parent
#: Ends it when whoever started it is gone, however it went: prctl(2), PR_SET_PDEATHSIG.
WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != {pid}:
    sys.exit("whoever started this pikerd is gone")
"""
PIKERD = """
import sys, signal, trio
from piker import log, service
from piker.cli import daemon
daemon.SERVICES = {"sample.*": "sample_service:main", **daemon.SERVICES}
daemon.run(registry="127.0.0.1:0", log_level=None)
"""


class Pikerd:
    """A pikerd of the test's own, started and ended as a person would.

    ``before`` are lines of Python that it runs first.
    """

    def __init__(self, before: str = "") -> None:
        self._program = before + PIKERD
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; it is found through pikerd.json."""
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        program = WITH_US.format(pid=os.getpid()) + self._program
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}
        )
        return self.process

    async def ready(self) -> service.PikerdInfo:
        """Wait until it serves."""
        with trio.fail_after(20):
            while (info := service.read_pikerd()) is None or info.pid != self.process.pid:
                assert self.process.poll() is None, "pikerd ended by itself"
                await trio.sleep(0.01)
        return info

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(20)
