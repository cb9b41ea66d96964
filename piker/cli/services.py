"""``piker services``: what runs, and how to end it."""

from __future__ import annotations

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from piker import service

__all__ = ["duration", "run"]

_STYLED = {"up": "[green]up[/]", "failed": "[red]failed[/]", "waiting": "[yellow]waiting[/]"}


def run(*, stop: bool, as_json: bool) -> None:
    """List the services, or stop pikerd with all of them."""
    if stop:
        stopped = trio.run(service.stop_pikerd)
        if as_json:
            print(msgspec.json.encode({"stopped": stopped}).decode())
        else:
            print("pikerd and its services have ended." if stopped else "pikerd does not run.")
        return
    info = service.read_pikerd()
    found = trio.run(service.list_services) if info else []
    if as_json:
        body = {"pikerd": info, "services": found}
        print(msgspec.json.encode(body).decode())
        return
    if info is None:
        print("pikerd does not run. It starts with the first feed, or with: pikerd")
        return
    table = Table(title=f"pikerd, pid {info.pid}, {info.host}:{info.port}", title_justify="left")
    for name in ("service", "state", "pid", "uptime", "restarts", "memory"):
        table.add_column(name)
    for one in found:
        up = one.state == "up"
        table.add_row(
            one.name,
            _STYLED.get(one.state, one.state),
            str(one.pid or "-"),
            duration(one.uptime_s) if up else "-",
            str(one.restarts),
            f"{one.rss_mb:,.0f} MB" if up else "-",
        )
    Console().print(table)
    for one in found:
        if one.error:
            print(f"{one.name} does not start: {one.error}")
    if not found:
        print("no services yet: they start with the first feed.")


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``4 s``, ``2 min 5 s``, ``3 d 1 h``."""
    left = int(seconds)
    parts: list[str] = []
    for word, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {word}")
    return " ".join(parts[:2]) or "0 s"
