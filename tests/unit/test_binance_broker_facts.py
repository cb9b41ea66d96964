"""What Binance says of orders, decoded and merged: any order of any facts comes to the same."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.binance.broker_book import Book, Known, Market, next_id
from piker.brokers.binance.broker_facts import (
    FillFact,
    OrderFact,
    derived_id,
    leg_of,
    number_of,
    reqid_of,
    split_id,
)
from piker.brokers.binance.broker_rest import Skewed, classify
from piker.brokers.binance.broker_spot import spot_events, spot_order, unfit_for_spot
from piker.brokers.binance.broker_usdm import position_side, unfit_for_usdm, usdm_order
from piker.brokers.binance.broker_usdm_facts import AlgoRow, OrderRow, algo_fact, order_fact
from piker.brokers.binance.broker_usdm_facts import usdm_events as events_of_usdm
from piker.brokers.rest import OverKind
from piker.errors import DataQuality, Rejected, Transient, Unknown
from piker.orders import (
    Action,
    BrokerdBelief,
    BrokerdFill,
    BrokerdOrder,
    BrokerdStatus,
    OrderKind,
    TimeInForce,
    TriggerBy,
)

ONE = Decimal(1)
MARKET = Market("spot", "BTCUSDT")


def order(**more: Any) -> BrokerdOrder:
    """Return an order of emsd's."""
    said = {"action": Action.BUY, "size": Decimal(10), "price": Decimal(100), **more}
    return BrokerdOrder(
        oid="o1", client_id="pkabc", account="binance.main", time_ns=1, symbol="btcusdt.spot",
        **said,
    )  # fmt: skip


def fact(status: str, executed: int, time_ms: int, **more: Any) -> OrderFact:
    """Return a fact about it."""
    said = {"number": 7, "client_id": "pkabc", "size": Decimal(10), **more}
    return OrderFact(
        venue="spot", symbol="BTCUSDT", status=status, action=Action.BUY,  # type: ignore[arg-type]
        executed=Decimal(executed), time_ms=time_ms, price=Decimal(100), **said,
    )  # fmt: skip


def fill(trade: int) -> FillFact:
    """Return a fill of 1."""
    return FillFact(
        venue="spot", symbol="BTCUSDT", number=7, trade=trade, size=ONE, price=Decimal(100),
        action=Action.BUY,
    )  # fmt: skip


# -- merging -----------------------------------------------------------------------------------
@given(st.data())
def test_the_end_is_the_same_when_facts_come_in_any_order_and_number(data: Any) -> None:
    """An order's facts, shuffled, some twice, some stale: one status, each fill once."""
    done = data.draw(st.integers(0, 10))
    last = "closed" if done == 10 else data.draw(st.sampled_from(["canceled", "expired"]))
    facts = [fact("open", 0, 1)]
    facts += [fact("open", n, 1 + n, fills=(fill(n),)) for n in range(1, done + 1)]
    facts.append(fact(last, done, 20))
    told = data.draw(st.permutations(facts + data.draw(st.lists(st.sampled_from(facts)))))
    wanted: list[Known] = []
    book = Book("binance.main", wanted.append)
    known = book.add(order(), MARKET)
    for one in told:
        book.learn(one)
    statuses = [e for e in book.out if isinstance(e, BrokerdStatus)]
    fills = [e.tid for e in book.out if isinstance(e, BrokerdFill)]
    assert sorted(fills) == sorted(f"t{n}" for n in range(1, done + 1))
    assert statuses[-1].status == last
    assert statuses[-1].filled == done
    assert [s.status for s in statuses].count(last) == 1
    assert known.is_over
    ended = list(book.out).index(statuses[-1])
    assert all(i < ended for i, e in enumerate(book.out) if isinstance(e, BrokerdFill))


def test_an_end_is_held_back_when_fills_are_missing() -> None:
    """The fills are asked for; the end is told after them."""
    wanted: list[Known] = []
    book = Book("binance.main", wanted.append)
    known = book.add(order(), MARKET)
    book.learn(fact("closed", 10, 5, fills=(fill(10),)))
    assert wanted == [known]
    assert not any(isinstance(e, BrokerdStatus) for e in book.out)
    for number in range(1, 10):
        book.fill(known, fill(number))
    book.settle(known)
    assert book.out[-1].status == "closed"  # type: ignore[union-attr]


def test_an_order_stands_when_it_was_refused_and_is_heard_of_all_the_same() -> None:
    """What the venue shows later is told, whatever was said before."""
    book = Book("binance.main", lambda known: None)
    known = book.add(order(), MARKET)
    book.refuse(known, "order", "no")
    assert known.is_over
    book.learn(fact("open", 0, 5))
    assert book.out[-1].status == "open"  # type: ignore[union-attr]
    assert book.live("spot") == [known]


def test_the_end_of_a_leg_is_not_the_end_when_the_order_is_being_edited() -> None:
    """One canceled for another: only the last leg's end is told, with what both filled."""
    book = Book("binance.main", lambda known: None)
    known = book.add(order(), MARKET)
    book.learn(fact("open", 1, 1, fills=(fill(1),)))
    known.editing = True
    assert next_id(known) == "pkabc-1"
    book.learn(fact("canceled", 1, 2))
    second = fact("open", 0, 2, number=8, client_id="pkabc-1", size=Decimal(9))
    book.learn(second)
    book.ack_edit(known, order(size=Decimal(10)), second)
    known.editing = False
    book.settle(known)
    statuses = [e.status for e in book.out if isinstance(e, BrokerdStatus)]
    assert statuses == ["open"]
    assert known.reqid == "spot-BTCUSDT-8"
    late = msgspec.structs.replace(fill(2), number=8, size=Decimal(9))
    book.learn(msgspec.structs.replace(second, status="closed", executed=Decimal(9), time_ms=3,
                                       fills=(late,)))  # fmt: skip
    assert book.out[-1].filled == 10  # type: ignore[union-attr]


def test_a_belief_counts_what_it_has_when_fills_are_told() -> None:
    """Nothing is asked for where the venue has filled what is believed."""
    wanted: list[Known] = []
    book = Book("binance.main", wanted.append)
    believed = BrokerdBelief(order=order(reqid="spot-BTCUSDT-7"), filled=Decimal(3))
    known = book.believe(believed, MARKET, 0)
    known.probing = False
    book.learn(fact("open", 3, 5))
    assert not wanted
    book.learn(fact("open", 4, 6))
    assert wanted == [known]


# -- names -------------------------------------------------------------------------------------
@given(st.text("abcXYZ019_", min_size=1, max_size=28), st.integers(0, 9999))
def test_a_derived_id_says_whose_it_is_when_it_is_read_again(base: str, index: int) -> None:
    """Base and index come back; the venue's rule for ids holds."""
    name = derived_id(base, index)
    assert len(name) <= 36
    assert split_id(name) == (base, index)


def test_ids_for_emsd_are_read_as_they_were_made() -> None:
    """Of plain orders and of conditional ones; anything else is none."""
    for name in (("spot", "BTCUSDT", 7, False), ("usdm", "BTCUSDT_240329", 8, True)):
        venue, symbol, number, is_algo = name
        assert leg_of(reqid_of(venue, symbol, number, is_algo=is_algo)) == name
    for text in ("", "p1", "spot-BTCUSDT-x", "coinm-BTC-1", "a-b-c-d"):
        assert leg_of(text) is None


@pytest.mark.parametrize(
    "text", ["NaN", "sNaN", "Infinity", "-1", "1e30", "1e9999999", "1e-9999", "x", ""]
)
def test_numbers_that_can_not_be_are_refused_when_they_are_read(text: str) -> None:
    """Nothing of the kind reaches an order."""
    with pytest.raises(DataQuality):
        number_of(text, "size")


# -- requests ----------------------------------------------------------------------------------
def test_requests_have_what_the_venue_asks_for_when_they_are_made() -> None:
    """Each kind's parameters, by the venue's documents."""
    said = spot_order(order(), "BTCUSDT", "pkabc", Decimal(10))
    assert said == {
        "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
        "quantity": Decimal(10), "price": Decimal(100), "newClientOrderId": "pkabc",
        "newOrderRespType": "FULL",
    }  # fmt: skip
    said = spot_order(order(post_only=True), "BTCUSDT", "pkabc", Decimal(10))
    assert said["type"] == "LIMIT_MAKER"
    assert "timeInForce" not in said
    stop = order(kind=OrderKind.STOP, price=None, trigger=Decimal(120))
    said = spot_order(stop, "BTCUSDT", "pkabc", Decimal(10))
    assert (said["type"], said["stopPrice"], "price" in said) == ("STOP_LOSS", 120, False)
    said = usdm_order(stop, "BTCUSDT", "pkabc", Decimal(10), is_dual=False)
    assert (said["type"], said["triggerPrice"], said["clientAlgoId"], said["algoType"]) == (
        "STOP_MARKET", 120, "pkabc", "CONDITIONAL",
    )  # fmt: skip
    dated = order(tif=TimeInForce.GTD, expire_ns=1_900_000_000_123_456_789)
    said = usdm_order(dated, "BTCUSDT", "pkabc", Decimal(10), is_dual=False)
    assert said["goodTillDate"] == 1_900_000_000_000
    said = usdm_order(order(reduce_only=True), "BTCUSDT", "pkabc", ONE, is_dual=False)
    assert said["reduceOnly"] is True
    said = usdm_order(order(reduce_only=True), "BTCUSDT", "pkabc", ONE, is_dual=True)
    assert said["positionSide"] == "SHORT"
    assert "reduceOnly" not in said


@pytest.mark.parametrize(
    ("action", "reduces", "side"),
    [("buy", False, "LONG"), ("sell", False, "SHORT"), ("buy", True, "SHORT"),
     ("sell", True, "LONG")],
)  # fmt: skip
def test_an_order_opens_its_side_or_closes_the_other_when_the_account_hedges(
    action: str, reduces: bool, side: str
) -> None:
    """One-way accounts have one side."""
    one = order(action=Action(action), reduce_only=reduces)
    assert position_side(one, is_dual=True) == side
    assert position_side(one, is_dual=False) == "BOTH"


def test_what_the_venue_can_not_do_is_said_when_it_is_asked_for() -> None:
    """Kinds, times in force and triggers that are emsd's to do."""
    trail = order(kind=OrderKind.TRAILING_STOP, price=None, trail=ONE)
    mark = order(kind=OrderKind.STOP, price=None, trigger=ONE, trigger_by=TriggerBy.MARK)
    for one in (trail, mark, order(reduce_only=True), order(tif=TimeInForce.DAY),
                order(tif=TimeInForce.GTD, expire_ns=1),
                order(kind=OrderKind.STOP_LIMIT, trigger=ONE, post_only=True)):  # fmt: skip
        assert unfit_for_spot(one)
    side = order(kind=OrderKind.STOP, price=None, trigger=ONE, trigger_by=TriggerBy.SIDE)
    hasty = order(tif=TimeInForce.IOC, post_only=True)
    for one in (trail, side, hasty, order(tif=TimeInForce.DAY)):
        assert unfit_for_usdm(one)
    assert not unfit_for_usdm(mark)
    assert not unfit_for_usdm(order(kind=OrderKind.STOP_LIMIT, trigger=ONE, post_only=True))


# -- what answers mean -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"code":-2010,"msg":"Account has insufficient balance"}', Rejected),
        (400, b'{"code":-1013,"msg":"Filter failure: LOT_SIZE"}', Rejected),
        (400, b'{"code":-1021,"msg":"Timestamp"}', Skewed),
        (400, b'{"code":-5028,"msg":"ME_RECVWINDOW_REJECT"}', Skewed),
        (409, b'{"code":-2021,"data":{"newOrderResponse":{"code":-1007}}}', Unknown),
        (409, b'{"code":-2021,"data":{"newOrderResponse":{"code":-2010}}}', Rejected),
        (400, b'{"code":-2022,"data":{"cancelResponse":{"code":-1006}}}', Unknown),
        (429, b'{"code":-1015,"msg":"Too many new orders"}', OverKind),
        (429, b'{"code":-1003,"msg":"Too much weight"}', Transient),
        (408, b'{"code":-1007,"msg":"Timeout waiting"}', Unknown),
        (400, b'{"code":-1006,"msg":"An unexpected response"}', Unknown),
        (503, b'{"code":-1008,"msg":"Server is currently overloaded"}', Unknown),
        (500, b'{"code":-2010,"msg":"whatever a 5xx says"}', Unknown),
        (403, b"<html>", Unknown), (400, b'{"code":-2', Unknown), (400, b'{"code":5}', Unknown),
        (404, b"", Unknown),
    ],
)  # fmt: skip
def test_only_the_venues_own_code_proves_a_refusal(status: int, body: bytes, kind: type) -> None:
    """Anything that can not be read, and every 5xx, proves nothing."""
    assert not issubclass(Unknown, Transient | Rejected)
    assert isinstance(classify(status, {}, body), kind)
    assert classify(200, {}, body) is None


def test_both_halves_are_told_when_a_cancel_and_replace_fails() -> None:
    """The venue's reasons of each, out of its data."""
    data = {"cancelResult": "FAILURE", "newOrderResult": "NOT_ATTEMPTED",
            "cancelResponse": {"code": -2011, "msg": "Unknown order sent."},
            "newOrderResponse": None}  # fmt: skip
    body = json.dumps({"code": -2022, "msg": "Order cancel-replace failed.", "data": data})
    error = classify(400, {}, body.encode())
    assert isinstance(error, Rejected)
    assert error.code == "-2022"
    assert "Unknown order sent." in error.message


# -- the venue's own examples ------------------------------------------------------------------
def test_the_documents_examples_are_read_when_they_are_user_events(shared: Path) -> None:
    """Every execution report and balance of the venue's pages."""
    file = shared / "venues/binance/official-spot-docs/user-data-stream.examples.jsonl"
    read = 0
    for line in file.read_text().splitlines():
        event = json.loads(line)["json"].get("event") if line.strip() else None
        if isinstance(event, dict):
            read += len(spot_events(event["e"], json.dumps(event).encode()))
    assert read >= 2


def test_the_sdks_examples_are_read_when_they_are_orders_of_usdm(shared: Path) -> None:
    """Orders and conditional orders as the official SDK shows them."""
    file = shared / "venues/binance/official-sdk-examples/usdm.jsonl"
    seen = set()
    for line in file.read_text().splitlines():
        row = json.loads(line)
        body = json.dumps(row["json"]).encode()
        if row["endpoint"] == "POST /fapi/v1/order" and "orderId" in row["json"]:
            assert order_fact(msgspec.json.decode(body, type=OrderRow)).number
            seen.add("order")
        if row["endpoint"] in ("POST /fapi/v1/algoOrder", "GET /fapi/v1/algoOrder"):
            algo = algo_fact(msgspec.json.decode(body, type=AlgoRow))
            assert algo.kind is OrderKind.TAKE_PROFIT_LIMIT
            seen.add(algo.status)
    assert seen >= {"order", "open", "canceled"}


def test_events_of_another_client_are_read_when_they_are_usdms(shared: Path) -> None:
    """Binance.Net's: an algo order, three sides of a market, a margin call, a triggered stop."""
    folder = shared / "venues/binance/binance.net"

    def event(name: str) -> list[Any]:
        text = (folder / f"Subscriptions/UsdFutures/{name}.txt").read_text()
        data = json.loads(text.partition("\n= ")[2])["data"]
        return events_of_usdm(data["e"], json.dumps(data).encode())

    (algo,) = event("AlgoOrderUpdate")
    assert (algo.status, algo.trigger, algo.sent, algo.is_algo) == ("canceled", 750, 0, True)
    held = [(one.side, one.size) for one in event("AccountUpdate") if hasattr(one, "side")]
    assert held == [("BOTH", 0), ("LONG", 20), ("SHORT", -10)]
    (placed,) = event("OrderUpdate")
    assert (placed.status, placed.reduce_only) == ("open", True)  # a sell of the side LONG
    assert event("MarginUpdate") == event("Leverage") == event("TradeUpdate") == []
    text = (folder / "Endpoints/UsdFutures/Trading/GetConditionalOrder.txt").read_text()
    row = msgspec.json.decode(text.partition("true\n")[2], type=AlgoRow)
    assert algo_fact(row).sent == 974828356187


def algo_event(**more: Any) -> list[Any]:
    """Return what an ALGO_UPDATE says."""
    body = {"caid": "pkabc", "aid": 7, "o": "STOP_MARKET", "s": "BTCUSDT", "S": "SELL",
            "X": "NEW", **more}  # fmt: skip
    return list(events_of_usdm("ALGO_UPDATE", json.dumps({"o": body, "T": 1}).encode()))


@pytest.mark.parametrize(
    ("ai", "sent"), [("", 0), ("0", 0), (None, 0), ("974828356187", 974828356187), (12, 12)]
)
def test_an_algo_order_is_read_when_its_number_is_text_or_not(ai: Any, sent: int) -> None:
    """Other programs have seen both; and null where there is none."""
    (found,) = algo_event(X="FINISHED", ai=ai)
    assert (found.sent, found.status) == (sent, "open" if sent else "expired")


def test_an_algo_order_is_read_when_it_closes_a_whole_position() -> None:
    """No size, no price; one that trails has no trigger, either."""
    for nothing in (None, ""):
        (found,) = algo_event(q=nothing, p=nothing, tp=nothing, f=None, X="TRIGGERING")
        assert (found.size, found.price, found.trigger, found.status) == (0, None, None, "open")
    (found,) = algo_event(X="REJECTED", rm="Reduce Only reject")
    assert (found.status, found.reason) == ("rejected", "Reduce Only reject")


def order_event(**more: Any) -> list[Any]:
    """Return what an ORDER_TRADE_UPDATE says."""
    body = {"s": "BTCUSDT", "c": "pkabc", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "2",
            "p": "9", "x": "NEW", "X": "NEW", "i": 7, "l": "0", "z": "0", "L": "0", "T": 5,
            "t": 0, "m": False, **more}  # fmt: skip
    return list(events_of_usdm("ORDER_TRADE_UPDATE", json.dumps({"o": body}).encode()))


def test_why_the_venue_ended_an_order_is_told_when_it_says_so() -> None:
    """USD-M by number, also one that is not known yet; spot by its word, since March 2026."""
    for number, words in (("2", "IOC"), (5, "liquidated"), ("0", ""), ("99", "")):
        (found,) = order_event(x="EXPIRED", X="EXPIRED", er=number)
        assert words in found.reason
        assert bool(found.reason) is bool(words)
    (found,) = order_event(x="TRADE", X="PARTIALLY_FILLED", l="1", z="1", L="9", t=3, er="2")
    assert found.reason == ""
    report = {"s": "BTCUSDT", "c": "pkabc", "S": "BUY", "o": "LIMIT", "f": "IOC", "q": "1",
              "p": "9", "P": "0", "C": "", "x": "EXPIRED", "X": "EXPIRED", "r": "NONE", "i": 7,
              "l": "0", "z": "0", "L": "0", "n": "0", "N": None, "T": 5, "t": -1, "m": False,
              "eR": "UNFILLED_IOC_QUANTITY_EXPIRED"}  # fmt: skip
    (spot,) = spot_events("executionReport", json.dumps(report).encode())
    assert isinstance(spot, OrderFact)
    assert spot.reason == "unfilled ioc quantity expired"


def test_a_liquidation_is_a_fill_when_it_has_a_trade() -> None:
    """CALCULATED: with a trade's number at once, without one the fills are asked for."""
    said = {"x": "CALCULATED", "X": "FILLED", "c": "autoclose-1", "l": "2", "z": "2", "L": "9"}
    (found,) = order_event(**said, t=3)
    assert [(fill.trade, fill.size) for fill in found.fills] == [(3, Decimal(2))]
    (found,) = order_event(**said)
    assert (found.fills, found.executed, found.status) == ((), 2, "closed")


def test_a_liquidation_is_read_when_it_has_no_fee_and_a_status_of_its_own() -> None:
    """NEW_ADL and NEW_INSURANCE end with the last of what they fill; the fee may be null."""
    said = {"x": "CALCULATED", "l": "1", "L": "9", "c": "adl_autoclose", "n": None, "N": None}
    (part,) = order_event(**said, X="NEW_ADL", z="1", t=3)
    assert (part.status, part.fills[0].fee) == ("open", 0)
    for word in ("NEW_ADL", "NEW_INSURANCE"):
        (whole,) = order_event(**said, X=word, z="2", t=4)
        assert whole.status == "closed"


def test_a_trade_of_nothing_takes_no_trades_id() -> None:
    """What it says of the order counts; the fill comes with the same number."""
    book = Book("binance.main", lambda known: None)
    known = book.add(order(), MARKET)
    nothing = msgspec.structs.replace(fill(1), size=Decimal(0))
    book.learn(fact("open", 0, 5, fills=(nothing,)))
    book.learn(fact("open", 1, 6, fills=(fill(1),)))
    assert [e.size for e in book.out if isinstance(e, BrokerdFill)] == [ONE]
    assert not known.lacks_fills


@given(st.binary(max_size=200))
def test_a_user_event_is_read_or_refused_when_it_is_garbage(raw: bytes) -> None:
    """Nothing but DataQuality comes of it."""
    for read, kinds in (
        (spot_events, ("executionReport", "outboundAccountPosition", "other")),
        (
            events_of_usdm,
            ("ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "ALGO_UPDATE", "MARGIN_CALL", "other"),
        ),
    ):
        for kind in kinds:
            try:
                read(kind, raw)
            except DataQuality:
                continue
