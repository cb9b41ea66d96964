"""The loopback Binance's archive over real HTTP: as the venue's, one with REST, and as bad as told.

Clients of the archive are tested against these; what they may rely on is asserted here.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h11
import numpy as np
import pytest
import trio
from trio_websocket import open_websocket_url

from piker.clock import VirtualClock, use_clock
from piker.errors import ConfigError
from piker.testing.binance_archive_zip import BOMB_SIZE
from piker.testing.faults import BAR_FLAWS, Fault
from piker.testing.loopback import make_venue, open_loopback
from piker.testing.recorded_bars import lay_out_recorded_bars

SOON_S = 30  # nothing here takes longer unless it is broken
DAY_S = 86_400
REST = {"spot": "/api/v3", "futures/um": "/fapi/v1", "futures/cm": "/dapi/v1"}
_KINDS = {"spot": "spot", "futures/um": "usdm", "futures/cm": "coinm"}
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


# -- the same bars everywhere ------------------------------------------------------------------
@pytest.mark.parametrize("market", REST)
@pytest.mark.parametrize("interval", ["1m", "15m", "1h", "4h", "1d"])
async def test_archive_and_rest_agree_to_the_letter_when_a_day_is_read_twice(
    market: str, interval: str
) -> None:
    """Every column of every bar of a day is the same text from both."""
    async with archive() as session:
        lines = await session.lines(day(market, interval))
        if market != "spot":
            assert lines.pop(0) == HEADER
        assert lines[0].startswith(f"{MAY_3}000,")
        assert lines == await rest_lines(session, market, interval, MAY_3, MAY_3 + DAY_S)


@pytest.mark.slow
async def test_seconds_agree_when_read_from_archive_and_rest() -> None:
    """Spot alone has bars of a second; a day of them is the same text from both."""
    async with archive(limits=False) as session:
        lines = await session.lines(day(interval="1s"))
        assert len(lines) == DAY_S
        assert lines == await rest_lines(session, "spot", "1s", MAY_3, MAY_3 + DAY_S)


@pytest.mark.parametrize("interval", ["3d", "1w", "1mo"])
@pytest.mark.parametrize("market", REST)
async def test_long_bars_agree_when_read_by_month(market: str, interval: str) -> None:
    """A month's file holds the bars that open in it, on the calendar's grid."""
    async with archive() as session:
        lines = (await session.lines(month(market, interval)))[market != "spot" :]
        begin, end = 1_714_521_600, 1_717_200_000
        rest = await rest_lines(session, market, interval.replace("mo", "M"), begin, end)
        assert lines == rest
        assert len(lines) == {"3d": 10, "1w": 4, "1mo": 1}[interval]


@pytest.mark.slow
async def test_days_make_the_month_when_put_together() -> None:
    """A month's file is its days' files, one after another."""
    async with archive() as session:
        whole = await session.lines(month(interval="5m", date="2024-02"))
        days = [
            await session.lines(day(interval="5m", date=f"2024-02-{n:02}")) for n in range(1, 30)
        ]
        assert whole == [line for lines in days for line in lines]


async def test_spot_has_microseconds_when_a_file_begins_in_2025() -> None:
    """Its times end in 000 and 999999; futures, and spot before, keep milliseconds."""
    async with archive() as session:
        for market, date, digits in (
            ("spot", "2024-12-31", 13), ("spot", "2025-01-01", 16),
            ("futures/um", "2025-01-01", 13), ("futures/cm", "2025-01-01", 13),
        ):  # fmt: skip
            row = (await session.lines(day(market, date=date)))[-1].split(",")
            assert len(row[0]) == len(row[6]) == digits
            assert row[6].endswith("999999" if digits == 16 else "999")
            assert int(row[6]) + 1 - int(row[0]) == 60 * 10 ** (digits - 10)


async def test_coin_margined_bars_are_in_contracts_when_read() -> None:
    """Volume is whole contracts of 100 USD; the eighth and eleventh column are coins."""
    async with archive() as session:
        for line in (await session.lines(day("futures/cm", "1h")))[1:]:
            row = [float(text) for text in line.split(",")]
            assert row[3] <= row[5] * 100 / row[7] <= row[2]
            assert row[9] * 100 / row[10] == pytest.approx(row[5] * 100 / row[7], rel=1e-6)
            assert "." not in line.split(",")[5]


async def test_live_day_agrees_with_rest_when_it_is_over() -> None:
    """A day during which the venue traded is in the archive as REST has it, and stays so."""
    clock = VirtualClock((MAY_3 + DAY_S - 120) * 10**9)
    with use_clock(clock):
        async with archive() as session:
            synthetic = session.venue.listings["spot", "BTCUSDT"].market
            for _ in range(110):
                clock.advance(1)
                for _ in range(5):
                    synthetic.step(clock.wall_ns() // 10**6)
            assert (await session.ask(day())).status == 404
            clock.advance(7200 + 10)
            lines = await session.lines(day())
            assert lines == await rest_lines(session, "spot", "1m", MAY_3, MAY_3 + DAY_S)
            assert int(lines[-1].split(",")[8]) != 180  # it was traded, not made
            before = [line for line in lines if int(line[:10]) < MAY_3 + DAY_S - 120]
    async with archive() as other:
        assert (await other.lines(day()))[: len(before)] == before


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "/market", "/coinm"])
async def test_stream_agrees_with_rest_when_a_bar_closes(path: str) -> None:
    """What the kline stream calls closed is the row that REST has for it, to the letter."""
    market = {"": "spot", "/market": "futures/um", "/coinm": "futures/cm"}[path]
    keys = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")
    clock = VirtualClock((MAY_3 + DAY_S - 62) * 10**9)
    with use_clock(clock):
        async with archive() as session:
            synthetic = session.venue.listings[_KINDS[market], SYMBOLS[market]].market
            url = f"ws://127.0.0.1:{session.port}{path}/ws/{SYMBOLS[market].lower()}@kline_1m"
            closed = []
            with trio.fail_after(SOON_S):
                async with open_websocket_url(url) as stream:
                    while not closed:
                        bar = json.loads(await stream.get_message())["k"]
                        if bar["x"]:
                            closed = [bar[key] for key in keys]
                        clock.advance(20)
                        for _ in range(40):
                            synthetic.step(clock.wall_ns() // 10**6)
            rows = await session.json(
                f"{REST[market]}/klines?symbol={SYMBOLS[market]}&interval=1m&limit=100"
            )
            assert closed in rows
            assert float(closed[9]) > 0


# -- trades and fundings -----------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("market", REST)
async def test_trades_make_the_bars_when_added_up(market: str) -> None:
    """Prices, volume and number of trades of every minute; turnover to a few in 10,000."""
    symbol = SYMBOLS[market]
    path = f"/data/{market}/daily/aggTrades/{symbol}/{symbol}-aggTrades-2025-01-02.zip"
    async with archive() as session:
        lines = await session.lines(path)
        bars = await session.lines(day(market, date="2025-01-02"))
    if market == "spot":
        assert all(line.endswith(("True,True", "False,True")) for line in lines)
    else:
        assert lines.pop(0).startswith("agg_trade_id,price,quantity,first_trade_id,last_trade_id,")
        assert all(line.endswith(("true", "false")) for line in lines)
        del bars[0]
    rows = [line.split(",") for line in lines]
    numbers = np.array([row[:6] for row in rows], float)
    unit = 10**6 if market == "spot" else 1000
    minute = (numbers[:, 5] // (60 * unit)).astype(int)
    starts = np.flatnonzero(np.diff(minute, prepend=0))
    price, size = numbers[:, 1], numbers[:, 2]
    told = np.array([line.split(",") for line in bars], float)
    assert len(starts) == len(bars) == 1440
    assert (np.diff(numbers[:, 0]) == 1).all()
    assert (numbers[1:, 3] == numbers[:-1, 4] + 1).all()  # ids of trades without a hole
    assert (np.diff(numbers[:, 5]) >= 0).all()
    assert (price[starts] == told[:, 1]).all()
    assert (np.maximum.reduceat(price, starts) == told[:, 2]).all()
    assert (np.minimum.reduceat(price, starts) == told[:, 3]).all()
    assert (price[np.append(starts[1:], len(rows)) - 1] == told[:, 4]).all()
    assert np.add.reduceat(size, starts) == pytest.approx(told[:, 5], abs=1e-9)
    count = numbers[:, 4] - numbers[:, 3] + 1
    assert (np.add.reduceat(count, starts) == told[:, 8]).all()
    worth = size * 100 / price if market == "futures/cm" else size * price
    assert np.add.reduceat(worth, starts) == pytest.approx(told[:, 7], rel=3e-4)


@pytest.mark.parametrize("market", ["futures/um", "futures/cm"])
async def test_fundings_agree_with_rest_when_read_by_month(market: str) -> None:
    """Three a day, with REST's rates."""
    symbol = SYMBOLS[market]
    path = f"/data/{market}/monthly/fundingRate/{symbol}/{symbol}-fundingRate-2024-05.zip"
    async with archive() as session:
        lines = await session.lines(path)
        rest = await session.json(
            f"{REST[market]}/fundingRate?symbol={symbol}&limit=1000"
            "&startTime=1714521600000&endTime=1717199999999"
        )
    assert lines[0] == "calc_time,funding_interval_hours,last_funding_rate"
    assert lines[1:] == [f"{row['fundingTime']},8,{row['fundingRate']}" for row in rest]
    assert len(rest) == 93


# -- S3 ----------------------------------------------------------------------------------------
async def test_same_bytes_come_when_another_venue_makes_them() -> None:
    """Seed and path decide: ETag and checksum outlive the venue, and differ with the seed."""
    tags = []
    for seed in (1, 1, 2):
        async with archive(seed=seed) as session:
            answer = await session.ask(day())
            tags.append((answer.headers["etag"], answer.headers["last-modified"]))
            again = await session.ask(day())
            assert again == answer
    assert tags[0] == tags[1]
    assert tags[0][0] != tags[2][0]
    assert tags[0][1] == "Sat, 04 May 2024 02:00:00 GMT"


@pytest.mark.parametrize("suffix", ["", ".CHECKSUM"])
async def test_nothing_is_sent_when_the_client_has_it(suffix: str) -> None:
    """HEAD tells length and ETag; with that ETag GET is 304, with another one 200."""
    async with archive() as session:
        head = await session.ask(day() + suffix, "HEAD")
        whole = await session.ask(day() + suffix)
        assert (head.status, head.body) == (200, b"")
        assert head.headers == whole.headers
        assert int(head.headers["content-length"]) == len(whole.body) > 0
        tag = whole.headers["etag"]
        same = await session.ask(day() + suffix, If_None_Match=f'"other", {tag}')
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
        assert (await session.ask(day() + suffix, If_None_Match='"other"')).status == 200


@pytest.mark.parametrize(
    "path",
    [
        day(date="2017-08-16"),  # before its listing
        month(date="2017-07"),
        day(interval="3d"),  # monthly only
        day(interval="1mo"),
        month(interval="1M"),  # the archive's word is 1mo
        day("futures/um", interval="1s"),  # spot only
        day(interval="7m"),
        day(date="2024-02-30"),
        day(date="2024-05"),
        month(date="2024-05-03"),
        month(date="2024-13"),
        day(date="2099-01-01"),
        path_of("spot", "daily", "1m", "2024-05-03", "NOPEUSDT"),
        path_of("spot", "daily", "1m", "2024-05-03", "BTCUSD_PERP"),
        day().replace("BTCUSDT-1m", "ETHUSDT-1m"),
        day().replace("BTCUSDT-1m", "BTCUSDT-5m"),
        day() + ".zip",
        day().removesuffix(".zip"),
        "/data/spot/daily/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05-03.zip",
        "/data/spot/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05.zip",
        "/data/futures/um/daily/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05-03.zip",
        "/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2024-05-03.zip",
        "/data/spot/daily/klines/BTCUSDT/1m/../BTCUSDT-1m-2024-05-03.zip",
        "/data/",
    ],
)
async def test_s3_says_no_such_key_when_a_file_is_not_there(path: str) -> None:
    """404 with S3's XML, the key in it, for a zip and its CHECKSUM; HEAD gets no body."""
    async with archive() as session:
        for suffix in ("", ".CHECKSUM"):
            answer = await session.ask(path + suffix)
            assert (answer.status, answer.headers["content-type"]) == (404, "application/xml")
            assert b"<Error><Code>NoSuchKey</Code>" in answer.body
            assert f"<Key>{(path + suffix)[1:]}</Key>".encode() in answer.body
            head = await session.ask(path + suffix, "HEAD")
            assert (head.status, head.body) == (404, b"")


async def test_requests_are_refused_when_they_would_change_something() -> None:
    """Only GET and HEAD are for the archive; HEAD elsewhere ends nobody's venue."""
    async with archive() as session:
        answer = await session.ask(day(), "DELETE")
        assert (answer.status, b"MethodNotAllowed" in answer.body) == (405, True)
        assert (await session.ask("/api/v3/time", "HEAD")).status == 405
        assert (await session.ask("/_piker/stats", "HEAD")).status == 405
        assert (await session.ask(day())).status == 200


async def test_first_day_begins_with_the_listing_when_read() -> None:
    """The first spot bars are of 04:00 on 17 August 2017, in the archive and by REST."""
    async with archive() as session:
        lines = await session.lines(day(interval="1h", date="2017-08-17"))
        assert len(lines) == 20
        oldest = await session.json("/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime=0&limit=2")
        assert [row[0] for row in oldest] == [int(line[:13]) for line in lines[:2]]
        assert oldest[0][0] == 1_502_942_400_000


async def test_day_is_there_when_its_time_has_come() -> None:
    """``archive_late_s`` after midnight, and not before; a month's on the first Monday."""
    clock = VirtualClock((MAY_3 + DAY_S) * 10**9)
    with use_clock(clock):
        async with archive(archive_late_s=3600) as session:
            assert (await session.ask(day())).status == 404
            clock.advance(3599)
            assert (await session.ask(day() + ".CHECKSUM")).status == 404
            clock.advance(1)
            answer = await session.ask(day())
            assert answer.status == 200
            assert answer.headers["last-modified"] == "Sat, 04 May 2024 01:00:00 GMT"
            assert (await session.ask(month(date="2024-04"))).status == 404
            clock.advance(2 * DAY_S)
            assert (await session.ask(month(date="2024-04", interval="1h"))).status == 200
            assert (await session.ask(month(date="2024-05", interval="1h"))).status == 404


async def test_coin_margined_windows_are_at_most_200_days_when_asked() -> None:
    """The newest bars of the window come, and a longer window is refused."""
    ask = "/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1d&limit=3"
    begin = 1_704_067_200_000
    async with archive() as session:
        rows = await session.json(f"{ask}&startTime={begin}&endTime={begin + 5 * DAY_S * 1000}")
        assert [row[0] for row in rows] == [begin + n * DAY_S * 1000 for n in (3, 4, 5)]
        rows = await session.json(f"{ask}&startTime={begin}")
        assert rows[-1][0] == begin + 200 * DAY_S * 1000
        rows = await session.json(f"{ask}&endTime={begin}")
        assert rows[-1][0] == begin
        longer = await session.ask(
            f"{ask}&startTime={begin}&endTime={begin + 200 * DAY_S * 1000 + 1000}"
        )
        assert (longer.status, json.loads(longer.body)["code"]) == (400, -1127)


# -- given bars --------------------------------------------------------------------------------
@pytest.mark.parametrize("market", REST)
async def test_given_bars_keep_their_digits_when_served(
    shared: Path, tmp_path: Path, market: str
) -> None:
    """Archive and REST answer with the folder's own text, and nothing beside it."""
    lay_out_recorded_bars(shared / "venues", tmp_path)
    folder = {"spot": "spot", "futures/um": "um", "futures/cm": "cm"}[market]
    (file,) = (tmp_path / folder).glob("BTC*-1h-*.csv")
    recorded = [line for line in file.read_text().splitlines() if line[0].isdigit()]
    begin = 1_704_067_200
    async with archive(bars=tmp_path) as session:
        lines = await session.lines(month(market, "1h", "2024-01"))
        assert lines[market != "spot" :] == recorded
        days = [await session.lines(day(market, "1h", f"2024-01-0{n}")) for n in range(1, 8)]
        assert [line for of in days for line in of[market != "spot" :]] == recorded
        rest = await rest_lines(session, market, "1h", begin - DAY_S, begin + 9 * DAY_S)
        assert rest == recorded
        newest = await session.json(
            f"{REST[market]}/klines?symbol={SYMBOLS[market]}&interval=1h&limit=2"
            f"&endTime={begin * 1000 + 7_200_000}"
        )
        assert [",".join(map(str, row)) for row in newest] == recorded[1:3]
        info = await session.json(f"{REST[market]}/exchangeInfo")
        assert {"spot": "ADABTC", "futures/um": "ADAUSDT", "futures/cm": "ADAUSD_PERP"}[market] in [
            row["symbol"] for row in info["symbols"]
        ]
        for path in (
            day(market, "1h", "2024-01-08"), day(market, "1m", "2024-01-02"),
            month(market, "1h", "2024-02"),
        ):  # fmt: skip
            assert (await session.ask(path)).status == 404
        none = f"{REST[market]}/klines?symbol={SYMBOLS[market]}&interval=5m"
        assert await session.json(none) == []


async def test_given_bars_are_in_microseconds_when_of_2025(tmp_path: Path) -> None:
    """Times are in the unit of the file's day, whichever the folder's is; the rest stays."""
    rest = "93576.00000000,93610.9,93537.50,93610.93,8.21827,{},768978.0,2631,3.9,367389.8,0"
    milli = f"1735689600000,{rest.format(1735689659999)}"
    micro = f"1735689600000000,{rest.format(1735689659999999)}"
    for n, text in enumerate((milli, micro)):
        folder = tmp_path / str(n)
        (folder / "spot").mkdir(parents=True)
        (folder / "spot" / "BTCUSDT-1m.csv").write_text(text + "\n")
        async with archive(bars=folder) as session:
            assert await session.lines(day(date="2025-01-01")) == [micro]
            (row,) = await session.json("/api/v3/klines?symbol=BTCUSDT&interval=1m")
            assert ",".join(map(str, row)) == milli


def test_bars_are_refused_when_the_venue_takes_none(tmp_path: Path) -> None:
    """Kraken has no archive."""
    for more in ({"bars": tmp_path}, {"archive_late_s": 1.0}):
        with pytest.raises(ConfigError, match="kraken has no archive"):
            make_venue("kraken", symbols=1, rate=1, seed=1, **more)  # type: ignore[arg-type]


# -- faults: requests --------------------------------------------------------------------------
async def test_checksum_is_another_when_bad() -> None:
    """It looks as it should, and is not the file's."""
    async with archive(Fault(what="bad-checksum", count=1)) as session:
        whole, told = await session.ask(day()), await session.ask(day() + ".CHECKSUM")
        number, _, name = told.body.decode().partition("  ")
        assert (len(number), name) == (64, f"{day().rpartition('/')[2]}\n")
        assert number != hashlib.sha256(whole.body).hexdigest()
        await session.zip(day())  # once only


async def test_file_comes_later_when_it_was_missing() -> None:
    """``count`` requests get 404 for it, zip or CHECKSUM; then it is there."""
    fault = Fault(what="missing-day", count=2, match="2024-05-03")
    async with archive(fault) as session:
        missing = await session.ask(day())
        assert (missing.status, b"NoSuchKey" in missing.body) == (404, True)
        assert (await session.ask(day(date="2024-05-04"))).status == 200
        assert (await session.ask(day() + ".CHECKSUM")).status == 404
        assert len(await session.lines(day())) == 1440
    async with archive(Fault(what="no-checksum")) as session:
        assert (await session.ask(day())).status == 200
        assert (await session.ask(day() + ".CHECKSUM")).status == 404


async def test_half_a_file_comes_when_truncated() -> None:
    """No zip any more, and neither the checksum's nor the whole one's ETag."""
    async with archive(Fault(what="truncated-zip", count=1)) as session:
        half, whole = await session.ask(day()), await session.ask(day())
        assert half.body == whole.body[: len(whole.body) // 2]
        assert half.headers["etag"] != whole.headers["etag"]
        assert not zipfile.is_zipfile(io.BytesIO(half.body))


# -- faults: files -----------------------------------------------------------------------------
def times_of(lines: list[str]) -> list[int]:
    """Return open times in ms."""
    return [int(line.split(",")[0][:13]) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("market", ["spot", "futures/um"])
async def test_rows_are_wrong_but_the_zip_is_sound_when_a_file_is_made_so(market: str) -> None:
    """What a fault is called is what its file is; CHECKSUM and ETag agree with it."""
    async with archive(symbols=2) as session:
        good = (await session.lines(day(market)))[market != "spot" :]
        seen = {}
        for what in (
            "duplicate-rows", "missing-rows", "off-grid", "future-bar", "impossible-bar",
            "unsorted", "unit-switch",
        ):  # fmt: skip
            session.venue.gate.injector.clear()
            session.venue.gate.add_faults([Fault(what=what)])
            lines = await session.lines(day(market))
            assert lines[0].startswith("open_time") == (market != "spot")
            seen[what] = lines[market != "spot" :]
            assert session.venue.gate.stats()["faults"][what] == 1
        session.venue.gate.injector.clear()
        assert (await session.lines(day(market)))[market != "spot" :] == good
    assert sorted(seen["duplicate-rows"]) == sorted(good + good[648:792])
    assert seen["missing-rows"] == good[:648] + good[792:]
    late = set(seen["off-grid"]) - set(good)
    assert [time % 60_000 for time in times_of(list(late))] == [7000]
    assert seen["future-bar"][:-1] == good
    assert times_of(seen["future-bar"][-1:]) == [4_102_444_800_000]
    (bad,) = set(seen["impossible-bar"]) - set(good)
    assert float(bad.split(",")[2]) < float(bad.split(",")[3])
    assert seen["unsorted"] == good[720:] + good[:720]
    digits = [len(line.partition(",")[0]) for line in seen["unit-switch"]]
    assert digits == [13] * 720 + [16] * 720
    assert times_of(seen["unit-switch"]) == times_of(good)


async def test_microseconds_become_milliseconds_when_the_unit_switches() -> None:
    """In a file of 2025 the other way round."""
    path = day(date="2025-05-03")
    async with archive(Fault(what="unit-switch")) as session:
        lines = await session.lines(path)
    assert [len(line.split(",")[6]) for line in lines] == [16] * 720 + [13] * 720


async def test_bars_are_of_another_market_when_the_symbol_is_wrong() -> None:
    """The zip is that market's, with its member's name; where there is none it is invented."""
    for symbols, symbol in ((2, "ETHUSDT"), (1, "XBTCUSDT")):
        async with archive(Fault(what="wrong-symbol", match="BTC"), symbols=symbols) as session:
            file = await session.zip(day())
            (name,) = file.namelist()
            assert name == f"{symbol}-1m-2024-05-03.csv"
            if symbols == 2:
                other = path_of("spot", "daily", "1m", "2024-05-03", symbol)
                assert file.read(name).decode().splitlines() == await session.lines(other)


async def test_zip_is_hostile_when_made_so() -> None:
    """A path, a second member, nothing in it: each with its checksum."""
    name = "BTCUSDT-1m-2024-05-03.csv"
    for what, names in (
        ("zip-path", [f"../../{name}"]), ("two-members", [name, "second.csv"]),
        ("empty-csv", [name]),
    ):  # fmt: skip
        async with archive(Fault(what=what)) as session:  # type: ignore[arg-type]  # its words
            file = await session.zip(day())
            assert file.namelist() == names
            assert (len(file.read(names[0])) == 0) == (what == "empty-csv")


@pytest.mark.parametrize("part", ["declared", "hidden"])
async def test_little_becomes_much_when_a_bomb_is_inflated(part: Any) -> None:
    """2 MB become 2 GiB, whether the header tells so or not; a bounded reader sees it early."""
    async with archive(Fault(what="zip-bomb", part=part)) as session:
        whole = await session.ask(day())
        file = zipfile.ZipFile(io.BytesIO(whole.body))
    (info,) = file.infolist()
    assert info.filename == "BTCUSDT-1m-2024-05-03.csv"
    assert info.file_size == BOMB_SIZE if part == "declared" else info.file_size < 10**6
    assert len(whole.body) < BOMB_SIZE / 1000
    raw = whole.body[info.header_offset + 30 + len(info.filename) :]
    bounded = zlib.decompressobj(-15)
    assert len(bounded.decompress(raw, 10_000_000)) == 10_000_000
    assert bounded.unconsumed_tail


async def test_one_file_is_bad_when_count_is_one() -> None:
    """The first file asked for stays bad until the fault is ended; the others are sound."""
    async with archive(Fault(what="missing-rows", count=1)) as session:
        told = await session.ask(day() + ".CHECKSUM")
        assert len(await session.lines(day())) == 1440 - 144
        assert len(await session.lines(day(date="2024-05-04"))) == 1440
        bad = await session.ask(day(), If_None_Match=(await session.ask(day())).headers["etag"])
        assert bad.status == 304
        session.venue.gate.injector.clear()  # it is uploaded anew
        new = await session.ask(day(), If_None_Match=bad.headers["etag"])
        assert new.status == 200
        assert hashlib.sha256(new.body).hexdigest() not in told.body.decode()


# -- faults: what every request may meet -------------------------------------------------------
async def test_other_faults_reach_the_archive_when_they_match() -> None:
    """Refusals with their wait, garbled bytes, slow and late ones, cut connections."""
    async with archive(limits=True) as session:
        gate = session.venue.gate
        good = await session.ask(day())
        for status, wait_s in ((429, 7), (418, 9), (503, None)):
            gate.add_faults([
                Fault(what="status", status=status, retry_after_s=wait_s, match="^/data/", count=1)
            ])  # fmt: skip
            answer = await session.ask(day())
            wait = answer.headers.get("retry-after")
            assert (answer.status, wait) == (status, wait_s and str(wait_s))
        gate.add_faults([Fault(what="garble", on="http", match="^/data/", count=2)])
        assert (await session.ask(day(), "HEAD")).status == 200
        garbled = await session.ask(day())
        assert garbled.body != good.body
        assert len(garbled.body) == len(good.body)
        gate.add_faults([
            Fault(what="slow", on="http", match="^/data/", bytes_per_s=1e6, count=1),
            Fault(what="delay", on="http", match="^/data/", delay_s=0.01, count=1),
        ])  # fmt: skip
        assert (await session.ask(day())).body == good.body
        gate.add_faults([Fault(what="cut-short", match="^/data/", count=1)])
        with pytest.raises(h11.RemoteProtocolError, match="without sending complete message body"):
            await session.ask(day())
        gate.add_faults([Fault(what="status", status=304, match="^/data/", count=1)])
        assert (await session.ask(day())).status == 304
        gate.add_faults([Fault(what="close", on="http", match="^/data/", count=1)])
        with pytest.raises(h11.RemoteProtocolError):
            await session.ask(day())
        assert (await session.ask(day())).body == good.body


async def test_archive_counts_no_weight_when_asked_often() -> None:
    """It is no part of the API: no limit, no header of one."""
    async with archive() as session:
        for _ in range(50):
            answer = await session.ask(day(), "HEAD")
            assert not [name for name in answer.headers if name.startswith("x-mbx")]
        assert not any(session.venue.gate.stats()["used"].values())


# -- faults: bars over REST --------------------------------------------------------------------
@pytest.mark.parametrize("market", REST)
async def test_bars_over_rest_are_wrong_when_a_fault_says_so(market: str) -> None:
    """One request each; the next one is answered as it should be."""
    ask = f"{REST[market]}/klines?symbol={SYMBOLS[market]}&interval=1m&limit=100"
    ask += f"&startTime={MAY_3 * 1000}&endTime={(MAY_3 + 6000) * 1000 - 1}"
    async with archive() as session:
        good = await session.json(ask)
        assert len(good) == 100
        seen = {}
        for what in sorted(BAR_FLAWS):
            session.venue.gate.add_faults([Fault(what=what, match="/klines", count=1)])
            seen[what] = await session.json(ask)
            assert await session.json(ask) == good
    assert sorted(seen["duplicate-rows"]) == sorted(good + good[45:55])
    assert seen["missing-rows"] == good[:45] + good[55:]
    assert [row for row in seen["conflicting-rows"] if row in good] == good
    assert [row[0] for row in seen["conflicting-rows"] if row not in good] == [
        row[0] for row in good[45:55]
    ]
    assert [a[0] - b[0] for a, b in zip(seen["off-grid"], good, strict=True) if a != b] == [7000]
    assert seen["future-bar"][:-1] == good
    assert seen["future-bar"][-1][0] == 4_102_444_800_000
    (bad,) = [row for row in seen["impossible-bar"] if row not in good]
    assert float(bad[2]) < float(bad[3])


# -- the command -------------------------------------------------------------------------------
@pytest.mark.slow
async def test_command_serves_bars_when_it_is_given_a_folder(tmp_path: Path) -> None:
    """A day of the folder comes out of the archive; a day's file is there as late as told."""
    (tmp_path / "um").mkdir()
    row = "1704067200000,1.10,1.20,1.00,1.150,3.5,1704070799999,3.9,79,1.5,1.6,0"
    (tmp_path / "um" / "ADAUSDT-1h.csv").write_text(f"{HEADER}\n{row}\n")
    command = venue_command("binance", "--bars", str(tmp_path), "--archive-late", "60")
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        try:
            with trio.fail_after(SOON_S):
                line = b""
                while not line.endswith(b"\n"):
                    line += await process.stdout.receive_some()
            session = Session(None, json.loads(line)["port"])
            path = path_of("futures/um", "daily", "1h", "2024-01-01", "ADAUSDT")
            assert await session.lines(path) == [HEADER, row]
            told = (await session.ask(path, "HEAD")).headers["last-modified"]
            assert told == "Tue, 02 Jan 2024 00:01:00 GMT"
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["binance", "--bars", "nowhere"], "nowhere is no folder"),
        (["kraken", "--archive-late", "5"], "kraken has no archive"),
        (["binance", "--replay", "x", "--bars", "y"], "a replay has no archive"),
    ],
)
def test_command_starts_nothing_when_its_bars_make_no_sense(
    arguments: list[str], words: str
) -> None:
    """Exit code 2 and a sentence."""
    done = subprocess.run(venue_command(*arguments), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def venue_command(*arguments: str) -> list[str]:
    """Return the command that runs a venue."""
    return [sys.executable, "-m", "piker.cli", "venue", *arguments]
