"""What a strategy's run came to: orders, fills, fees, results, and what still stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from piker.accounting import Ledger, contract_of, of_fill, worth
from piker.clearing.client import OrderClient
from piker.clearing.lifecycle import TERMINAL, Phase
from piker.clearing.prices import reference
from piker.errors import Bug
from piker.market import MktPair
from piker.money import EXACT, plain
from piker.orders import BrokerdFill, Order, Status
from piker.ticks import Quote

__all__ = [
    "Holding",
    "Report",
    "Standing",
    "Tally",
    "fees_of",
    "holdings_of",
    "session_of",
    "show",
    "standing_of",
]

ZERO = Decimal(0)


class Holding(msgspec.Struct, frozen=True):
    """What a run holds of a market, and made of it, in ``currency``; fees by asset.

    ``net`` is realised and unrealised result less the fees: those in the market's own coin at its
    price, those in any other asset, which ``uncounted`` names, not at all.
    """

    market: str
    size: Decimal
    avg_price: Decimal | None
    last: Decimal | None
    realised: Decimal
    unrealised: Decimal | None
    fees: dict[str, Decimal]
    net: Decimal | None
    currency: str
    uncounted: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True):
    """An order that has not ended."""

    oid: str
    market: str
    side: str
    kind: str
    size: Decimal
    filled: Decimal
    price: Decimal | None
    trigger: Decimal | None
    state: str


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of a run. What it says of ``replay`` is empty of others."""

    strategy: str
    mode: str  # paper, live or replay
    account: str
    markets: list[str]
    seconds: float  # by the strategy's clock
    orders: int
    ended: dict[str, int]  # how many orders came to which end
    fills: int
    fees: dict[str, Decimal]
    holdings: list[Holding]
    standing: list[Standing]
    capture: str = ""
    seed: int | None = None
    events: int = 0  # moments of the recording
    rows: int = 0  # of the journal
    journal: str = ""  # its chain: two runs of the same hash did the same
    took_s: float = 0.0
    events_per_s: float = 0.0


class Tally:
    """Takes what emsd tells of one client's orders: those whose oid begins with ``session``."""

    def __init__(self, session: str = "") -> None:
        self.session = session
        self.newest: dict[str, Status] = {}
        self.fills: list[tuple[str, BrokerdFill]] = []  # with the market

    def take(self, message: object) -> None:
        """Take a message; only statuses are looked at."""
        if not isinstance(message, Status) or not message.oid.startswith(self.session):
            return
        if message.resp == "error":  # of a request: no order is other than it was
            return
        if message.resp != "fill":
            self.newest[message.oid] = message
            return
        if isinstance(message.brokerd_msg, BrokerdFill) and message.req is not None:
            self.fills.append((message.req.symbol, message.brokerd_msg))
        known = self.newest.get(message.oid)
        if known is None or not _has_ended(known):
            now = msgspec.structs.replace(message, resp=Phase.PARTIAL)
            self.newest[message.oid] = now

    async def follow(self, client: OrderClient) -> None:
        """Take all that a client of its own is told, for ever."""
        async for message in client:
            self.take(message)

    def has_heard(self, status: Status) -> bool:
        """Tell whether this status, or a later one of its order, was taken."""
        known = self.newest.get(status.oid)
        return known is not None and (known.time_ns >= status.time_ns or known.resp in TERMINAL)

    def standing(self) -> list[Status]:
        """Return the orders that have not ended."""
        return [one for one in self.newest.values() if not _has_ended(one)]

    def ends(self) -> dict[str, int]:
        """Return how many orders came to which end."""
        return dict(Counter(str(one.resp) for one in self.newest.values() if _has_ended(one)))

    def ledger(self, mkts: Mapping[str, MktPair], account: str) -> Ledger:
        """Return the fills as accounting has them."""
        contracts = {fqme: contract_of(mkt) for fqme, mkt in mkts.items()}
        fills = (of_fill(fill, symbol=fqme, account=account) for fqme, fill in self.fills)
        return Ledger(fills, contracts=contracts)


def _has_ended(status: Status) -> bool:
    return status.resp in TERMINAL


def session_of(client: OrderClient) -> str:
    """Return what the oids of a client begin with."""
    return client.new_oid().rpartition("-")[0]


def holdings_of(
    tally: Tally, mkts: Mapping[str, MktPair], account: str, last: Mapping[str, Quote]
) -> list[Holding]:
    """Return what the fills come to in each market, at the last quotes' middle."""
    ledger = tally.ledger(mkts, account)
    found = []
    for position in ledger.positions(account):
        mkt, quote = mkts.get(position.symbol), last.get(position.symbol)
        mark = reference(quote, mkt) if mkt is not None and quote is not None else None
        settle, base = position.contract.settle, position.contract.base
        unrealised = position.unrealised(mark) if mark is not None else None
        fees = worth(position.fees, settle, {base: mark}.get)
        net = None
        if unrealised is not None:
            made = EXACT.add(position.realised, unrealised)
            net = EXACT.subtract(made, fees.amount)
        found.append(
            Holding(
                position.symbol, _short(position.size), position.avg_price, mark,
                _short(position.realised), unrealised if unrealised is None else _short(unrealised),
                position.fees, net if net is None else _short(net), settle,
                fees.missing,
            )
        )  # fmt: skip
    return found


def _short(value: Decimal) -> Decimal:
    """Return a number without the zeros that an exact sum ends in."""
    return Decimal(plain(value))


def standing_of(statuses: Sequence[Status]) -> list[Standing]:
    """Return orders that stand as they are reported."""
    return [
        Standing(
            one.oid, order.symbol, str(order.action), str(order.kind), order.size, one.filled,
            order.price, order.trigger, str(one.resp),
        )
        for one in statuses
        if (order := _order_of(one))
    ]  # fmt: skip


def _order_of(status: Status) -> Order:
    if status.req is None:
        raise Bug(f"a status of {status.oid} came without its order.")
    return status.req


def fees_of(holdings: Sequence[Holding]) -> dict[str, Decimal]:
    """Return all fees, by asset."""
    total: dict[str, Decimal] = {}
    for one in holdings:
        for asset, fee in one.fees.items():
            total[asset] = EXACT.add(total.get(asset, ZERO), fee)
    return total


# -- showing it --------------------------------------------------------------------------------
def show(report: Report, mkts: Mapping[str, MktPair]) -> str:
    """Return the report as lines for people."""
    lines = [_headline(report), *(_holding(one, mkts) for one in report.holdings)]
    lines += _standing_lines(report)
    if report.mode == "replay":
        lines.append(
            f"Journal {report.journal or 'empty'}, {report.rows:,} rows; {report.events:,} events "
            f"in {report.took_s:.2f} s, {report.events_per_s:,.0f} a second."
        )
    return "\n".join(lines)


def _headline(report: Report) -> str:
    where = {
        "paper": f"on paper ({report.account})", "live": f"LIVE on {report.account}",
        "replay": f"on {report.capture}, seed {report.seed}",
    }[report.mode]  # fmt: skip
    counts = [_counted(report.orders, "order")]
    counts += [f"{count:,} {_END_WORDS.get(end, end)}" for end, count in report.ended.items()]
    counts.append(_counted(report.fills, "fill"))
    fees = ", ".join(f"{fee:f} {asset}" for asset, fee in report.fees.items())
    counts += [f"fees {fees}"] if fees else []
    return f"{report.strategy} {where}, {report.seconds:,.1f} s: {', '.join(counts)}."


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


_END_WORDS = {"closed": "filled"}


def _holding(one: Holding, mkts: Mapping[str, MktPair]) -> str:
    mkt = mkts.get(one.market)
    digits = mkt.price_digits if mkt is not None else 8
    at = f" at {one.avg_price:,.{digits}f}" if one.avg_price is not None and one.size else ""
    words = [f"realised {_money(one.realised)}"]
    if one.unrealised is not None and one.size:
        words.append(f"unrealised {_money(one.unrealised)}")
    if one.net is not None:
        but = f" but those in {', '.join(one.uncounted)}" if one.uncounted else ""
        words.append(f"{_money(one.net)} {one.currency} after fees{but}")
    held = f"{one.size:f}{at}" if one.size else "flat"
    return f"  {one.market}  {held}: {', '.join(words)}"


def _money(value: Decimal) -> str:
    return f"{value:+,.4f}"


def _standing_lines(report: Report) -> list[str]:
    if not report.standing:
        return ["No order stands any more."] if report.orders else []
    what = _counted(len(report.standing), "order")
    if report.mode == "replay":
        what += " stood at the end:"
    else:
        what += f" still stand{'s'[: len(report.standing) == 1]}, at emsd and on:"
    lines = [what]
    for one in report.standing:
        price = f" at {one.price:f}" if one.price is not None else ""
        trigger = f" from {one.trigger:f}" if one.trigger is not None else ""
        filled = f", {one.filled:f} filled" if one.filled else ""
        lines.append(
            f"  {one.side} {one.size:f} {one.market} {one.kind}{price}{trigger}{filled}, "
            f"{one.state}  ({one.oid})"
        )
    if report.mode != "replay":
        lines.append(f"Take them back with: piker cancel --all --account {report.account}")
    return lines
