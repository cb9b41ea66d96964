"""pikerd itself, and how any process finds it and a service by name.

async with open_service("datad.kraken", start_pikerd=True) as peer:
    answer = await peer.run(some_endpoint, argument=1)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from piker import handover
from piker.config import data_dir
from piker.errors import ConfigError, PeerLost, PikerError, Transient
from piker.log import get_logger
from piker.service import notify
from piker.service.endpoints import request
from piker.service.liveness import is_alive, wait_exit
from piker.service.peer import Peer, open_peer
from piker.service.registry import (
    ALREADY_RUNS,
    Address,
    PikerdInfo,
    announce,
    hold_lock,
    read_pikerd,
)
from piker.service.runtime import open_client_runtime, open_server_runtime
from piker.service.supervise import ServiceInfo, Supervisor

__all__ = [
    "ensure_pikerd",
    "list_services",
    "open_pikerd",
    "open_pikerd_peer",
    "open_service",
    "start_here",
    "stop_pikerd",
    "wait_stopped",
]

BOOT_S = 15.0  # pikerd is up in about half a second; a loaded machine takes longer
STOP_S = 15.0  # every service gets its grace, at the same time
_log = get_logger("pikerd")
_supervisor: Supervisor | None = None
_stop: trio.Event | None = None


# -- being pikerd ------------------------------------------------------------------------------
@asynccontextmanager
async def open_pikerd(registry: Address, table: Mapping[str, str]) -> AsyncIterator[Address]:
    """Be this user's pikerd for the block; yield the address it serves.

    ``table`` maps service patterns to dotted mains (``{"datad.*": "piker.data.daemon:main"}``).
    Raises ``ConfigError`` when another one runs or the port is taken. Leaving the block ends
    every service, bounded in time.
    """
    global _supervisor, _stop
    with hold_lock():
        async with open_server_runtime("pikerd", registry, [__name__], registrar=True) as address:
            async with trio.open_nursery() as nursery:
                _supervisor, _stop = Supervisor(address, dict(table), nursery), trio.Event()
                try:
                    with announce(address):
                        notify.ready()
                        nursery.start_soon(notify.feed_watchdog)
                        _log.info("pikerd.up", host=address[0], port=address[1])
                        yield address
                finally:
                    nursery.cancel_scope.cancel()
                    _supervisor = None


async def start_here(name: str) -> None:
    """Have a service running without anybody asking for it; log why it does not start."""
    assert _supervisor is not None
    try:
        await _supervisor.ensure(name)
    except PikerError as err:
        _log.error("service.not_started", service=name, why=str(err))


async def wait_stopped() -> None:
    """Wait until somebody asks this pikerd to stop."""
    assert _stop is not None
    await _stop.wait()


@request
async def ensure_service(name: str) -> ServiceInfo:
    """Find or start a service."""
    assert _supervisor is not None
    return await _supervisor.ensure(name)


@request
async def get_services() -> list[ServiceInfo]:
    """Return what runs."""
    assert _supervisor is not None
    return _supervisor.list()


@request
async def stop() -> bool:
    """End pikerd and everything it started."""
    assert _stop is not None
    _stop.set()
    return True


# -- finding it --------------------------------------------------------------------------------
@asynccontextmanager
async def open_pikerd_peer(*, start: bool = False) -> AsyncIterator[Peer]:
    """Connect to this user's pikerd, started first if asked; raise ``PeerLost`` without one."""
    info = await ensure_pikerd() if start else read_pikerd()
    if info is None:
        raise PeerLost("pikerd does not run.", remedy="Start it with: pikerd")
    async with open_client_runtime():
        async with open_peer("pikerd", info.pid, info.address) as peer:
            yield peer


@asynccontextmanager
async def open_service(name: str, *, start_pikerd: bool = False) -> AsyncIterator[Peer]:
    """Connect to the service of that name, started if need be; it outlives us.

    Raises the service's own start-up error, ``PeerLost`` when pikerd or the service is gone.
    """
    async with open_client_runtime():
        async with open_pikerd_peer(start=start_pikerd) as pikerd:
            info = await pikerd.run(ensure_service, name=name, type=ServiceInfo)
        async with open_peer(name, info.pid, (info.host, info.port)) as peer:
            yield peer


async def list_services() -> list[ServiceInfo]:
    """Return the running services; raise ``PeerLost`` when no pikerd runs."""
    async with open_pikerd_peer() as pikerd:
        found: list[ServiceInfo] = await pikerd.run(get_services, type=list[ServiceInfo])
        return found


async def stop_pikerd() -> bool:
    """End this user's pikerd and wait until it is gone; return False when none ran."""
    info = read_pikerd()
    if info is None:
        return False
    async with open_pikerd_peer() as pikerd:
        await pikerd.run(stop)
    with trio.move_on_after(STOP_S):
        await wait_exit(info.pid)
    if is_alive(info.pid):
        raise Transient(f"pikerd (pid {info.pid}) does not end.", remedy=f"Run: kill -9 {info.pid}")
    return True


async def ensure_pikerd() -> PikerdInfo:
    """Return the running pikerd, or start one in the background that outlives us.

    It gets a session of its own and logs to ``log/pikerd.log`` in the data directory. Of several
    that are started at once one stays. Raises ``ConfigError`` with its own last words when it can
    not start (a port that is taken), ``Transient`` when it does not come up in time.
    """
    info = read_pikerd()
    if info is not None:
        return info
    log_file = _log_file()
    written = log_file.stat().st_size
    process = _start_detached(log_file)
    said = ""
    with trio.move_on_after(BOOT_S):
        while True:
            if (info := read_pikerd()) is not None:
                _log.info("pikerd.started", pid=info.pid)
                return info
            if process.poll() not in (None, 0):
                said = _last_error(log_file, written)
                if ALREADY_RUNS not in said:  # else another one was faster and is about to serve
                    break
            await trio.sleep(0.02)
    if said and ALREADY_RUNS not in said:
        raise ConfigError(f"pikerd did not start: {said}")
    raise Transient("pikerd did not start.", remedy=f"Its log is {log_file}.")


def _log_file() -> Path:
    """Return where a pikerd in the background logs, made if it is not there."""
    file = data_dir() / "log" / "pikerd.log"
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.touch(mode=0o600)
    except OSError as err:
        raise ConfigError(
            f"can not write {file}: {err.strerror}.",
            remedy="Set PIKER_DATA_DIR to a directory of yours.",
        ) from err
    return file


def _last_error(log_file: Path, since: int) -> str:
    """Return the sentence that a pikerd died of, from what it has written since an offset."""
    with log_file.open("rb") as file:
        file.seek(since)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line[7:] for line in reversed(lines) if line.startswith("error: ")), "")


def _start_detached(log_file: Path) -> subprocess.Popen[bytes]:
    """Start pikerd in a session of its own, so that neither we nor our terminal end it."""
    with log_file.open("ab") as log, handover.lend("pikerd") as stdin:
        return subprocess.Popen(
            [sys.executable, "-m", "piker.cli", "pikerd"],
            stdin=stdin,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
