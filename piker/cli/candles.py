"""Draw candles with characters: half-cell bodies, thin wicks, a price axis. Pure.

A cell is split in two by half blocks, so a chart of H lines shows 2 * H price steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Candle", "Cell", "draw"]

UP, DOWN, FLAT = "green", "red", "bright_black"


class Candle(NamedTuple):
    """The prices of one bar."""

    open: float
    high: float
    low: float
    close: float


class Cell(NamedTuple):
    """One character and its colour (a rich style name, empty for none)."""

    char: str
    style: str = ""


# (upper half, lower half) of a cell, each 0 empty, 1 wick, 2 body -> character
_GLYPHS = {
    (0, 0): " ", (1, 1): "│", (1, 0): "╵", (0, 1): "╷",
    (2, 2): "┃", (2, 0): "╹", (0, 2): "╻", (2, 1): "╿", (1, 2): "╽",
}  # fmt: skip


def draw(candles: Sequence[Candle], height: int, digits: int) -> list[list[Cell]]:
    """Return ``height`` lines of cells: a candle a column, then the price axis.

    The y range is that of the candles shown; a range of zero is widened by one tick so that a
    market that does not move is a line in the middle and not a division by zero.
    """
    if not candles or height < 2:
        return [[Cell(" ")] for _ in range(max(height, 0))]
    top = max(candle.high for candle in candles)
    bottom = min(candle.low for candle in candles)
    pad = max((top - bottom) * 0.02, 10.0**-digits)
    top, bottom = top + pad, bottom - pad
    steps = 2 * height
    columns = [_column(candle, top, bottom, steps) for candle in candles]
    lines: list[list[Cell]] = []
    for line in range(height):
        cells = [
            Cell(_GLYPHS[halves[2 * line], halves[2 * line + 1]], style)
            for halves, style in columns
        ]
        price = top - (top - bottom) * (line + 0.5) / height
        axis = f" {price:,.{digits}f}" if line % 2 == 0 else ""
        cells.append(Cell(axis, "bright_black"))
        lines.append(cells)
    return lines


def _column(candle: Candle, top: float, bottom: float, steps: int) -> tuple[list[int], str]:
    """Return what each half cell of a column holds, from the top, and its colour."""
    scale = (steps - 1) / (top - bottom)

    def row(price: float) -> int:
        return min(steps - 1, max(0, round((top - price) * scale)))

    halves = [0] * steps
    for index in range(row(candle.high), row(candle.low) + 1):
        halves[index] = 1
    upper, lower = sorted((row(candle.open), row(candle.close)))
    for index in range(upper, lower + 1):
        halves[index] = 2
    if candle.close > candle.open:
        return halves, UP
    return halves, DOWN if candle.close < candle.open else FLAT
