"""What a client and datad say to each other. Frozen structs, decoded once at the edge."""

from __future__ import annotations

import msgspec

from piker.data.shm import Token
from piker.market import MktPair
from piker.ticks import Backfill, Outage, Quote, Resync

__all__ = ["FeedEvent", "FeedStats", "FlumeInfo"]

#: What datad sends on a feed's dialog, in order; quotes do not travel here.
FeedEvent = Resync | Outage | Backfill


class FlumeInfo(msgspec.Struct, frozen=True):
    """Where one market's live data are. ``asked`` is what the client asked for."""

    asked: str
    mkt: MktPair
    first_quote: Quote
    ticks: Token
    bars_1s: Token
    bars_1m: Token


class FeedStats(msgspec.Struct, frozen=True):
    """Counters of a datad since it started."""

    ticks: int = 0
    markets: int = 0
    clients: int = 0
    reconnects: int = 0
    resyncs: int = 0
    corrections: int = 0
    late_trades: int = 0
    restarts: int = 0
    data_quality: dict[str, int] = {}
