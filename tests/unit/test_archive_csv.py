"""CSV of the archive as rows: what is sound comes out to the last digit, the rest is counted."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_zips import HEADER, SPOT, day_file, klines, market, month_file, ms
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.brokers.archive import ArchiveFile
from piker.brokers.binance.archive_csv import AggTradeReader, FundingReader, KlineReader
from piker.brokers.binance.archive_files import Shelf
from piker.brokers.download import Text
from piker.errors import DataQuality
from piker.ohlcv import KLINE_DTYPE

DAY = day_file()
FIRST = ms("2024-05-17")
FOREVER = 2**40
GOOD = klines(FIRST, 1440)


def reader(text: str | bytes, *, size: int = 0) -> Text:
    """Return a text in pieces of about ``size`` bytes, all at once for 0."""
    body = text.encode() if isinstance(text, str) else text
    if not size:
        return Text(len(body), iter([body]))
    lines, pieces = body.splitlines(keepends=True), [b""]
    for line in lines:
        if len(pieces[-1]) > size:
            pieces.append(b"")
        pieces[-1] += line
    return Text(len(body), iter(pieces))


def read(
    text: str | bytes | list[str],
    file: ArchiveFile = DAY,
    *,
    venue: str = "spot",
    closed_s: int = FOREVER,
    size: int = 0,
) -> tuple[Any, dict[str, int]]:
    """Return a file's rows, and its defects by kind."""
    body = "\n".join(text) + "\n" if isinstance(text, list) else text
    steps = KlineReader(reader(body, size=size), file, SPOT if venue == "spot" else market(venue))
    while steps.step():
        pass
    rows, defects = steps.finish(closed_s=closed_s)
    assert all(defect.example for defect in defects)
    return rows, {defect.kind: defect.count for defect in defects}


def test_every_value_is_python_s_own_when_a_file_is_sound() -> None:
    """To the last digit, each column in its place; the mean is the turnover over the volume."""
    noise = random.Random(7)
    lines = []
    for number in range(300):
        low, span = noise.uniform(1e-8, 1e5), noise.random()
        values = [f"{low + span * part:.8f}" for part in (0.3, 1, 0, 0.7)]
        volume, share = noise.uniform(0, 1e9), noise.random()
        amounts = [f"{volume:.8f}", f"{volume * low:.8f}", f"{volume * share:.8f}"]
        at = FIRST + number * 60_000
        lines.append(
            f"{at},{values[0]},{values[1]},{values[2]},{values[3]},{amounts[0]},{at + 59_999},"
            f"{amounts[1]},{number},{amounts[2]},{float(amounts[1]) * share:.8f},0"
        )
    rows, defects = read(lines, size=5000)
    assert defects == {}
    assert rows.dtype == KLINE_DTYPE
    table = [[float(word) for word in line.split(",")] for line in lines]
    columns = {"open": 1, "high": 2, "low": 3, "close": 4, "volume": 5, "turnover": 7, "count": 8,
               "taker_volume": 9, "taker_turnover": 10}  # fmt: skip
    for name, at in columns.items():
        assert rows[name].tolist() == [row[at] for row in table]
    assert rows["time"].tolist() == [int(row[0]) // 1000 for row in table]
    wap = [min(max(row[7] / row[5], row[3]), row[2]) for row in table]
    assert rows["bar_wap"].tolist() == wap


def test_golden_hours_are_read_when_they_are_the_archives_own(shared: Path) -> None:
    """A week of the venue's hours: every bar, in its order; the last column is not the venue's."""
    path = shared / "venues" / "binance" / "golden-klines" / "btcusdt_spot_1h_2024w01.csv"
    lines = [line.rpartition(",")[0] + ",0" for line in path.read_text().splitlines()[1:]]
    file = month_file("2024-01", "1h")
    rows, defects = read(lines, file)
    assert (len(rows), defects) == (168, {})
    assert (np.diff(rows["time"]) == 3600).all()
    assert rows["close"].tolist() == [float(line.split(",")[4]) for line in lines]


def test_recorded_minutes_are_read_when_some_are_absent(shared: Path) -> None:
    """An excerpt of a day of ADABTC as the archive has it."""
    path = shared / "venues" / "binance" / "nautilus-data" / "ADABTC-1m-2021-11-27.csv"
    rows, defects = read(path.read_bytes(), day_file("2021-11-27"))
    assert len(rows) == len(path.read_text().split())
    assert defects == {}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["", HEADER])
@pytest.mark.parametrize("ending", [True, False])
def test_rows_are_the_same_when_habits_differ(newline: str, header: str, ending: bool) -> None:
    """A header or none, either newline, with one at the end or without."""
    text = header.replace("\n", newline) + newline.join(GOOD) + (newline if ending else "")
    rows, defects = read(text, size=9000)
    assert defects == {}
    assert rows.tobytes() == read(GOOD)[0].tobytes()


@pytest.mark.parametrize("day", ["2024-05-17", "2025-01-01"])
def test_the_unit_is_told_by_magnitude_when_it_changes_from_row_to_row(day: str) -> None:
    """Milliseconds and microseconds in one file, whatever its date."""
    first = ms(day)
    plain, micro = klines(first, 100), klines(first, 100, unit=1000)
    mixed = [micro[at] if at % 3 else plain[at] for at in range(100)]
    rows, defects = read(mixed, day_file(day))
    assert defects == {}
    assert rows.tobytes() == read(plain, day_file(day))[0].tobytes()


@pytest.mark.parametrize("count", [1, 2])
def test_a_file_is_read_when_it_has_fewer_than_three_rows(count: int) -> None:
    """A day of days has one, a day of half days two."""
    interval = "1d" if count == 1 else "12h"
    step = 86_400_000 // count
    rows, _ = read(klines(FIRST, count, step), day_file(interval=interval))
    assert len(rows) == count


def test_contracts_and_coins_are_kept_apart_when_the_market_is_inverse() -> None:
    """COIN-M: volume in contracts of 100, turnover in coins, the mean in dollars."""
    line = f"{FIRST},40000,50000,40000,45000,501936,{FIRST + 59_999},1182.37,17,200000,470.5,0"
    rows, _ = read(HEADER + line, day_file(venue="coinm"), venue="coinm")
    assert rows["volume"] == 501_936
    assert rows["turnover"] == 1182.37
    assert rows["taker_volume"] == 200_000
    assert rows["bar_wap"] == pytest.approx(501_936 * 100 / 1182.37, rel=1e-15)


# -- what is wrong -------------------------------------------------------------------------------
def test_one_of_equal_rows_stays_when_rows_come_twice() -> None:
    """Twice and three times."""
    rows, defects = read([*GOOD[:10], GOOD[3], GOOD[3], GOOD[9], *GOOD[10:]])
    assert defects == {"duplicate": 3, "unsorted": 2}
    assert rows.tobytes() == read(GOOD)[0].tobytes()


def test_none_of_unequal_rows_is_trusted_when_two_say_different_things() -> None:
    """A bar that is there in two versions is a hole, for another source to fill."""
    other = GOOD[3].replace(",12.5,", ",13.5,", 1)
    rows, defects = read([*GOOD[:4], other, GOOD[3], *GOOD[4:]])
    assert defects == {"duplicate": 3}
    assert rows["time"].tolist() == [FIRST // 1000 + 60 * n for n in range(1440) if n != 3]


def test_an_impossible_twin_is_not_trusted_either_when_it_contradicts() -> None:
    """Which of the two is wrong is not ours to guess."""
    rows, defects = read([*GOOD[:4], GOOD[3].replace(",12.5,", ",-1,", 1), *GOOD[4:]])
    assert defects == {"duplicate": 2}
    assert len(rows) == 1439


def test_rows_are_sorted_in_when_they_are_out_of_order() -> None:
    """A row says its own time: shuffled rows lose nothing, and are counted."""
    shuffled = random.Random(3).sample(GOOD, len(GOOD))
    rows, defects = read(shuffled)
    assert set(defects) == {"unsorted"}
    assert rows.tobytes() == read(GOOD)[0].tobytes()


@pytest.mark.parametrize("shift", [7000, 1, 59_999])
def test_a_row_is_left_out_when_it_is_off_the_grid(shift: int) -> None:
    """Seven seconds off, or a millisecond."""
    off = GOOD[5].replace(str(FIRST + 300_000), str(FIRST + 300_000 + shift), 1)
    rows, defects = read([*GOOD[:5], off, *GOOD[6:]])
    assert defects == {"off-grid": 1}
    assert len(rows) == 1439


def test_rows_are_left_out_when_they_are_of_another_period() -> None:
    """The minute before the day, the one after, a year later."""
    outside = klines(FIRST - 60_000, 1) + klines(FIRST + 86_400_000, 2) + klines(2 * FIRST, 1)
    rows, defects = read([*outside[:1], *GOOD, *outside[1:3], *outside[:1]])
    assert defects == {"out-of-range": 4}
    assert rows.tobytes() == read(GOOD)[0].tobytes()


def test_a_bar_is_left_out_when_it_had_not_closed() -> None:
    """A week that opened in the month and ends in the next one, in a file made before."""
    file = month_file("2024-07", "1w")
    lines = klines(ms("2024-07-01"), 5, 7 * 86_400_000)
    assert len(read(lines, file, closed_s=ms("2024-08-05") // 1000)[0]) == 5
    rows, defects = read(lines, file, closed_s=ms("2024-08-05") // 1000 - 1)
    assert (len(rows), defects) == (4, {"out-of-range": 1})


@pytest.mark.parametrize(
    ("column", "value"),
    [(1, "0"), (1, "nan"), (2, "inf"), (2, "99"), (3, "-1"), (3, "0"), (4, "1e300"), (5, "-0.1"),
     (5, "NaN"), (7, "-1"), (9, "-1"), (10, "nan"), (3, "1e16")],
)  # fmt: skip
def test_a_bar_is_left_out_when_no_market_could_have_it(column: int, value: str) -> None:
    """Prices that are none, an open outside of low and high, negative amounts."""
    words = GOOD[7].split(",")
    words[column] = value
    rows, defects = read([*GOOD[:7], ",".join(words), *GOOD[8:]])
    assert sum(defects.values()) == 1
    assert set(defects) <= {"impossible-bar", "malformed-row"}
    assert len(rows) == 1439
    assert all(np.isfinite(rows[name]).all() for name in KLINE_DTYPE.names or ())


@pytest.mark.parametrize(
    "line",
    ["", ",,,,,,,,,,,", "x" + GOOD[7], GOOD[7] + ",1", GOOD[7].rpartition(",")[0], "open_time,open",
     GOOD[7].replace(",12.5,", ",1,2.5,"), GOOD[7].replace(",12.5,", ",,"), HEADER.strip(),
     GOOD[7][:30], GOOD[7].replace(str(FIRST + 420_000), "1"), "\0" * 20, "é,1,2,3",
     GOOD[7].replace(str(FIRST + 420_000), "9" * 18), GOOD[7].replace(",7,6.25", ",7.5,6.25"),
     GOOD[7].replace(",12.5,", ",1_2.5,"), GOOD[7].replace(",12.5,", ",0x12,")],
)  # fmt: skip
def test_a_line_costs_only_itself_when_it_is_malformed(line: str) -> None:
    """Too many words, too few, none, not numbers, a second header, a time of no magnitude."""
    rows, defects = read([*GOOD[:7], line, *GOOD[8:]])
    assert defects == {"malformed-row": 1}
    assert rows["time"].tolist() == [FIRST // 1000 + 60 * n for n in range(1440) if n != 7]


def test_a_line_too_long_and_one_too_short_are_found_when_they_are_together() -> None:
    """The number of commas is right in sum, the lines are not."""
    lines = [*GOOD[:7], GOOD[7] + ",1", GOOD[8].rpartition(",")[0], *GOOD[9:]]
    assert read(lines)[1] == {"malformed-row": 2}


@pytest.mark.parametrize(
    "text",
    ["\n", HEADER, "<html>\n", "a,b,c\n1,2,3\n", HEADER.replace("open,high", "high,open") + GOOD[0],
     "1,2,3\n", HEADER + "x,1,2\n", "\n".join(klines(2 * FIRST, 3))],
)  # fmt: skip
def test_a_file_is_refused_when_nothing_of_it_is_a_bar(text: str) -> None:
    """Empty, a header alone, columns of another order or number, all rows of another year."""
    with pytest.raises(DataQuality) as caught:
        read(text)
    assert caught.value.kind == "bad-csv"


def test_a_file_is_refused_when_it_has_far_too_many_rows() -> None:
    """Twice its bars and a thousand more are the bound."""
    with pytest.raises(DataQuality) as caught:
        read(GOOD * 3, size=100_000)
    assert caught.value.kind == "bad-csv"
    assert "more than 3880 rows" in str(caught.value)


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_three_day_bars_have_the_phase_of_their_market_when_it_is_not_the_epochs(
    phase: int,
) -> None:
    """Each market's grid is its own: that of most rows. What is off it is left out."""
    three = 3 * 86_400_000
    first = (ms("2024-05-01") // three + 1) * three + phase * 86_400_000
    lines = klines(first, 9, three)
    file = month_file("2024-05", "3d")
    assert read(lines, file)[1] == {}
    odd = klines(first + 86_400_000, 1, three) + klines(first + 3_600_000, 1, three)
    assert read([*lines, *odd], file)[1] == {"off-grid": 2}


def test_weeks_and_months_are_the_calendars_when_they_are_checked() -> None:
    """Mondays, and firsts of months; every other day is off the grid."""
    weeks = klines(ms("2024-07-01"), 5, 7 * 86_400_000)
    assert read([*weeks, *klines(ms("2024-07-02"), 1)], month_file("2024-07", "1w"))[1] == {
        "off-grid": 1
    }
    month = month_file("2024-02", "1M")
    assert len(read(klines(ms("2024-02-01"), 1), month)[0]) == 1
    with pytest.raises(DataQuality):
        read(klines(ms("2024-02-02"), 1), month)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_are_sound_or_refused_when_a_file_is_mangled(data: st.DataObject) -> None:
    """Bytes changed anywhere: what comes out is in order, unique, finite, and of the day."""
    text = bytearray(("\n".join(GOOD[:40]) + "\n").encode())
    for _ in range(data.draw(st.integers(1, 30))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(
            st.sampled_from(b"0123456789.,-eE\n nx\0\xff")
        )
    try:
        rows, _ = read(bytes(text), size=data.draw(st.sampled_from([0, 500])))
    except DataQuality:
        return
    assert (np.diff(rows["time"]) > 0).all()
    assert (rows["time"] % 60 == 0).all()
    assert ((rows["time"] >= DAY.start_s) & (rows["time"] < DAY.end_s)).all()
    for name in ("open", "high", "low", "close"):
        assert ((rows[name] > 0) & np.isfinite(rows[name])).all()
    assert ((rows["low"] <= rows["bar_wap"]) | (rows["bar_wap"] == 0)).all()


# -- trades and fundings -------------------------------------------------------------------------
def trades(lines: list[str], venue: str = "spot") -> tuple[Any, dict[str, int]]:
    """Return the rows of a day's aggregate trades."""
    symbol = "BTCUSD_PERP" if venue == "coinm" else "BTCUSDT"
    (file,) = Shelf(venue, symbol).trades(DAY.start_s, DAY.end_s, now_s=2**31)
    steps = AggTradeReader(reader("\n".join(lines)), file)
    while steps.step():
        pass
    rows, defects = steps.finish()
    return rows, {defect.kind: defect.count for defect in defects}


def test_trades_are_read_when_each_market_writes_them_its_way() -> None:
    """Spot: no header, eight columns, ``True``; futures: a header, seven, ``true``."""
    header = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    spot, _ = trades([f"7,1.5,2,10,12,{FIRST * 1000 + 7},True,True",
                      f"8,1.6,3,13,13,{FIRST * 1000 + 9},False,True"])  # fmt: skip
    assert spot.tolist() == [
        (FIRST * 10**6 + 7000, 7, 10, 12, 1.5, 2.0, -1),
        (FIRST * 10**6 + 9000, 8, 13, 13, 1.6, 3.0, 1),
    ]
    usdm, _ = trades([header, f"7,1.5,2,10,12,{FIRST},true"], "usdtm")
    assert usdm.tolist() == [(FIRST * 10**6, 7, 10, 12, 1.5, 2.0, -1)]


def test_trades_are_counted_out_when_they_can_not_be() -> None:
    """Twice the same, contradictions, another day, no size, ids the wrong way round, no word."""
    lines = [f"{n},1.5,2,{n},{n},{FIRST + n},true" for n in range(1, 20)]
    bad = [lines[4], lines[5].replace("1.5", "1.6"), f"30,1,1,1,1,{FIRST - 1},true",
           f"31,1,0,1,1,{FIRST},true", f"32,1,1,2,1,{FIRST},false",
           f"33,1,1,1,1,{FIRST},maybe"]  # fmt: skip
    rows, defects = trades([*lines, *bad])
    assert rows["id"].tolist() == [n for n in range(1, 20) if n != 6]
    assert defects == {"malformed-row": 1, "out-of-range": 1, "unsorted": 2, "duplicate": 3,
                       "impossible-trade": 2}  # fmt: skip


def test_fundings_are_read_when_a_month_of_them_comes() -> None:
    """Rates of either sign, the hours between, no mark price."""
    start_s, end_s = ms("2024-05-01") // 1000, ms("2024-06-01") // 1000
    (file,) = Shelf("usdtm", "BTCUSDT").fundings(start_s, end_s, now_s=2**31)
    at = ms("2024-05-01")
    lines = ["calc_time,funding_interval_hours,last_funding_rate", f"{at},8,0.00010000",
             f"{at + 28_800_003},8,-0.00004321", f"{at + 28_800_003},8,-0.00004321",
             f"{at + 57_600_000},4,1.5", f"{at - 1},8,0.0001",
             f"{at + 60_000_000},8,x"]  # fmt: skip
    steps = FundingReader(reader("\n".join(lines)), file)
    while steps.step():
        pass
    rows, defects = steps.finish()
    assert rows["time_ms"].tolist() == [at, at + 28_800_003]
    assert rows["rate"].tolist() == [0.0001, -0.00004321]
    assert rows["interval_h"].tolist() == [8, 8]
    assert all(math.isnan(price) for price in rows["mark_price"])
    assert {defect.kind: defect.count for defect in defects} == {
        "malformed-row": 1, "out-of-range": 1, "duplicate": 1, "impossible-rate": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_polars_is_not_loaded_when_no_file_is_read() -> None:
    """The backend with its archive client imports without it."""
    code = (
        "import sys; from piker.brokers.spec import load_backend; "
        "assert load_backend('binance').open_archive_client; print('polars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
