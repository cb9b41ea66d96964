"""The monitor's picture: candles, quotes, rates and feed state, from plain values. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from piker.cli.candles import Candle, draw
from piker.ticks import Quote

__all__ = ["MarketView", "render"]

AXIS_WIDTH = 14  # characters kept for the price axis
#: Columns of the table, and how many characters a terminal must have to be given each.
COLUMNS = {"market": 0, "last": 0, "bid": 74, "ask": 74, "spread": 110, "ticks/s": 80, "lag": 100,
           "resyncs": 110, "state": 0}  # fmt: skip
STATE_STYLE = {"live": "bold green", "reconnecting": "bold yellow", "lost": "bold red"}


class MarketView(msgspec.Struct):
    """What the screen shows of one market."""

    fqme: str
    digits: int
    quote: Quote
    candles: Sequence[Candle]
    timeframe: str
    state: str = "live"
    ticks_per_s: float = 0.0
    quotes: int = 0
    resyncs: int = 0
    lag_ms: float | None = None
    note: str = ""


def render(views: Sequence[MarketView], width: int, height: int) -> RenderableType:
    """Return a screen of ``width`` by ``height`` characters: one chart a market, then a table."""
    table_height = len(views) + 4
    chart_height = max(4, (height - table_height) // max(1, len(views)) - 2)
    parts: list[RenderableType] = [_chart(view, width, chart_height) for view in views]
    parts.append(_table(views, width))
    return Group(*parts)


def _chart(view: MarketView, width: int, height: int) -> RenderableType:
    columns = max(8, width - AXIS_WIDTH - 4)
    lines = draw(list(view.candles)[-columns:], height, view.digits)
    text = Text(no_wrap=True, overflow="crop")
    for number, line in enumerate(lines):
        for cell in line:
            text.append(cell.char, style=cell.style or None)
        if number + 1 < len(lines):
            text.append("\n")
    state = Text(f" {view.state} ", style=STATE_STYLE.get(view.state, "bold"))
    title = Text.assemble((f" {view.fqme} ", "bold"), f"{view.timeframe} ", state)
    if view.note:
        title.append(f"{view.note} ", style="yellow")
    return Panel(text, title=title, title_align="left", padding=(0, 1), height=height + 2)


def _table(views: Sequence[MarketView], width: int) -> Table:
    """Return one row a market; a narrow terminal loses columns, never digits."""
    names = [name for name, wanted in COLUMNS.items() if width >= wanted]
    table = Table(expand=True, box=None, pad_edge=False, header_style="bright_black")
    for name in names:
        left = name in ("market", "state")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for view in views:
        cells = _cells(view)
        table.add_row(*(cells[name] for name in names))
    return table


def _cells(view: MarketView) -> dict[str, str | Text]:
    quote = view.quote
    return {
        "market": view.fqme,
        "last": _price(quote.last, view.digits),
        "bid": _price(quote.bid, view.digits),
        "ask": _price(quote.ask, view.digits),
        "spread": _spread(quote, view.digits),
        "ticks/s": f"{view.ticks_per_s:,.0f}",
        "lag": "-" if view.lag_ms is None else f"{view.lag_ms:,.1f} ms",
        "resyncs": str(view.resyncs),
        "state": Text(view.state, style=STATE_STYLE.get(view.state, "")),
    }


def _price(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _spread(quote: Quote, digits: int) -> str:
    if quote.bid is None or quote.ask is None:
        return "-"
    return f"{quote.ask - quote.bid:,.{digits}f}"
