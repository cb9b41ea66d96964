"""What the demos of piker.dsm show: panels and tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = ["breakdown", "introduction", "pairs", "performance", "sample", "shortfall"]

BAR = 30  # characters of the longest bar of the breakdown
SHOWN = 5  # rows of the beginning, and of the end
STYLES = {"CACHE": "green", "VISION": "cyan", "REST": "yellow", "missing": "red"}
WORDS = {
    "CACHE": "the local store", "VISION": "the venue's archive", "REST": "the venue's interface",
    "missing": "not there; the report says why",
}  # fmt: skip
COLUMNS = ("open", "high", "low", "close", "volume", "_data_source")
REASONS = {
    "confirmed": "the venue has none either", "not-listed": "before the first bar",
    "not-closed": "not over yet", "failed": "a source could not be read",
    "refused": "what a source gave can not be trusted", "not-offered": "no source has it",
    "offline": "only the cache was asked",
}  # fmt: skip


def introduction() -> RenderableType:
    """Say what is going to happen."""
    return Panel(
        "Bars come from the local store where it has them, from the venue's archive of daily and\n"
        "monthly files where that has them, and from its REST interface for the rest. What was\n"
        "fetched is stored: run it again and nothing is asked of anybody.",
        title="[bold]History on demand[/bold]", title_align="left", border_style="blue",
        padding=(0, 1),
    )  # fmt: skip


def pairs(title: str, values: Mapping[str, object]) -> RenderableType:
    """Return names and values in a panel."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, Text(str(value)))
    return Panel(table, title=title, title_align="left", padding=(0, 1))


def breakdown(report: Mapping[str, Any]) -> RenderableType:
    """Return who served how many bars."""
    counts = {**report["served"], "missing": report["expected"] - report["rows"]}
    total = max(1, report["expected"])
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Sources", title_justify="left")
    table.add_column("source")
    table.add_column("bars", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    table.add_column("", style="bright_black")
    for name, count in counts.items():
        if name == "missing" and not count:
            continue
        length = max(1, round(BAR * count / total)) if count else 0
        bar = Text("█" * length, style=STYLES[name])
        table.add_row(
            Text(name, style=STYLES[name]), f"{count:,}", f"{count / total:.1%}", bar, WORDS[name]
        )
    return table


def shortfall(report: Mapping[str, Any]) -> RenderableType | None:
    """Return which bars are not there and why; None where all are."""
    if not report["missing"]:
        return None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="What is not there", title_justify="left")
    for name in ("from", "to", "bars", "why"):
        table.add_column(name, justify="right" if name == "bars" else "left", no_wrap=name != "why")
    for one in report["missing"]:
        why = REASONS.get(one["why"], one["why"]) + (f": {one['detail']}" if one["detail"] else "")
        table.add_row(one["start"], one["end"], f"{one['bars']:,}", Text(why))
    return table


def sample(frame: Any, columns: Sequence[str] = COLUMNS) -> RenderableType:
    """Return the first and last rows of a pandas frame."""
    names = [name for name in columns if name in frame.columns] or list(frame.columns)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Bars", title_justify="left")
    table.add_column(frame.index.name or "", no_wrap=True)
    for name in names:
        table.add_column(name, justify="left" if name.startswith("_") else "right", no_wrap=True)
    many = len(frame) > 2 * SHOWN
    for part in [frame.head(SHOWN), frame.tail(SHOWN)] if many else [frame]:
        if part is not frame and table.row_count:
            table.add_row("...")
        for stamp, row in part[names].iterrows():
            table.add_row(_moment(stamp), *(_cell(row[name]) for name in names))
    return table


def _moment(stamp: Any) -> str:
    return stamp.strftime("%Y-%m-%d %H:%M:%S") if hasattr(stamp, "strftime") else str(stamp)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if hasattr(value, "strftime"):
        return _moment(value)
    return f"{value:,.8g}" if isinstance(value, float) else str(value)


def performance(report: Mapping[str, Any], seconds: float, rows: int) -> RenderableType:
    """Return what it cost."""
    rate = rows / seconds if seconds > 0 else 0.0
    values: dict[str, object] = {
        "time": f"{seconds:.3f} s",
        "rate": f"{rate:,.0f} rows/s",
    }
    if "requests" in report:
        values["requests"] = f"{report['requests']:,}"
        values["fetched"] = f"{report['bytes'] / 1e6:,.2f} MB of files"
    values["complete"] = "yes" if report["complete"] else "no"
    return pairs("Performance", values)
