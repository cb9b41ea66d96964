"""``piker services``: what runs, and how to end it."""

from __future__ import annotations

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from piker import service

__all__ = ["run"]


def run(*, stop: bool, as_json: bool) -> None:
    """List the services, or stop pikerd with all of them."""
    if stop:
        stopped = trio.run(service.stop_pikerd)
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
        table.add_row(
            one.name, one.state, str(one.pid), f"{one.uptime_s:,.0f} s", str(one.restarts),
            f"{one.rss_mb:,.0f} MB",
        )  # fmt: skip
    Console().print(table)
    if not found:
        print("no services yet: they start with the first feed.")
