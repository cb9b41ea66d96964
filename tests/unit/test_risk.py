"""Limits: nothing passes one, whatever comes, and every denial says its code and its numbers."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from piker.clearing.denials import MEANINGS, Denial, DenialCode
from piker.clearing.holdings import DAY_NS
from piker.clearing.records import Opened
from piker.clearing.risk import Limits, RiskApproved, RiskDesk, TradingState
from piker.clearing.validate import senseless
from piker.errors import Bug
from piker.market import Asset, AssetType, MktPair
from piker.orders import Action, ExecMode, Order, OrderKind, TimeInForce

D = Decimal
NS = 1_000_000_000
BTC = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT",
    dst=Asset(name="btc", atype=AssetType.CRYPTO, tx_tick=D("1e-8")),
    src=Asset(name="usdt", atype=AssetType.CRYPTO, tx_tick=D("1e-8")),
    price_tick=D("0.01"), size_tick=D("0.00001"), min_size=D("0.00001"), min_notional=D(5),
)  # fmt: skip
INVERSE = msgspec.structs.replace(
    BTC, fqme="btcusd.coinm.perp.binance", inverse=True, contract_size=D(100), size_tick=D(1),
    src=Asset(name="usd", atype=AssetType.FIAT, tx_tick=D("0.01")), min_size=D(1),
)  # fmt: skip
EURO = msgspec.structs.replace(
    BTC, fqme="btceur.spot.binance", src=Asset(name="eur", atype=AssetType.FIAT, tx_tick=D("0.01"))
)


def order(oid: str = "o1", **changes: Any) -> Order:
    """Return a limit order to buy a hundredth of a bitcoin at 60,000."""
    one = Order(
        oid=oid, symbol=BTC.fqme, account="main", action=Action.BUY, size=D("0.01"), price=D(60_000)
    )
    return msgspec.structs.replace(one, **changes)


def desk(**limits: Any) -> RiskDesk:
    """Return a desk that knows three markets and the price of two."""
    one = RiskDesk("main", Limits(**limits))
    for mkt in (BTC, INVERSE, EURO):
        one.know(mkt)
        if mkt is not EURO:
            one.price(mkt.fqme, D(60_000), 0)
    return one


def code(answer: RiskApproved | Denial) -> DenialCode | None:
    """Return a denial's code, None of an approval."""
    return answer.code if isinstance(answer, Denial) else None


def test_every_code_has_a_meaning_when_read() -> None:
    """And each meaning is of a code."""
    assert set(MEANINGS) == set(DenialCode)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"size": D(0)}, DenialCode.BAD_SIZE),
        ({"size": D(-1)}, DenialCode.BAD_SIZE),
        ({"size": D("NaN")}, DenialCode.BAD_SIZE),
        ({"size": D("sNaN")}, DenialCode.BAD_SIZE),
        ({"size": D("Infinity")}, DenialCode.BAD_SIZE),
        ({"size": D("1e40")}, DenialCode.BAD_SIZE),
        ({"size": D("1e-999999")}, DenialCode.OFF_LOT),
        ({"size": D("1e999999")}, DenialCode.BAD_SIZE),
        ({"price": D("1e-999999")}, DenialCode.OFF_TICK),
        ({"size": D("0.000011")}, DenialCode.OFF_LOT),
        ({"size": D("0.00002")}, DenialCode.TOO_SMALL),
        ({"price": D("NaN")}, DenialCode.BAD_PRICE),
        ({"price": D("60000.001")}, DenialCode.OFF_TICK),
        ({"price": None}, DenialCode.MISSING_FIELD),
        ({"symbol": "ethusdt.spot.binance"}, DenialCode.WRONG_SYMBOL),
        ({"kind": OrderKind.MARKET}, DenialCode.SENSELESS),
        ({"kind": OrderKind.MARKET, "price": None}, None),
        ({"kind": OrderKind.STOP, "price": None}, DenialCode.MISSING_FIELD),
        ({"kind": OrderKind.STOP, "price": None, "trigger": D(59_000)}, None),
        ({"kind": OrderKind.TRAILING_STOP, "price": None}, DenialCode.MISSING_FIELD),
        ({"trail": D(1)}, DenialCode.SENSELESS),
        ({"trigger": D(59_000)}, DenialCode.SENSELESS),
        ({"exec_mode": ExecMode.DARK}, DenialCode.MISSING_FIELD),
        ({"exec_mode": ExecMode.DARK, "trigger": D(59_000)}, None),
        ({"action": Action.ALERT, "size": D(0), "price": None}, DenialCode.MISSING_FIELD),
        ({"action": Action.ALERT, "size": D(0), "price": None, "trigger": D(1)}, None),
        ({"post_only": True, "tif": TimeInForce.IOC}, DenialCode.SENSELESS),
        ({"tif": TimeInForce.GTD}, DenialCode.MISSING_FIELD),
        ({"tif": TimeInForce.GTD, "expire_ns": 5}, DenialCode.SENSELESS),
        ({"tif": TimeInForce.GTD, "expire_ns": 50}, None),
        ({"parent": "o1"}, DenialCode.SENSELESS),
    ],
)
def test_order_is_judged_by_itself_when_it_makes_no_sense(
    changes: dict[str, Any], expected: DenialCode | None
) -> None:
    """Zero, negative, no number, off the tick, below the least, contradicting itself."""
    denial = senseless(order(**changes), BTC, now_ns=10)
    assert (denial.code if denial else None) == expected, denial
    assert denial is None or len(denial.reason) < 200


def test_denial_says_its_numbers_in_full_and_without_zeros_behind_them() -> None:
    """As people write them, however they came."""
    said = senseless(order(size=D("2E-5"), price=D("6E+4")), BTC, now_ns=10)
    assert said is not None
    assert said.reason == (
        "0.00002 at 60000 is worth 1.2, less than 5, the least of btcusdt.spot.binance."
    )
    refused = desk(order_notional=D("1E+2")).check(order(size=D("0.0100"), price=D("6E4")), 1)
    assert isinstance(refused, Denial)
    assert refused.reason == "600 usd is more than 100 an order."
    tiny = senseless(order(size=D("1E-6")), BTC, now_ns=10)
    assert tiny is not None
    assert tiny.reason == (
        "0.000001 is no multiple of 0.00001, the lot of btcusdt.spot.binance; 0.00001 is."
    )
    huge = senseless(order(size=D("1E+30")), BTC, now_ns=10)
    assert huge is not None
    assert huge.reason == f"a size of 1{'0' * 30} is more than there is of anything."
    far = desk().check(order(price=D("66000.00")), 1)
    assert isinstance(far, Denial)
    assert far.reason == "66000 is 10.0% above 60000; the collar ends at 63000."


def test_market_that_is_closed_takes_no_order_when_asked() -> None:
    """An alert is none."""
    closed = msgspec.structs.replace(BTC, status="halt")
    denial = senseless(order(), closed, 0)
    assert denial is not None
    assert denial.code is DenialCode.MARKET_CLOSED


@pytest.mark.parametrize(
    ("limits", "changes", "expected"),
    [
        ({}, {}, None),
        ({}, {"account": "other"}, DenialCode.UNKNOWN_ACCOUNT),
        ({}, {"symbol": "ethusdt.spot.binance"}, DenialCode.WRONG_SYMBOL),
        ({}, {"symbol": EURO.fqme}, DenialCode.NO_REFERENCE),
        ({"order_size": {BTC.fqme: D("0.005")}}, {}, DenialCode.ORDER_SIZE),
        ({"order_notional": D(599)}, {}, DenialCode.ORDER_NOTIONAL),
        ({"order_notional": D(600)}, {}, None),
        ({}, {"price": D(63_001)}, DenialCode.PRICE_COLLAR),
        ({}, {"price": D(63_000)}, None),
        ({}, {"price": D(1_000)}, None),
        ({}, {"action": Action.SELL, "price": D(56_999)}, DenialCode.PRICE_COLLAR),
        ({"gross_exposure": D(599)}, {}, DenialCode.GROSS_EXPOSURE),
        ({"open_orders": 0}, {}, DenialCode.OPEN_ORDERS),
        ({"messages": 0}, {}, DenialCode.MESSAGE_RATE),
        ({"daily_loss": D(0)}, {}, DenialCode.DAILY_LOSS),
        ({"order_notional": D(199)}, {"symbol": INVERSE.fqme, "size": D(2)},
         DenialCode.ORDER_NOTIONAL),
        ({"order_notional": D(200)}, {"symbol": INVERSE.fqme, "size": D(2)}, None),
    ],
)  # fmt: skip
def test_limit_denies_when_it_is_passed_and_not_before(
    limits: dict[str, Any], changes: dict[str, Any], expected: DenialCode | None
) -> None:
    """At the limit it passes, a hair beyond it does not."""
    assert code(desk(**limits).check(order(**changes), 1)) == expected


def test_nothing_is_judged_by_an_old_price_when_the_feed_is_gone() -> None:
    """Ten seconds by default."""
    one = desk()
    assert code(one.check(order("a"), 10 * NS)) is None
    assert code(one.check(order("b", price=D(59_000)), 10 * NS + 1)) is DenialCode.NO_REFERENCE


def test_currency_without_a_rate_is_denied_when_limits_are_in_another() -> None:
    """It is not taken for one to one."""
    one = desk()
    one.price(EURO.fqme, D(55_000), 0)
    assert code(one.check(order(symbol=EURO.fqme, price=D(55_000)), 1)) is DenialCode.NO_RATE


def test_stuck_key_is_denied_when_the_same_order_comes_again() -> None:
    """An edit of it is none, and neither is the same a second later."""
    one = desk()
    assert code(one.check(order("a"), 1)) is None
    assert code(one.check(order("b"), 2)) is DenialCode.DUPLICATE_ORDER
    assert code(one.check(order("a"), 3)) is None
    assert code(one.check(order("c"), 2 * NS)) is None


def test_state_lets_through_what_it_says_when_changed() -> None:
    """Halted: nothing. Reducing: what makes the position smaller, all standing orders counted."""
    one = desk()
    one.position(BTC.fqme, D("0.03"))
    one.state = TradingState.HALTED
    halted = one.check(order("a", action=Action.SELL), 1)
    assert code(halted) is DenialCode.HALTED
    assert isinstance(halted, Denial)
    assert halted.reason.endswith(
        f"{one.account} is halted. To let it trade: piker arm {one.account}"
    )
    one.all_halted = True
    halted = one.check(order("a", action=Action.SELL), 1)
    assert isinstance(halted, Denial)
    assert halted.reason == "all accounts are halted. To lift that: piker arm"
    one.state = TradingState.REDUCING
    assert code(one.check(order("b"), 1)) is DenialCode.REDUCING
    sell = order("c", action=Action.SELL, size=D("0.02"))
    assert code(one.check(sell, 1)) is None
    more = order("d", action=Action.SELL, size=D("0.02"), price=D(60_001))
    assert code(one.check(more, 1)) is DenialCode.REDUCING
    one.ended("c")
    assert code(one.check(more, 1)) is None


def test_exit_takes_the_place_of_its_own_bracket_s_alone_when_groups_share_a_name() -> None:
    """Two brackets whose exits are called the same: the other's take-profit sells, too."""
    one = desk()
    one.position(BTC.fqme, D("0.02"))
    one.state = TradingState.REDUCING
    out = {"action": Action.SELL, "oco": "exits"}
    for parent in ("p", "q"):
        profit = order(f"{parent}-tp", parent=parent, **out)
        one.standing(profit, profit.size)
    stop = order("p-sl", parent="p", **out)
    assert code(one.check(stop, 1, by_client=False)) is None
    more = order("p-sl", parent="p", size=D("0.015"), **out)
    assert code(one.check(more, 1, by_client=False)) is DenialCode.REDUCING


def test_day_s_loss_stops_new_risk_and_lets_a_position_be_closed() -> None:
    """Realised and unrealised, fees counted; a new day begins at its own prices."""
    one = desk(daily_loss=D(100), order_notional=D(10**6), gross_exposure=D(10**6))
    one.filled(order(size=D(1)), D(1), D(60_000), fee=D(10))
    assert one.day_result() == -10
    one.price(BTC.fqme, D("59910"), 1)
    assert one.day_result() == -100
    assert code(one.check(order("x", price=D(59_000)), 2)) is DenialCode.DAILY_LOSS
    sell = order("y", action=Action.SELL, size=D(1), price=D(59_910))
    assert code(one.check(sell, 2)) is None
    midnight = DAY_NS + 5
    assert one.open_day(midnight) == []  # its price is a day old
    assert one.day_result() == 0
    one.price(BTC.fqme, D("59905"), midnight)
    assert one.open_day(midnight) == [Opened(BTC.fqme, D(1), D(59_905))]
    assert one.open_day(midnight) == []
    one.price(BTC.fqme, D("59900"), midnight)
    assert one.day_result() == -5


def test_inverse_result_is_the_coins_when_reckoned() -> None:
    """Long 600 contracts of 100 dollars from 60,000 to 61,000: 1/60 - 1/61 times 60 coins."""
    one = desk()
    one.filled(order(symbol=INVERSE.fqme), D(600), D(60_000))
    one.price(INVERSE.fqme, D(61_000), 1)
    coins = D(60_000) / D(60_000) - D(60_000) / D(61_000)
    assert abs(one.day_result() - coins * 61_000) < D("1e-12")


def test_approval_can_not_be_made_or_changed_by_anybody_else() -> None:
    """It is a type that only a desk gives out."""
    with pytest.raises(Bug):
        RiskApproved(order(), D(1), seal=object())
    approved = desk().check(order(), 1)
    assert isinstance(approved, RiskApproved)
    with pytest.raises(AttributeError):
        approved.order = order("b")


@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_no_random_order_passes_a_limit_when_anything_is_sent(count: int) -> None:
    """Orders, edits, bursts, fills, cancels and price moves, against a model that is told less.

    The model keeps what was let through and what was filled, and reckons every limit anew.
    """
    rng = random.Random(count)
    limits = Limits(
        order_notional=D(2_000), gross_exposure=D(6_000), open_orders=8, messages=20,
        messages_s=1.0, daily_loss=D(300), order_size={BTC.fqme: D("0.03")},
    )  # fmt: skip
    one = desk(**{name: getattr(limits, name) for name in limits.__struct_fields__})
    price, now, held, cash = D(60_000), 1, D(0), D(0)
    standing: dict[str, Order] = {}
    sent: list[int] = []
    passed = 0
    for number in range(count):
        now += rng.choice([0, 1000, 10_000_000, 200_000_000])
        price = max(D(1_000), price + D(rng.randint(-60, 60)))
        one.price(BTC.fqme, price, now)
        edits = standing and rng.random() < 0.2
        oid = rng.choice(list(standing)) if edits else f"o{number}"
        action = standing[oid].action if edits else rng.choice([Action.BUY, Action.SELL])
        asked = order(
            oid, action=action, size=D(rng.randint(1, 4_000)) / 100_000,
            price=price + D(rng.randint(-4_000, 4_000)),
        )  # fmt: skip
        answer = one.check(asked, now)
        if isinstance(answer, RiskApproved):
            passed += 1
            standing[oid] = asked
            sent.append(now)
            assert asked.price is not None
            worst = asked.size * (asked.price if action is Action.BUY else max(asked.price, price))
            assert worst <= limits.order_notional
            assert asked.size <= limits.order_size[BTC.fqme]
            assert asked.side * (asked.price - price) <= price * limits.price_collar
            assert len(standing) <= limits.open_orders
            assert sum(1 for at in sent if at > now - NS) <= limits.messages
            buys = sum((each.size for each in standing.values() if each.side > 0), D(0))
            sells = sum((each.size for each in standing.values() if each.side < 0), D(0))
            same = buys if asked.side > 0 else sells
            reduces = held * asked.side < 0 and same <= abs(held)
            if not reduces:
                most = max(abs(held + buys), abs(held - sells))
                assert most * price <= limits.gross_exposure
                assert cash + held * price > -limits.daily_loss
        if standing and rng.random() < 0.5:
            oid = rng.choice(list(standing))
            gone = standing.pop(oid)
            one.ended(oid)
            if rng.random() < 0.7:
                one.filled(gone, gone.size, price, time_ns=now)
                held += gone.side * gone.size
                cash -= gone.side * gone.size * price
        if number % 500 == 499:
            now = (now // DAY_NS + 1) * DAY_NS
            for mkt in (BTC, INVERSE):
                one.price(mkt.fqme, price, now)
            one.open_day(now)
            cash = -held * price
    print(f"{count} orders, {passed} approved")
    assert passed > count / 50
