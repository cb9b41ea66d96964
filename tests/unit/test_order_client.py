"""Which of a client's requests a status answers; everything else of it is tested with emsd."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
import trio
import trio.testing

from piker.clearing.client import OrderClient
from piker.errors import RangeError
from piker.orders import (
    Action,
    BrokerdError,
    Cancel,
    ClientMessage,
    Order,
    Status,
    decode,
    encode,
)

D = Decimal


def status(order: Order, resp: str = "open", **more: object) -> Status:
    """Return what emsd tells of an order."""
    told = Status(oid=order.oid, resp=resp, time_ns=1, req=order)
    return msgspec.structs.replace(told, **more)


async def test_answer_is_of_the_edit_that_it_names_when_several_wait() -> None:
    """One refused by the venue, one dropped for a later one, one done: each is told its own."""
    sent: list[Order | Cancel] = []

    async def send(message: Order | Cancel) -> None:
        sent.append(message)

    ems = OrderClient("binance.paper", send, "session")
    order = Order(
        oid="a", symbol="btcusdt.spot.binance", account="binance.paper", action=Action.BUY,
        size=D(1), price=D(100),
    )  # fmt: skip
    ems.take(status(order))
    answers: dict[int, str] = {}

    async def update(price: int) -> None:
        answers[price] = (await ems.update("a", price=price)).resp

    async def cancel() -> None:
        answers[0] = (await ems.cancel("a")).resp

    async with trio.open_nursery() as nursery:
        for price in (101, 102, 103):
            nursery.start_soon(update, price)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(cancel)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) == 4
        first, second, third = (msgspec.structs.replace(order, price=D(one)) for one in
                                (101, 102, 103))  # fmt: skip
        ems.take(status(second, "error", code="superseded"))
        await trio.testing.wait_all_tasks_blocked()
        assert answers == {102: "error"}
        refusal = BrokerdError(reason="no", oid="a", account="binance.paper", request="edit")
        ems.take(status(order, brokerd_msg=refusal, edit=first))
        await trio.testing.wait_all_tasks_blocked()
        assert answers == {102: "error", 101: "open"}
        ems.take(status(third))
        await trio.testing.wait_all_tasks_blocked()
        assert answers == {102: "error", 101: "open", 103: "open"}
        ems.take(status(third, cancel_called=True))
    assert answers[0] == "open"
    assert ems.dialogs["a"].req == third


async def test_new_order_is_not_sent_again_when_the_picture_has_it_with_other_terms() -> None:
    """emsd set it free for what its parent had traded: sent again, it would be an edit of that."""

    async def send(message: Order | Cancel) -> None:
        """Lose it."""

    ems = OrderClient("binance.paper", send, "session")
    child = Order(
        oid="a", symbol="btcusdt.spot.binance", account="binance.paper", action=Action.SELL,
        size=D(10), price=D(100), parent="in",
    )  # fmt: skip
    answers: list[Status] = []

    async def ask() -> None:
        answers.append(await ems.send(child))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert ems.unanswered() == [child]
        assert ems.begin([status(msgspec.structs.replace(child, size=D(4)))]) == []
        assert ems.unanswered() == []
    assert answers[0].req is not None
    assert answers[0].req.size == 4


@pytest.mark.parametrize("number", ["nan", "-nan"])
async def test_edit_is_answered_when_its_terms_are_no_number(number: str) -> None:
    """What equals nothing, not even itself, is known again by its terms all the same."""

    async def send(message: Order | Cancel) -> None:
        """Deny it, in the words in which it came."""
        assert isinstance(message, Order)
        ems.take(status(decode(encode(message), ClientMessage), "error", code="bad-price"))

    ems = OrderClient("binance.paper", send, "session")
    order = Order(
        oid="a", symbol="btcusdt.spot.binance", account="binance.paper", action=Action.BUY,
        size=D(1), price=D(100),
    )  # fmt: skip
    ems.take(status(order))
    with trio.fail_after(1):
        answer = await ems.update("a", price=number)
    assert (answer.resp, answer.code) == ("error", "bad-price")
    assert ems.dialogs["a"].req == order


async def test_number_that_can_not_be_compared_is_refused_before_it_is_sent() -> None:
    """A signaling one raises wherever it is compared, at emsd, too."""

    async def send(_: Order | Cancel) -> None:
        raise AssertionError

    ems = OrderClient("binance.paper", send, "session")
    for number in ("snan", D("snan")):
        with pytest.raises(RangeError, match="is no number"):
            ems.order("btcusdt.spot.binance", "buy", number)


async def test_order_is_partly_filled_when_a_fill_was_its_last_word() -> None:
    """Its venue has no more to say of it: who waited for how it stands would wait for ever."""
    order = Order(
        oid="a", symbol="btcusdt.spot.binance", account="binance.paper", action=Action.BUY,
        size=D(2), price=D(100),
    )  # fmt: skip

    async def send(message: Order | Cancel) -> None:
        raise AssertionError(message)

    ems = OrderClient("binance.paper", send, "session")
    assert ems.phase("a") == ""
    found: list[Status] = []

    async def wait() -> None:
        found.append(await ems.until("a", ("open", "partially_filled")))
        found.append(await ems.ended("a"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ems.take(status(order, "unknown"))
        await trio.testing.wait_all_tasks_blocked()
        assert not found
        ems.take(status(order, "fill", filled=D(1)))
        await trio.testing.wait_all_tasks_blocked()
        assert [one.filled for one in found] == [1]
        assert ems.phase("a") == "partially_filled"
        ems.take(status(order, "fill", filled=D(2)))
        await trio.testing.wait_all_tasks_blocked()
        assert ems.phase("a") == "fill"  # it is told that it is closed next
        ems.take(status(order, "closed", filled=D(2)))
    assert [one.resp for one in found] == ["fill", "closed"]
