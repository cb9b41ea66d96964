"""Kraken spot, market data. docs/brokers/kraken.md."""

from piker.brokers.kraken.api import get_mkt_info, get_server_time, search_symbols
from piker.ohlcv import ohlc_dtype

__all__ = ["get_mkt_info", "get_server_time", "ohlc_dtype", "search_symbols"]
