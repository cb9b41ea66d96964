"""What the tests of Binance's order dialog share: a dialog, and what emsd would make of it."""

from __future__ import annotations

from base64 import b32encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import blake2b
from itertools import count
from typing import Any

import trio
from msgspec.structs import replace

from piker.brokers import limits
from piker.brokers.binance.broker import open_trade_dialog
from piker.brokers.credentials import Credentials, ErasableSecret
from piker.clock import wall_ns
from piker.config import config_dir
from piker.orders import (
    Action,
    BrokerdBalance,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdPosition,
    BrokerdStatus,
    BrokerdSync,
    OrderKind,
    TimeInForce,
)
from piker.testing.accounts import AccountSpec
from piker.testing.loopback import brokers_toml

ACCOUNT = "binance.main"
SPOT, PERP = "btcusdt.spot", "btcusdt.usdtm.perp"
WAIT_S = 30
_numbers = count(1)


def client_id_of(oid: str) -> str:
    """Return a client id as emsd makes them: 28 letters and digits."""
    return "pk" + b32encode(blake2b(oid.encode(), digest_size=16).digest()).decode()[:26].lower()


def credentials_of(spec: AccountSpec) -> Credentials:
    """Return the key of a loopback account."""
    assert spec.secret is not None
    return Credentials(
        venue="binance", account="main", key=ErasableSecret(spec.key),
        secret=ErasableSecret(spec.secret.reveal()), source="test",
    )  # fmt: skip


def point_at(port: int, **options: int) -> None:
    """Point the backend at a loopback venue, with options of its own; its limits are all unused."""
    limits._budgets.clear()
    text = brokers_toml("binance", port)
    said = {"recv_window_ms": 5000, "patience_s": 1, **options}
    table = ", ".join(f"{name} = {value}" for name, value in said.items())
    (config_dir() / "brokers.toml").write_text(f"[binance]\noptions = {{{table}}}\n{text}")


def order_of(action: str, size: Any, price: Any = None, **more: Any) -> BrokerdOrder:
    """Return an order; limited where it has a price, at spot unless told otherwise."""
    oid = more.pop("oid", "") or f"order-{next(_numbers)}"
    if price is not None:
        more.setdefault("kind", "limit")
        more["price"] = Decimal(price)
    more["kind"] = OrderKind(more.get("kind", "market"))
    more["tif"] = TimeInForce(more.get("tif", "gtc"))
    return BrokerdOrder(
        oid=oid, client_id=client_id_of(oid), account=ACCOUNT, time_ns=wall_ns(),
        symbol=more.pop("symbol", SPOT), action=Action(action), size=Decimal(size),
        **more,
    )  # fmt: skip


class View:
    """What emsd would make of a dialog's events: by oid, and in their order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.fills: dict[tuple[str, str], BrokerdFill] = {}  # by market and trade
        self.status: dict[str, BrokerdStatus] = {}
        self.reqid: dict[str, str] = {}
        self.errors: dict[str, list[BrokerdError]] = {}
        self.positions: dict[str, BrokerdPosition] = {}
        self.balances: dict[str, BrokerdBalance] = {}
        self.sync = ""
        self._news = trio.Event()

    def take(self, event: Any) -> None:
        """Take an event in."""
        self.events.append(event)
        if isinstance(event, BrokerdFill):
            self.fills.setdefault((event.symbol, event.tid), event)
        elif isinstance(event, BrokerdStatus):
            self.status[event.oid or event.reqid] = event
        elif isinstance(event, BrokerdOrderAck):
            self.reqid[event.oid] = event.reqid
        elif isinstance(event, BrokerdError):
            self.errors.setdefault(event.oid, []).append(event)
        elif isinstance(event, BrokerdPosition):
            self.positions[event.symbol] = event
        elif isinstance(event, BrokerdBalance):
            self.balances[event.asset] = event
        elif isinstance(event, BrokerdSync):
            self.sync = event.state
        self._news.set()
        self._news = trio.Event()

    async def until(self, what: Callable[[], Any], within_s: float = WAIT_S) -> None:
        """Wait until something holds."""
        with trio.move_on_after(within_s) as scope:
            while not what():
                await self._news.wait()
        shown = "\n".join(map(str, self.events[-12:]))
        assert not scope.cancelled_caught or what(), f"it did not come:\n{shown}"

    async def until_status(self, oid: str, *statuses: str) -> BrokerdStatus:
        """Wait for one of these statuses of an order; return it."""
        await self.until(lambda: oid in self.status and self.status[oid].status in statuses)
        return self.status[oid]

    async def until_error(self, oid: str) -> BrokerdError:
        """Wait for a refusal of a request about an order; return the latest."""
        await self.until(lambda: self.errors.get(oid))
        return self.errors[oid][-1]

    def lose(self) -> None:
        """Know no more how any order stands that had not ended: the process is gone."""
        for oid, told in self.status.items():
            if told.status not in ("closed", "canceled", "expired", "rejected", "absent"):
                self.status[oid] = replace(told, status="unknown")
        self.sync = ""
        self._news.set()
        self._news = trio.Event()

    def filled(self, oid: str) -> Decimal:
        """Return what was filled of an order."""
        return sum((f.size for f in self.fills.values() if f.oid == oid), Decimal(0))

    def believe(self, order: BrokerdOrder, **more: Any) -> BrokerdBelief:
        """Return what emsd would believe of an order at a restart."""
        reqid = self.reqid.get(order.oid, "")
        return BrokerdBelief(
            order=replace(order, reqid=reqid, **more), filled=self.filled(order.oid)
        )


class Ems:
    """A dialog with its view; ``send`` sends, the helpers wait for what comes of it."""

    def __init__(self, dialog: Any, view: View) -> None:
        self.dialog, self.view = dialog, view

    async def send(self, request: Any) -> Any:
        """Send a request."""
        await self.dialog.send(request)
        return request

    async def cancel(self, order: BrokerdOrder, **more: Any) -> None:
        """Send a cancel of an order."""
        said = {"reqid": self.view.reqid.get(order.oid, ""), **more}
        await self.send(
            BrokerdCancel(
                oid=order.oid, client_id=order.client_id, account=ACCOUNT, symbol=order.symbol,
                time_ns=wall_ns(), **said,
            )
        )  # fmt: skip

    async def edit(self, order: BrokerdOrder, **changes: Any) -> BrokerdOrder:
        """Send an edit of an order; return its new terms."""
        edited = replace(order, reqid=self.view.reqid[order.oid], **changes)
        await self.send(edited)
        return edited

    async def edited(self, order: BrokerdOrder, **changes: Any) -> str:
        """Send an edit of an order and wait for its ack; return the venue's id of it then."""
        before = len(self.view.events)
        await self.edit(order, **changes)
        await self.view.until(
            lambda: any(getattr(e, "request", "") == "edit" for e in self.view.events[before:])
        )
        assert order.oid not in self.view.errors
        return self.view.reqid[order.oid]


@asynccontextmanager
async def dialog_of(
    spec: AccountSpec,
    beliefs: Sequence[BrokerdBelief] = (),
    *,
    synced: bool = True,
    view: View | None = None,
) -> AsyncIterator[Ems]:
    """Open a dialog, and wait until it is synced; a ``view`` goes on from what it had."""
    view = view or View()
    into, out = trio.open_memory_channel[Any](64)

    async def read() -> None:
        async for event in out:
            view.take(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with open_trade_dialog(ACCOUNT, credentials_of(spec), beliefs, into) as dialog:
            if synced:
                await view.until(lambda: view.sync == "synced")
            yield Ems(dialog, view)
        nursery.cancel_scope.cancel()
