"""The rows of a Flex statement, one by one: what each kind says, and whether it can be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from piker.accounting.flex_xml import Row
from piker.accounting.transaction import Contract, Kind, Transaction
from piker.errors import ConfigError, DataQuality
from piker.market import parse_fqme
from piker.money import DIVIDE, EXACT, ZERO, is_sane, plain, ratio

__all__ = ["NEW_YORK", "Reader", "Skip", "symbol_of", "time_of"]

NEW_YORK = "America/New_York"
CENT = Decimal("0.01")
ROUNDED = Decimal("0.0005")  # of a price that IB rounds for show: 0.05 % of the money
_OWN_ZONES = {"EST": -5, "EDT": -4, "UTC": 0, "GMT": 0, "Z": 0}
_DATE = r"(?P<y>\d{4})(?P<dash>-?)(?P<m>\d\d)(?P=dash)(?P<d>\d\d)"
_TIME = r"(?P<H>\d\d)(?P<colon>:?)(?P<M>\d\d)(?P=colon)(?P<S>\d\d)"
_WHEN = re.compile(rf"{_DATE}(?:(?:[;,T ] ?){_TIME}(?: ?(?P<zone>[A-Z]{{1,3}}))?)?")
_SPLIT = re.compile(r"\bSPLIT (\d{1,7}) FOR (\d{1,7})\b")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,60}\.?[0-9]{0,60}|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,3})?")
_NO_PART = re.compile(r"[^a-z0-9_&+~-]+")
_DERIVATIVES = ("FUT", "OPT", "FOP", "WAR", "FSFOP", "FSOPT")
#: Levels of detail that carry what happened; the others add it up.
_DETAILS = ("", "EXECUTION", "DETAIL", "TRADE_TRANSFERS", "TRANSFER")
_FUNDING = ("dividend", "interest", "payment in lieu")
_FEES = ("withholding", "fee", "commission", "tax")


class Skip(Exception):
    """A row that is left out on purpose; ``what`` says which."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def time_of(text: str, zone: tzinfo) -> int:
    """Return UTC nanoseconds of IB's date, or date and time: 20180209;111929, 2013-06-17, 20:25:00.

    ``yyyyMMdd`` or ``yyyy-MM-dd``; a semicolon, comma, space or T between; ``HHmmss`` or
    ``HH:mm:ss``; EST, EDT, UTC or GMT behind. A date alone is its midnight.
    """
    found = _WHEN.fullmatch(text.strip())
    if found is None:
        raise DataQuality(
            f"{text!r} is no date of a form that is known; set the query's date format to yyyyMMdd"
            " and its time format to HHmmss"
        )
    part = found.groupdict(default="0")
    own = found["zone"]
    if own is not None:
        if own not in _OWN_ZONES:
            raise DataQuality(f"the time zone {own} of {text!r} is not known")
        zone = timezone(timedelta(hours=_OWN_ZONES[own]))
    try:
        when = datetime(
            int(part["y"]), int(part["m"]), int(part["d"]),
            int(part["H"]), int(part["M"]), int(part["S"]), tzinfo=zone,
        )  # fmt: skip
    except ValueError as err:
        raise DataQuality(f"{text!r} is no date: {err}") from err
    return int((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**9


class Reader:
    """Reads rows, and keeps what they say of their markets."""

    def __init__(self, zone: str, symbol_of: Callable[[dict[str, str]], str | None] | None) -> None:
        try:
            self._zone: tzinfo = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as err:
            raise ConfigError(f"there is no time zone {zone!r}.") from err
        self._symbol_of = symbol_of
        self.contracts: dict[str, Contract] = {}
        self._conids: dict[str, str] = {}
        self._like: Counter[tuple[str, str]] = Counter()

    def read(self, row: Row) -> Transaction:
        """Return the transaction of a row. ``Skip`` or ``DataQuality`` says why there is none."""
        reader = _ROWS.get(row.element)
        if reader is None:
            raise Skip(row.element)
        level = row.attributes.get("levelOfDetail", "")
        if level not in _DETAILS:
            raise Skip(f"{row.element} {level}")
        return reader(self, row)

    # -- what rows have in common ----------------------------------------------------------
    def _when(self, row: Row) -> int:
        get = row.attributes.get
        for name in ("dateTime", "date", "tradeDate", "reportDate"):
            text = get(name, "")
            if text and name == "tradeDate" and get("tradeTime"):
                text = f"{text};{get('tradeTime')}"
            if text:
                return time_of(text, self._zone)
        raise DataQuality("it has no date: include Date/Time in the query")

    def _account(self, row: Row) -> str:
        own = row.attributes.get("accountId", "")
        account = row.account if own in ("", "-") else own
        if not account:
            raise DataQuality("it has no accountId: include Account ID in the query")
        return account

    def _market(self, row: Row, *, moved: bool = False) -> str:
        """Return the row's market, having checked that it is the one of this name so far.

        ``moved`` says that the contract's number is a new one by right, after a split.
        """
        named = self._symbol_of(row.attributes) if self._symbol_of else None
        symbol = named or symbol_of(row.attributes)
        conid = row.attributes.get("conid", "")
        known = self._conids.get(symbol, conid)
        if known and conid and known != conid and not moved:
            raise DataQuality(
                f"{symbol} is two contracts, {known} and {conid}:"
                " include Listing Exchange in the query"
            )
        self._conids[symbol] = conid or known
        contract = _contract(row)
        if self.contracts.setdefault(symbol, contract) != contract:
            raise DataQuality(f"{symbol} has another multiplier or currency than before")
        return symbol

    # -- the kinds of rows -------------------------------------------------------------------
    def _trade(self, row: Row) -> Transaction:
        size, price = _number(row, "quantity"), _number(row, "tradePrice")
        kind = Kind.TRANSFER if row.element == "TradeTransfer" else Kind.FILL
        if row.attributes.get("transactionType") == "BookTrade" and not price:
            kind = Kind.EXPIRY  # expired, exercised or assigned; the option itself is worth nothing
        _check_side(row, size)
        symbol = self._market(row)
        money = self._money(row, symbol, size, price)
        commission = _maybe(row, "ibCommission") or ZERO
        currency = _text(row, "currency").lower()
        asset = row.attributes.get("ibCommissionCurrency", "").lower() or currency
        taxes = _maybe(row, "taxes") or ZERO
        if taxes and asset != currency:
            raise DataQuality(f"it has taxes in {currency} and a commission in {asset}")
        return Transaction(
            account=self._account(row), symbol=symbol, tid=_trade_id(row),
            time_ns=self._when(row), kind=kind, size=size, price=price,
            value=money if kind is not Kind.TRANSFER else None,
            cost=EXACT.minus(EXACT.add(commission, taxes)), cost_asset=asset,
            oid=row.attributes.get("ibOrderID", ""),
        )  # fmt: skip

    def _money(self, row: Row, symbol: str, size: Decimal, price: Decimal) -> Decimal | None:
        """Return the money that IB booked, where it is not size times price, but near it."""
        reckoned = EXACT.multiply(EXACT.multiply(size, price), self.contracts[symbol].multiplier)
        told = _maybe(row, "tradeMoney")
        if told is None:
            proceeds = _maybe(row, "proceeds")
            told = None if proceeds is None else EXACT.minus(proceeds)
        if told is None or told == reckoned:
            return None
        off = EXACT.subtract(told, reckoned).copy_abs()
        if off > EXACT.add(CENT, EXACT.multiply(ROUNDED, reckoned.copy_abs())):
            raise DataQuality(
                f"its money is {plain(told)}, but size times price is {plain(reckoned)}"
            )
        return told

    def _cash(self, row: Row) -> Transaction:
        word = row.attributes.get("type", "")
        kind = _cash_kind(word)
        if kind is None:
            raise Skip(f"CashTransaction {word}".strip())
        symbol = ""
        if row.attributes.get("symbol") and row.attributes.get("assetCategory"):
            named = self._symbol_of(row.attributes) if self._symbol_of else None
            symbol = named or symbol_of(row.attributes)
        time_ns = self._when(row)
        return Transaction(
            account=self._account(row), symbol=symbol, tid=self._cash_id(row, time_ns, symbol),
            kind=kind, time_ns=time_ns, cost=EXACT.minus(_number(row, "amount")),
            cost_asset=_text(row, "currency").lower(), note=word,
        )  # fmt: skip

    def _cash_id(self, row: Row, time_ns: int, symbol: str) -> str:
        """Return a payment's id; without Transaction ID: what it is, and its number."""
        get = row.attributes.get
        if get("transactionID"):
            return f"cash-{get('transactionID')}"
        what = f"{_part(get('type', ''))}-{time_ns // 10**9}-{get('amount')}-{get('currency')}"
        self._like[what, symbol] += 1
        return f"cash-{what}-{self._like[what, symbol]}"

    def _action(self, row: Row) -> Transaction:
        """A split by its ratio; another action as what it did to the units and the money."""
        about = row.attributes.get("description", "")
        split = _SPLIT.search(about)
        if split is not None and row.attributes.get("symbol", "").endswith(".OLD"):
            raise Skip("CorporateAction of a split's old contract")
        size = _number(row, "quantity")
        if not size:
            raise Skip("CorporateAction without units")
        symbol = self._market(row, moved=split is not None)
        account, time_ns = self._account(row), self._when(row)
        own = row.attributes.get("transactionID") or row.attributes.get("actionID")
        tid = f"action-{own or time_ns}-{plain(size)}"
        if split is not None:
            return Transaction(
                account=account, symbol=symbol, tid=tid, time_ns=time_ns, kind=Kind.SPLIT,
                new=int(split[1]), old=int(split[2]), note=about[:200],
            )  # fmt: skip
        proceeds = _maybe(row, "proceeds") or ZERO
        if not proceeds:
            return Transaction(
                account=account, symbol=symbol, tid=tid, time_ns=time_ns, kind=Kind.TRANSFER,
                size=size, note=about[:200],
            )  # fmt: skip
        units = EXACT.multiply(size, self.contracts[symbol].multiplier)
        price = ratio(proceeds.copy_negate(), units).quantize(Decimal("1e-12"), context=DIVIDE)
        return Transaction(
            account=account, symbol=symbol, tid=tid, time_ns=time_ns, kind=Kind.EXPIRY, size=size,
            price=price, value=proceeds.copy_negate(), note=about[:200],
        )  # fmt: skip

    def _transfer(self, row: Row) -> Transaction:
        size = _maybe(row, "quantity") or ZERO
        if not size:
            raise Skip("Transfer of cash")
        direction = row.attributes.get("direction", "").upper()
        if direction not in ("IN", "OUT"):
            raise DataQuality(f"a transfer goes IN or OUT, not {direction!r}")
        size = size.copy_abs() if direction == "IN" else size.copy_abs().copy_negate()
        price = _maybe(row, "transferPrice")
        symbol = self._market(row)
        when = self._when(row)
        tid = row.attributes.get("transactionID") or f"{when}-{direction.lower()}-{plain(size)}"
        return Transaction(
            account=self._account(row), symbol=symbol, tid=f"transfer-{tid}", time_ns=when,
            kind=Kind.TRANSFER, size=size, price=price or None,
            note=row.attributes.get("type", ""),
        )  # fmt: skip


_ROWS: dict[str, Callable[[Reader, Row], Transaction]] = {
    "Trade": Reader._trade,
    "TradeTransfer": Reader._trade,
    "CashTransaction": Reader._cash,
    "CorporateAction": Reader._action,
    "Transfer": Reader._transfer,
}


# -- attributes --------------------------------------------------------------------------------
def _text(row: Row, name: str) -> str:
    text = row.attributes.get(name, "").strip()
    if not text:
        raise DataQuality(f"it has no {name}: include it in the query")
    return text


def _maybe(row: Row, name: str) -> Decimal | None:
    """Return a number, or None where the row has none; a comma could mean two things: refused."""
    text = row.attributes.get(name, "").strip()
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise DataQuality(f"{name} is {text[:40]!r}, which is no number")
    value = Decimal(text)
    if not is_sane(value):
        raise DataQuality(f"{name} is {text[:40]!r}, which no account holds")
    return value


def _number(row: Row, name: str) -> Decimal:
    value = _maybe(row, name)
    if value is None:
        raise DataQuality(f"it has no {name}: include it in the query")
    return value


def _check_side(row: Row, size: Decimal) -> None:
    """A canceled trade is written BUY (Ca.) and has the other sign."""
    side = row.attributes.get("buySell", "").upper()
    if not side or "CA" in side:
        return
    if (side == "BUY") != (size > 0):
        raise DataQuality(f"it is a {side} of {plain(size)}")


def _trade_id(row: Row) -> str:
    """Return the trade's id. A cancellation may bear the id of what it cancels, or none."""
    get = row.attributes.get
    tid = get("tradeID") or get("ibExecID") or get("transactionID")
    if get("transactionType") == "TradeCancel":
        tid = get("transactionID") or get("origTradeID") or tid
        return f"cancel-{tid}" if tid else _no_id()
    return tid or _no_id()


def _no_id() -> str:
    raise DataQuality("it has no id: include Trade ID in the query")


def _cash_kind(word: str) -> Kind | None:
    word = word.lower()
    if any(part in word for part in _FEES):
        return Kind.FEE
    return Kind.FUNDING if any(part in word for part in _FUNDING) else None


# -- markets -------------------------------------------------------------------------------------
def _contract(row: Row) -> Contract:
    """Return what a unit stands for. A bond's price is a percentage of its face."""
    category = row.attributes.get("assetCategory", "")
    multiplier = _maybe(row, "multiplier") or Decimal(1)
    if category == "BOND":
        multiplier = EXACT.multiply(multiplier, CENT)
    currency = _text(row, "currency").lower()
    return Contract(multiplier, False, _part(row.attributes.get("symbol", "")), currency)


def _part(text: str) -> str:
    """Return a text as a part of an address can be."""
    return _NO_PART.sub("_", text.strip().lower()).strip("_&+~-")


def symbol_of(attributes: dict[str, str]) -> str:
    """Return the address of a row's market: ``mmm.fwb.ib``, ``payc.nyse.20181116.120c.ib``."""
    category = attributes.get("assetCategory", "")
    name = attributes.get("symbol", "")
    venue = _part(attributes.get("listingExchange", "")) or _part(attributes.get("currency", ""))
    parts = [_part(name), venue]
    if category == "CASH":
        parts = [_part(name).replace("_", ""), "idealpro"]
    elif category in _DERIVATIVES:
        underlying = attributes.get("underlyingSymbol") or name.split(" ", 1)[0]
        parts = [_part(underlying), venue, _digits(attributes.get("expiry", ""))]
        if category != "FUT" and attributes.get("putCall"):
            parts.append(_strike(attributes))
    if not all(parts):
        raise DataQuality(
            "its market has no name: include Symbol, Currency and Expiry in the query"
        )
    try:
        return str(parse_fqme(".".join([*parts, "ib"])))
    except ConfigError as err:
        raise DataQuality(f"its market can not be named: {err.message}") from err


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _strike(attributes: dict[str, str]) -> str:
    strike, right = attributes.get("strike", ""), attributes["putCall"][:1].lower()
    if not _NUMBER.fullmatch(strike) or not is_sane(Decimal(strike)):
        raise DataQuality(f"the strike of an option is {strike[:40]!r}")
    return plain(Decimal(strike)).replace(".", "_") + right
