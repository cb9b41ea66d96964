"""Each fault of the loopback Binance's archive, over real HTTP, is what it is called."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from typing import Any

import h11
import pytest
from archive_session import MAY_3, REST, SYMBOLS, archive, day, path_of

from piker.testing.binance_archive_zip import BOMB_SIZE
from piker.testing.faults import BAR_FLAWS, Fault


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
