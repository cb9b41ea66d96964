"""Given bars keep their text, and flaws of rows are what they are called."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.errors import ConfigError
from piker.ohlcv import Timeframe
from piker.testing.bar_flaws import FUTURE_S, flawed_rows
from piker.testing.bar_table import KLINE_COLUMNS, BarTable, load_bars, rows_of
from piker.testing.binance_archive import wanted
from piker.testing.binance_market import given_listings
from piker.testing.faults import BAR_FLAWS, FILE_FLAWS, REQUEST_FLAWS, Fault
from piker.testing.injection import Injector
from piker.testing.recorded_bars import RECORDED, lay_out_recorded_bars

MINUTE = Timeframe("1m")
LINE = "{open},1.10,1.20,1.00,1.150,36304.20000000,{close},1.03547608,79,19523.0,0.55694227,0"


def line(minute: int, *, unit: int = 1) -> str:
    """Return the line of a minute's bar."""
    opened = (1_700_000_040 + 60 * minute) * 1000
    return LINE.format(open=opened * unit, close=(opened + 60_000) * unit - 1)


def put(folder: Path, name: str, *lines: str) -> Path:
    """Write a file of bars."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


# -- tables ------------------------------------------------------------------------------------
def test_text_is_kept_to_the_last_digit_when_a_folder_is_read(tmp_path: Path) -> None:
    """Headers go, microseconds become milliseconds, nothing else of a line changes."""
    put(tmp_path, "spot/ADABTC-1m-2023-11-14.csv", line(0), line(1))
    put(tmp_path, "spot/ADABTC-1m-later.csv", ",".join(KLINE_COLUMNS), line(2, unit=1000))
    put(tmp_path, "um/ADAUSDT-1mo.csv", line(0))
    found = load_bars(tmp_path)
    assert set(found) == {("spot", "ADABTC"), ("usdm", "ADAUSDT")}
    table = found["spot", "ADABTC"]["1m"]
    assert table.lines(0, 10**10) == [line(0), line(1), line(2)]
    assert list(found["usdm", "ADAUSDT"]) == ["1M"]


@given(
    st.sets(st.integers(0, 50)), st.integers(-5, 55), st.integers(-5, 55), st.integers(1, 60)
)  # fmt: skip
def test_ranges_are_half_open_when_asked(
    minutes: set[int], start: int, stop: int, limit: int
) -> None:
    """A table finds what a list would, from either end."""
    rows = [((1_700_000_040 + 60 * m) * 1000, line(m)) for m in sorted(minutes)]
    table = BarTable(MINUTE, rows)
    begin_s, end_s = (1_700_000_040 + 60 * m for m in (start, stop))
    within = [text for time, text in rows if begin_s * 1000 <= time < end_s * 1000]
    assert table.lines(begin_s, end_s) == within
    assert table.newest(limit, begin_s, end_s) == within[-limit:]
    assert table.oldest(limit, begin_s, end_s) == within[:limit]
    assert len(table) == len(rows)


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("spot/ADABTC-1m.csv", [line(0), "1,2,3"], "ADABTC-1m.csv:2: no bar"),
        ("spot/ADABTC-1m.csv", [line(0), line(0)], "ADABTC-1m.csv:2: a second bar"),
        ("spot/ADABTC-1m.csv", [line(0).replace("1.20", "nan")], "ADABTC-1m.csv:1: no bar"),
        ("spot/ADABTC-1m.csv", [], "holds no bars"),
        ("spot/ada.csv", [line(0)], "no SYMBOL-INTERVAL"),
        ("elsewhere/ADABTC-1m.csv", [line(0)], "holds no bars"),
    ],
)
def test_folder_is_refused_with_its_line_when_it_holds_no_bars(
    tmp_path: Path, name: str, lines: list[str], words: str
) -> None:
    """What is no bar is said with file and line; nothing is skipped."""
    put(tmp_path, name, *lines)
    with pytest.raises(ConfigError, match=words):
        load_bars(tmp_path)


def test_folder_is_refused_when_it_is_none(tmp_path: Path) -> None:
    """A file, or nothing, is no folder of bars."""
    with pytest.raises(ConfigError, match="no folder"):
        load_bars(tmp_path / "nowhere")


def test_markets_have_the_steps_of_their_numbers_when_given(tmp_path: Path) -> None:
    """Tick and lot are the last digits that numbers have; assets are read off the symbol."""
    put(tmp_path, "spot/ADABTC-1m.csv", line(0))
    listing = given_listings(load_bars(tmp_path), 1, 1_800_000_000)["spot", "ADABTC"]
    assert (listing.spec.base, listing.spec.quote) == ("ADA", "BTC")
    assert (listing.spec.tick, listing.spec.lot) == (pytest.approx(0.01), pytest.approx(0.1))
    assert listing.listed_s == 1_700_000_040


# -- the recorded ones -------------------------------------------------------------------------
def test_recorded_bars_keep_their_text_when_laid_out(shared: Path, tmp_path: Path) -> None:
    """Each recorded line is there with its own digits, and is read back so."""
    lay_out_recorded_bars(shared / "venues", tmp_path)
    given = load_bars(tmp_path)
    for path, name in RECORDED:
        lines = (shared / "venues" / path).read_text().splitlines()
        told = [text.split(",")[:11] for text in lines if text[0].isdigit()]
        symbol, interval = name.split("-")[:2]
        kept = given["spot", symbol][interval].lines(0, 10**10)
        assert [text.split(",")[:11] for text in kept] == told


def test_twins_are_possible_bars_of_their_own_when_made(shared: Path, tmp_path: Path) -> None:
    """The futures' prices are other ones; contracts times their worth is the coins' price."""
    lay_out_recorded_bars(shared / "venues", tmp_path)
    found = {key: next(iter(tables.values())) for key, tables in load_bars(tmp_path).items()}
    for kind, symbol, size in (
        ("usdm", "BTCUSDT", 0), ("usdm", "ADAUSDT", 0), ("coinm", "BTCUSD_PERP", 100),
        ("coinm", "ADAUSD_PERP", 10),
    ):  # fmt: skip
        for row in rows_of(found[kind, symbol].lines(0, 10**10)):
            opened, high, low, close, volume, worth, taken = (
                Decimal(row[at]) for at in (1, 2, 3, 4, 5, 7, 9)
            )
            mean = volume * size / worth if size else worth / volume
            assert low <= min(opened, close) <= max(opened, close) <= high
            assert float(low) * 0.9999 <= mean <= float(high) * 1.0001
            assert 0 <= taken <= volume
            assert not size or volume == int(volume)
    spot, usdm = found["spot", "BTCUSDT"], found["usdm", "BTCUSDT"]
    assert not {x.split(",")[4] for x in spot.lines(0, 10**10)} & {
        x.split(",")[4] for x in usdm.lines(0, 10**10)
    }


def test_missing_recording_is_said_when_laid_out(tmp_path: Path) -> None:
    """A folder without the recordings is refused."""
    with pytest.raises(ConfigError, match="can not read"):
        lay_out_recorded_bars(tmp_path, tmp_path / "out")


# -- flaws of rows -----------------------------------------------------------------------------
ROWS = [line(minute).split(",") for minute in range(20)]


def test_rows_come_twice_or_not_when_duplicated_or_missing() -> None:
    """A tenth, in the middle: twice in a row, or not at all."""
    assert flawed_rows(ROWS, {"duplicate-rows"}) == sorted([*ROWS, *ROWS[9:11]])
    twice = flawed_rows(ROWS, {"conflicting-rows"}, MINUTE)
    assert [row for row in twice if row in ROWS] == ROWS
    assert [row[0] for row in twice if row not in ROWS] == [row[0] for row in ROWS[9:11]]
    assert flawed_rows(ROWS, {"missing-rows"}) == [*ROWS[:9], *ROWS[11:]]
    assert flawed_rows(ROWS[:1], {"missing-rows"}) == []
    assert flawed_rows(ROWS, {"unsorted"}) == [*ROWS[10:], *ROWS[:10]]


def test_one_bar_is_late_when_off_grid() -> None:
    """Open and close move by 7 s, of 1 s bars by less than one; microseconds, too."""
    for timeframe, late in ((MINUTE, 7000), (Timeframe("1s"), 400)):
        (before, after), = _changed({"off-grid"}, timeframe)  # fmt: skip
        assert int(after[0]) - int(before[0]) == int(after[6]) - int(before[6]) == late
    micro = [line(0, unit=1000).split(",")]
    (late_one,) = flawed_rows(micro, {"off-grid"}, MINUTE)
    assert int(late_one[0]) - int(micro[0][0]) == 7_000_000


def test_high_is_below_low_when_impossible() -> None:
    """One bar's high and low are exchanged; a flat one's high is 0."""
    (_, after), = _changed({"impossible-bar"}, MINUTE)  # fmt: skip
    assert float(after[2]) < float(after[3])
    flat = [[*ROWS[0][:1], "2", "2", "2", "2", *ROWS[0][5:]]]
    assert flawed_rows(flat, {"impossible-bar"}, MINUTE)[0][2] == "0"


def test_last_bar_is_of_the_next_century_when_future() -> None:
    """It stands on the grid, and whole units before it are as they were."""
    rows = flawed_rows(ROWS, {"future-bar"}, MINUTE)
    assert rows[:-1] == ROWS
    assert int(rows[-1][0]) == FUTURE_S * 1000
    assert int(rows[-1][6]) - int(rows[-1][0]) == 59_999


def test_unit_changes_in_the_middle_when_switched() -> None:
    """From the middle on, milliseconds are microseconds and the other way round."""
    rows = flawed_rows(ROWS, {"unit-switch"}, MINUTE)
    assert [len(row[0]) for row in rows] == [13] * 10 + [16] * 10
    assert rows[-1][6].endswith("999999")
    assert (
        flawed_rows(flawed_rows(ROWS[:1], {"unit-switch"}, MINUTE), {"unit-switch"}, MINUTE)
        == (ROWS[:1])
    )


def test_nothing_happens_to_what_is_no_bar_when_its_flaws_are_bars() -> None:
    """Trades and fundings have no grid, and no high."""
    assert flawed_rows(ROWS, FILE_FLAWS - {"duplicate-rows", "missing-rows", "unsorted"}) == ROWS
    assert flawed_rows([], FILE_FLAWS, MINUTE) == []


def _changed(flaws: set[str], timeframe: Timeframe) -> list[tuple[list[str], list[str]]]:
    rows = flawed_rows(ROWS, flaws, timeframe)
    assert len(rows) == len(ROWS)
    return [(a, b) for a, b in zip(ROWS, rows, strict=True) if a != b]


# -- which requests and files ------------------------------------------------------------------
DAY = "/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05-0{}.zip"
SUM = DAY + ".CHECKSUM"


def test_file_stays_as_it_was_made_when_count_is_one() -> None:
    """The first file that is asked for is taken, zip and CHECKSUM alike; the next one is not."""
    injector = Injector(1)
    injector.add([Fault(what="unsorted", count=1)], 0.0)
    for path in (SUM.format(1), DAY.format(1), DAY.format(1), SUM.format(1)):
        assert [fault.what for fault in injector.flaws(path, path, 0.0)] == ["unsorted"]
    assert injector.flaws(DAY.format(2), DAY.format(2), 0.0) == ()
    assert injector.hits["unsorted"] == 1
    injector.clear()
    assert injector.flaws(DAY.format(1), DAY.format(1), 0.0) == ()


def test_file_is_sound_again_when_the_fault_ends() -> None:
    """With ``for_s`` it is uploaded anew."""
    injector = Injector(1)
    injector.add([Fault(what="unsorted", after_s=1, for_s=5, match=r"-01\.zip$")], 0.0)
    at = [bool(injector.flaws(SUM.format(1), "", now)) for now in (0.5, 1.0, 5.9, 6.0)]
    assert at == [False, True, True, False]
    assert not injector.flaws(SUM.format(2), "", 2.0)


@pytest.mark.parametrize("what", sorted(REQUEST_FLAWS | FILE_FLAWS))
def test_flaw_concerns_its_own_requests_when_asked(what: str) -> None:
    """Checksums, zips, files or answers with bars; nothing else is an occurrence."""
    concerned = []
    for path in (DAY.format(1), SUM.format(1), "/api/v3/klines", "/api/v3/depth", "/data/"):
        injector = Injector(1)
        injector.add([Fault(what=what)], 0.0)  # type: ignore[arg-type]  # one of its words
        assert injector.request(path, 0.0).act == ""
        concerned.append(bool(injector.flaws(path, path, 0.0)))
        assert injector.hits[what] == concerned[-1]
    expected = {
        "missing-day": [True, True, False], "no-checksum": [False, True, False],
        "bad-checksum": [False, True, False], "truncated-zip": [True, False, False],
    }  # fmt: skip
    bars = what in BAR_FLAWS
    assert len(BAR_FLAWS) == 6
    assert concerned == [*expected.get(what, [True, True, bars]), False, False]


@pytest.mark.parametrize(
    "fault",
    [
        {"what": "zip-bomb", "part": "json"},
        {"what": "garble", "part": "hidden"},
        {"what": "unsorted", "part": "declared"},
        {"what": "unsorted", "on": "ws"},
    ],
)
def test_plan_is_refused_when_an_archive_fault_makes_no_sense(fault: dict[str, str]) -> None:
    """Parts belong to their own kinds, and archives are on http."""
    with pytest.raises(ConfigError):
        Fault(**fault)  # type: ignore[arg-type]  # wrong on purpose


# -- when files are there ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "there"),
    [
        ("daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05-03.zip", "2024-05-04T02:00"),
        ("monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05.zip", "2024-06-03T02:00"),
        ("monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2024-06.zip", "2024-07-01T02:00"),
        # The last 3d bar of December 2023 opened on the 31st, so ended after the first Monday.
        ("monthly/klines/BTCUSDT/3d/BTCUSDT-3d-2023-12.zip", "2024-01-03T02:00"),
        ("monthly/klines/BTCUSDT/1w/BTCUSDT-1w-2024-12.zip", "2025-01-06T02:00"),
        ("monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-12.zip", "2025-01-06T02:00"),
    ],
)
def test_file_appears_after_its_last_bar_when_its_time_has_come(file: str, there: str) -> None:
    """A day's on the next day at two, a month's on the first Monday; never with an open bar."""

    want = wanted(f"/data/spot/{file}")
    assert want is not None
    assert datetime.fromtimestamp(want.there_from_s(7200), UTC).isoformat()[:16] == there
    assert want.there_from_s(7200) >= want.last_s
