"""Binance: spot, USD-M and COIN-M futures; market data. docs/brokers/binance.md."""

from piker.brokers.binance.api import (
    get_mkt_info,
    get_server_time,
    list_markets,
    search_symbols,
)
from piker.brokers.binance.feed import open_history_client, stream_quotes
from piker.brokers.spec import Capabilities
from piker.ohlcv import ohlc_dtype

__all__ = [
    "capabilities",
    "get_mkt_info",
    "get_server_time",
    "list_markets",
    "ohlc_dtype",
    "open_history_client",
    "search_symbols",
    "stream_quotes",
]

capabilities = Capabilities(
    venues=("spot", "usdtm", "coinm"),
    history=("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "1w"),
    history_rows=1000,
    closed_bars=("1s", "1m"),
    depth=True,
    mark_price=True,
    trade_ids=True,
    search=True,
    metadata=True,
)
