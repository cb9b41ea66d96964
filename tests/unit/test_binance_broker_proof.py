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
        self.signed: Any = SimpleNamespace(clock=SimpleNamespace(now_ms=lambda: NOW_MS))
        self.orders: dict[int | str, OrderFact] = {}
        self.error: Rejected | None = None
        self.asked = 0

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
        """Return no fills."""
        return []

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
    """Have it proved what became of an order, within a minute."""

    async def flush() -> None: ...

    async with trio.open_nursery() as nursery:
        book = Book(NAME, lambda _: None)
        book.markets[PERP] = "btcusdt.usdtm.perp"
        prover = Prover(desk, book, nursery, flush)  # type: ignore[arg-type]
        known = book.believe(one, PERP, NOW_MS - 1)
        with trio.fail_after(60):
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
    with trio.move_on_after(50) as waiting:
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
        desk.signed.clock.now_ms = lambda: NOW_MS + 6_000
        book.learn(ended)
        await prover.prove(known)
        assert statuses(book) == ["open", "canceled"]
        asked = desk.asked
        book.learn(ended)
        await trio.sleep(60)
        assert desk.asked == asked
        nursery.cancel_scope.cancel()
