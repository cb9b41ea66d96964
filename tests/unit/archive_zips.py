"""Files of an archive, made here: sound ones and such as nobody should send."""

from __future__ import annotations

import io
import struct
import zipfile
from datetime import UTC, date, datetime

from piker.brokers.archive import ArchiveFile
from piker.brokers.binance.archive_files import Shelf
from piker.market import Asset, AssetType, MktPair
from piker.ohlcv import Timeframe

__all__ = ["HEADER", "SPOT", "day_file", "klines", "market", "month_file", "ms", "zipped"]

HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore\n"
)


def market(venue: str = "spot", symbol: str = "BTCUSDT") -> MktPair:
    """Return a market; an inverse one has contracts of 100."""
    name = {"spot": "btcusdt.spot", "usdtm": "btcusdt.usdtm.perp", "coinm": "btcusd.coinm.perp"}
    return MktPair(
        fqme=f"{name[venue]}.binance",
        bs_mktid=symbol,
        dst=Asset("btc", AssetType.CRYPTO),
        src=Asset("usd", AssetType.CRYPTO),
        price_tick="0.01",  # type: ignore[arg-type]
        size_tick="0.01",  # type: ignore[arg-type]
        contract_size=100 if venue == "coinm" else 1,  # type: ignore[arg-type]
        inverse=venue == "coinm",
    )


SPOT = market()


def ms(text: str) -> int:
    """Return milliseconds of an ISO time, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def klines(first_ms: int, count: int, step_ms: int = 60_000, *, unit: int = 1) -> list[str]:
    """Return sound lines; ``unit`` 1000 writes microseconds."""
    lines = []
    for number in range(count):
        at, price = first_ms + number * step_ms, 100 + number % 50
        close = (at + step_ms) * unit - 1
        lines.append(
            f"{at * unit},{price}.10,{price + 2}.00,{price - 1}.50,{price}.90,12.5,{close},"
            f"{price * 12.5},{number},6.25,{price * 6.25},0"
        )
    return lines


def zipped(text: str | bytes, name: str, *, stored: bool = False) -> bytes:
    """Return a zip with one file."""
    buffer = io.BytesIO()
    how = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(zipfile.ZipInfo(name), text, how)
    return buffer.getvalue()


def day_file(day: str = "2024-05-17", interval: str = "1m", *, venue: str = "spot") -> ArchiveFile:
    """Return one day's file of klines."""
    symbol = "BTCUSD_PERP" if venue == "coinm" else "BTCUSDT"
    start_s = ms(day) // 1000
    (file,) = Shelf(venue, symbol).klines(
        Timeframe(interval), start_s, start_s + 86_400, now_s=2**31
    )
    return file


def month_file(month: str, interval: str, *, venue: str = "spot") -> ArchiveFile:
    """Return one month's file of klines."""
    first = date.fromisoformat(f"{month}-01")
    after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    span = ms(f"{first}") // 1000, ms(f"{after}") // 1000
    (file,) = Shelf(venue, "BTCUSDT").klines(Timeframe(interval), *span, now_s=2**31)
    return file


def declare(body: bytes, size: int) -> bytes:
    """Return a zip of one file that says in both of its headers that it holds ``size`` bytes."""
    changed = bytearray(body)
    struct.pack_into("<I", changed, 22, size)
    struct.pack_into("<I", changed, body.rindex(b"PK\x01\x02") + 24, size)
    return bytes(changed)
