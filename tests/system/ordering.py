"""What tests of orders share: a paper account at a loopback venue, its journal, a moved market."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import trio
from daemons import Pikerd

from piker import config, service
from piker.clearing._ems import journal_path
from piker.clearing.client import OrderClient, open_ems
from piker.clearing.journal import open_journal
from piker.clearing.records import Happened, Record
from piker.clock import wall_ns
from piker.data.feed import open_feed
from piker.orders import SyncState
from piker.testing.engine import BUY, SELL
from piker.testing.loopback import open_loopback, point_backend_at

__all__ = [
    "FQME",
    "PAPER",
    "SOON_S",
    "MovedMarket",
    "bid",
    "fills_of",
    "happened",
    "kill",
    "open_venue",
    "pid_of",
    "synced",
    "trading",
]

FQME = "btcusdt.spot.binance"
PAPER = "binance.paper"
SOON_S = 60  # nothing here takes longer unless it is broken
HUGE = 10**9  # lots: more than the flow trades in a test
Happening = tuple[Record, Happened]


@asynccontextmanager
async def open_venue() -> AsyncIterator[Any]:  # Any: a venue is one of several
    """Serve a synthetic Binance; the paper venue is next door."""
    (config.config_dir() / "conf.toml").write_text("[paper]\nlatency_ms = 0\n")
    async with open_loopback("binance", symbols=2, rate=20, limits=False) as (served, port):
        point_backend_at("binance", port)
        yield served


@asynccontextmanager
async def trading(pikerd: Pikerd) -> AsyncIterator[OrderClient]:
    """Open the paper account, synced, and its market."""
    with trio.fail_after(SOON_S):
        await pikerd.ready()
        async with open_ems(FQME, mode="paper", name="test") as ems:
            await synced(ems)
            yield ems


async def synced(ems: OrderClient) -> None:
    """Wait until the account is heard."""
    while ems.accounts[PAPER].sync is not SyncState.SYNCED:
        await ems.changed()


async def bid() -> Decimal:
    """Return the market's best bid now."""
    async with open_feed([FQME]) as feed:
        flume = feed.flumes[FQME]
        assert flume.first_quote.bid is not None
        return flume.mkt.round_price(repr(flume.first_quote.bid))


# -- processes ---------------------------------------------------------------------------------
async def pid_of(name: str) -> int:
    """Return a service's process."""
    return next(one.pid for one in await service.list_services() if one.name == name)


async def kill(name: str) -> None:
    """SIGKILL a service and wait for its end."""
    pid = await pid_of(name)
    os.kill(pid, signal.SIGKILL)
    await service.wait_exit(pid)


# -- the journal -------------------------------------------------------------------------------
async def happened(kind: str, oid: str = "") -> list[Happening]:
    """Return the journal's rows of one kind of event, of one order where named."""
    async with open_journal(journal_path(), read_only=True) as journal:
        return [
            (record, record.entry) async for record in journal.read()
            if isinstance(record.entry, Happened) and record.entry.event.kind == kind
            and oid in ("", record.oid)
        ]  # fmt: skip


async def fills_of(oid: str) -> dict[str, Decimal]:
    """Return the sizes of an order's fills as the journal has them, by trade: each once."""
    rows = await happened("fill", oid)
    found = {entry.event.tid: entry.event.size for _, entry in rows}
    assert len(found) == len(rows)
    return found


# -- the market --------------------------------------------------------------------------------
class MovedMarket:
    """Bitcoin at a synthetic venue, traded to where it is wanted and held there.

    A resting order that is larger than anything the flow does stands at the last price.
    """

    def __init__(self, venue: Any) -> None:
        self._venue = venue
        self._market = venue.streams.markets["spot", "btcusdt"]
        self._held = 0

    def go(self, price: Decimal) -> None:
        """Trade at a price, and let no trade go back behind it."""
        synthetic = self._market.listing.market
        if self._held:
            synthetic.withdraw(self._held)
        time_ms, before = wall_ns() // 1_000_000, synthetic.engine.top()
        ticks = int(price / Decimal(str(synthetic.spec.tick)))
        side = BUY if ticks > before.ask else SELL
        self._held, trades = synthetic.place(side, ticks, HUGE, time_ms)
        trades += synthetic.place(-side, ticks, 1, time_ms)[1]
        self._venue.streams.traded(self._market, trades, time_ms)
        self._venue.streams.moved(self._market, before, time_ms)
