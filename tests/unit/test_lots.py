"""Lots: they add up to the position and profits close, whatever happened in whatever order."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledgers import CONTRACTS, D, disturbed, fifo_in_fractions, ledgers, tx

from piker.accounting.ledger import Added, Ledger
from piker.accounting.lots import LotReport, Method, lots_of
from piker.accounting.position import Position, fold
from piker.accounting.transaction import Contract, Kind, Transaction, agree, value_of
from piker.money import ZERO, exact, total

SPOT = CONTRACTS[0]
SYMBOL = "btcusdt.spot.binance"


# -- promise 27 ----------------------------------------------------------------------------------
@exact
def check_closes(position: Position, report: LotReport, mark: Decimal) -> None:
    """Hold the books: size, profit and loss, and profit with what is open, to the last digit."""
    assert report.size == position.size
    assert report.realised == report.cash + report.basis - report.moved
    assert position.realised == position.cash + position.basis - position.moved
    value = value_of(position.size, mark, position.contract)
    assert report.realised + value - report.basis == report.cash + value - report.moved
    gain = position.realised + position.unrealised(mark)
    assert gain == position.cash + value - position.moved
    if report.method is Method.AVERAGE:
        assert (report.realised, report.basis) == (position.realised, position.basis)
        if report.open:
            assert any(lot.unpriced for lot in report.open) == position.unpriced
    assert all(lot.size for lot in report.open)
    assert all((lot.size > 0) == (position.size > 0) for lot in report.open)


def check_fees(position: Position, report: LotReport, transactions: list[Transaction]) -> None:
    """Hold that no fee was lost on a lot."""
    alone = [one for one in transactions if one.kind is Kind.FEE]
    for asset, fee in position.fees.items():
        lots = [lot.fees.get(asset, ZERO) for lot in (*report.open, *report.closed)]
        assert total([*lots, *(one.cost for one in alone if one.cost_asset == asset)]) == fee


def check_reference(transactions: list[Transaction], contract: Contract) -> None:
    """Hold the fills alone against the reference in fractions."""
    fills = [one for one in transactions if one.kind is Kind.FILL]
    if contract.inverse:
        return
    report = lots_of(fills, contract)
    pairs, held, cash = fifo_in_fractions(fills, contract)
    assert (Fraction(report.size), Fraction(report.cash)) == (held, cash)
    ours = [(c.open_tid, c.close_tid, Fraction(c.size), Fraction(c.gain)) for c in report.closed]
    assert ours == pairs


def check_books(transactions: list[Transaction], contract: Contract, seed: int) -> None:
    """Hold everything that is promised of one ledger."""
    position = fold(transactions, contract, account="main", symbol=SYMBOL)
    mark = D(1 + seed % 100_000).scaleb(-2)
    other = disturbed(transactions, seed)
    for method in Method:
        report = lots_of(transactions, contract, method)
        check_closes(position, report, mark)
        check_fees(position, report, transactions)
        assert lots_of(other, contract, method) == report
    ledger = Ledger(contracts={SYMBOL: contract})
    for one in other:
        ledger.add(one)
        if seed % 3 == 0:
            ledger.position("main", SYMBOL)  # folded in between, so that late ones are met
    assert ledger.position("main", SYMBOL) == position
    check_reference(transactions, contract)


@settings(max_examples=500)
@given(ledgers(), st.sampled_from(CONTRACTS), st.integers(0, 2**32))
def test_books_close_when_anything_happens(
    transactions: list[Transaction], contract: Contract, seed: int
) -> None:
    """Lots are the position, profits close, order and duplicates are harmless: 500 ledgers."""
    check_books(transactions, contract, seed)


@pytest.mark.full
def test_books_close_when_a_hundred_thousand_ledgers_are_drawn() -> None:
    """The whole of promise 27; prints how many steps it was."""
    seen = {"ledgers": 0, "steps": 0, "closed": 0}

    @settings(
        max_examples=100_000, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(ledgers(12), st.sampled_from(CONTRACTS), st.integers(0, 2**32))
    def run(transactions: list[Transaction], contract: Contract, seed: int) -> None:
        check_books(transactions, contract, seed)
        seen["ledgers"] += 1
        seen["steps"] += len(transactions)
        seen["closed"] += len(lots_of(transactions, contract).closed)

    run()
    print(f"promise 27: {seen}")
    assert seen["ledgers"] >= 90_000  # hypothesis counts what it drew twice


# -- links ---------------------------------------------------------------------------------------
def test_oldest_lot_goes_first_when_fifo() -> None:
    """Two entries, one exit over the first and half of the second."""
    report = lots_of([tx("1", 2, 100), tx("2", 2, 110), tx("3", -3, 120)], SPOT)
    assert [(c.open_tid, c.close_tid, c.size, c.gain) for c in report.closed] == [
        ("1", "3", D(2), D(40)),
        ("2", "3", D(1), D(10)),
    ]
    assert [(lot.tid, lot.size, lot.basis) for lot in report.open] == [("2", D(1), D(110))]


def test_newest_lot_goes_first_when_lifo() -> None:
    """The same trades, the other way round."""
    report = lots_of([tx("1", 2, 100), tx("2", 2, 110), tx("3", -3, 120)], SPOT, Method.LIFO)
    assert [(c.open_tid, c.size, c.gain) for c in report.closed] == [
        ("2", D(2), D(20)),
        ("1", D(1), D(20)),
    ]


def test_lots_are_one_pool_when_averaged() -> None:
    """Gains are those of the position at average cost."""
    trades = [tx("1", 2, 100), tx("2", 2, 110), tx("3", -3, 120)]
    report = lots_of(trades, SPOT, Method.AVERAGE)
    assert [(c.open_tid, c.size, c.gain) for c in report.closed] == [("1", D(3), D(45))]
    assert report.realised == fold(trades, SPOT).realised == 45


def test_short_receives_first_when_linked() -> None:
    """Proceeds are what the sale brought, though it came before the purchase."""
    (lot,) = lots_of([tx("1", -1, 100), tx("2", 1, 90)], SPOT).closed
    assert (lot.size, lot.proceeds, lot.cost, lot.gain) == (D(-1), D(100), D(90), D(10))


def test_trade_through_zero_closes_and_opens_when_larger_than_what_is_held() -> None:
    """Its fee is divided between the two."""
    report = lots_of([tx("1", 1, 100), tx("2", -3, 110, cost=D("0.3"), cost_asset="usdt")], SPOT)
    assert report.closed[0].fees == {"usdt": D("0.1")}
    assert [(lot.tid, lot.size, lot.fees) for lot in report.open] == [
        ("2", D(-2), {"usdt": D("0.2")})
    ]


def test_days_are_of_the_calendar_when_counted() -> None:
    """Two minutes over midnight UTC are a day; 23 hours within one are none."""
    minute = 60 * 10**9
    near = [tx("a", 1, 1, time_ns=1439 * minute), tx("b", -1, 1, time_ns=1441 * minute)]
    far = [tx("a", 1, 1, time_ns=1440 * minute), tx("b", -1, 1, time_ns=2820 * minute)]
    assert [lots_of(both, SPOT).closed[0].days for both in (near, far)] == [1, 0]


def test_nothing_is_lost_when_a_third_of_a_lot_is_sold_after_a_split() -> None:
    """Ten units that cost 100 become 30 thirds; the remainder of the division stays in the lot."""
    trades = [
        tx("1", 7, "14.285714"), tx("2", 0, kind=Kind.SPLIT, new=1, old=3), tx("3", -1, 50),
        tx("4", "-1.3", 50),
    ]  # fmt: skip
    report = lots_of(trades, SPOT)
    assert report.size == fold(trades, SPOT).size
    assert report.realised == total([report.cash, report.basis])


def test_lots_keep_their_age_when_split() -> None:
    """Units times 25, the cost as it was."""
    trades = [tx("1", 2, 100), tx("2", 2, 110), tx("3", 0, kind=Kind.SPLIT, new=25, old=1)]
    report = lots_of(trades, SPOT)
    assert [(lot.tid, lot.size, lot.basis) for lot in report.open] == [
        ("1", D(50), D(200)),
        ("2", D(50), D(220)),
    ]


def test_transfer_out_has_no_gain_when_it_takes_lots() -> None:
    """They leave at what they cost."""
    report = lots_of([tx("1", 2, 100), tx("2", -1, 500, kind=Kind.TRANSFER)], SPOT)
    (gone,) = report.closed
    assert (gone.gain, gone.cost, gone.kind) == (ZERO, D(100), Kind.TRANSFER)
    assert (report.realised, report.moved) == (ZERO, D(-100))


# -- the ledger ----------------------------------------------------------------------------------
def test_ledger_says_which_telling_counts_when_two_differ() -> None:
    """The venue's first word of a fill has no fee, its history has."""
    bare, full = tx("1", 1, 100), tx("1", 1, 100, cost=D("0.1"), cost_asset="usdt")
    ledger = Ledger()
    assert [ledger.add(one) for one in (bare, bare, full, bare, full)] == [
        Added.NEW, Added.DUPLICATE, Added.CORRECTED, Added.CONFLICT, Added.DUPLICATE,
    ]  # fmt: skip
    assert len(ledger) == 1
    assert ledger.position("main", SYMBOL).fees == {"usdt": D("0.1")}


@given(ledgers(), st.integers(0, 2**32))
def test_ledger_is_the_same_when_tellings_that_differ_come_in_any_order(
    transactions: list[Transaction], seed: int
) -> None:
    """A first word without the fee, later or earlier, or of the other leg, changes nothing."""
    chance, told = random.Random(seed), list(transactions)
    for one in transactions:
        if one.cost and chance.random() < 0.5:
            told.append(
                msgspec.structs.replace(
                    one, cost=ZERO, cost_asset="", leg=chance.choice(["", "long"]),
                    time_ns=max(0, one.time_ns + chance.choice([-5, 0, 5]) * 10**9),
                )
            )  # fmt: skip
    chance.shuffle(told)
    ledger = Ledger(told, contracts={SYMBOL: SPOT})
    assert ledger.transactions() == Ledger(transactions).transactions()
    assert ledger.positions() == Ledger(transactions, contracts={SYMBOL: SPOT}).positions()
    assert fold(told, SPOT) == fold(transactions, SPOT)


@pytest.mark.parametrize(
    "change",
    [{"value": D(101)}, {"time_ns": 0}, {"note": "a"}, {"leg": "long"}, {"price": D(101)},
     {"size": D(2)}, {"cost_asset": "usdt"}],
)  # fmt: skip
def test_one_telling_counts_when_two_differ_in_anything(change: dict[str, object]) -> None:
    """The same one, whichever comes first."""
    one = tx("1", 1, 100)
    other = msgspec.structs.replace(one, **change)
    both = [Ledger([one, other]), Ledger([other, one])]
    assert both[0].transactions() == both[1].transactions()
    assert both[0].positions() == both[1].positions()
    assert agree(one, other) == agree(other, one) == both[0].transactions()[0]


def test_legs_are_two_positions_when_an_account_hedges() -> None:
    """Long and short of one market do not net."""
    ledger = Ledger([tx("1", 2, 100, leg="long"), tx("2", -3, 110, leg="short")])
    assert [(p.leg, p.size) for p in ledger.positions("main")] == [
        ("long", D(2)),
        ("short", D(-3)),
    ]


def test_ledger_is_flat_when_nothing_happened() -> None:
    """Asking for a position makes none."""
    ledger = Ledger()
    assert ledger.position("main", SYMBOL).size == 0
    assert ledger.lots("main", SYMBOL).open == ()
    assert ledger.positions() == []
