"""Random ledgers for the tests of accounting, and a reference that counts in fractions."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

from hypothesis import strategies as st

from piker.accounting.transaction import Contract, Kind, Transaction

D = Decimal
ASSETS = ("usdt", "btc", "bnb")
CONTRACTS = (
    Contract(D(1), False, "btc", "usdt"),
    Contract(D("0.001"), False, "btc", "usdt"),
    Contract(D(50), False, "es", "usdt"),
    Contract(D(100), True, "btc", "btc"),
)
SECOND = 10**9


def tx(tid: str, size: int | str, price: int | str | None = None, **fields: object) -> Transaction:
    """Return a transaction; its time is its id in seconds, where that is a number."""
    fields.setdefault("time_ns", int(tid) * SECOND if tid.isdigit() else 0)
    return Transaction(
        account=str(fields.pop("account", "main")),
        symbol=str(fields.pop("symbol", "btcusdt.spot.binance")),
        tid=tid,
        size=D(size),
        price=None if price is None else D(price),
        **fields,  # type: ignore[arg-type]
    )


_KINDS = (Kind.FILL,) * 12 + (
    Kind.TRANSFER, Kind.TRANSFER, Kind.SPLIT, Kind.EXPIRY, Kind.FEE, Kind.FUNDING,
)  # fmt: skip
#: kind, size and its decimals, price and its decimals, cost, asset, seconds since the one before
_STEP = st.tuples(
    st.sampled_from(_KINDS),
    st.integers(-9999, 9999).filter(bool),
    st.integers(0, 8),
    st.integers(1, 10**7),
    st.integers(0, 6),
    st.integers(-50, 500),
    st.integers(0, 2),
    st.integers(0, 2),
)
Step = tuple[Kind, int, int, int, int, int, int, int]


def made_of(number: int, step: Step, time_ns: int) -> Transaction:
    """Return the transaction that a drawn step stands for."""
    kind, size, decimals, price, price_decimals, cost, asset, _ = step
    fields: dict[str, object] = {"kind": kind, "time_ns": time_ns}
    if cost and kind is not Kind.SPLIT:
        fields |= {"cost": D(cost).scaleb(-4), "cost_asset": ASSETS[asset]}
    amount, at = D(size).scaleb(-decimals), D(price).scaleb(-price_decimals)
    if kind is Kind.SPLIT:
        return tx(str(number), 0, new=1 + abs(size) % 7, old=1 + price % 5, **fields)
    if kind in (Kind.FEE, Kind.FUNDING):
        return tx(str(number), 0, **fields)
    if kind is Kind.TRANSFER and price % 4 == 0:
        return tx(str(number), str(amount), None, **fields)
    if kind is Kind.EXPIRY and price % 2:
        fields.pop("cost", None), fields.pop("cost_asset", None)
        return tx(str(number), 0, str(at), **fields)
    return tx(str(number), str(amount), str(at), **fields)


def made(steps: Iterable[Step]) -> list[Transaction]:
    """Return the transactions of drawn steps, in their order."""
    out, time_ns = [], 0
    for number, step in enumerate(steps, 1):
        time_ns += step[-1] * SECOND
        out.append(made_of(number, step, time_ns))
    return out


def ledgers(longest: int = 20) -> st.SearchStrategy[list[Transaction]]:
    """Return a strategy of ledgers of one position."""
    return st.lists(_STEP, max_size=longest).map(made)


def disturbed(transactions: list[Transaction], seed: int) -> list[Transaction]:
    """Return them in another order, each up to three times."""
    chance = random.Random(seed)
    out = [one for one in transactions for _ in range(chance.randint(1, 3))]
    chance.shuffle(out)
    return out


def fifo_in_fractions(
    fills: list[Transaction], contract: Contract
) -> tuple[list[tuple[str, str, Fraction, Fraction]], Fraction, Fraction]:
    """Return (open id, close id, size, gain) of each pair, the position, and the cash flow.

    Another hand's arithmetic: whole fractions, unit prices, nothing of the package. Linear fills.
    """
    lots: deque[list[object]] = deque()
    pairs: list[tuple[str, str, Fraction, Fraction]] = []
    held, cash, unit = Fraction(0), Fraction(0), Fraction(contract.multiplier)
    for one in fills:
        assert one.price is not None
        left, price = Fraction(one.size), Fraction(one.price)
        cash -= left * price * unit
        while left and held * left < 0:
            tid, size, entry = lots[0]
            assert isinstance(size, Fraction)
            assert isinstance(entry, Fraction)
            part = size if abs(size) <= abs(left) else -left
            pairs.append((str(tid), one.tid, part, part * (price - entry) * unit))
            lots[0][1] = size - part
            if not lots[0][1]:
                lots.popleft()
            left += part
            held -= part
        if left:
            lots.append([one.tid, left, price])
            held += left
    return pairs, held, cash
