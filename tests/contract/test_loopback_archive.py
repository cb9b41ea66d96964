"""The loopback Binance's archive over real HTTP: as the venue's, and one with REST and streams.

Clients of the archive are tested against it; what they may rely on is asserted here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
from archive_session import (
    DAY_S,
    HEADER,
    KINDS,
    MAY_3,
    REST,
    SOON_S,
    SYMBOLS,
    Session,
    archive,
    day,
    month,
    path_of,
    rest_lines,
)
from trio_websocket import open_websocket_url

from piker.clock import VirtualClock, use_clock
from piker.errors import ConfigError
from piker.testing.loopback import make_venue
from piker.testing.recorded_bars import lay_out_recorded_bars


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
        assert len(lines) in {"3d": (10, 11), "1w": (4,), "1mo": (1,)}[interval]


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
            synthetic = session.venue.listings[KINDS[market], SYMBOLS[market]].market
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
