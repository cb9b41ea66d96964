"""What Binance proves of orders that it does not have any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import trio
import trio.testing

from piker.brokers.binance.broker_book import Book, Known, Market
from piker.brokers.binance.broker_facts import FillFact, OrderFact
from piker.brokers.binance.broker_proof import Prover
from piker.errors import Rejected
from piker.orders import Action, BrokerdBelief, BrokerdOrder, BrokerdStatus, OrderKind

D = Decimal
NAME = "binance.main"
PERP = Market("usdm", "BTCUSDT")
NOW_MS = 1_800_000_000_000


class Desk:
    """USD-M as far as it answers for orders: by their numbers or client ids."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self.signed: Any = SimpleNamespace(clock=self, patience_s=60.0)
        self.orders: dict[int | str, OrderFact] = {}
        self.error: Rejected | None = None
        self.asked = 0
        self.open: list[OrderFact] = []
        self.listings: list[float] = []  # when the open ones were asked for
        self.filled: list[FillFact] = []  # of the order that is asked about
        self.strange: list[FillFact] = []  # in that market, since it was made

    def now_ms(self) -> int:
        """Return the venue's time."""
        return NOW_MS + self.ahead_ms + round(trio.current_time() * 1000)

    async def open_orders(self, symbol: str = "") -> list[OrderFact]:
        """Return what stands."""
        await trio.lowlevel.checkpoint()
        self.listings.append(trio.current_time())
        if self.error is not None:
            raise self.error
        return self.open

    async def trades_since(self, symbol: str, since_ms: int) -> list[FillFact]:
        """Return what was traded."""
        await trio.lowlevel.checkpoint()
        return self.strange

    async def order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None:
        """Return an order, or None."""
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.orders.get(number or client_id)

    async def trades(self, leg: OrderFact) -> list[FillFact]:
        """Return its fills."""
        return self.filled

    def is_algo(self, order: BrokerdOrder) -> bool:
        """Tell whether it waits for a trigger."""
        return order.kind is not OrderKind.LIMIT


def belief(**changes: Any) -> BrokerdBelief:
    """Return an order that emsd knows to stand."""
    order = BrokerdOrder(
        oid="a", client_id="pka", account=NAME, time_ns=1, symbol="btcusdt.usdtm.perp",
        action=Action.SELL, size=D(1), price=D(100), reqid="usdm-BTCUSDT-7",
    )  # fmt: skip
    return BrokerdBelief(order=msgspec.structs.replace(order, **changes), filled=D(0))


@asynccontextmanager
async def proving(desk: Desk, one: BrokerdBelief) -> AsyncIterator[tuple[Book, Known]]:
    """Have it proved what became of an order, within ten minutes."""

    async def flush() -> None: ...

    async with trio.open_nursery() as nursery:
        book = Book(NAME, lambda _: None)
        book.markets[PERP] = "btcusdt.usdtm.perp"
        prover = Prover(desk, book, nursery, flush)  # type: ignore[arg-type]
        known = book.believe(one, PERP, NOW_MS - 1)
        with trio.fail_after(600):
            await prover.prove(known)
        yield book, known
        nursery.cancel_scope.cancel()


def statuses(book: Book) -> list[str]:
    """Return what was told of how it stands."""
    return [one.status for one in book.out if isinstance(one, BrokerdStatus)]


async def test_order_that_the_venue_had_is_not_absent_when_it_forgot_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Three days after its end USD-M knows nothing of an order without a fill.

    What is absent never traded, and emsd would send it once more where it had set it free itself.
    """
    async with proving(Desk(), belief()) as (book, _):
        assert statuses(book) == ["canceled"]
    async with proving(Desk(), belief(reqid="")) as (book, _):
        assert statuses(book) == ["absent"]


async def test_account_waits_for_no_order_of_a_market_that_is_there_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A future that was delivered: the venue refuses the question itself, for ever."""
    desk = Desk()
    desk.error = Rejected("Invalid symbol.", code="-1121")
    async with proving(desk, belief()) as (book, _):
        assert statuses(book) == ["canceled"]


async def test_account_waits_for_no_order_that_a_trigger_made_long_ago(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Canceled without a fill three days ago it is not there; one of now may only be late."""
    desk, days_ms = Desk(), 86_400_000
    fact = OrderFact(
        venue="usdm", symbol="BTCUSDT", number=7, client_id="pka", status="open",
        action=Action.SELL, size=D(1), kind=OrderKind.STOP_LIMIT, is_algo=True, sent=9,
        time_ms=NOW_MS - 4 * days_ms,
    )  # fmt: skip
    stop = belief(kind=OrderKind.STOP_LIMIT, trigger=D(101), reqid="usdm-BTCUSDT-a7")
    desk.orders = {7: fact, "pka": fact}
    async with proving(desk, stop) as (book, _):
        assert statuses(book)[-1] == "canceled"
    young = msgspec.structs.replace(fact, time_ms=NOW_MS - days_ms)
    desk.orders = {7: young, "pka": young}
    with trio.move_on_after(500) as waiting:
        async with proving(desk, stop):
            pass
    assert waiting.cancelled_caught


async def test_canceled_order_is_not_over_when_a_former_dialog_may_have_replaced_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its request arrives after we found the order standing: one is canceled for another.

    Told to be canceled, it would be believed in no more, and what the other one trades be lost.
    """
    desk = Desk()

    async def flush() -> None: ...

    old = OrderFact(
        venue="spot", symbol="BTCUSDT", number=7, client_id="pka", status="open",
        action=Action.SELL, size=D(1), price=D(100), time_ms=NOW_MS - 60_000,
    )  # fmt: skip
    new = msgspec.structs.replace(old, number=8, client_id="pka-1", price=D(99), time_ms=NOW_MS)
    desk.orders = {7: old, "pka": old}
    market, one = Market("spot", "BTCUSDT"), belief(symbol="btcusdt.spot", reqid="spot-BTCUSDT-7")
    async with trio.open_nursery() as nursery:
        book = Book(NAME, lambda known: prover.want(known) and None)
        book.markets[market] = "btcusdt.spot"
        prover = Prover(desk, book, nursery, flush)  # type: ignore[arg-type]
        known = book.believe(one, market, NOW_MS + 5_000)
        await prover.prove(known)
        assert statuses(book) == ["open"]
        gone = msgspec.structs.replace(old, status="canceled", time_ms=NOW_MS)
        desk.orders = {7: gone, "pka": gone, 8: new, "pka-1": new}
        book.learn(gone)
        await prover.prove(known)
        assert (statuses(book), known.reqid) == (["open"], "spot-BTCUSDT-8")
        ended = msgspec.structs.replace(new, status="canceled", time_ms=NOW_MS + 1)
        desk.orders |= {8: ended, "pka-1": ended}
        desk.ahead_ms = 66_000
        book.learn(ended)
        await prover.prove(known)
        assert statuses(book) == ["open", "canceled"]
        asked = desk.asked
        book.learn(ended)
        await trio.sleep(60)
        assert desk.asked == asked
        nursery.cancel_scope.cancel()


def row(number: int = 7, **changes: Any) -> OrderFact:
    """Return that order as the venue has it."""
    fact = OrderFact(
        venue="usdm", symbol="BTCUSDT", number=number, client_id="pka", status="open",
        action=Action.SELL, size=D(1), price=D(100), time_ms=NOW_MS,
    )  # fmt: skip
    return msgspec.structs.replace(fact, **changes)


def trade(number: int, size: str = "1") -> FillFact:
    """Return a trade of an order."""
    return FillFact(
        venue="usdm", symbol="BTCUSDT", number=number, trade=1, size=D(size), price=D(100),
        action=Action.SELL,
    )  # fmt: skip


async def test_order_that_is_listed_stands_though_it_can_not_be_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """USD-M has no answer of one that was made 90 days ago."""
    desk = Desk()
    desk.open = [row()]
    async with proving(desk, belief()) as (book, _):
        assert statuses(book) == ["open"]
        book.learn(row())
        await trio.sleep(600)
        assert statuses(book) == ["open"]


async def test_order_is_gone_when_the_venue_denied_it_for_minutes_and_lists_it_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two looks within a second prove nothing; what it had traded is told before its end."""
    desk = Desk()
    desk.orders = {7: row(), "pka": row()}
    async with trio.open_nursery() as nursery:

        async def flush() -> None: ...

        book = Book(NAME, lambda _: None)
        book.markets[PERP] = "btcusdt.usdtm.perp"
        prover = Prover(desk, book, nursery, flush)  # type: ignore[arg-type]
        known = book.believe(belief(), PERP, NOW_MS - 1)
        await prover.prove(known)
        desk.orders, desk.filled = {}, [trade(7, "0.4")]
        began = trio.current_time()
        await prover.prove(known)
        assert 120 <= trio.current_time() - began < 140
        assert desk.listings[-1] >= began + 120
        assert statuses(book) == ["open", "canceled"]
        assert known.told_size == D("0.4")
        book.learn(row(status="canceled", executed=D("0.4")))
        assert (statuses(book)[-1], book.live("usdm")) == ("canceled", [])
        nursery.cancel_scope.cancel()


async def test_order_is_found_again_when_its_end_was_only_inferred(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A row of the open ones, or an event, says more than our patience."""
    async with proving(Desk(), belief(reqid="")) as (book, _):
        book.learn(row())
        assert statuses(book) == ["absent", "open"]
        book.learn(row(is_inferred=True, status="canceled"))
        book.learn(row())
        assert statuses(book) == ["absent", "open", "canceled", "open"]
        book.learn(row(status="canceled"))
        book.learn(row())
        assert statuses(book)[3:] == ["open", "canceled"]
        assert not book.live("usdm")


async def test_order_is_absent_a_minute_after_its_request_could_last_be_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What answers queries may be behind what takes orders; a list that has it ends the doubt."""
    desk = Desk()
    began = trio.current_time()
    async with proving(desk, belief(reqid="")) as (book, _):
        assert statuses(book) == ["absent"]
        assert 60 <= trio.current_time() - began < 70
        assert desk.listings[-1] >= began + 60
    desk.open = [row()]
    async with proving(desk, belief(reqid="")) as (book, _):
        assert statuses(book) == ["open"]


async def test_order_is_not_absent_while_a_trade_may_be_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A trade whose order nobody knows; once that is found it is ours, or somebody else's."""
    desk = Desk()
    desk.strange = [trade(8)]
    with trio.move_on_after(100) as waiting:
        async with proving(desk, belief(reqid="")):
            pass
    assert waiting.cancelled_caught
    desk.orders = {8: row(8, client_id="another")}
    async with proving(desk, belief(reqid="")) as (book, _):
        assert statuses(book) == ["absent"]
    filled = row(8, status="closed", executed=D(1), fills=(trade(8),))
    desk.orders = {8: filled}
    async with proving(desk, belief(reqid="")) as (book, _):
        assert statuses(book) == ["closed"]


async def test_fills_of_a_believed_order_are_told_before_it_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """emsd knows its number: its trades are asked for by that, after two minutes of denial."""
    desk = Desk()
    desk.filled = [trade(7, "0.4")]
    began = trio.current_time()
    async with proving(desk, belief()) as (book, known):
        assert trio.current_time() - began >= 120
        assert (statuses(book), known.told_size) == (["canceled"], D("0.4"))
    desk.filled = [trade(7)]
    async with proving(desk, belief()) as (book, _):
        assert statuses(book) == ["closed"]
