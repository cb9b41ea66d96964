"""Trade histories as venues let people download them, and one plain form for all others.

Known by their header line, whatever the order of the columns:

- Kraken's ``trades.csv``: ``txid, ordertxid, pair, time, type, price, cost, fee, vol``;
- Binance's spot trade history: ``Date(UTC), Pair, Side, Price, Executed, Amount, Fee``, or the
  older ``Date(UTC), Market, Type, Price, Amount, Total, Fee, Fee Coin``;
- the plain form: ``time, symbol, side, size, price`` and, where wanted, ``fee, fee_asset, tid, oid,
  note``. The symbol is a whole fqme, times are UTC.

Binance's files name no trade. Theirs are given an id made of what the row says, so that a file that
is imported twice counts once; :func:`unmatched` keeps them apart from the same trades told live.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from hashlib import blake2b

from piker.accounting.flex import Problem, Statement
from piker.accounting.norm import kraken_spot
from piker.accounting.transaction import Contract, Key, Transaction, contract_of
from piker.errors import ConfigError, DataQuality
from piker.market import MktPair, parse_fqme
from piker.money import ZERO

__all__ = ["MADE_UP", "MarketOf", "form_of", "read_csv", "unmatched"]

MAX_ROWS = 1_000_000  # of a file: 100 MB; the longest download of a venue has 10,000
MAX_SHOWN = 10  # problems in a message; Statement.problems has all
MADE_UP = "csv-"  # what the id of a trade begins with that its file does not name
NS = 10**9
_FORMS = {
    "kraken": {"txid", "ordertxid", "pair", "time", "type", "price", "cost", "fee", "vol"},
    "binance": {"date(utc)", "pair", "side", "price", "executed", "amount", "fee"},
    "binance, before 2021": {"date(utc)", "market", "type", "price", "amount", "fee", "fee coin"},
    "plain": {"time", "symbol", "side", "size", "price"},
}
_WHEN = re.compile(r"(\d{2,4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z| ?UTC)?")
_AMOUNT = re.compile(r"([\d,]*\.?\d+) ?([A-Z][A-Z0-9]*)?")

#: The market of a venue's own symbol, or of an fqme; None for one that is not known.
MarketOf = Callable[[str], MktPair | None]
Cells = dict[str, str]


def form_of(data: bytes) -> str:
    """Return of which form a file is: kraken, binance, plain; ``DataQuality`` where of none."""
    return _open(data)[0]


def _open(data: bytes) -> tuple[str, csv.DictReader[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise DataQuality(f"the file is no text: {err}.", kind="csv") from err
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    for form, needed in _FORMS.items():
        if needed <= set(names):
            return form, reader
    shown = ", ".join(names)[:200] or "nothing"
    raise DataQuality(
        f"the file is no trade history that is known; its first line has: {shown}.",
        kind="csv",
        remedy="Known are Kraken's trades.csv, Binance's spot trade history, and a file of your "
        "own with the columns time, symbol, side, size, price, fee, fee_asset, tid.",
    )


def read_csv(data: bytes, *, account: str, market_of: MarketOf, strict: bool = True) -> Statement:
    """Return the transactions of a trade history's bytes, all of one account.

    Raises ``DataQuality`` where the file is none or, unless ``strict`` is False, where a row can
    not be read, naming each such line; otherwise those are in ``problems``.
    """
    form, reader = _open(data)
    rows = _Rows(form, account, market_of)
    found: dict[Key, Transaction] = {}
    problems: list[Problem] = []
    skipped: Counter[str] = Counter()
    try:
        for number, cells in enumerate(reader, 1):
            if number > MAX_ROWS:
                raise DataQuality(f"the file has over {MAX_ROWS:,} rows.", kind="csv")
            if not any(cell for name, cell in cells.items() if name is not None):
                continue
            try:
                tx = rows.read(cells)
                if found.setdefault(tx.key, tx) is not tx:
                    if found[tx.key] != tx:
                        raise DataQuality(f"the id {tx.tid} was used before, for something else")
                    skipped["row told twice"] += 1
            except (DataQuality, ConfigError) as err:
                problems.append(Problem(reader.line_num, form, err.message.rstrip(".")))
    except csv.Error as err:
        raise DataQuality(f"line {reader.line_num} of the file is no CSV: {err}.") from err
    if problems and strict:
        raise _refused(problems)
    ordered = sorted(found.values(), key=lambda tx: (tx.order, tx.key))
    return Statement(
        transactions=tuple(ordered), contracts=rows.contracts, problems=tuple(problems),
        skipped=dict(skipped),
    )  # fmt: skip


def _refused(problems: list[Problem]) -> DataQuality:
    shown = [f"line {problem.line}: {problem.why}" for problem in problems[:MAX_SHOWN]]
    more = len(problems) - len(shown)
    shown += [f"and {more} more"] if more else []
    return DataQuality(
        "the trade history can not be imported: " + "; ".join(shown) + ".",
        kind="csv",
        remedy="Nothing was imported. What a venue lists is asked by: piker symbols populate",
    )


class _Rows:
    """Reads rows of one form, and keeps what their markets stand for."""

    def __init__(self, form: str, account: str, market_of: MarketOf) -> None:
        self._account = account
        self._market_of = market_of
        self._markets: dict[str, MktPair] = {}
        self._alike: Counter[bytes] = Counter()
        self.contracts: dict[str, Contract] = {}
        self.read: Callable[[Cells], Transaction] = {
            "kraken": self._kraken, "binance": self._binance,
            "binance, before 2021": self._binance_of_old, "plain": self._plain,
        }[form]  # fmt: skip

    def _market(self, name: str) -> MktPair:
        """Return a market by the venue's name for it; raise for one that nobody knows."""
        market = self._markets.get(name) or self._market_of(name)
        if market is None:
            raise DataQuality(f"the market {name[:40]!r} is not known")
        self._markets[name] = market
        self.contracts[market.fqme] = contract_of(market)
        return market

    def _kraken(self, cells: Cells) -> Transaction:
        """Read a row of Kraken's; its fee is in the quote currency."""
        if _number(cells.get("margin") or "0", "margin"):
            raise DataQuality("a trade on margin, which is no spot trade")
        row = {name: cells[name] for name in ("ordertxid", "pair", "type", "price", "cost", "fee",
                                              "vol")}  # fmt: skip
        seconds = Decimal(_time(cells["time"])).scaleb(-9)
        market = self._market(cells["pair"])
        return kraken_spot(
            cells["txid"], row | {"time": seconds}, market=market, account=self._account
        )

    def _binance(self, cells: Cells) -> Transaction:
        market = self._market(cells["pair"])
        size, _ = _amount(cells["executed"], (market.dst.name,))
        fee, asset = _amount(cells["fee"], (market.dst.name, market.src.name, "bnb"))
        return self._told(cells, market.fqme, cells["date(utc)"], cells["side"], size, fee, asset)

    def _binance_of_old(self, cells: Cells) -> Transaction:
        market = self._market(cells["market"])
        size, fee = _number(cells["amount"], "amount"), _number(cells["fee"], "fee")
        asset = cells["fee coin"].strip().lower()
        return self._told(cells, market.fqme, cells["date(utc)"], cells["type"], size, fee, asset)

    def _plain(self, cells: Cells) -> Transaction:
        symbol = str(parse_fqme(cells["symbol"].strip()))
        market = self._market_of(symbol)
        if market is not None:
            self.contracts[symbol] = contract_of(market)
        size = _number(cells["size"], "size")
        if size < 0:
            raise DataQuality("a size below zero; the side says which way")
        fee = _number(cells.get("fee") or "0", "fee")
        asset = (cells.get("fee_asset") or "").strip().lower()
        return self._told(cells, symbol, cells["time"], cells["side"], size, fee, asset)

    def _told(
        self, cells: Cells, symbol: str, when: str, side: str, size: Decimal, fee: Decimal,
        fee_asset: str,
    ) -> Transaction:  # fmt: skip
        sides = {"buy": 1, "sell": -1}
        if side.strip().lower() not in sides:
            raise DataQuality(f"the side is {side[:20]!r}, neither buy nor sell")
        signed = size if sides[side.strip().lower()] > 0 else size.copy_negate()
        time_ns, price = _time(when), _number(cells["price"], "price")
        tid = (cells.get("tid") or "").strip()
        return Transaction(
            account=self._account, symbol=symbol, time_ns=time_ns, size=signed, price=price,
            tid=tid or self._made_up(symbol, time_ns, signed, price, fee, fee_asset),
            cost=fee, cost_asset=fee_asset if fee else "",
            oid=(cells.get("oid") or "").strip(), note=(cells.get("note") or "").strip(),
        )  # fmt: skip

    def _made_up(self, *said: object) -> str:
        """Return an id of what a row says; rows that say the same are counted."""
        alike = blake2b(repr(said).encode(), digest_size=8).digest()
        self._alike[alike] += 1
        return f"{MADE_UP}{alike.hex()}-{self._alike[alike]}"


# -- cells -------------------------------------------------------------------------------------
def _time(text: str) -> int:
    """Return UTC nanoseconds of ``2024-05-01 10:00:00.25``, or of a year with two digits."""
    found = _WHEN.fullmatch(text.strip())
    if found is None or len(found[1]) == 9:
        raise DataQuality(f"{text[:40]!r} is no time like 2024-05-01 10:00:00")
    day = found[1] if len(found[1]) == 10 else f"20{found[1]}"
    try:
        when = datetime.fromisoformat(f"{day}T{found[2]}").replace(tzinfo=UTC)
    except ValueError as err:
        raise DataQuality(f"{text[:40]!r} is no time: {err}") from err
    return int(when.timestamp()) * NS + int((found[3] or "0").ljust(9, "0"))


def _number(text: str, what: str) -> Decimal:
    """Return a number; commas between thousands are taken out."""
    try:
        value = Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        raise DataQuality(f"the {what} is {text[:40]!r}, which is no number") from None
    if not value.is_finite():
        raise DataQuality(f"the {what} is {text[:40]!r}, which is no number")
    return value


def _amount(text: str, likely: Iterable[str]) -> tuple[Decimal, str]:
    """Return the number and the asset of ``0.0198054BUSD``; "" where none is named.

    The ``likely`` assets are tried first: of 5001INCH, 500 are 1INCH.
    """
    folded = text.strip().upper()
    for asset in likely:
        head = folded.removesuffix(asset.upper()).rstrip()
        if head != folded and _AMOUNT.fullmatch(head) and head[-1].isdigit():
            return _number(head, "amount"), asset.lower()
    found = _AMOUNT.fullmatch(folded)
    if found is None:
        raise DataQuality(f"{text[:40]!r} is no amount like 0.5BTC")
    return _number(found[1], "amount"), (found[2] or "").lower()


# -- the same trade, told live -------------------------------------------------------------------
def unmatched(known: Iterable[Transaction], told: Iterable[Transaction]) -> list[Transaction]:
    """Return what is ``told`` without the trades that are ``known`` under their own ids.

    A trade whose id was made up is one that is known where account, market, size, price and second
    are the same; each known one stands for one of them.
    """
    there = Counter(_likeness(tx) for tx in known if not tx.tid.startswith(MADE_UP))
    out = []
    for tx in told:
        if tx.tid.startswith(MADE_UP) and there[_likeness(tx)] > 0:
            there[_likeness(tx)] -= 1
        else:
            out.append(tx)
    return out


def _likeness(tx: Transaction) -> tuple[str, str, Decimal, Decimal, int]:
    return tx.account, tx.symbol, tx.size, tx.price or ZERO, tx.time_ns // NS
