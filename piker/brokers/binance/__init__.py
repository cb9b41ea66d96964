"""Binance: spot, USD-M and COIN-M futures; market data. docs/brokers/binance.md."""

from piker.brokers.binance.api import (
    get_mkt_info,
    get_server_time,
    list_markets,
    search_symbols,
)
from piker.brokers.binance.bars import INTERVALS
from piker.brokers.binance.feed import open_history_client, stream_quotes
from piker.brokers.binance.history import fetch_first_open
from piker.brokers.binance.retired import open_archive_client
from piker.brokers.spec import Capabilities
from piker.ohlcv import ohlc_dtype

__all__ = [
    "capabilities",
    "fetch_first_open",
    "get_mkt_info",
    "get_server_time",
    "list_markets",
    "ohlc_dtype",
    "open_archive_client",
    "open_history_client",
    "search_symbols",
    "stream_quotes",
]

#: What spot and USD-M do themselves; orders of COIN-M are not part of this backend.
_BOTH = (
    *("market", "limit", "stop", "stop_limit", "take_profit", "take_profit_limit"),
    *("gtc", "ioc", "fok", "post_only", "edit"),
)

capabilities = Capabilities(
    venues=("spot", "usdtm", "coinm"),
    history=INTERVALS,
    history_rows=1000,
    closed_bars=("1s", "1m"),
    depth=True,
    mark_price=True,
    trade_ids=True,
    search=True,
    metadata=True,
    archive=True,
    trades_by_market=True,
    orders=(
        *(f"{venue}:{what}" for venue in ("spot", "usdtm") for what in _BOTH),
        *("usdtm:gtd", "usdtm:reduce_only", "usdtm:cancel_after"),
    ),
    # Binance's fee schedule for regular users, without its own coin's discount.
    fees={
        "spot": ("0.001", "0.001"),
        "usdtm": ("0.0002", "0.0005"),
        "coinm": ("0.0002", "0.0005"),
    },
)
