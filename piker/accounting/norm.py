"""A venue's own record of a trade, as its REST interface returns it, into a transaction.

Rows are dicts as decoded from JSON; numbers stay the digits that the venue sent where they come as
strings. A row that lacks what it must have raises ``DataQuality`` that names the field.

A trade's id is the one under which the backend tells it live: ``t`` before Binance's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from piker.accounting.transaction import Kind, Transaction
from piker.errors import DataQuality
from piker.market import MktPair
from piker.money import DIVIDE, is_sane

__all__ = [
    "binance_coinm",
    "binance_funding",
    "binance_spot",
    "binance_usdm",
    "kraken_spot",
]

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
Row = Mapping[str, Any]  # decoded JSON: what is in it is the venue's affair until it is converted

_T = TypeVar("_T", bound=msgspec.Struct)


class BinanceSpotTrade(msgspec.Struct, rename="camel"):
    """A row of ``GET /api/v3/myTrades``.

    ``{"symbol": "BNBBTC", "id": 28457, "orderId": 100234, "price": "4.00000100", "qty": "12.0",
    "quoteQty": "48.000012", "commission": "10.1", "commissionAsset": "BNB",
    "time": 1499865549590, "isBuyer": true, "isMaker": false}``
    """

    symbol: str
    id: int
    order_id: int
    price: Decimal
    qty: Decimal
    commission: Decimal
    commission_asset: str
    time: int  # ms; us of an account that asks for it
    is_buyer: bool


class BinanceFuturesTrade(msgspec.Struct, rename="camel"):
    """A row of ``GET /fapi/v1/userTrades``, and of ``/dapi/v1/userTrades``.

    ``{"symbol": "BTCUSDT", "id": 698759, "orderId": 25851813, "side": "SELL", "price": "7819.01",
    "qty": "0.002", "realizedPnl": "-0.91539999", "commission": "0.0078", "commissionAsset":
    "USDT", "positionSide": "SHORT", "time": 1569514978020}``. ``qty`` is in contracts of COIN-M.
    """

    symbol: str
    id: int
    order_id: int
    side: str
    price: Decimal
    qty: Decimal
    time: int
    commission: Decimal = Decimal(0)
    commission_asset: str = ""
    position_side: str = "BOTH"


class BinanceIncome(msgspec.Struct, rename="camel"):
    """A row of ``GET /fapi/v1/income``: positive when received."""

    income_type: str
    income: Decimal
    asset: str
    time: int
    tran_id: int | str
    symbol: str = ""


class KrakenTrade(msgspec.Struct):
    """A value of ``trades`` in ``POST /0/private/TradesHistory``; its key is the trade's id.

    ``{"ordertxid": "OQCLML-BW3P3-BUCMWZ", "pair": "XXBTZUSD", "time": 1688667796.8802,
    "type": "buy", "price": "30010.0", "cost": "600.2", "fee": "0.0", "vol": "0.02"}``
    """

    ordertxid: str
    pair: str
    time: Decimal  # seconds
    type: str
    price: Decimal
    cost: Decimal
    fee: Decimal
    vol: Decimal


def _read(row: Row, shape: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(row, shape)
    except msgspec.ValidationError as err:
        raise DataQuality(f"this is no {what}: {err}.") from err


def _side(word: str, what: str) -> int:
    sides = {"buy": 1, "sell": -1}
    if word.lower() not in sides:
        raise DataQuality(f"a {what} is neither bought nor sold but {word!r}.")
    return sides[word.lower()]


def _signed(size: Decimal, side: int) -> Decimal:
    return size if side > 0 else size.copy_negate()


def _same(symbol: str, market: MktPair) -> None:
    if symbol and symbol != market.bs_mktid:
        raise DataQuality(
            f"a trade of {symbol} was told for {market.fqme} ({market.bs_mktid}).",
            kind="wrong-symbol",
        )


def _ns(time: int) -> int:
    """Return nanoseconds of Binance's time: ms, or us where an account asks for it."""
    return time * 1000 if time >= 10**14 else time * NS_PER_MS  # 10**14 ms is the year 5138


def binance_spot(row: Row, *, market: MktPair, account: str) -> Transaction:
    """Return the transaction of a row of spot ``myTrades``. The fee may be in any asset."""
    trade = _read(row, BinanceSpotTrade, "row of Binance's myTrades")
    _same(trade.symbol, market)
    return Transaction(
        account=account, symbol=market.fqme, tid=f"t{trade.id}", time_ns=_ns(trade.time),
        size=_signed(trade.qty, 1 if trade.is_buyer else -1), price=trade.price,
        cost=trade.commission, cost_asset=trade.commission_asset.lower(), oid=str(trade.order_id),
    )  # fmt: skip


def binance_usdm(row: Row, *, market: MktPair, account: str) -> Transaction:
    """Return the transaction of a row of futures ``userTrades``.

    In hedge mode ``positionSide`` is the leg; in one-way mode it is ``BOTH`` and there is none.
    """
    trade = _read(row, BinanceFuturesTrade, "row of Binance's userTrades")
    _same(trade.symbol, market)
    legs = {"BOTH": "", "LONG": "long", "SHORT": "short"}
    if trade.position_side not in legs:
        raise DataQuality(f"a position's side is {trade.position_side!r}.")
    return Transaction(
        account=account, symbol=market.fqme, tid=f"t{trade.id}", time_ns=_ns(trade.time),
        size=_signed(trade.qty, _side(trade.side, "futures trade")), price=trade.price,
        cost=trade.commission, cost_asset=trade.commission_asset.lower(),
        leg=legs[trade.position_side], oid=str(trade.order_id),
    )  # fmt: skip


#: COIN-M rows have the same fields; sizes are contracts, the fee is in the coin.
binance_coinm = binance_usdm


def binance_funding(row: Row, *, market: MktPair, account: str) -> Transaction | None:
    """Return the funding payment of a row of futures ``income``, or None for other income.

    Commission and realised profit are rows of ``income`` too; they come with the trades.
    """
    income = _read(row, BinanceIncome, "row of Binance's income")
    if income.income_type != "FUNDING_FEE":
        return None
    _same(income.symbol, market)
    return Transaction(
        account=account, symbol=market.fqme, tid=f"funding-{income.tran_id}",
        time_ns=_ns(income.time), kind=Kind.FUNDING, cost=income.income.copy_negate(),
        cost_asset=income.asset.lower(),
    )  # fmt: skip


def kraken_spot(tid: str, row: Row, *, market: MktPair, account: str) -> Transaction:
    """Return the transaction of one of ``TradesHistory``'s trades; ``tid`` is its key.

    The fee is in the quote currency. ``cost`` is what Kraken booked, which differs from price
    times volume in the last digit: it is the value that counts.
    """
    trade = _read(row, KrakenTrade, "trade of Kraken's TradesHistory")
    side = _side(trade.type, "trade of Kraken")
    if not is_sane(trade.time):
        raise DataQuality(f"the time of a trade of Kraken is {trade.time}.")
    time_ns = int(DIVIDE.multiply(trade.time, Decimal(NS_PER_S)).to_integral_value(context=DIVIDE))
    return Transaction(
        account=account, symbol=market.fqme, tid=tid, time_ns=time_ns,
        size=_signed(trade.vol, side), price=trade.price, value=_signed(trade.cost, side),
        cost=trade.fee, cost_asset=market.src.name, oid=trade.ordertxid,
    )  # fmt: skip
