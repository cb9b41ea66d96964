"""A backend's dialog with the loopback Kraken, and what emsd would make of its events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
import trio
from kraken_client import ALICE, OWNERS, Trader

from piker.brokers.credentials import Credentials, ErasableSecret
from piker.brokers.kraken import broker
from piker.brokers.kraken.broker_dialog import Patience
from piker.clearing.requests import client_id_of
from piker.clock import wall_ns
from piker.orders import (
    Action,
    BrokerdBalance,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdStatus,
    BrokerdSync,
    OrderKind,
)
from piker.testing.accounts import AccountSpec
from piker.testing.loopback import open_loopback, point_backend_at

_numbers = count()
QUICK = Patience(
    answer_s=0.6,
    deadline_s=1.2,
    snapshot_s=0.5,
    audit_s=3.0,
    rearm_s=2.0,
    retry_s=0.05,
    retry_cap_s=0.4,
)


def credentials(spec: AccountSpec = ALICE) -> Credentials:
    """Return an account's key as brokerd would have it."""
    assert spec.secret is not None
    return Credentials(
        venue="kraken", account="main", key=ErasableSecret(spec.key),
        secret=ErasableSecret(spec.secret.reveal()), source="test",
    )  # fmt: skip


class Emsd:
    """What emsd would know of the account, by the events alone; it sends requests, too."""

    def __init__(self, dialog: Any) -> None:
        self.dialog = dialog
        self.account = dialog.account
        self.events: list[Any] = []
        self.fills: dict[str, BrokerdFill] = {}
        self.twice = 0
        self.balances: dict[str, BrokerdBalance] = {}
        self.sync = ""
        self._news = trio.Event()

    async def hear(self, events: trio.MemoryReceiveChannel[Any]) -> None:
        """Take events in."""
        async for event in events:
            self.events.append(event)
            if isinstance(event, BrokerdFill):
                self.twice += event.tid in self.fills
                assert self.fills.setdefault(event.tid, event).size == event.size
            elif isinstance(event, BrokerdBalance):
                self.balances[event.asset] = event
            elif isinstance(event, BrokerdSync):
                self.sync = str(event.state)
            self._news.set()
            self._news = trio.Event()

    async def until(self, holds: Callable[[], Any], wait_s: float = 20) -> None:
        """Wait until something holds of what was told."""
        with trio.move_on_after(wait_s) as scope:
            while not holds():
                await self._news.wait()
        assert not scope.cancelled_caught, "\n".join(map(str, self.events[-20:]))

    async def synced(self) -> None:
        """Wait until the account is compared."""
        await self.until(lambda: self.sync == "synced")

    # -- orders --------------------------------------------------------------------------------
    async def order(self, oid: str, side: str, size: Any, price: Any = None, **more: Any) -> Any:
        """Send an order in XBT/USD; return it."""
        kind = more.pop("kind", OrderKind.MARKET if price is None else OrderKind.LIMIT)
        order = BrokerdOrder(
            oid=oid, client_id=client_id_of(oid), account=self.account, time_ns=wall_ns(),
            symbol=more.pop("symbol", "xbtusd.spot"), action=Action(side), size=Decimal(size),
            kind=kind, price=None if price is None else Decimal(price), **more,
        )  # fmt: skip
        await self.dialog.send(order)
        return order

    async def cancel(self, oid: str) -> None:
        """Send a cancel."""
        await self.dialog.send(
            BrokerdCancel(
                oid=oid, client_id=client_id_of(oid), account=self.account, symbol="xbtusd.spot",
                time_ns=wall_ns(), reqid=self.reqid(oid),
            )
        )  # fmt: skip

    def of(self, oid: str, *kinds: type) -> list[Any]:
        """Return the events of an order."""
        found = [event for event in self.events if getattr(event, "oid", "") == oid]
        return [event for event in found if not kinds or isinstance(event, kinds)]

    def reqid(self, oid: str) -> str:
        """Return the venue's id of an order, as it was told."""
        acks = self.of(oid, BrokerdOrderAck)
        return acks[-1].reqid if acks else ""

    def statuses(self, oid: str) -> list[str]:
        """Return the statuses that were told of an order."""
        return [event.status for event in self.of(oid, BrokerdStatus)]

    def errors(self, oid: str) -> list[Any]:
        """Return the errors that were told of an order."""
        return self.of(oid, BrokerdError)

    def filled(self, oid: str) -> Decimal:
        """Return the sum of an order's fills, each counted once."""
        return sum((one.size for one in self.fills.values() if one.oid == oid), Decimal(0))

    async def status(self, oid: str, status: str) -> BrokerdStatus:
        """Wait for a status of an order; return it."""
        await self.until(lambda: status in self.statuses(oid))
        return next(e for e in self.of(oid, BrokerdStatus) if e.status == status)


@asynccontextmanager
async def trading(
    beliefs: Sequence[BrokerdBelief] = (), spec: AccountSpec = ALICE
) -> AsyncIterator[Emsd]:
    """Open a dialog with whatever venue the configuration names; yield emsd's view of it.

    Each has an account's name of its own: the counters of rates outlive a venue of these tests.
    """
    account = f"kraken.t{next(_numbers)}"
    send, receive = trio.open_memory_channel[Any](1000)
    async with trio.open_nursery() as nursery:
        opened = broker.open_trade_dialog(account, credentials(spec), beliefs, send)
        async with opened as dialog:
            emsd = Emsd(dialog)
            nursery.start_soon(emsd.hear, receive)
            yield emsd
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def venue_at(**more: Any) -> AsyncIterator[Any]:
    """Serve a loopback Kraken that backends of this process talk to; yield (venue, bob)."""
    accounts = more.pop("accounts", OWNERS)
    more.setdefault("rate", 0.01)
    async with open_loopback("kraken", symbols=2, accounts=accounts, **more) as (venue, port):
        point_backend_at("kraken", port)
        yield venue, Trader(port, OWNERS[1])
        assert venue.gate.counters.errors == 0


@asynccontextmanager
async def session(**more: Any) -> AsyncIterator[Any]:
    """Serve a venue and open a dialog, both synced; yield (venue, bob, emsd)."""
    async with venue_at(**more) as (venue, bob), trading() as emsd:
        await emsd.synced()
        yield venue, bob, emsd


@pytest.fixture
def quick(piker_dirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the backend wait less than a real venue needs."""
    monkeypatch.setattr(broker, "PATIENCE", QUICK)


def account_at(venue: Any, name: str = "alice") -> Any:
    """Return the venue's own account."""
    return venue.accounts.desk.accounts[name]


async def agree(venue: Any, emsd: Emsd, name: str = "alice", wait_s: float = 20) -> None:
    """Wait until what was told equals what the venue has: orders, fills, fees, balances."""
    account = account_at(venue, name)
    await emsd.until(lambda: not _differences(account, emsd), wait_s)
    assert all(fill.fee_asset == "usd" for fill in emsd.fills.values())


def _differences(account: Any, emsd: Emsd) -> list[str]:
    """Return in words where both differ."""
    found: list[str] = []
    theirs = {row["id"]: row for row in account.fills}
    if set(emsd.fills) != set(theirs):
        found.append(f"fills: {set(emsd.fills) ^ set(theirs)}")
    for tid in set(emsd.fills) & set(theirs):
        fill, row = emsd.fills[tid], theirs[tid]
        told = (fill.size, fill.price, fill.fee, fill.maker, str(fill.action), fill.reqid)
        has = (*(Decimal(row[key]) for key in ("vol", "price", "fee")), row["maker"], row["type"],
               row["ordertxid"])  # fmt: skip
        if told != has:
            found.append(f"fill {told}, {has}")
    words = {"NEW": "open", "PARTIALLY_FILLED": "open", "FILLED": "closed",
             "CANCELED": "canceled", "EXPIRED": "expired"}  # fmt: skip
    last = {e.reqid: e for e in emsd.events if isinstance(e, BrokerdStatus) and e.reqid}
    for order in account.orders.values():
        told_ = last.get(order.txid)
        if told_ is None or told_.status != words[order.status]:
            found.append(f"{order.txid} {order.status}: {told_}")
        elif told_.status != "open" and told_.filled != order.filled:
            found.append(f"{order.txid} filled {order.filled}: {told_}")
    for asset, one in account.purse.assets.items():
        if emsd.balances[asset.lower()].total != one.free + one.locked:
            found.append(f"{asset}: {emsd.balances[asset.lower()].total}")
    return found


class Proxy:
    """A TCP relay before a venue; while ``deaf``, nothing gets through that websockets say."""

    def __init__(self, port: int) -> None:
        self.port, self.deaf = port, False

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled; the started value is the port."""
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            task_status.started(listeners[0].socket.getsockname()[1])
            await trio.serve_listeners(self._relay, listeners, handler_nursery=nursery)

    async def _relay(self, client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as server, client:

            async def copy(source: Any, target: Any, *, heard: bool) -> None:
                is_socket = False
                try:
                    while data := await source.receive_some(65_536):
                        is_socket = is_socket or data.startswith(b"GET /v2")
                        if not (heard and self.deaf and is_socket):
                            await target.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: copy(client, server, heard=True))
                nursery.start_soon(lambda: copy(server, client, heard=False))
