"""Positions: average cost, fees and funding apart, break-even, inverse contracts, exactness."""

from __future__ import annotations

import decimal
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import CONTRACTS, D, tx

from piker.accounting.position import (
    BreakEven,
    Position,
    Valued,
    apply,
    break_even,
    describe,
    fold,
    in_order,
    worth,
)
from piker.accounting.transaction import (
    Contract,
    Kind,
    Transaction,
    contract_of,
    of_fill,
    value_of,
)
from piker.errors import Bug, DataQuality
from piker.market import Asset, MktPair
from piker.money import (
    EXACT,
    ZERO,
    exact,
    is_sane,
    plain,
    ratio,
    scaled,
    share,
    total,
)
from piker.orders import Action, BrokerdFill

SPOT = CONTRACTS[0]
INVERSE = CONTRACTS[3]


def fee(amount: str, asset: str = "usdt") -> dict[str, object]:
    """Return the fields of a fee."""
    return {"cost": D(amount), "cost_asset": asset}


# -- average cost --------------------------------------------------------------------------------
def test_average_rises_when_more_is_bought_dearer() -> None:
    """Entries are averaged by size; an exit leaves the average as it was."""
    trades = [tx("1", 1, 100), tx("2", 3, 120), tx("3", -2, 130)]
    position = fold(trades, SPOT)
    assert (position.size, position.avg_price, position.realised) == (D(2), D(115), D(30))
    assert position.unrealised(D(120)) == 10


def test_entry_is_fresh_when_a_trade_goes_through_zero() -> None:
    """Long one at 100, sell three at 110: ten made, short two at 110."""
    position = fold([tx("1", 1, 100), tx("2", -3, 110)], SPOT)
    assert (position.size, position.avg_price, position.realised) == (D(-2), D(110), D(10))
    assert position.since.opened_ns == 2 * 10**9
    assert position.unrealised(D(100)) == 20


def test_nothing_is_left_when_flat() -> None:
    """No average, no cost, whatever the divisions on the way."""
    trades = [tx("1", 3, "0.1"), tx("2", 4, "0.7"), tx("3", -1, 1), tx("4", -6, 1)]
    position = fold(trades, SPOT)
    assert (position.size, position.basis, position.avg_price) == (ZERO, ZERO, None)
    assert position.realised == position.cash == D("3.9")
    assert break_even(position) == BreakEven(None)


def test_multiplier_counts_when_a_contract_is_of_many_units() -> None:
    """Two ES at 50 dollars a point, up four points."""
    position = fold([tx("1", 2, 4000), tx("2", -2, 4004)], CONTRACTS[2])
    assert position.realised == 400


def test_price_may_be_negative_when_the_market_was() -> None:
    """WTI on 2020-04-20: bought at 10, settled at -37.63."""
    oil = Contract(D(1000), False, "cl", "usd")
    position = fold([tx("1", 1, 10), tx("2", 0, "-37.63", kind=Kind.EXPIRY)], oil)
    assert (position.size, position.realised) == (ZERO, D("-47630"))


# -- inverse contracts ---------------------------------------------------------------------------
def test_profit_is_in_the_coin_when_the_contract_is_inverse() -> None:
    """Multiplier times contracts times (1/entry - 1/exit): 100 * 10 * (1/8000 - 1/10000)."""
    position = fold([tx("1", 10, 8000), tx("2", -10, 10000)], INVERSE)
    assert position.realised == D("0.025")


def test_average_is_harmonic_when_the_contract_is_inverse() -> None:
    """10 contracts at 8000 and 10 at 10000 are 20 at 8888.8..., as the coins say."""
    position = fold([tx("1", 10, 8000), tx("2", 10, 10000)], INVERSE)
    assert position.basis == D("-0.225")
    assert position.avg_price == ratio(D(2000), D("0.225"))


def test_venue_value_counts_when_it_has_booked_one() -> None:
    """Binance rounds the coins of a contract to eight decimals, and pays by them."""
    booked = tx("1", 1, 8800, value=D("-0.01136364"))
    assert fold([booked], INVERSE).basis == D("-0.01136364")


def test_inverse_has_no_value_when_the_price_is_zero() -> None:
    """Said, not divided by."""
    with pytest.raises(DataQuality, match="no value at a price"):
        value_of(D(1), ZERO, INVERSE)


# -- fees, funding, break-even -------------------------------------------------------------------
def test_fees_stay_apart_when_paid_in_several_assets() -> None:
    """In quote, base and a third: none is converted, and the size is what was traded."""
    trades = [
        tx("1", 1, 100, **fee("0.1")), tx("2", 1, 100, **fee("0.001", "btc")),
        tx("3", 1, 100, **fee("0.02", "bnb")), tx("4", 0, kind=Kind.FEE, **fee("5")),
    ]  # fmt: skip
    position = fold(trades, SPOT)
    assert position.fees == {"usdt": D("5.1"), "btc": D("0.001"), "bnb": D("0.02")}
    assert (position.size, position.held, position.basis) == (D(3), D("2.999"), D(300))


def test_missing_rate_is_named_when_fees_are_valued() -> None:
    """What has no rate is left out of the sum, and said."""
    fees = {"usdt": D(5), "bnb": D("0.02"), "xyz": D(1), "abc": ZERO}
    assert worth(fees, "usdt", {"bnb": D(300)}.get) == Valued(D(11), ("xyz",))
    assert worth(fees, "usdt") == Valued(D(5), ("bnb", "xyz"))


def test_break_even_pays_for_all_when_closed_there() -> None:
    """Fees, funding and what was realised since flat; before that is another story."""
    trades = [
        tx("1", 1, 50), tx("2", -1, 60),  # over and done with
        tx("3", 2, 100, **fee("1")), tx("4", -1, 90, **fee("0.5")),
        tx("5", 0, kind=Kind.FUNDING, **fee("2")),
    ]  # fmt: skip
    position = fold(trades, SPOT)
    assert position.funding == {"usdt": D(-2)}
    assert break_even(position) == BreakEven(D("113.5"))  # 100 + 10 lost + 1.5 fees + 2 funding
    after = fold([*trades, tx("6", -1, "113.5")], SPOT)
    assert after.since.realised + after.since.funding["usdt"] == after.since.fees["usdt"]


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([1, -1]),
    st.integers(0, 100), st.sampled_from(CONTRACTS),
)  # fmt: skip
def test_break_even_leaves_nothing_when_closed_there_with_a_fee(
    size: int, price: int, side: int, rate: int, contract: Contract
) -> None:
    """To 20 digits: the price is a quotient and is shown to 28."""
    exit_fee = D(rate).scaleb(-4)
    opened = tx("1", size * side, price, cost=D("0.001"), cost_asset=contract.settle)
    position = fold([opened], contract)
    even = break_even(position, exit_fee=exit_fee).price
    if even is None:
        return
    with decimal.localcontext() as context:
        context.prec = 60
        value = value_of(position.size, even, contract)
        left = value - position.basis - D("0.001") - exit_fee * abs(value)
        assert abs(left) <= (abs(value) + 1) * D("1e-20")


def test_break_even_names_what_it_left_out_when_no_rate_is_known() -> None:
    """The fee in BNB is not in it."""
    position = fold([tx("1", 1, 100, **fee("0.02", "bnb"))], SPOT)
    assert break_even(position) == BreakEven(D(100), ("bnb",))
    assert break_even(position, {"bnb": D(300)}.get) == BreakEven(D(106))


def test_break_even_is_none_when_no_price_could_lose() -> None:
    """More was realised since flat than all that is open did cost."""
    position = fold([tx("1", 2, 100), tx("2", -1, 500)], SPOT)
    assert break_even(position).price is None


# -- transfers, splits, expiries -----------------------------------------------------------------
def test_cost_comes_along_when_units_are_transferred() -> None:
    """In at their price, out at the average, and no gain of either."""
    trades = [tx("1", 1, 100), tx("2", 1, 50, kind=Kind.TRANSFER), tx("3", -1, kind=Kind.TRANSFER)]
    position = fold(trades, SPOT)
    assert (position.size, position.basis, position.realised) == (D(1), D(75), ZERO)
    assert (position.cash, position.moved) == (D(-100), D(-25))


def test_unknown_cost_is_said_when_units_came_without_one() -> None:
    """It counts as nothing, until the position is flat."""
    trades = [tx("1", 2, kind=Kind.TRANSFER), tx("2", -1, 10)]
    assert fold(trades, SPOT).unpriced
    assert fold(trades, SPOT).realised == 10
    assert not fold([*trades, tx("3", -1, 10), tx("4", 1, 10)], SPOT).unpriced


def test_price_is_divided_when_split() -> None:
    """One for twenty-five: 12,000 at 0.27 are 480 at 6.75, as IB booked Gran Colombia in 2013."""
    trades = [tx("1", 12000, "0.27"), tx("2", 0, kind=Kind.SPLIT, new=1, old=25)]
    position = fold(trades, SPOT)
    assert (position.size, position.avg_price, position.basis) == (D(480), D("6.75"), D(3240))


def test_all_is_settled_when_a_contract_expires() -> None:
    """Without a size it is what is held, long or short; when flat nothing happens."""
    short = fold([tx("1", -3, 10), tx("2", 0, 0, kind=Kind.EXPIRY)], SPOT)
    assert (short.size, short.realised) == (ZERO, D(30))
    assert fold([tx("1", 0, 5, kind=Kind.EXPIRY)], SPOT).size == 0


# -- the order of things -------------------------------------------------------------------------
def test_ids_are_numbers_when_times_are_equal() -> None:
    """9 before 10, and both before what is no number."""
    three = [tx(tid, 1, 1, time_ns=5) for tid in ("x", "10", "9")]
    assert [one.tid for one in in_order(three)] == ["9", "10", "x"]


def test_late_transaction_is_refused_when_applied() -> None:
    """A fold goes forward; whoever keeps a ledger folds anew."""
    position = apply(Position(account="main", symbol=SYMBOL), tx("2", 1, 1))
    for wrong in (tx("1", 1, 1), tx("2", 1, 1), tx("3", 1, 1, account="other")):
        with pytest.raises(Bug):
            apply(position, wrong)


SYMBOL = "btcusdt.spot.binance"


def test_fill_of_a_backend_is_a_transaction_when_it_comes() -> None:
    """The sell's size is negative, the venue's time counts."""
    fill = BrokerdFill(
        reqid="7", tid="99", time_ns=5, broker_time_ns=4, size=D(2), price=D(10),
        action=Action.SELL, oid="o1", fee=D("0.1"), fee_asset="usdt",
    )  # fmt: skip
    assert of_fill(fill, symbol=SYMBOL, account="main") == tx(
        "99", -2, 10, time_ns=4, oid="o1", **fee("0.1")
    )


def test_contract_settles_in_the_coin_when_the_market_is_inverse() -> None:
    """The multiplier is the market's contract size."""
    market = MktPair(
        fqme="btcusd.coinm.perp.binance", bs_mktid="BTCUSD_PERP", dst=Asset("btc"),
        src=Asset("usd"), price_tick=D("0.1"), size_tick=D(1), contract_size=D(100), inverse=True,
    )  # fmt: skip
    assert contract_of(market) == INVERSE


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"size": D("NaN")}, "not finite"),
        ({"price": D("Infinity")}, "not finite"),
        ({"size": D("1e24")}, "24 digits"),
        ({"size": D("1e-25")}, "24 digits"),
        ({"time_ns": -1}, "no time"),
        ({"tid": ""}, "no trade id"),
        ({"tid": "a\nb"}, "control characters"),
        ({"note": "x" * 201}, "too long"),
        ({"leg": "up"}, "neither long nor short"),
        ({"cost": D(1)}, "without a name"),
        ({"size": ZERO}, "fill of nothing"),
        ({"price": None}, "no price"),
        ({"symbol": ""}, "no market"),
        ({"kind": Kind.TRANSFER, "size": ZERO}, "transfer of nothing"),
        ({"kind": Kind.TRANSFER, "symbol": ""}, "no market"),
        ({"kind": Kind.FEE}, "money only"),
        ({"kind": Kind.SPLIT, "size": ZERO, "old": 0}, "not possible"),
        ({"kind": Kind.SPLIT}, "given by what is held"),
    ],
)
def test_transaction_is_refused_when_it_can_not_be(fields: dict[str, object], why: str) -> None:
    """At its making, with the reason."""
    good: dict[str, object] = {
        "account": "main", "symbol": SYMBOL, "tid": "1", "time_ns": 1, "size": D(1), "price": D(1)
    }  # fmt: skip
    with pytest.raises(DataQuality, match=why):
        Transaction(**{**good, **fields})  # type: ignore[arg-type]


# -- exact arithmetic ----------------------------------------------------------------------------
def test_digits_survive_when_python_would_drop_them() -> None:
    """The sum of a very large and a very small number, in the default context and in ours."""
    large, small = D("123456789012345678901234"), D("1e-24")
    assert large + small == large  # 28 digits, and no word of it
    assert EXACT.subtract(total([large, small]), large) == small


def test_loss_is_raised_when_a_digit_would_go() -> None:
    """More than the context holds is an error, never a rounding."""
    with pytest.raises(decimal.Inexact):
        exact(lambda: D(10) ** 300 + 1)()


@given(st.integers(-(10**30), 10**30), st.integers(0, 30), st.integers(1, 10**9), st.integers(2, 9))
def test_nothing_appears_or_vanishes_when_an_amount_is_shared(
    amount: int, decimals: int, part: int, times: int
) -> None:
    """What is taken and what is left are the whole; taking again to the end leaves nothing."""
    rest, whole, taken = D(amount).scaleb(-decimals), D(part * times), []
    start = rest
    for _ in range(times):
        taken.append(share(rest, D(part), whole))
        rest, whole = EXACT.subtract(rest, taken[-1]), EXACT.subtract(whole, D(part))
    assert (rest, whole) == (ZERO, ZERO)
    assert total(taken) == start


def test_share_is_half_to_even_when_it_must_round() -> None:
    """A third of one has 36 decimals; a quotient that ends is exact."""
    assert share(D(1), D(1), D(3)) == D("0." + "3" * 36)
    assert share(D("0.3"), D(1), D(8)) == D("0.0375")
    assert scaled(D(7), 1, 7) == 1
    fine = D("0." + "3" * 40)
    assert share(fine, D(1), D(2)) == share(D(f"{fine}{'0' * 9}"), D(1), D(2))  # equal, cut alike


@pytest.mark.parametrize(
    ("text", "sane"),
    [("1e23", True), ("1e24", False), ("1e-24", True), ("1e-25", False), ("nan", False),
     ("-inf", False), ("1." + "0" * 40, True), ("0e-99", True), ("0", True)],
)  # fmt: skip
def test_number_is_judged_by_its_digits_when_taken(text: str, sane: bool) -> None:
    """Trailing zeros do not count."""
    assert is_sane(Decimal(text)) is sane


def test_numbers_are_plain_when_shown() -> None:
    """No exponent, no zeros that say nothing, no negative nothing."""
    shown = [plain(D(text)) for text in ("1E+3", "0.100", "-0.0", "12", "1e-8", "-5.50")]
    assert shown == ["1000", "0.1", "0", "12", "0.00000001", "-5.5"]


def test_position_is_said_in_a_line_when_shown() -> None:
    """Size, average and what was realised."""
    position = fold([tx("1", 2, 100), tx("2", -1, 110)], SPOT)
    assert describe(position) == f"{SYMBOL} 1 at 100, realised 10 usdt"


def test_trade_counts_for_both_sides_when_an_account_trades_with_itself() -> None:
    """One id, two fills: whatever order they come in, the buy is folded first."""
    bought = tx("t7", "2", 100, time_ns=5, cost=D("0.1"), cost_asset="usdt")
    sold = tx("t7", "-2", 100, time_ns=5, cost=D("0.2"), cost_asset="usdt")
    one, other = fold([bought, sold, bought]), fold([sold, bought])
    assert one == other
    assert (one.size, one.realised, one.fees) == (0, 0, {"usdt": D("0.3")})
