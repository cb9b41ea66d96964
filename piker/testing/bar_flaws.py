"""What is wrong with bars on purpose: flaws of rows, as :mod:`piker.testing.faults` names them.

Rows are lists of the archive's twelve columns as text. Everything is a function of the rows: the
same file is broken in the same way each time.
"""

from __future__ import annotations

from collections.abc import Collection

from piker.ohlcv import Timeframe

__all__ = ["FUTURE_S", "flawed_rows"]

Row = list[str]
FUTURE_S = 4_102_444_800  # 2100-01-01
LATE_MS, LATE_OF_SECONDS_MS = 7000, 400  # how far off the grid a bar is
_US_DIGITS = 16


def flawed_rows(
    rows: list[Row], flaws: Collection[str], timeframe: Timeframe | None = None
) -> list[Row]:
    """Return rows with these flaws; ``timeframe`` is None where they are no bars.

    Flaws of another sort, and those of bars where there are none, change nothing.
    """
    if not rows:
        return rows
    for flaw in sorted(flaws):
        if flaw in _OF_ROWS:
            rows = _OF_ROWS[flaw](rows)
        elif flaw in _OF_BARS and timeframe is not None:
            rows = _OF_BARS[flaw](rows, timeframe)
    return rows


def _middle(rows: list[Row]) -> tuple[int, int]:
    """Return where the tenth in the middle begins and ends; it is one row at least."""
    size = max(1, len(rows) // 10)
    begin = (len(rows) - size) // 2
    return begin, begin + size


def _unit(row: Row) -> int:
    """Return how many of the row's time units are a millisecond."""
    return 1000 if len(row[0]) >= _US_DIGITS else 1


# -- any rows ----------------------------------------------------------------------------------
def _duplicated(rows: list[Row]) -> list[Row]:
    begin, end = _middle(rows)
    twice = [row for row in rows[begin:end] for _ in range(2)]
    return [*rows[:begin], *twice, *rows[end:]]


def _missing(rows: list[Row]) -> list[Row]:
    begin, end = _middle(rows)
    return [*rows[:begin], *rows[end:]]


def _unsorted(rows: list[Row]) -> list[Row]:
    half = len(rows) // 2
    return [*rows[half:], *rows[:half]]


# -- bars --------------------------------------------------------------------------------------
def _conflicting(rows: list[Row], timeframe: Timeframe) -> list[Row]:
    begin, end = _middle(rows)
    pairs = [pair for row in rows[begin:end] for pair in (row, [*row[:5], f"1{row[5]}", *row[6:]])]
    return [*rows[:begin], *pairs, *rows[end:]]


def _off_grid(rows: list[Row], timeframe: Timeframe) -> list[Row]:
    at = _middle(rows)[0]
    row = rows[at]
    late = (LATE_MS if timeframe.seconds > 1 else LATE_OF_SECONDS_MS) * _unit(row)
    return [*rows[:at], _moved(row, late), *rows[at + 1 :]]


def _future(rows: list[Row], timeframe: Timeframe) -> list[Row]:
    last = rows[-1]
    step = timeframe.floor(FUTURE_S) * 1000 * _unit(last) - int(last[0])
    return [*rows, _moved(last, step)]


def _moved(row: Row, by: int) -> Row:
    return [str(int(row[0]) + by), *row[1:6], str(int(row[6]) + by), *row[7:]]


def _impossible(rows: list[Row], timeframe: Timeframe) -> list[Row]:
    """Exchange high and low of a bar from the middle on; of flat ones the high is made 0."""
    begin = _middle(rows)[0]
    order = [*range(begin, len(rows)), *range(begin)]
    at = next((at for at in order if rows[at][2] != rows[at][3]), begin)
    row = rows[at]
    high, low = (row[3], row[2]) if row[2] != row[3] else ("0", row[3])
    return [*rows[:at], [*row[:2], high, low, *row[4:]], *rows[at + 1 :]]


def _switched(rows: list[Row], timeframe: Timeframe) -> list[Row]:
    """Return times in the other unit from the middle on; a close still ends in nines."""
    half = len(rows) // 2
    return [*rows[:half], *(_in_other_unit(row) for row in rows[half:])]


def _in_other_unit(row: Row) -> Row:
    if _unit(row) == 1:
        return [f"{row[0]}000", *row[1:6], f"{row[6]}999", *row[7:]]
    return [row[0][:-3], *row[1:6], row[6][:-3], *row[7:]]


_OF_ROWS = {
    "duplicate-rows": _duplicated, "missing-rows": _missing, "unsorted": _unsorted,
}  # fmt: skip
_OF_BARS = {
    "conflicting-rows": _conflicting, "off-grid": _off_grid, "future-bar": _future,
    "impossible-bar": _impossible, "unit-switch": _switched,
}  # fmt: skip
