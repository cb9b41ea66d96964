"""Kraken spot: market data and orders. docs/brokers/kraken.md."""

from piker.brokers.kraken.api import (
    get_mkt_info,
    get_server_time,
    list_markets,
    search_symbols,
)
from piker.brokers.kraken.book import open_book
from piker.brokers.kraken.broker_terms import FEES, ORDERS
from piker.brokers.kraken.feed import open_history_client, stream_quotes
from piker.brokers.kraken.history import NATIVE, TIMEFRAMES
from piker.brokers.spec import Capabilities
from piker.ohlcv import ohlc_dtype

__all__ = [
    "capabilities",
    "get_mkt_info",
    "get_server_time",
    "list_markets",
    "ohlc_dtype",
    "open_book",
    "open_history_client",
    "search_symbols",
    "stream_quotes",
]

capabilities = Capabilities(
    venues=("spot",),
    # Bars of a second can be had too, but a day of them costs a minute of requests: none are
    # fetched unasked.
    history=TIMEFRAMES[1:],
    history_native=NATIVE,
    history_rows=720,
    closed_bars=("1m",),
    depth=True,
    trade_ids=True,
    search=True,
    metadata=True,
    orders=ORDERS,
    fees=FEES,
)
