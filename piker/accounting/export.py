"""Exports that people and other programs read: account files in TOML, closed lots in CSV.

An account file holds the whole ledger of an account, grouped by market, with what it comes to
written above each group. It reads back to the same transactions, and says so where the numbers
above no longer follow from those below. The journal is the truth: these are copies of it.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from piker.accounting.ledger import Ledger
from piker.accounting.lots import ClosedLot, LotReport
from piker.accounting.position import Position
from piker.accounting.transaction import Contract, Kind, Transaction
from piker.errors import ConfigError, DataQuality
from piker.money import ZERO, plain

__all__ = ["TAX_COLUMNS", "account_file", "iso_of", "read_account_file", "tax_csv", "time_of"]

FORMAT = 1
MAX_BYTES = 256 * 1024 * 1024  # about a million transactions; the journal keeps more
NS = 10**9
_WHEN = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def iso_of(time_ns: int) -> str:
    """Return a time as ``2024-05-01T10:00:00.123456789Z``, with the decimals that it needs."""
    seconds, ns = divmod(time_ns, NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ns:09d}".rstrip("0").rstrip(".") + "Z" if ns else f"{text}Z"


def time_of(text: str) -> int:
    """Return UTC nanoseconds; ``ValueError`` where the text is none of :func:`iso_of`'s."""
    found = _WHEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time like 2024-05-01T10:00:00.25Z")
    seconds = datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
    return int(seconds) * NS + int((found[2] or "0").ljust(9, "0"))


# -- TOML, out -----------------------------------------------------------------------------------
def account_file(ledger: Ledger, account: str) -> str:
    """Return the TOML of an account: every position, and every transaction that made it."""
    lines = [
        "# A copy of piker's ledger, for people. Numbers are strings, so that no digit is lost.",
        f"format = {FORMAT}",
        f"account = {_quoted(account)}",
    ]
    by: dict[tuple[str, str], list[Transaction]] = {}
    for tx in ledger.transactions(account):
        by.setdefault((tx.symbol, tx.leg), []).append(tx)
    for (symbol, leg), transactions in sorted(by.items()):
        lines += ["", *_position_lines(ledger.position(account, symbol, leg))]
        lines.append("transactions = [")
        lines += [f"  {{ {_inline(tx)} }}," for tx in transactions]
        lines.append("]")
    return "\n".join(lines) + "\n"


def _position_lines(position: Position) -> list[str]:
    contract, price = position.contract, position.avg_price
    rows: list[tuple[str, str]] = [("symbol", position.symbol)]
    rows += [("leg", position.leg)] if position.leg else []
    rows.append(("size", plain(position.size)))
    rows += [("avg_price", plain(price))] if price is not None else []
    rows.append(("realised", plain(position.realised)))
    rows += [("settle", contract.settle)] if contract.settle else []
    rows += [("base", contract.base)] if contract.base else []
    if contract.multiplier != 1:
        rows.append(("multiplier", plain(contract.multiplier)))
    lines = ["[[position]]", *(f"{name} = {_quoted(value)}" for name, value in rows)]
    lines += ["inverse = true"] if contract.inverse else []
    lines += ["unpriced = true  # units of it came at a cost that is not known"] * position.unpriced
    for name, amounts in (("fees", position.fees), ("funding", position.funding)):
        if amounts:
            inner = ", ".join(f"{_quoted(a)} = {_quoted(plain(v))}" for a, v in amounts.items())
            lines.append(f"{name} = {{ {inner} }}")
    return lines


def _inline(tx: Transaction) -> str:
    rows: list[tuple[str, str | None]] = [
        ("time", iso_of(tx.time_ns)),
        ("kind", tx.kind.value),
        ("size", plain(tx.size) if tx.size else None),
        ("price", None if tx.price is None else plain(tx.price)),
        ("value", None if tx.value is None else plain(tx.value)),
        ("cost", plain(tx.cost) if tx.cost else None),
        ("cost_asset", tx.cost_asset or None),
        ("split", f"{tx.new}:{tx.old}" if tx.kind is Kind.SPLIT else None),
        ("tid", tx.tid),
        ("oid", tx.oid or None),
        ("note", tx.note or None),
    ]
    return ", ".join(f"{name} = {_quoted(value)}" for name, value in rows if value is not None)


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    out = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", out) + '"'


# -- TOML, in ------------------------------------------------------------------------------------
class _Tx(msgspec.Struct, forbid_unknown_fields=True):
    time: str
    kind: Kind
    tid: str
    size: str = "0"
    price: str | None = None
    value: str | None = None
    cost: str = "0"
    cost_asset: str = ""
    split: str = "1:1"
    oid: str = ""
    note: str = ""


class _Position(msgspec.Struct, forbid_unknown_fields=True):
    symbol: str
    size: str
    realised: str
    transactions: list[_Tx]
    leg: str = ""
    avg_price: str | None = None
    settle: str = ""
    base: str = ""
    multiplier: str = "1"
    inverse: bool = False
    unpriced: bool = False
    fees: dict[str, str] = {}
    funding: dict[str, str] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    account: str
    position: list[_Position] = []


def read_account_file(data: bytes | str) -> tuple[str, Ledger]:
    """Return the account and the ledger of an account file.

    Raises ``ConfigError`` that says where the file is wrong: not TOML, an unknown key, a number
    that is none, a transaction that can not be, or a size or profit that its transactions do not
    come to.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"an account file has at most {MAX_BYTES} bytes, this has {len(data)}.")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        raw: dict[str, Any] = tomllib.loads(text)
        file = msgspec.convert(raw, _File)
    except (ValueError, msgspec.ValidationError, RecursionError) as err:
        raise ConfigError(f"this is no account file: {err}.") from err
    if file.format != FORMAT:
        raise ConfigError(f"the account file has format {file.format}; this piker reads {FORMAT}.")
    ledger = Ledger()
    for group in file.position:
        _read_group(file.account, group, ledger)
    return file.account, ledger


def _read_group(account: str, group: _Position, ledger: Ledger) -> None:
    where = f"position {group.symbol!r}"
    try:
        multiplier = _decimal(group.multiplier, where)
        contract = Contract(multiplier, group.inverse, group.base, group.settle)
    except DataQuality as err:
        raise ConfigError(f"the account file is wrong at {where}: {err}") from err
    if ledger.contracts.get(group.symbol, contract) != contract:
        raise ConfigError(f"the account file gives {where} two contracts.")
    ledger.define(group.symbol, contract)
    for number, row in enumerate(group.transactions, 1):
        place = f"{where}, transaction {number}"
        if ledger.add(_transaction(account, group, row, place)) != "new":
            raise ConfigError(f"the account file has {place} ({row.tid}) twice.")
    position = ledger.position(account, group.symbol, group.leg)
    for name, told in (("size", group.size), ("realised", group.realised)):
        counted = getattr(position, name)
        if _decimal(told, where) != counted:
            raise ConfigError(
                f"the account file says that {name} of {where} is {told}, but its transactions"
                f" come to {plain(counted)}.",
                remedy="Export it anew; the journal is the truth.",
            )


def _transaction(account: str, group: _Position, row: _Tx, place: str) -> Transaction:
    try:
        new, _, old = row.split.partition(":")
        return Transaction(
            account=account, symbol=group.symbol, leg=group.leg, tid=row.tid,
            time_ns=time_of(row.time), kind=row.kind, size=_decimal(row.size, place),
            price=None if row.price is None else _decimal(row.price, place),
            value=None if row.value is None else _decimal(row.value, place),
            cost=_decimal(row.cost, place), cost_asset=row.cost_asset,
            new=int(new), old=int(old), oid=row.oid, note=row.note,
        )  # fmt: skip
    except (ValueError, DataQuality) as err:
        raise ConfigError(f"the account file is wrong at {place}: {err}") from err


def _decimal(text: str, place: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"the account file has {text!r} for a number at {place}.") from None
    if not value.is_finite():
        raise ConfigError(f"the account file has {text!r} for a number at {place}.")
    return value


# -- CSV -----------------------------------------------------------------------------------------
TAX_COLUMNS = (
    "account", "symbol", "leg", "method", "kind", "size", "opened", "closed", "days",
    "cost", "proceeds", "gain", "currency", "fees", "fees_other", "open_tid", "close_tid",
    "cost_known",
)  # fmt: skip


def tax_csv(reports: Iterable[LotReport]) -> str:
    """Return the closed lots of any number of positions as CSV, a row for each pair of trades.

    ``fees`` are those in the lot's currency, ``fees_other`` the rest with their assets; neither is
    in the gain. Times are UTC. A transfer out is a row with its cost for proceeds.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TAX_COLUMNS)
    for report in reports:
        for lot in report.closed:
            writer.writerow([_cell(value) for value in _tax_row(report, lot)])
    return out.getvalue()


def _tax_row(report: LotReport, lot: ClosedLot) -> list[str | Decimal | int]:
    settle = report.contract.settle
    other = [f"{plain(fee)} {asset}" for asset, fee in sorted(lot.fees.items()) if asset != settle]
    own = lot.fees.get(settle, ZERO)
    return [
        report.account, report.symbol, report.leg, report.method.value, lot.kind.value, lot.size,
        iso_of(lot.opened_ns), iso_of(lot.closed_ns), lot.days,
        lot.cost, lot.proceeds, lot.gain, settle, own, "; ".join(other),
        lot.open_tid, lot.close_tid, "no" if lot.unpriced else "yes",
    ]  # fmt: skip


def _cell(value: str | Decimal | int) -> str:
    """Return a cell. A text that a spreadsheet would run as a formula is made a text."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return str(value)
