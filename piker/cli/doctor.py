"""``piker doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from piker import config, service
from piker.brokers.keystores import open_stores
from piker.brokers.spec import BUILTIN, load_backend
from piker.clearing._ems import journal_path
from piker.clearing.brokerd import get_key_rights
from piker.cli import orders_journal as kept
from piker.cli.services import duration
from piker.clock import NS, monotonic_ns, wall_ns
from piker.data.shm import leftovers
from piker.errors import PikerError
from piker.ohlcv import OHLC_DTYPE
from piker.ticks import TICK_DTYPE

__all__ = ["Finding", "examine", "memory_per_market", "run"]

MARKETS = 10  # a desk's watch list: what there should be room for
DISK_MB = 200  # logs, whatever the number of markets; nothing else is kept there yet
FSYNCS = 10  # the median of so many is steady and takes less than a second on a slow disk
FSYNC_MS = 20.0  # a local SSD takes 0.1 to 5, a rotating disk 10 to 20, a network more
SKEW_S = 1.0  # beyond this signed requests begin to fail and bars look late
VENUE_S = 10.0  # how long a venue may take to tell its time
DAEMON_S = 5.0  # pikerd answers in milliseconds
Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it is, and the remedy where it is not well."""

    what: str
    level: Level
    detail: str
    remedy: str = ""


def run(*, offline: bool, as_json: bool) -> None:
    """Print every finding; exit 1 when one is a failure."""
    found = examine(offline=offline)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found)
    if any(one.level == "fail" for one in found):
        sys.exit(1)


def examine(*, offline: bool) -> list[Finding]:
    """Look at everything; a check that can not be made is a finding, never an error."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "python": _python,
        "machine": _machine,
        "config": _config,
        "data directory": _disk,
        "disk": _fsync,
        "shared memory": _memory,
        "/dev/shm": _dev_shm,
        "journal": _journal,
        "leftovers": _leftovers,
        "pikerd": _daemon,
    }
    found: list[Finding] = []
    for what, check in checks.items():
        told = {one.detail for one in found if one.level == "fail"}
        found += [one for one in _guarded(what, check) if one.detail not in told]
    return found if offline else found + trio.run(_venues) + trio.run(_keys)


def _guarded(what: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run a check; what it raises is what it found."""
    try:
        return check()
    except PikerError as err:
        return [Finding(what, "fail", err.message, err.remedy)]
    except OSError as err:
        return [Finding(what, "fail", f"{err.filename or what}: {err.strerror}.")]


def _print(found: list[Finding]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]look[/]", "fail": "[red]FAIL[/]"}
    for one in found:
        detail = escape(one.detail)
        if one.remedy:
            detail += f"\n[dim]-> {escape(one.remedy)}[/]"
        table.add_row(marks[one.level], one.what, detail)
    Console().print(table)
    failed = sum(one.level == "fail" for one in found)
    looks = sum(one.level == "warn" for one in found)
    if failed:
        print(f"\n{failed} of {len(found)} checks failed: piker needs you there first.")
    elif looks:
        print(f"\nNothing has failed; {looks} of {len(found)} want a look.")
    else:
        print("\nAll is well. Try: piker monitor btcusdt.spot.binance")


# -- this machine ------------------------------------------------------------------------------
def _python() -> list[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return [Finding("python", "ok", version)]
    remedy = "Install Python 3.11 or 3.12, then: make clean setup"
    return [Finding("python", "fail", version, remedy)]


def _machine() -> list[Finding]:
    name = platform.machine()
    if name in ("x86_64", "AMD64"):
        return [Finding("machine", "ok", f"{name}, {os.cpu_count()} cores")]
    remedy = "Shared memory is only proved on x86-64. PIKER_ALLOW_WEAK_MEMORY=1 tries it."
    return [Finding("machine", "fail", name, remedy)]


def _config() -> list[Finding]:
    folder = config.config_dir()
    config.load_conf()
    config.load_brokers()
    names = [name for name in ("conf.toml", "brokers.toml") if (folder / name).exists()]
    said = " and ".join(names) or "no files, so the defaults (piker init writes templates)"
    return [Finding("config", "ok", f"{folder}: {said}")]


# -- where data go -----------------------------------------------------------------------------
def _disk() -> list[Finding]:
    folder = config.data_dir()
    free_mb = shutil.disk_usage(folder).free / 1e6
    detail = f"{free_mb:,.0f} MB free in {folder}; its logs want {DISK_MB} MB"
    if free_mb < DISK_MB:
        remedy = "Free some, or set PIKER_DATA_DIR to another disk."
        return [Finding("data directory", "warn", detail, remedy)]
    return [Finding("data directory", "ok", detail)]


def _fsync() -> list[Finding]:
    folder = config.data_dir()
    took_ms = fsync_ms(folder)
    detail = f"a small fsync in {folder} takes {took_ms:.1f} ms (median of {FSYNCS})"
    if took_ms > FSYNC_MS:
        remedy = "Set PIKER_DATA_DIR to a local SSD: what must not be lost is written this way."
        return [Finding("disk", "warn", f"{detail}, {FSYNC_MS:.0f} is slow", remedy)]
    return [Finding("disk", "ok", detail)]


def fsync_ms(folder: Path) -> float:
    """Write and fsync a small file ``FSYNCS`` times; return the median in milliseconds.

    The file is removed. Blocks for as long as the disk takes.
    """
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FSYNCS):
            began = monotonic_ns()
            file.write(bytes(512))
            file.flush()
            os.fsync(file.fileno())
            took.append((monotonic_ns() - began) / 1e6)
    return statistics.median(took)


def _journal() -> list[Finding]:
    """Look whether orders can be taken: with a damaged journal trading does not start."""
    if not kept.has_journal():
        return [Finding("journal", "ok", "none yet: nothing was ordered here")]
    rows = trio.run(_journal_rows)
    return [Finding("journal", "ok", f"sound, {rows:,} rows in {journal_path()}")]


async def _journal_rows() -> int:
    async with kept.opened() as journal:
        return journal.seq


# -- shared memory -----------------------------------------------------------------------------
def memory_per_market(feed: config.FeedConf) -> int:
    """Return the bytes of a market's three segments when all their rows are written."""
    bars = (feed.rows_1s + feed.rows_1m) * OHLC_DTYPE.itemsize
    return bars + feed.ring_ticks * TICK_DTYPE.itemsize


def _need_mb() -> float:
    try:
        feed = config.load_conf().feed
    except PikerError:
        feed = config.FeedConf()  # the config line says what is wrong with it
    return MARKETS * memory_per_market(feed) / 1e6


def _memory() -> list[Finding]:
    folder = config.runtime_dir()
    kind = file_system(folder)
    detail, short = _room(folder)
    if kind not in ("tmpfs", "ramfs"):
        remedy = "Set PIKER_RUNTIME_DIR to a folder of a tmpfs, such as /dev/shm/piker."
        detail += f". It is on a disk ({kind}): slower, and written back for nothing"
        return [Finding("shared memory", "warn", detail, remedy)]
    if short:
        remedy = "Free some, lower the sizes under [feed] in conf.toml, or move PIKER_RUNTIME_DIR."
        return [Finding("shared memory", "warn", detail, remedy)]
    return [Finding("shared memory", "ok", detail)]


def _dev_shm() -> list[Finding]:
    """Look at /dev/shm where that is another place than the runtime directory's."""
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK):
        remedy = "Mount a tmpfs there. Until then piker demo uses the temporary directory."
        return [Finding("/dev/shm", "warn", "not there, or not writable", remedy)]
    detail, short = _room(place)
    if short:
        remedy = "piker demo uses it. In a container: --shm-size=1g."
        return [Finding("/dev/shm", "warn", detail, remedy)]
    return [Finding("/dev/shm", "ok", detail)]


def _room(place: Path) -> tuple[str, bool]:
    free_mb, need_mb = shutil.disk_usage(place).free / 1e6, _need_mb()
    need = f"{MARKETS} markets take up to {need_mb:,.0f} MB"
    return f"{free_mb:,.0f} MB free in {place}; {need}", free_mb < need_mb


def file_system(path: Path) -> str:
    """Return the type of the file system that holds a path, as the kernel names it."""
    best, kind = "", "unknown"
    here = f"{path.resolve()}/"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, name = line.split(" ")[:3]
        if here.startswith(f"{place.rstrip('/')}/") and len(place) >= len(best):
            best, kind = place, name
    return kind


# -- daemons -----------------------------------------------------------------------------------
def _leftovers() -> list[Finding]:
    left = leftovers()
    if not left:
        return [Finding("leftovers", "ok", "none")]
    names = ", ".join(path.name for path in left[:3]) + (", ..." if len(left) > 3 else "")
    remedy = f"Run: piker services --stop; rm -r {config.runtime_dir() / 'shm'}"
    return [Finding("leftovers", "warn", f"{len(left)} file(s) of dead daemons: {names}", remedy)]


def _daemon() -> list[Finding]:
    info = service.read_pikerd()
    if info is None:
        return [Finding("pikerd", "ok", "not running; the first feed starts it")]
    where = f"pid {info.pid} at {info.host}:{info.port}"
    try:
        running = trio.run(_services)
    except (PikerError, trio.TooSlowError) as err:
        why = f"{where} does not answer: {err}".removesuffix(": ")
        return [Finding("pikerd", "fail", why, f"Run: kill -9 {info.pid}")]
    found = [Finding("pikerd", "ok", f"{where}, {len(running)} service(s)")]
    for one in running:
        detail = f"{one.state}, {one.restarts} restarts"
        if one.error:
            found.append(Finding(one.name, "fail", one.error))
        elif one.state != "up":
            remedy = f"Its log is that of pikerd: {config.data_dir() / 'log'}"
            found.append(Finding(one.name, "warn", detail, remedy))
        else:
            found.append(Finding(one.name, "ok", f"{detail}, up {duration(one.uptime_s)}"))
    return found


async def _services() -> list[service.ServiceInfo]:
    with trio.fail_after(DAEMON_S):
        return await service.list_services()


# -- venues ------------------------------------------------------------------------------------
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
        remedy = f"Check the network, or [{name}.urls] in brokers.toml. piker demo needs neither."
        return Finding(what, "warn", why, remedy)
    reached = f"reached in {(after - before) / 1e6:,.0f} ms, our clock is"
    skew_s, sure_s = skew_of((before + after) // 2, theirs)
    detail = f"{reached} {skew_s:+.3f} s off"
    if sure_s:
        detail = f"{reached} {skew_s:+.1f} s off, give or take {sure_s:g} (it tells whole seconds)"
    if abs(skew_s) > SKEW_S + sure_s:
        return Finding(what, "fail", detail, "Set the clock: timedatectl set-ntp true")
    return Finding(what, "ok", detail)


# -- keys --------------------------------------------------------------------------------------
async def _keys() -> list[Finding]:
    """Ask of each key what it may do; brokerd asks, since nobody else sees a key."""
    try:
        names = sorted({name for store in open_stores() for name in store.names()})
    except PikerError as err:
        return [Finding("keys", "warn", err.message, err.remedy)]
    return [await _key(provider, own) for provider, own in names]


async def _key(provider: str, own: str) -> Finding:
    account = f"{provider}.{own}"
    what = f"key {account}"
    if service.read_pikerd() is None:
        return Finding(what, "ok", "not asked what it may do: pikerd does not run")
    try:
        with trio.fail_after(VENUE_S):
            async with service.open_service(f"brokerd.{provider}") as brokerd:
                rights = await brokerd.run(get_key_rights, account=account, type=list[str] | None)
    except (PikerError, trio.TooSlowError) as err:
        why = str(err) or f"no answer within {VENUE_S:.0f} s"
        return Finding(what, "warn", why, getattr(err, "remedy", ""))
    if rights is None:
        return Finding(what, "ok", "its venue does not tell what it may do")
    may = f"may: {', '.join(rights) or 'nothing'}"
    if any("withdraw" in one for one in rights):
        remedy = "Take that right from it at the venue: piker never needs it."
        return Finding(what, "warn", f"{may}. It can move money away", remedy)
    return Finding(what, "ok", may)


def skew_of(ours_ns: int, theirs_ns: int) -> tuple[float, float]:
    """Return (our clock minus theirs, how far that may be wrong), in seconds.

    A venue that cuts its time to whole seconds is half a second ahead of what it says, on average.
    """
    whole = theirs_ns % NS == 0
    said = theirs_ns + (NS // 2 if whole else 0)
    return (ours_ns - said) / NS, 0.5 if whole else 0.0
