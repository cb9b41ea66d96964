"""A loopback Binance with a client that speaks bare HTTP to it, for tests of its archive."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import h11
import trio

from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback

__all__ = [
    "DAY_S",
    "HEADER",
    "KINDS",
    "MAY_3",
    "REST",
    "SOON_S",
    "SYMBOLS",
    "Answer",
    "Session",
    "archive",
    "day",
    "month",
    "path_of",
    "rest_lines",
]

SOON_S = 30  # nothing here takes longer unless it is broken
DAY_S = 86_400
REST = {"spot": "/api/v3", "futures/um": "/fapi/v1", "futures/cm": "/dapi/v1"}
KINDS = {"spot": "spot", "futures/um": "usdm", "futures/cm": "coinm"}
SYMBOLS = {"spot": "BTCUSDT", "futures/um": "BTCUSDT", "futures/cm": "BTCUSD_PERP"}
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
    "taker_buy_quote_volume,ignore"
)
MAY_3 = 1_714_694_400  # 2024-05-03


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Session:
    """A venue with a client that speaks bare HTTP to it."""

    def __init__(self, venue: Any, port: int) -> None:
        self.venue = venue
        self.port = port

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """Ask on a connection of its own."""
        wire = h11.Connection(h11.CLIENT)
        named = [("Host", "venue"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        body = b""
        with trio.fail_after(SOON_S):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                request = h11.Request(method=method, target=target, headers=named)
                await stream.send_all(
                    (wire.send(request) or b"") + (wire.send(h11.EndOfMessage()) or b"")
                )
                while True:
                    event = wire.next_event()
                    if event is h11.NEED_DATA:
                        wire.receive_data(await stream.receive_some(65_536))
                    elif isinstance(event, h11.Response):
                        told = {k.decode().lower(): v.decode() for k, v in event.headers}
                        status = event.status_code
                    elif isinstance(event, h11.Data):
                        body += bytes(event.data)
                    else:
                        return Answer(status, told, body)

    async def json(self, target: str) -> Any:
        """Return an answer of REST."""
        answer = await self.ask(target)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    async def zip(self, path: str) -> zipfile.ZipFile:
        """Return a file, its CHECKSUM compared."""
        whole, told = await self.ask(path), await self.ask(f"{path}.CHECKSUM")
        assert (whole.status, told.status) == (200, 200)
        name = path.rpartition("/")[2]
        assert told.body.decode() == f"{hashlib.sha256(whole.body).hexdigest()}  {name}\n"
        return zipfile.ZipFile(io.BytesIO(whole.body))

    async def lines(self, path: str) -> list[str]:
        """Return the lines of a file that is sound."""
        file = await self.zip(path)
        (name,) = file.namelist()
        assert name == path.rpartition("/")[2].replace(".zip", ".csv")
        return file.read(name).decode().splitlines()


@asynccontextmanager
async def archive(*faults: Fault, symbols: int = 1, **more: Any) -> AsyncIterator[Session]:
    """Serve a venue that hardly trades."""
    async with open_loopback("binance", symbols=symbols, rate=1, faults=faults, **more) as (
        venue, port
    ):  # fmt: skip
        yield Session(venue, port)
        assert venue.gate.counters.errors == 0
        assert venue.gate.stats()["violations"] == {}


def day(market: str = "spot", interval: str = "1m", date: str = "2024-05-03") -> str:
    """Return the path of a day's bars."""
    return path_of(market, "daily", interval, date)


def month(market: str = "spot", interval: str = "1m", date: str = "2024-05") -> str:
    """Return the path of a month's bars."""
    return path_of(market, "monthly", interval, date)


def path_of(market: str, period: str, interval: str, date: str, symbol: str = "") -> str:
    """Return the path of bars."""
    symbol = symbol or SYMBOLS[market]
    return f"/data/{market}/{period}/klines/{symbol}/{interval}/{symbol}-{interval}-{date}.zip"


async def rest_lines(
    session: Session, market: str, interval: str, start_s: int, end_s: int, symbol: str = ""
) -> list[str]:
    """Return the bars of [start, end) by REST, page by page, as lines."""
    lines: list[str] = []
    ask = f"{REST[market]}/klines?symbol={symbol or SYMBOLS[market]}&interval={interval}&limit="
    step = 1000 if market == "spot" else 1500
    seconds = {"s": 1, "m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S, "M": 28 * DAY_S}
    size = int(interval[:-1]) * seconds[interval[-1]]
    while start_s < end_s:
        stop_s = min(end_s, start_s + step * size)
        rows = await session.json(
            f"{ask}{step}&startTime={start_s * 1000}&endTime={stop_s * 1000 - 1}"
        )
        lines += [",".join(map(str, row)) for row in rows]
        start_s = stop_s
    return lines
