"""A router on a real journal, with the paper broker in this process behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing

from piker.clearing.accounts import Account
from piker.clearing.journal import open_journal
from piker.clearing.paper import PaperBroker
from piker.clearing.risk import Limits, RiskDesk
from piker.clearing.router import Router
from piker.clock import wall_ns
from piker.errors import Transient
from piker.market import Asset, AssetType, MktPair
from piker.orders import (
    Action,
    BrokerdEvent,
    BrokerdRequest,
    BrokerdSync,
    Order,
    Status,
    SyncState,
)

__all__ = ["BTC", "OFFERED", "PAPER", "PERP", "PaperLink", "order", "routing", "told"]

D = Decimal
PAPER = "binance.paper"
BTC = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT",
    dst=Asset("btc", AssetType.CRYPTO), src=Asset("usdt", AssetType.CRYPTO),
    price_tick=D("0.01"), size_tick=D("0.001"),
)  # fmt: skip
PERP = msgspec.structs.replace(BTC, fqme="btcusdt.usdtm.perp.binance")


def order(oid: str = "a", **changes: Any) -> Order:
    """Return an order to buy two at ninety-nine."""
    one = Order(oid=oid, symbol=BTC.fqme, account=PAPER, action=Action.BUY, size=D(2), price=D(99))
    return msgspec.structs.replace(one, **changes)


OFFERED = {"market", "limit", "ioc", "fok", "post_only", "edit"}


class PaperLink:
    """The paper broker behind a router's seam, in this process; it can be cut."""

    name = "paper.queue"

    def __init__(self) -> None:
        self.broker = PaperBroker(PAPER)
        self.broker.know(BTC)
        self.sent: list[BrokerdRequest] = []
        self.told: list[BrokerdEvent] = []
        self.cut = False
        self.router: Router | None = None

    async def send(self, request: BrokerdRequest) -> None:
        """Carry it out and tell the router at once."""
        self.sent.append(request)
        if self.cut:
            raise Transient("the line is cut.")
        self.tell(self.broker.request(request, wall_ns()))

    def ask_again(self) -> None:
        """Have nothing to ask: it is in this process."""

    def tell(self, events: list[BrokerdEvent]) -> None:
        """Let the router hear, as its link's task would."""
        assert self.router is not None
        self.told += events
        for event in events:
            self.router.hear(PAPER, event)

    def quote(self, bid: int = 99, ask: int = 101) -> None:
        """Show ten on either side."""
        self.tell(self.broker.quote(BTC.mktid, (D(bid), D(10)), (D(ask), D(10)), wall_ns()))


@asynccontextmanager
async def routing(
    folder: Path, link: PaperLink | None = None
) -> AsyncIterator[tuple[Router, PaperLink]]:
    """Run a router on the journal in a folder."""
    link = link or PaperLink()
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        router.add(Account(PAPER, RiskDesk(PAPER, Limits()), link, lambda _, what: what in OFFERED))
        router.know(BTC)
        link.router = router
        await router.recover()
        router.hear(PAPER, BrokerdSync(account=PAPER, state=SyncState.SYNCED, time_ns=wall_ns()))
        router.price(BTC.fqme, D(100), wall_ns())
        link.quote()
        yield router, link
        nursery.cancel_scope.cancel()


async def told(
    news: trio.MemoryReceiveChannel[Any], *, upto: str, within_s: float = 10
) -> list[str]:
    """Return the words of statuses, up to one of them."""
    words = []
    with trio.fail_after(within_s):
        async for one in news:
            assert isinstance(one, Status)
            words.append(one.resp)
            if one.resp == upto:
                return words
    raise AssertionError(words)
