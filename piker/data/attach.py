"""The synchronous reader: map a running feed's arrays from a notebook or any other program.

No daemon is asked and nothing is started; somebody else keeps the feed open.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from piker.config import nearest, runtime_dir
from piker.data._segment import Segment
from piker.data.shm import ShmArray, Taken, TickRing, segment_path
from piker.data.wake import WakeReceiver, wake_dir
from piker.errors import ShmError
from piker.market import parse_fqme

__all__ = ["AttachedFlume", "attach"]


class AttachedFlume:
    """One market's arrays, read-only."""

    def __init__(self, fqme: str, ticks: TickRing, seconds: ShmArray, minutes: ShmArray) -> None:
        self.fqme = fqme
        self.ticks = ticks
        self.bars_1s = seconds
        self.bars_1m = minutes

    def is_live(self) -> bool:
        """Tell whether the writer lives and its upstream flows."""
        return self.ticks.is_live()

    def follow(self, timeout_s: float | None = None) -> Iterator[Taken]:
        """Yield new ticks as they come, blocking in between; end after ``timeout_s`` of silence."""
        cursor = self.ticks.cursor()
        receiver = WakeReceiver(wake_dir(parse_fqme(self.fqme).provider))
        try:
            while True:
                if cursor.pending():
                    yield cursor.take()
                elif not receiver.wait_sync(timeout_s):
                    return
        finally:
            receiver.close()


def attach(fqme: str) -> AttachedFlume:
    """Attach to a feed that runs; raise ``ShmError`` that names the nearest running one."""
    address = parse_fqme(fqme)
    paths = {what: segment_path(address.provider, address.mktid, what) for what in _WHAT}
    if not paths["ticks"].exists():
        raise ShmError(
            f"{fqme} is not streaming.",
            remedy=nearest(fqme, _running()) or f"Start it: piker feed {fqme}",
        )
    ring = TickRing(Segment.open_reader(paths["ticks"]))
    seconds = ShmArray(Segment.open_reader(paths["1s"]))
    minutes = ShmArray(Segment.open_reader(paths["1m"]))
    return AttachedFlume(str(address), ring, seconds, minutes)


_WHAT = ("ticks", "1s", "1m")


def _running() -> list[str]:
    root: Path = runtime_dir() / "shm"
    suffix = ".ticks.seg"
    return [f"{path.name[: -len(suffix)]}.{path.parent.name}" for path in root.glob(f"*/*{suffix}")]
