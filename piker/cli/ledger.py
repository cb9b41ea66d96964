"""``piker ledger show``: the accounts of the books, and the orders and fills of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import msgspec
import trio
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from piker.accounting import Transaction
from piker.clearing.journal_verify import Progress
from piker.clearing.lifecycle import OrderState, Phase
from piker.cli.ledger_books import Books, open_books
from piker.config import nearest
from piker.errors import ConfigError
from piker.market import parse_fqme
from piker.money import plain

__all__ = ["known_account", "show", "wait_for"]

PIPED_WIDTH = 200  # characters of a table that nobody sees on a terminal
FULL = 1000  # characters of a table that is not folded, to see how wide it would be
SHORTEST = 6  # characters of an id's end, at least
LONGEST_ID = 24  # characters of a trade's id in a table: Kraken's have 19, IB's 20
SHOWN_OF_ID = 12  # of one that is longer, as those of paper are
LONGEST_PRICE = 10  # digits of a mean price in a table; --json has all 28
#: The phases as people say them; --json has the protocol's words.
WORDS = {
    Phase.DARK: "waiting", Phase.PARTIAL: "partly filled", Phase.UNKNOWN: "UNKNOWN",
    Phase.FILLED: "filled",
}  # fmt: skip


class OrderLine(msgspec.Struct, frozen=True, kw_only=True, tag="order", tag_field="what"):
    """An order of the journal. ``since_ns`` is when it was given."""

    oid: str
    account: str
    market: str
    side: str
    kind: str
    size: Decimal
    filled: Decimal
    state: str
    since_ns: int
    price: Decimal | None = None
    trigger: Decimal | None = None
    avg_price: Decimal | None = None
    fees: dict[str, Decimal] = {}
    code: str = ""
    reason: str = ""


class FillLine(msgspec.Struct, frozen=True, kw_only=True, tag="fill", tag_field="what"):
    """A transaction of the books. ``source`` is the journal or an import."""

    tid: str
    account: str
    market: str
    kind: str
    size: Decimal
    price: Decimal | None
    cost: Decimal
    cost_asset: str
    time_ns: int
    oid: str
    source: str
    leg: str = ""
    note: str = ""


class AccountLine(msgspec.Struct, frozen=True, kw_only=True, tag="account", tag_field="what"):
    """An account of the books, and how much there is of it."""

    account: str
    orders: int
    open: int
    fills: int
    imported: int
    first_ns: int
    last_ns: int


# -- show ----------------------------------------------------------------------------------------
def show(account: str | None, *, market: str | None, last: int, as_json: bool) -> int:
    """Show the accounts, or the orders and fills of one; return the exit code."""
    with wait_for("Reading the journal ...") as told:
        books = trio.run(partial(open_books, told=told))
    if account is None:
        _show_accounts(books, as_json=as_json)
        return 0
    name = known_account(books, account)
    market = market.lower() if market else None
    orders, fills = _orders_of(books, name, market), _fills_of(books, name, market)
    if market and not orders and not fills:
        parse_fqme(market)
    hidden = (len(orders) - last, len(fills) - last) if last else (0, 0)
    ends = _ends([row.oid for row in orders])
    orders, fills = orders[-last:], fills[-last:]
    if as_json:
        _print_json([*orders, *fills])
    elif orders or fills:
        _show_account(name, orders, fills, ends, hidden)
    else:
        print(f"{name}: no orders and no fills{f' in {market}' if market else ''}.")
    return 0


def known_account(books: Books, typed: str) -> str:
    """Return an account of the books; raise with the nearest name where there is none."""
    names = books.accounts()
    name = typed.lower()
    if name not in names:
        raise ConfigError(
            f"the books have no account {typed[:60]!r}.",
            remedy=nearest(name, names) if names else "Nothing was ordered or imported yet.",
        )
    return name


def _print_json(rows: Sequence[msgspec.Struct]) -> None:
    for row in rows:
        print(msgspec.json.encode(row).decode())


def _show_accounts(books: Books, *, as_json: bool) -> None:
    rows = [_account_line(books, name) for name in books.accounts()]
    if as_json:
        _print_json(rows)
        return
    if not rows:
        print("the books are empty: nothing was ordered or imported yet.")
        return
    table = _table("account", "orders", "open", "fills", "imported", "first (UTC)", "last (UTC)")
    for row in rows:
        counts = (f"{count:,}" for count in (row.orders, row.open, row.fills, row.imported))
        table.add_row(row.account, *counts, _utc(row.first_ns), _utc(row.last_ns))
    console().print(table)


def _account_line(books: Books, name: str) -> AccountLine:
    states = [state for state in books.orders.values() if state.order.account == name]
    fills = sum(tx.account == name for tx in books.live)
    transactions = books.ledger.transactions(name)
    times = [tx.time_ns for tx in transactions]
    times += [books.given_ns[state.order.oid] for state in states]
    return AccountLine(
        account=name, orders=len(states), open=sum(not state.is_over for state in states),
        fills=fills, imported=len(transactions) - fills, first_ns=min(times, default=0),
        last_ns=max(times, default=0),
    )  # fmt: skip


def _orders_of(books: Books, name: str, market: str | None) -> list[OrderLine]:
    found = [
        _order_line(state, books.given_ns[state.order.oid])
        for state in books.orders.values()
        if state.order.account == name and market in (None, state.order.symbol)
    ]
    return sorted(found, key=lambda row: row.since_ns)


def _order_line(state: OrderState, since_ns: int) -> OrderLine:
    order = state.order
    return OrderLine(
        oid=order.oid, account=order.account, market=order.symbol, side=str(order.action),
        kind=str(order.kind), size=order.size, filled=state.filled, state=str(state.phase),
        since_ns=since_ns, price=order.price, trigger=order.trigger, avg_price=state.avg_price,
        fees=state.fees, code=state.code, reason=state.reason,
    )  # fmt: skip


def _fills_of(books: Books, name: str, market: str | None) -> list[FillLine]:
    live = {tx.key for tx in books.live if tx.account == name}
    return [
        _fill_line(tx, "journal" if tx.key in live else "import")
        for tx in books.ledger.transactions(name)
        if market in (None, tx.symbol)
    ]


def _fill_line(tx: Transaction, source: str) -> FillLine:
    return FillLine(
        tid=tx.tid, account=tx.account, market=tx.symbol, kind=str(tx.kind), size=tx.size,
        price=tx.price, cost=tx.cost, cost_asset=tx.cost_asset, time_ns=tx.time_ns, oid=tx.oid,
        source=source, leg=tx.leg, note=tx.note,
    )  # fmt: skip


def _show_account(
    name: str, orders: Sequence[OrderLine], fills: Sequence[FillLine], ends: dict[str, str],
    hidden: tuple[int, int],
) -> None:  # fmt: skip
    if orders:
        print(_title(f"{name}: orders", hidden[0]))
        console().print(_order_table(name, orders, ends))
        for row in orders:
            if row.reason:
                print(f"{ends[row.oid]}: {row.reason}{f' ({row.code})' if row.code else ''}")
    if orders and fills:
        print()
    if fills:
        print(_title(f"{name}: fills", hidden[1]))
        console().print(_fill_table(name, fills, ends))


def _title(text: str, hidden: int) -> str:
    return f"{text} (and {hidden:,} older: --last 0)" if hidden > 0 else text


def _order_table(name: str, orders: Sequence[OrderLine], ends: dict[str, str]) -> Table:
    names = ("given (UTC)", "order", "market", "what", "size", "filled", "fees", "state")
    rows = []
    for row in orders:
        is_alert = row.side == "alert"
        rows.append((
            _utc(row.since_ns), ends[row.oid], _market(name, row.market), _what(row),
            "" if is_alert else plain(row.size), "" if is_alert else _filled(row),
            _amounts(row.fees), WORDS.get(Phase(row.state), row.state),
        ))  # fmt: skip
    return _fitting(names, rows)


def _fill_table(name: str, fills: Sequence[FillLine], ends: dict[str, str]) -> Table:
    names = ("time (UTC)", "trade", "market", "what", "size", "price", "fee", "order", "from")
    rows = []
    for one in fills:
        market = _market(name, one.market)
        rows.append((
            _utc(one.time_ns), _short(one.tid), f"{market} {one.leg}".strip(), _did(one),
            plain(one.size.copy_abs()), "" if one.price is None else plain(one.price),
            _amounts({one.cost_asset: one.cost}), ends.get(one.oid, one.oid), one.source,
        ))  # fmt: skip
    return _fitting(names, rows)


def _fitting(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of one line for each row where there is room, else of two."""
    table, out = _filled_table(names, rows), console()
    if out.measure(table, options=out.options.update(max_width=FULL)).maximum <= out.width:
        return table
    return _filled_table(_paired(names), [_paired(row) for row in rows])


def _filled_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(*names)
    for row in rows:
        table.add_row(*row)
    return table


def _paired(cells: Sequence[str]) -> list[str]:
    """Return each two cells that stand beside each other as one of two lines."""
    return ["\n".join(cells[place : place + 2]) for place in range(0, len(cells), 2)]


def _short(tid: str) -> str:
    """Return the end of an id that is longer than any venue's; --json has all of it."""
    return tid if len(tid) <= LONGEST_ID else f"...{tid[-SHOWN_OF_ID:]}"


def _market(account: str, fqme: str) -> str:
    """Return a market without its provider where that is the account's."""
    return fqme.removesuffix(f".{account.partition('.')[0]}")


def _what(row: OrderLine) -> str:
    if row.side == "alert":
        return f"alert at {plain(row.trigger)}" if row.trigger is not None else "alert"
    parts = [row.side, row.kind]
    parts += [plain(row.price)] if row.price is not None else []
    parts += [f"at {plain(row.trigger)}"] if row.trigger is not None else []
    return " ".join(parts)


def _did(one: FillLine) -> str:
    if one.kind == "fill":
        return "sold" if one.size < 0 else "bought"
    if one.kind == "transfer":
        return "transfer out" if one.size < 0 else "transfer in"
    return one.kind


def _filled(row: OrderLine) -> str:
    if not row.filled or row.avg_price is None:
        return plain(row.filled)
    mean = plain(Decimal(f"{row.avg_price:.{LONGEST_PRICE}g}"))
    return f"{plain(row.filled)} at {mean}"


def _amounts(amounts: dict[str, Decimal]) -> str:
    told = [f"{plain(amount)} {asset}".strip() for asset, amount in amounts.items() if amount]
    return ", ".join(told)


def _ends(ids: Sequence[str]) -> dict[str, str]:
    """Return the shortest ends that tell each id from the others, of one length."""
    longest = max((len(one) for one in ids), default=0)
    for length in range(SHORTEST, longest):
        if len({one[-length:] for one in ids}) == len(set(ids)):
            return {one: one[-length:] for one in ids}
    return {one: one for one in ids}


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


# -- the terminal --------------------------------------------------------------------------------
def console() -> Console:
    """Return where to print: as wide as the terminal; wide where there is none."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(width=wide)


def _table(*names: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    right = {"orders", "open", "fills", "imported", "size", "price", "filled"}
    for name in names:
        whole = "UTC" in name or name in ("order", "what", "state", "from")
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=whole
        )
    return table


@contextmanager
def wait_for(text: str, unit: str = "row") -> Iterator[Progress]:
    """Show on a terminal that something takes its time, and how far it is, where that is told."""
    status = Console(stderr=True).status(text)

    def tell(row: int, rows: int) -> None:
        of = f" of {rows:,} ({row / rows:.0%})" if rows else ""
        status.update(f"{text} {unit} {row:,}{of}")

    status.start()
    try:
        yield tell
    finally:
        status.stop()
