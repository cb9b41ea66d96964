"""Follow a feed's tick rings and keep every tick: what ``piker record --store`` does.

Rows are taken out of the rings twenty times a second, so that no ring laps us, and stored when
``FLUSH_S`` have passed or ``FLUSH_ROWS`` wait. What was stored is told after it is on the disk.
A store that can not be written (a full disk) is tried again; rows wait meanwhile, up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import trio

from piker.data.feed import Feed, Flume
from piker.data.shm import Cursor
from piker.data.store.ticks import Batch, Kept, TickStore, heard
from piker.data.store.ticks_schema import Gap
from piker.data.store.ticks_segment import TickSeries, series_of
from piker.data.store.ticks_upkeep import tidy
from piker.errors import StoreError
from piker.log import get_logger
from piker.ticks import TICK_DTYPE, Outage, Resync

__all__ = ["EVENT_HZ", "FLUSH_ROWS", "FLUSH_S", "TickRecorder"]

FLUSH_S = 5.0  # what a kill of the recorder and its feed may cost
FLUSH_ROWS = 50_000  # 3.4 MB: a sync of the disk costs more than writing it
POLL_S = 0.05  # a ring of 65,536 rows laps a reader at 1,280,000 ticks a second
TAKE_ROWS = 65_536  # taken at a time
WAITING_ROWS = 1_000_000  # 64 MB of memory, for all markets of a feed, while nothing can be stored
RETRY_S = 2.0  # between attempts while nothing can be stored
MARKETS_A_COMMIT = 64  # each holds a lock and writes a file
TIDY_FLUSHES = 32  # flushes between two merges, as many as make a tier
SAID = 1000  # events of a market that wait to be stored
EVENT_HZ = 10.0  # of the quotes that a feed makes beside its events: ten small folds, no long one
log = get_logger("ticks")

Rows = np.ndarray[Any, np.dtype[Any]]


class _Line:
    """One market: its ring, and what waits to be stored."""

    def __init__(self, series: TickSeries) -> None:
        self.series = series
        self.flume: Flume | None = None
        self.ring = 0
        self.cursor: Cursor | None = None
        self.waiting: list[Rows] = []
        self.said: list[Gap] = []
        self.ends = False  # the ring was replaced, and all of it was taken

    def take(self, room: int) -> int:
        """Take new rows out of the ring; return how many."""
        taken = 0
        while self.cursor is not None and self.cursor.pending() > 0 and taken < room:
            rows = self.cursor.take(TAKE_ROWS).rows
            if not len(rows):
                break
            self.waiting.append(rows)
            taken += len(rows)
        return taken

    def batch(self) -> Batch:
        """Return what waits; it waits until ``done`` says that it is stored."""
        rows = np.concatenate(self.waiting) if self.waiting else np.zeros(0, TICK_DTYPE)
        return Batch(self.series, self.ring, rows, tuple(self.said))

    def done(self, batch: Batch, pieces: int) -> None:
        """Forget what was stored; more may have come meanwhile."""
        del self.waiting[:pieces]
        del self.said[: len(batch.said)]


class TickRecorder:
    """Keeps the ticks of one feed. ``on_kept`` is called after each commit, ``on_trouble`` with
    the error when nothing can be stored, and with None when it can again.
    """

    def __init__(
        self, feed: Feed, store: TickStore, *, flush_s: float = FLUSH_S,
        on_kept: Callable[[Sequence[Kept]], None],
        on_trouble: Callable[[StoreError | None], None],
    ) -> None:  # fmt: skip
        self._feed, self._store, self._flush_s = feed, store, flush_s
        self._on_kept, self._on_trouble = on_kept, on_trouble
        self._lines = {fqme: _Line(series_of(fqme)) for fqme in feed.flumes}
        self._rows = 0  # that wait, of all lines
        self._failing = False
        self._flushes = 0
        self._tidy = trio.Event()
        self._stop = trio.Event()

    def stop(self) -> None:
        """Let ``run`` store what waits, and return."""
        self._stop.set()

    async def run(self) -> None:
        """Record until ``stop``; then what is in the rings is stored, once more.

        Cancelled, it leaves what is not stored yet. Raises ``StoreError`` when the last attempt
        fails, and when the store can not be opened at all.
        """
        for line in self._lines.values():
            await self._attach(line)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._merge)
            nursery.start_soon(self._drain)
            while not self._stop.is_set():
                await self._pause()
                await self._flush()
            nursery.cancel_scope.cancel()
        self._take()
        await self._flush(last=True)

    # -- in ----------------------------------------------------------------------------------
    async def _drain(self) -> None:
        while True:
            self._take()
            await trio.sleep(POLL_S)

    def _take(self) -> None:
        """Take what the rings have; of a ring that was replaced, its last rows."""
        for fqme, line in self._lines.items():
            if not line.ends:
                replaced = self._feed.flumes[fqme] is not line.flume
                self._rows += line.take(WAITING_ROWS - self._rows)
                if replaced and self._rows < WAITING_ROWS:
                    line.ends = True

    async def _listen(self) -> None:
        async for event in self._feed:
            if isinstance(event, Outage):
                gap = heard("outage", event.reason)
            elif isinstance(event, Resync) and event.reason != "lagged":  # of its quotes, not ours
                why = f"{event.reason} {event.detail}".strip()
                gap = heard("resync", why, event.missed)
            else:
                continue
            for fqme, line in self._lines.items():
                if event.symbol in ("", fqme) and len(line.said) < SAID:
                    line.said.append(gap)

    # -- out ---------------------------------------------------------------------------------
    async def _pause(self) -> None:
        """Wait until it is time to store, or to stop."""
        with trio.move_on_after(RETRY_S if self._failing else self._flush_s):
            while not self._stop.is_set():
                due = self._rows >= FLUSH_ROWS or any(line.ends for line in self._lines.values())
                if due and not self._failing:
                    return
                with trio.move_on_after(POLL_S / 2):
                    await self._stop.wait()

    async def _flush(self, *, last: bool = False) -> None:
        """Store what waits; a failure keeps it waiting."""
        lines = [line for line in self._lines.values() if line.waiting or line.said]
        try:
            for begin in range(0, len(lines), MARKETS_A_COMMIT):
                await self._append(lines[begin : begin + MARKETS_A_COMMIT])
            for line in self._lines.values():
                if line.ends and not line.waiting:
                    await self._attach(line)
        except StoreError as err:
            if last:
                raise
            if not self._failing:
                self._failing = True
                log.error("ticks.not-stored", error=str(err), waiting=self._rows)
                self._on_trouble(err)
            return
        if self._failing:
            self._failing = False
            self._on_trouble(None)
        self._flushes += 1
        if self._flushes % TIDY_FLUSHES == 1:
            self._tidy.set()

    async def _append(self, lines: Sequence[_Line]) -> None:
        pieces = [len(line.waiting) for line in lines]
        batches = [line.batch() for line in lines]
        kept = await trio.to_thread.run_sync(self._store.append, batches)
        for line, batch, count in zip(lines, batches, pieces, strict=True):
            line.done(batch, count)
            self._rows -= len(batch.rows)
        self._on_kept(kept)

    async def _attach(self, line: _Line) -> None:
        """Go on with the ring that the feed has now, where the store ends."""
        flume = self._feed.flumes[line.series.fqme]
        place = await trio.to_thread.run_sync(self._store.attach, line.series, flume.ticks)
        line.flume, line.ring, line.ends = flume, place.ring, False
        line.cursor = Cursor(flume.ticks, place.position)

    async def _merge(self) -> None:
        while True:
            await self._tidy.wait()
            self._tidy = trio.Event()
            for line in self._lines.values():
                try:
                    await trio.to_thread.run_sync(tidy, self._store, line.series)
                except StoreError as err:
                    log.warning("ticks.not-merged", market=line.series.fqme, error=str(err))
