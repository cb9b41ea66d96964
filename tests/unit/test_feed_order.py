"""A client's stream of quotes and events: nothing that a lapped market cost is paid by another."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

from piker.data.feed import Feed
from piker.data.quotes import QuoteMaker
from piker.data.shm import TickRing
from piker.ticks import TICK_FORMAT, Quote, Resync


def trade(ring: TickRing, count: int) -> None:
    """Append trades."""
    for _ in range(count):
        row = (ring.last_index, 1, 100.0, 1.0, 0.0, 0.0, -1, 0, 1, 1, 0)
        ring.extend_packed(struct.pack(TICK_FORMAT, *row))


async def test_every_tick_is_seen_or_counted_when_one_market_is_lapped(tmp_path: Path) -> None:
    """The Resync comes first, then the quotes that were folded with it, of both markets."""
    feed, rings = Feed(None), {}
    for name in "ab":
        rings[name], _ = TickRing.open_writer("v", name, rows=64, path=tmp_path / name)
        maker, cursor = QuoteMaker(Quote(name)), rings[name].cursor()
        feed._lines[name] = SimpleNamespace(maker=maker, cursor=cursor)  # type: ignore[assignment]
    trade(rings["a"], 500)
    trade(rings["b"], 5)
    event = await feed.receive()
    assert isinstance(event, Resync)
    assert (event.reason, event.symbol) == ("lagged", "a")
    trade(rings["a"], 1)
    trade(rings["b"], 1)
    seen = {"a": 0, "b": 0}
    for _ in range(2):
        for name, quote in (await feed.receive()).items():
            seen[name] += len(quote.ticks)
    assert (event.missed + seen["a"], seen["b"]) == (501, 6)
