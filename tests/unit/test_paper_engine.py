"""paperboi's account at work: what it says of orders while markets come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from paper_routing import BTC

from piker.brokers.spec import Capabilities
from piker.clearing import _paper_engine
from piker.clearing._paper_engine import OPEN_S, PaperEngine, open_paper_dialog
from piker.clearing.paper_money import PaperMoney
from piker.errors import PeerLost, PikerError
from piker.market import Asset
from piker.orders import (
    Action,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdStatus,
    OrderKind,
    TimeInForce,
)
from piker.ticks import Quote

D = Decimal
NAME = "binance.paper"
ETH = msgspec.structs.replace(
    BTC, fqme="ethusdt.spot.binance", bs_mktid="ETHUSDT", dst=Asset("eth")
)


def quote(bid: float, ask: float, size: float = 1.0, fqme: str = BTC.fqme) -> dict[str, Quote]:
    """Return what a feed gives."""
    return {fqme: Quote(symbol=fqme, bid=bid, bid_size=size, ask=ask, ask_size=size)}


class Feeds:
    """What stands in for datad: each opening takes the next script; an error ends it."""

    def __init__(self) -> None:
        self.send, receive = trio.open_memory_channel[Any](100)
        self.eth, of_eth = trio.open_memory_channel[Any](100)
        self._receive = {BTC.fqme: receive, ETH.fqme: of_eth}
        self.opened = 0

    @asynccontextmanager
    async def open_feed(self, fqmes: Sequence[str], **_: Any) -> AsyncIterator[Any]:
        """Open a feed that has no quote yet."""
        self.opened += 1
        (fqme,) = fqmes
        receive = self._receive[fqme]

        class Feed:
            def __init__(self) -> None:
                mkt = next(one for one in (BTC, ETH) if one.fqme == fqme)
                shown = SimpleNamespace(mkt=mkt, first_quote=Quote(symbol=fqme))
                self.flumes = {fqme: shown}

            def __aiter__(self) -> Feed:
                return self

            async def __anext__(self) -> Any:
                item = await receive.receive()
                if isinstance(item, PikerError):
                    raise item
                return item

        yield Feed()


@asynccontextmanager
async def paperboi(
    monkeypatch: pytest.MonkeyPatch, *beliefs: BrokerdBelief, **start: Decimal
) -> AsyncIterator[tuple[PaperEngine, Feeds, list[BrokerdEvent]]]:
    """Run a dialog whose account starts with some money; what it tells is in the list."""
    feeds, told = Feeds(), list[BrokerdEvent]()
    monkeypatch.setattr(_paper_engine, "open_feed", feeds.open_feed)
    send, receive = trio.open_memory_channel[BrokerdEvent](1000)
    money = PaperMoney(NAME, start)
    async with (
        trio.open_nursery() as nursery,
        open_paper_dialog(
            NAME, beliefs, send, Capabilities(fees={}), money, latency_s=0.0
        ) as engine,
    ):

        async def hear() -> None:
            async for event in receive:
                told.append(event)

        nursery.start_soon(hear)
        assert isinstance(engine, PaperEngine)
        yield engine, feeds, told
        nursery.cancel_scope.cancel()


def order(oid: str = "a", **changes: Any) -> BrokerdOrder:
    """Return an order to buy two at ninety-nine that emsd knows to stand."""
    one = BrokerdOrder(
        oid=oid, client_id=f"pk{oid}", account=NAME, time_ns=1, symbol=BTC.mktid,
        action=Action.BUY, size=D(2), price=D(99), reqid=f"p-{oid}",
    )  # fmt: skip
    return msgspec.structs.replace(one, **changes)


def outcomes(told: list[BrokerdEvent]) -> list[tuple[str, str]]:
    """Return what was told of orders: how they stand, or that they were refused."""
    said = [one for one in told if isinstance(one, BrokerdStatus | BrokerdError)]
    return [(one.oid, getattr(one, "status", "refused")) for one in said]


def filled(told: list[BrokerdEvent]) -> Decimal:
    """Return what was told to be filled."""
    return sum((one.size for one in told if isinstance(one, BrokerdFill)), D(0))


async def test_order_stands_once_when_its_market_opens_late_and_its_feed_is_lost(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It was told not to be known; what fills it afterwards is told once."""
    async with paperboi(monkeypatch, BrokerdBelief(order=order(), filled=D(0))) as (
        _, feeds, told,
    ):  # fmt: skip
        await trio.sleep(OPEN_S + 1)  # no quote came in time
        assert [one.status for one in told if isinstance(one, BrokerdStatus)] == ["unknown"]
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(1)
        feeds.send.send_nowait(PeerLost("datad is gone"))
        await trio.sleep(OPEN_S)  # asked for again: it is not open now
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(2 * OPEN_S)
        for _ in range(4):
            feeds.send.send_nowait(quote(97, 98))
            feeds.send.send_nowait(quote(98, 101))
            await trio.sleep(OPEN_S)
        assert filled(told) == 2
        said = [one.status for one in told if isinstance(one, BrokerdStatus)]
        assert said[-1] == "closed"
        assert said.count("open") == 1


async def test_canceled_order_does_not_trade_when_its_market_opens_late(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Told to be canceled it is gone, whatever was told of its market."""
    async with paperboi(monkeypatch, BrokerdBelief(order=order(), filled=D(0))) as (
        engine, feeds, told,
    ):  # fmt: skip
        await trio.sleep(OPEN_S + 1)
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(1)
        feeds.send.send_nowait(PeerLost("datad is gone"))
        await trio.sleep(OPEN_S)
        cancel = BrokerdCancel(
            oid="a", reqid="p-a", client_id="pka", account=NAME, time_ns=1, symbol=BTC.mktid
        )
        await engine.send(cancel)
        await trio.sleep(1)
        assert [one.status for one in told if isinstance(one, BrokerdStatus)][-1] == "canceled"
        for shown in (quote(98, 101), quote(97, 98)):
            feeds.send.send_nowait(shown)
            await trio.sleep(2 * OPEN_S)
        assert not filled(told)


async def test_absent_order_is_not_absent_again_when_it_was_sent_once_more(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A stop that never came here is sent again; its market may open between the two."""
    stop = order(reqid="", kind=OrderKind.MARKET, price=None)
    belief = BrokerdBelief(order=stop, filled=D(0))
    async with paperboi(monkeypatch, belief) as (engine, feeds, told):
        await trio.sleep(OPEN_S + 1)
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(1)
        await engine.send(stop)
        await trio.sleep(3 * OPEN_S)
        said = [one.status for one in told if isinstance(one, BrokerdStatus)]
        assert said[0] == "absent"
        assert "absent" not in said[1:]
        assert filled(told) > 0  # of what is shown it has its part


@pytest.mark.parametrize(
    ("terms", "stands"),
    [
        ({}, True),
        ({"tif": TimeInForce.IOC}, False),
        ({"tif": TimeInForce.FOK}, False),
        ({"post_only": True}, False),
        ({"kind": OrderKind.MARKET, "price": None}, False),
    ],
)
async def test_order_whose_word_may_be_lost_stands_again_when_it_has_its_price(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock,
    terms: dict[str, Any], stands: bool,
) -> None:  # fmt: skip
    """It may have been told to be open; what would trade at once is for its client to repeat."""
    late = order(reqid="", **terms)
    async with paperboi(monkeypatch, BrokerdBelief(order=late, filled=D(0))) as (
        _, feeds, told,
    ):  # fmt: skip
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(1)
        said = [one for one in told if isinstance(one, BrokerdStatus)]
        assert [one.status for one in said] == (["open"] if stands else ["absent"])
        assert bool(said[0].reqid) is stands
        feeds.send.send_nowait(quote(97, 98))
        await trio.sleep(1)
        assert bool(filled(told)) is stands


async def test_money_is_for_what_was_acknowledged_when_an_intent_stands_again_beside_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The other may have been refused for lack of it, and nobody was told: it is refused again."""
    late = BrokerdBelief(order=order("late", reqid=""), filled=D(0))
    taken = BrokerdBelief(order=order("taken"), filled=D(0))
    async with paperboi(monkeypatch, late, taken, usdt=D(300)) as (_, feeds, told):
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(1)
        assert outcomes(told) == [("taken", "open"), ("late", "refused")]
        feeds.send.send_nowait(quote(97, 98))
        await trio.sleep(1)
        assert {one.oid for one in told if isinstance(one, BrokerdFill)} == {"taken"}


async def test_money_is_for_what_was_acknowledged_in_a_market_that_opens_later(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The intent of another market waits for it."""
    late = BrokerdBelief(order=order("late", reqid="", symbol=ETH.mktid), filled=D(0))
    taken = BrokerdBelief(order=order("taken"), filled=D(0))
    async with paperboi(monkeypatch, late, taken, usdt=D(300)) as (_, feeds, told):
        feeds.eth.send_nowait(quote(98, 101, fqme=ETH.fqme))
        await trio.sleep(1)
        feeds.send.send_nowait(quote(98, 101))
        await trio.sleep(1)
        assert outcomes(told) == [("taken", "open"), ("late", "refused")]


@pytest.mark.parametrize("reqid", ["", "p-a"])
async def test_order_that_was_to_end_does_not_trade_before_its_cancel_comes(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, reqid: str
) -> None:
    """emsd was killed between the two: nothing of it stands again."""
    belief = BrokerdBelief(order=order(reqid=reqid), filled=D(0), ends=True)
    async with paperboi(monkeypatch, belief) as (_, feeds, told):
        feeds.send.send_nowait(quote(97, 98))
        await trio.sleep(1)
        assert [one.status for one in told if isinstance(one, BrokerdStatus)] == ["canceled"]
        assert not filled(told)
