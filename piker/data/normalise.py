"""What a backend may send, made into tick rows: once, for every backend.

Seed 002's plain form is a quote dict, ``{'symbol': .., 'last': .., 'ticks': [..]}``, or
``{symbol: quote}``; the fast form is a :class:`~piker.ticks.TickBatch`. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from piker.errors import DataQuality
from piker.ohlcv import ClosedBar
from piker.ticks import Outage, Resync, Side, TickBatch, TickRow, TickType

__all__ = ["Item", "normalise", "quote_rows", "split_started"]

#: What comes out: rows with their time of receipt, or one of the control messages.
Item = TickBatch | Resync | Outage | ClosedBar

# The tick types of the predecessor's quotes. Sizes alone (bsize, asize) repeat their price.
_TYPES = {
    "trade": TickType.TRADE,
    "utrade": TickType.TRADE,
    "dark_trade": TickType.DARK_TRADE,
    "last": TickType.LAST,
    "bid": TickType.BID,
    "bsize": TickType.BID,
    "ask": TickType.ASK,
    "asize": TickType.ASK,
    "mark": TickType.MARK,
    "index": TickType.INDEX,
    "funding": TickType.FUNDING,
    "open_interest": TickType.OPEN_INTEREST,
}
_IGNORED = frozenset({"size", "volume", "n/a"})  # derived ones, which carry nothing new
_SIDES = {"buy": Side.BUY, "b": Side.BUY, "sell": Side.SELL, "s": Side.SELL}


def normalise(sent: object, recv_ns: int) -> list[Item]:
    """Return the items that one message of a backend's quote channel stands for.

    Raises ``DataQuality`` (kind ``malformed``) for what is none of the accepted forms.
    """
    if isinstance(sent, TickBatch | Resync | Outage | ClosedBar):
        return [sent]
    if isinstance(sent, Mapping):
        quotes = [sent] if "symbol" in sent else list(sent.values())
        rows = [row for quote in quotes for row in quote_rows(quote, recv_ns)]
        return [TickBatch(rows, recv_ns)]
    if isinstance(sent, list | tuple):
        return [item for part in sent for item in normalise(part, recv_ns)]
    raise DataQuality(
        f"a backend sent a {type(sent).__name__} on its quote channel; a quote dict, "
        "{symbol: quote} or a TickBatch is expected."
    )


def quote_rows(quote: object, recv_ns: int) -> Iterator[TickRow]:
    """Yield the tick rows of one seed-002 quote; a quote without ticks gives its ``last``."""
    if not isinstance(quote, Mapping) or "symbol" not in quote:
        raise DataQuality("a quote must be a dict with the key 'symbol'.")
    symbol = str(quote["symbol"]).lower()
    quote_ns = _time_ns(quote.get("broker_ts") or quote.get("time"), recv_ns)
    ticks = quote.get("ticks") or ()
    if not isinstance(ticks, list | tuple):
        raise DataQuality(f"{symbol}: 'ticks' must be a list.")
    previous: tuple[object, ...] = ()
    for tick in ticks:
        row = _tick_row(symbol, tick, quote_ns)
        if row is not None and row[1:5] != previous:
            yield row
        # bid and bsize say the same thing twice in a row; two equal trades are two trades.
        previous = row[1:5] if row is not None and row[1] != TickType.TRADE else ()
    if not ticks and quote.get("last") is not None:
        last = _number(symbol, quote["last"], "last")
        yield (symbol, int(TickType.LAST), quote_ns, last, 0.0, 0.0, 0.0, 0, -1)


def split_started(value: object) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Return (init message, first quote) by symbol from what ``task_status.started`` was given.

    Seed 002 types it ``Tuple[Dict, Dict]``. A list of init messages, and quotes either as one
    quote or by symbol, are taken too; None means that first quotes come over the channel.
    """
    if value is None:
        return {}, {}
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise DataQuality("task_status.started() takes (init messages, first quotes).")
    init, quotes = value
    if isinstance(init, list | tuple):
        init = {
            str(getattr(message, "symbol", number)): message for number, message in enumerate(init)
        }
    if not isinstance(init, Mapping) or not isinstance(quotes, Mapping):
        raise DataQuality("task_status.started() takes (init messages, first quotes) as dicts.")
    if "symbol" in quotes:
        quotes = {quotes["symbol"]: quotes}
    return (
        {str(key).lower(): message for key, message in init.items()},
        {str(key).lower(): quote for key, quote in quotes.items()},
    )


def _tick_row(symbol: str, tick: object, quote_ns: int) -> TickRow | None:
    if not isinstance(tick, Mapping):
        raise DataQuality(f"{symbol}: a tick must be a dict.")
    label = str(tick.get("type", "")).lower()
    if label in _IGNORED:
        return None
    type_ = _TYPES.get(label)
    if type_ is None:
        raise DataQuality(f"{symbol}: unknown tick type {label!r}.", kind="unknown-tick-type")
    price = _number(symbol, tick.get("price"), "price")
    size = _number(symbol, tick.get("size", 0.0), "size")
    time_ns = _time_ns(tick.get("time") or tick.get("broker_ts"), quote_ns)
    side = _SIDES.get(str(tick.get("side", "")).lower(), Side.NONE)
    venue_id = tick.get("id", -1)
    return (
        symbol, int(type_), time_ns, price, size, 0.0, 0.0, int(side),
        venue_id if isinstance(venue_id, int) else -1,
    )  # fmt: skip


def _number(symbol: str, value: object, what: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataQuality(f"{symbol}: {what} {value!r} is not a number.") from None


def _time_ns(value: object, default_ns: int) -> int:
    """Return nanoseconds from seconds, milli-, micro- or nanoseconds, told by magnitude."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        return default_ns
    for limit, factor in ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (1e20, 1)):
        if value < limit:
            return round(value * factor)
    return default_ns
