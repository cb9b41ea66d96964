"""``piker doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Literal

import msgspec
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from piker import config, service
from piker.brokers.spec import BUILTIN, load_backend
from piker.clock import wall_ns
from piker.data.shm import leftovers
from piker.errors import PikerError

__all__ = ["Finding", "run"]

NEED_MB = 512  # room for a dozen markets in shared memory
SKEW_S = 1.0  # beyond this signed requests begin to fail and bars look late
VENUE_S = 10.0  # how long a venue may take to tell its time
Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it is, and the remedy where it is not well."""

    what: str
    level: Level
    detail: str
    remedy: str = ""


def run(*, offline: bool, as_json: bool) -> None:
    """Print every finding; exit 1 when one is a failure."""
    found = [_python(), _machine(), *_config(), *_memory(), _leftovers(), _daemon()]
    if not offline:
        found += trio.run(_venues)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found)
    if any(one.level == "fail" for one in found):
        sys.exit(1)


def _print(found: list[Finding]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]look[/]", "fail": "[red]FAIL[/]"}
    for one in found:
        detail = escape(one.detail)
        if one.remedy:
            detail += f"\n[dim]-> {escape(one.remedy)}[/]"
        table.add_row(marks[one.level], one.what, detail)
    Console().print(table)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Finding("python", "ok", version)
    return Finding("python", "fail", version, "Install Python 3.11 or 3.12 and run make again.")


def _machine() -> Finding:
    name = platform.machine()
    if name in ("x86_64", "AMD64"):
        return Finding("machine", "ok", f"{name}, {os.cpu_count()} cores")
    return Finding("machine", "fail", name, "Shared memory is only proved on x86-64.")


def _config() -> list[Finding]:
    try:
        folder = config.config_dir()
        config.load_conf()
        config.load_brokers()
    except PikerError as err:
        return [Finding("config", "fail", err.message, err.remedy)]
    return [Finding("config", "ok", str(folder))]


def _memory() -> list[Finding]:
    try:
        folder = config.runtime_dir()
    except PikerError as err:
        return [Finding("shared memory", "fail", err.message, err.remedy)]
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < NEED_MB:
        remedy = "Free some, or set PIKER_RUNTIME_DIR to a larger tmpfs such as /dev/shm/piker."
        return [Finding("shared memory", "warn", f"{free_mb:,.0f} MB free in {folder}", remedy)]
    return [Finding("shared memory", "ok", f"{free_mb:,.0f} MB free in {folder}")]


def _leftovers() -> Finding:
    try:
        left = leftovers()
    except (PikerError, OSError):
        left = []
    if not left:
        return Finding("leftovers", "ok", "none")
    names = ", ".join(path.name for path in left[:3])
    remedy = f"Stop piker, then: rm -r {config.runtime_dir() / 'shm'}"
    return Finding("leftovers", "warn", f"{len(left)} file(s) of dead daemons: {names}", remedy)


def _daemon() -> Finding:
    info = service.read_pikerd()
    if info is None:
        return Finding("pikerd", "ok", "not running; the first feed starts it")
    return Finding("pikerd", "ok", f"pid {info.pid} at {info.host}:{info.port}")


async def _venues() -> list[Finding]:
    found: list[Finding] = []

    async def ask(name: str) -> None:
        found.append(await _venue(name))

    async with trio.open_nursery() as nursery:
        for name in BUILTIN:
            nursery.start_soon(ask, name)
    return sorted(found, key=lambda one: one.what)


async def _venue(name: str) -> Finding:
    what = f"venue {name}"
    try:
        backend = load_backend(name)
        if backend.get_server_time is None:
            return Finding(what, "warn", "it does not tell its time")
        with trio.fail_after(VENUE_S):
            before = wall_ns()
            theirs: int = await backend.get_server_time()
            after = wall_ns()
    except (PikerError, trio.TooSlowError) as err:
        why = str(err) or f"no answer within {VENUE_S:.0f} s"
        remedy = "Check the network, or [urls] in brokers.toml; `piker demo` needs neither."
        return Finding(what, "warn", why, remedy)
    skew_s = ((before + after) / 2 - theirs) / 1e9
    detail = f"reached in {(after - before) / 1e6:,.0f} ms, our clock is {skew_s:+.3f} s off"
    if abs(skew_s) > SKEW_S:
        return Finding(what, "fail", detail, "Set the clock: timedatectl set-ntp true")
    return Finding(what, "ok", detail)
