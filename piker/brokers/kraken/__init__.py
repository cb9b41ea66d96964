"""Kraken spot, market data. docs/brokers/kraken.md."""

from piker.brokers.kraken.api import get_mkt_info, get_server_time, search_symbols
from piker.brokers.kraken.book import open_book
from piker.brokers.kraken.feed import open_history_client, stream_quotes
from piker.brokers.spec import Capabilities
from piker.ohlcv import ohlc_dtype

__all__ = [
    "capabilities",
    "get_mkt_info",
    "get_server_time",
    "ohlc_dtype",
    "open_book",
    "open_history_client",
    "search_symbols",
    "stream_quotes",
]

capabilities = Capabilities(
    venues=("spot",),
    history=("1m", "5m", "15m", "30m", "1h", "4h", "1d"),
    history_rows=720,
    closed_bars=("1m",),
    depth=True,
    trade_ids=True,
    search=True,
    metadata=True,
)
