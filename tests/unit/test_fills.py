"""The journal's fills in accounting: position and fees are those of the fold, to the last digit."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from piker.accounting import Ledger, of_fill
from piker.clearing.fills import executions
from piker.clearing.journal_file import JournalFile, create
from piker.clearing.journal_snapshot import take_up
from piker.clearing.lifecycle import Event, EventKind
from piker.clearing.records import Happened, Intent, Record, prepare, read_row
from piker.clearing.standing import fold_orders
from piker.money import EXACT, ZERO, total
from piker.orders import Action, Order

FQMES = ("btcusdt.spot.binance", "ethusdt.usdtm.perp.binance", "xbtusd.spot.kraken")
ACCOUNTS = ("binance.main", "binance.paper", "kraken.main")
ASSETS = ("usdt", "bnb", "btc")


def amount(chance: random.Random, digits: int = 18) -> Decimal:
    """Return an amount of up to so many digits on either side of the point."""
    places = chance.randint(0, digits)
    return Decimal(chance.randint(1, 10 ** chance.randint(1, digits + places))).scaleb(-places)


def orders_of(chance: random.Random, count: int) -> list[Record]:
    """Return intents in some markets of some accounts, an alert now and then."""
    made = []
    for number in range(count):
        action = chance.choice([Action.BUY, Action.BUY, Action.SELL, Action.SELL, Action.ALERT])
        order = Order(
            oid=f"o{number}", symbol=chance.choice(FQMES), account=chance.choice(ACCOUNTS),
            action=action, size=amount(chance), price=Decimal(1), trigger=Decimal(1),
        )  # fmt: skip
        made.append(Record(entry=Intent(order), time_ns=1, account=order.account, oid=order.oid))
    return made


class Happenings:
    """What happens to orders: fills mostly, told again now and then, some of them with oneself."""

    def __init__(self, chance: random.Random, intents: list[Record]) -> None:
        self._chance = chance
        self._intents = intents
        self._sides: dict[tuple[str, str, str], dict[int, str]] = {}  # of a trade: side -> oid
        self.with_oneself = 0

    def next(self, number: int) -> Record:
        """Return the next."""
        chance = self._chance
        intent = chance.choice(self._intents)
        assert isinstance(intent.entry, Intent)
        order = intent.entry.order
        kind = EventKind.FILL if chance.random() < 0.9 else chance.choice(list(EventKind))
        tid = str(chance.choice([number, number, number, number - chance.randint(1, 50)]))
        if kind is EventKind.FILL:
            sides = self._sides.setdefault((order.account, order.symbol, tid), {})
            if sides.setdefault(order.side, order.oid) != order.oid:
                tid = f"{number}-own"  # a trade has one order on each side
            self.with_oneself += len(sides) == 2
        event = Event(
            kind=kind, time_ns=number, tid=tid, size=amount(chance), price=amount(chance),
            fee_asset=chance.choice(ASSETS), fee=amount(chance) * chance.choice([0, 1, 1, 1, -1]),
        )  # fmt: skip
        oid = chance.choice([order.oid] * 30 + ["nobody's"])
        return Record(
            entry=Happened(event, order.symbol), time_ns=number, account=order.account, oid=oid
        )


@pytest.mark.slow
def test_position_and_fees_are_those_of_the_fold_when_ten_thousand_fills_are_told(
    tmp_path: Path,
) -> None:
    """Long numbers, late and doubled fills, alerts and strangers; sums in accounting are equal."""
    chance = random.Random(4)
    create(tmp_path / "journal")
    file = JournalFile(tmp_path / "journal")
    intents = orders_of(chance, 400)
    file.append([prepare(record) for record in intents])
    number, happenings = 0, Happenings(chance, intents)
    while number < 17_000:
        some = [happenings.next(number + at) for at in range(chance.randint(1, 500))]
        number += len(some)
        file.append([prepare(record) for record in some])
    records = [read_row(row) for row in file.rows(0, 30_000)]
    standing = take_up(file).standing
    file.close()

    told = list(executions(records))
    ledger = Ledger(of_fill(one.fill, symbol=one.symbol) for one in told)
    assert len(ledger) == len(told) > 10_000
    assert happenings.with_oneself > 20
    sizes = {(one.account, one.symbol): one.size for one in ledger.positions()}
    assert sizes == {where: net for where, net in standing.nets.items() if where in sizes}
    assert all(not net for where, net in standing.nets.items() if where not in sizes)

    states = {}
    fold_orders(states, records)
    fees: dict[tuple[str, str, str], Decimal] = {}
    for state in states.values():
        if state.order.action is not Action.ALERT:
            for asset, fee in state.fees.items():
                where = (state.order.account, state.order.symbol, asset)
                fees[where] = EXACT.add(fees.get(where, ZERO), fee)
    counted = {
        (one.account, one.symbol, asset): fee
        for one in ledger.positions() for asset, fee in one.fees.items()
    }  # fmt: skip
    assert {where: fee for where, fee in counted.items() if fee} == {
        where: fee for where, fee in fees.items() if fee
    }
    paid = Counter(one.fill.fee_asset for one in told)
    assert len(paid) == len(ASSETS)
    cash = total(EXACT.multiply(one.fill.size, one.fill.price) for one in told)
    assert cash == total(
        state.value for state in states.values() if state.order.action is not Action.ALERT
    )
