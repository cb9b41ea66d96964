"""``piker positions``: what the journal's fills come to, beside the venue's word and the market."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from decimal import Decimal

import msgspec
import trio
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from piker import config, service
from piker.accounting import Contract, Position, break_even, contract_of
from piker.accounting.position import Episode
from piker.clearing.client import open_ems
from piker.clearing.holdings import Holding
from piker.clearing.matching import MODEL
from piker.clearing.prices import reference
from piker.cli import orders_journal as kept
from piker.cli.orders import check_account, console, is_live, opening, rounded, start
from piker.cli.orders_accounts import check_known
from piker.data.feed import open_feed
from piker.data.symbols import SymbolDb
from piker.errors import PikerError
from piker.market import MktPair
from piker.money import EXACT, plain
from piker.orders import BrokerdPosition

__all__ = ["PositionRow", "position_of", "run"]

QUOTE_S = 10.0  # for a market that is not open yet; without its price a position is still shown
_INVERSE = ("coinm",)  # venues whose contracts can not be counted without what the market says
Where = tuple[str, str]  # account, fqme


class PositionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A position: ours, from fills; ``venue_size`` is the venue's word, where it has one.

    ``venue_long`` and ``venue_short`` are the two sides of it, where the account holds both apart.
    ``realised`` (before fees) and ``unrealised`` are in ``currency``; ``break_even`` counts fees.
    """

    account: str
    live: bool
    market: str
    where: str  # what filled it: the provider, or the paper model's name
    size: Decimal
    avg_price: Decimal | None = None
    break_even: Decimal | None = None
    price: Decimal | None = None
    unrealised: Decimal | None = None
    realised: Decimal | None = None
    currency: str = ""
    fees: dict[str, Decimal] = {}
    venue_size: Decimal | None = None
    venue_long: Decimal | None = None
    venue_short: Decimal | None = None


def run(*, account: str | None, as_json: bool) -> int:
    """Show the positions; return the exit code."""
    name = check_account(account) if account else ""
    rows: list[PositionRow] = []

    async def work() -> int:
        rows.extend(await _look(name))
        return 0

    code = start(work, lambda: "interrupted.")
    if code:
        return code
    if as_json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    elif rows:
        _print(rows)
    else:
        print(f"no positions{f' in {name}' if name else ''}.")
    for row in rows:
        if row.venue_size is not None and row.venue_size != row.size:
            print(
                f"note: {row.account} {row.market}: the venue has {plain(row.venue_size)}, our own "
                f"fills come to {plain(row.size)}: somebody else trades there, or did before.",
                file=sys.stderr,
            )
    return 0


async def _look(account: str) -> list[PositionRow]:
    ours: dict[Where, Holding] = {}
    if kept.has_journal():
        async with kept.opened() as journal:
            ours = {
                where: held for where, held in journal.standing.holdings.items()
                if held.size and account in ("", where[0])
            }  # fmt: skip
    told: dict[Where, BrokerdPosition] = {}
    markets: dict[str, MktPair] = {}
    prices: dict[str, Decimal] = {}
    running = service.read_pikerd() is not None
    if running:
        with opening("Asking emsd ..."):
            told = await _told(account)
    elif ours:
        print(kept.NOT_RUNNING, file=sys.stderr)
    if account and not ours and not told:
        await check_known(account, ())
    fqmes = sorted({fqme for _, fqme in {*ours, *told}})
    if running:
        with opening("Asking for prices ..."):
            await _quote(fqmes, markets, prices)
    _look_up(fqmes, markets)
    rows = []
    for where in sorted({*ours, *told}):
        mkt, price = markets.get(where[1]), prices.get(where[1])
        contract = contract_of(mkt) if mkt is not None else _guess(where[1])
        position = position_of(where, ours.get(where) or Holding(), contract or Contract())
        rows.append(_row(where, position, contract, price, told.get(where)))
    return [row for row in rows if row.size or row.venue_size or row.venue_long]


def position_of(where: Where, held: Holding, contract: Contract) -> Position:
    """Return what the journal's fold says of a market, as a position of its contract."""
    leg, times = held.inverse if contract.inverse else held.linear, contract.multiplier
    since = EXACT.subtract(leg.realised, leg.before)
    return Position(
        account=where[0], symbol=where[1], contract=contract, size=held.size,
        basis=EXACT.multiply(leg.basis, times), cash=EXACT.multiply(leg.cash, times),
        realised=EXACT.multiply(leg.realised, times), fees=held.fees,
        since=Episode(realised=EXACT.multiply(since, times), fees=held.since),
    )  # fmt: skip


async def _told(account: str) -> dict[Where, BrokerdPosition]:
    """Return what venues say they have of us."""
    async with open_ems(account="", name="cli", start_pikerd=False) as ems:
        return {
            (name, f"{symbol}.{name.partition('.')[0]}"): told
            for (name, symbol), told in ems.positions.items()
            if account in ("", name)
        }


async def _quote(
    fqmes: Iterable[str], markets: dict[str, MktPair], prices: dict[str, Decimal]
) -> None:
    """Learn markets and their prices, of those that answer in time."""

    async def one(fqme: str) -> None:
        try:
            async with open_feed([fqme], start_pikerd=False) as feed:
                flume = feed.flumes[fqme]
                markets[fqme] = flume.mkt
                price = reference(flume.first_quote, flume.mkt)
                if price is not None:
                    prices[fqme] = price
                if flume.state != "live":
                    print(f"note: the feed of {fqme} is {flume.state}: its price may be old.",
                          file=sys.stderr)  # fmt: skip
        except PikerError as err:
            print(f"note: {fqme} has no price now: {err.message}", file=sys.stderr)

    with trio.move_on_after(QUOTE_S):
        async with trio.open_nursery() as nursery:
            for fqme in fqmes:
                nursery.start_soon(one, fqme)


def _look_up(fqmes: Iterable[str], markets: dict[str, MktPair]) -> None:
    """Take markets that were not quoted from the symbol database, where there is one."""
    path = config.data_dir() / "symbols.db"
    left = [fqme for fqme in fqmes if fqme not in markets]
    if not left or not path.exists():
        return
    try:
        with SymbolDb.open(path) as db:
            found = {fqme: db.get(fqme) for fqme in left}
    except PikerError as err:
        print(f"note: {err.message}", file=sys.stderr)
        return
    markets.update({fqme: entry.market for fqme, entry in found.items() if entry is not None})


def _guess(fqme: str) -> Contract | None:
    """Return a contract of one unit for a market of which nothing is known; None of an inverse."""
    return None if fqme.split(".")[1] in _INVERSE else Contract()


def _row(
    where: Where, position: Position, contract: Contract | None, price: Decimal | None,
    told: BrokerdPosition | None,
) -> PositionRow:  # fmt: skip
    account, market = where
    row = PositionRow(
        account=account, live=is_live(account), market=market, size=position.size,
        where=account.partition(".")[0] if is_live(account) else MODEL,
        fees=position.fees, venue_size=told.size if told is not None else None,
        venue_long=told.long if told is not None and told.legs else None,
        venue_short=told.short if told is not None and told.legs else None,
    )  # fmt: skip
    if contract is None:
        return row
    even = break_even(position, lambda asset: price if asset == contract.base else None)
    return msgspec.structs.replace(
        row, avg_price=_short(position.avg_price), price=price,
        break_even=None if even.missing else _short(even.price),
        unrealised=_short(position.unrealised(price)) if price is not None else None,
        realised=_short(position.realised), currency=contract.settle,
    )  # fmt: skip


def _short(value: Decimal | None) -> Decimal | None:
    """Return a number without the zeros, or the exponent, that exact arithmetic leaves behind."""
    return None if value is None else Decimal(plain(value))


# -- the table ---------------------------------------------------------------------------------
def _print(rows: list[PositionRow]) -> None:
    out = console()
    wide = out.width >= 120
    found = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    names = (
        ("account", "market", "where", "size", "avg price", "break-even", "price", "unrealised",
         "realised", "fees")
        if wide else ("account\nmarket", "size\nwhere", "avg price\nbreak-even",
                      "price\nunrealised", "realised\nfees")
    )  # fmt: skip
    for name in names:
        found.add_column(name, overflow="fold")
    for row in rows:
        found.add_row(*_cells(row, wide=wide))
    out.print(found)


def _cells(row: PositionRow, *, wide: bool) -> tuple[str | Text, ...]:
    account = Text(f"LIVE {row.account}", "bold red") if row.live else Text(row.account)
    avg, even, price = (_price(one) for one in (row.avg_price, row.break_even, row.price))
    open_, done = _money(row.unrealised, row.currency), _money(row.realised, row.currency)
    fees = (
        ", ".join(f"{rounded(amount, 6)} {asset}" for asset, amount in row.fees.items() if amount)
        or "-"
    )
    size = plain(row.size)
    if row.venue_size is not None and row.venue_size != row.size:
        size += f" (venue: {plain(row.venue_size)})"
    if row.venue_long is not None and row.venue_short is not None:
        size += f" ({plain(row.venue_long)} long, {plain(row.venue_short)} short)"
    if wide:
        return account, row.market, row.where, size, avg, even, price, open_, done, fees
    market = row.market.rpartition(".")[0]  # its provider is the account's
    return (
        account.append(f"\n{market}", "default"), f"{size}\n{row.where}", f"{avg}\n{even}",
        Text.assemble(f"{price}\n", open_), Text.assemble(done, f"\n{fees}"),
    )  # fmt: skip


def _price(value: Decimal | None) -> str:
    return "-" if value is None else rounded(value)


def _money(value: Decimal | None, currency: str) -> Text:
    if value is None:
        return Text("-")
    style = "green" if value > 0 else "red" if value < 0 else ""
    sign = "+" if value > 0 else ""
    return Text(f"{sign}{rounded(value, 6)} {currency}".rstrip(), style)
