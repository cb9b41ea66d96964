"""Start services, watch them, start them again.

Each service is one process with one task here: spawn, wait for its word that it is ready, watch
its pidfd and its heartbeat, and on its death wait a little longer each time and begin anew. What
cannot start because of a mistake of the user's (unknown provider, bad config) is not retried: the
one who asked for it gets the error, and nothing is kept of it. A service that ran, died and can not
start again has nobody to tell, and orders may wait in it: that is logged, it is listed with its
error, and it is tried again every ``AGAIN_S``, and whenever it is asked for.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import traceback
from typing import Literal

import msgspec
import trio

from piker import handover
from piker.clock import NS, monotonic_ns
from piker.errors import ConfigError, PeerLost, PikerError, Refused, Transient
from piker.log import get_logger
from piker.service.endpoints import unpack_error
from piker.service.liveness import GRACE_S
from piker.service.peer import open_peer
from piker.service.registry import Address

__all__ = ["ServiceInfo", "Supervisor"]

START_S = 20.0  # importing numpy and a backend on a loaded machine takes a few
FLOOR_S, CAP_S = 0.05, 2.0  # wait before a restart: at once, then calm; clients are back within 5 s
AGAIN_S = 10.0  # wait before that of a service that ran and has said why it can not start again
HEALTHY_S = 10.0  # a service that lived this long starts again with the shortest wait
FROZEN_S = 5.0  # without a heartbeat for this long a service is killed and restarted
STOP_S = GRACE_S + 1.0  # a service that does not end on SIGTERM by itself is killed after this
MAX_SERVICES = 64  # one or two a venue; more is a mistake
_log = get_logger("supervise")

ServiceState = Literal["starting", "up", "waiting", "failed", "stopped"]


class ServiceInfo(msgspec.Struct, frozen=True):
    """What pikerd knows of a service. ``pid`` 0 and ``port`` 0 while it does not run.

    ``error`` is why a failed one does not start, with its remedy.
    """

    name: str
    state: ServiceState
    pid: int = 0
    host: str = ""
    port: int = 0
    restarts: int = 0
    uptime_s: float = 0.0
    rss_mb: float = 0.0
    error: str = ""


class Service:
    """One supervised process."""

    def __init__(self, name: str, main: str) -> None:
        self.name = name
        self.main = main  # dotted path, "piker.data.daemon:main"
        self.state: ServiceState = "starting"
        self.pid = 0
        self.address: Address = ("", 0)
        self.restarts = 0
        self.started_ns = 0
        self.was_up = False
        self.ran = False  # this very one, whatever was before it
        self.asked = trio.Event()  # somebody wants it now
        self.error: PikerError | None = None
        self.changed = trio.Event()
        self.scope = trio.CancelScope()

    def become(self, state: ServiceState) -> None:
        """Change state and wake whoever waits for a change."""
        self.state = state
        self.was_up = self.was_up or state == "up"
        self.ran = self.ran or state == "up"
        self.changed.set()
        self.changed = trio.Event()

    @property
    def info(self) -> ServiceInfo:
        """Return the facts for others."""
        up = self.state == "up"
        return ServiceInfo(
            self.name,
            self.state,
            self.pid,
            *self.address,
            self.restarts,
            uptime_s=(monotonic_ns() - self.started_ns) / NS if up else 0.0,
            rss_mb=_rss_mb(self.pid) if up else 0.0,
            error=str(self.error or ""),
        )


class Supervisor:
    """All services of a pikerd. ``table`` maps patterns ("datad.*") to mains."""

    def __init__(self, registry: Address, table: dict[str, str], nursery: trio.Nursery) -> None:
        self._registry = registry
        self._table = table
        self._nursery = nursery
        self._services: dict[str, Service] = {}
        self._stopping = False

    def list(self) -> list[ServiceInfo]:
        """Return every service, by name; one that could not even begin is none."""
        known = sorted(self._services.items())
        return [one.info for _, one in known if one.state != "failed" or one.was_up]

    async def ensure(self, name: str) -> ServiceInfo:
        """Return the running service of that name, started if need be.

        Waits through a restart. Raises the service's own error when it can not start,
        ``Transient`` when it does not come up in time, ``ConfigError`` for an unknown name.
        """
        service = self._services.get(name)
        if service is None or service.state == "stopped" or (service.error and not service.ran):
            service = self._begin(name)
        elif service.error is not None:  # it waits, and says why: it may be mended by now
            service.error = None
            service.asked.set()
        with trio.move_on_after(START_S):
            while service.state != "up":
                if service.error is not None:
                    raise service.error
                await service.changed.wait()
            return service.info
        raise Transient(f"{name} did not start within {START_S:.0f} s.", retry_after=CAP_S)

    def release(self, name: str) -> None:
        """Stop a service for good; nothing happens when it is not there."""
        service = self._services.get(name)
        if service is not None:
            service.scope.cancel()

    def _begin(self, name: str) -> Service:
        main = self._main_of(name)
        if len(self._services) >= MAX_SERVICES and name not in self._services:
            raise ConfigError(f"more than {MAX_SERVICES} services were asked for.")
        before = self._services.get(name)
        service = self._services[name] = Service(name, main)
        service.was_up = before is not None and before.was_up
        self._nursery.start_soon(self._supervise, service)
        return service

    def _main_of(self, name: str) -> str:
        kind, _, rest = name.partition(".")
        main = self._table.get(f"{kind}.*" if rest else kind)
        if main is None or not name.replace(".", "").replace("_", "").replace("-", "").isalnum():
            raise ConfigError(
                f"there is no service {name!r}.", remedy=f"Known: {', '.join(self._table)}."
            )
        return main

    # -- one service's life --------------------------------------------------------------------
    async def _supervise(self, service: Service) -> None:
        with service.scope:
            await self._live_again(service)
        if service.error is None or service.scope.cancelled_caught:
            service.error = None
            service.become("stopped")
        elif not service.was_up and self._services.get(service.name) is service:
            del self._services[service.name]  # whoever asked holds it and gets its error

    async def _live_again(self, service: Service) -> None:
        """Run the service until it is released or can not start by its own word."""
        wait_s = FLOOR_S
        while True:
            try:
                lived_s = await self._live_once(service)
            except Exception as err:  # a fault of ours costs this service a restart, never pikerd
                lived_s = 0.0
                frame = traceback.extract_tb(err.__traceback__)[-1]
                where = f"{frame.filename}:{frame.lineno}"
                _log.error("service.bug", service=service.name, error=repr(err), where=where)
            service.asked = trio.Event()
            if service.error is not None:
                if not service.ran:
                    return
                _log.error("service.failed", service=service.name, why=str(service.error))
                service.become("failed")
                with trio.move_on_after(AGAIN_S):
                    await service.asked.wait()
                continue
            wait_s = FLOOR_S if lived_s > HEALTHY_S else wait_s
            service.restarts += 1
            service.become("waiting")
            _log.error(
                "service.restart",
                service=service.name,
                lived_s=lived_s,
                wait_s=wait_s,
                restarts=service.restarts,
            )
            await trio.sleep(random.uniform(wait_s / 2, wait_s))
            wait_s = min(CAP_S, wait_s * 2)

    async def _live_once(self, service: Service) -> float:
        """Run the process until it ends; return how many seconds it was up."""
        service.error = None
        service.become("starting")
        process = self._spawn(service)
        service.pid = process.pid
        service.started_ns = monotonic_ns()
        try:
            with trio.move_on_after(START_S):
                await self._greet(service, process)
            if service.state == "up":
                _log.info("service.up", service=service.name, pid=process.pid)
                await self._watch(service, process)
        finally:
            await _end(process)
            lived_s = (monotonic_ns() - service.started_ns) / NS
            service.pid, service.address = 0, ("", 0)
        return lived_s

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "piker.service._child", service.name, service.main,
            f"{self._registry[0]}:{self._registry[1]}", str(os.getpid()),
        ]  # fmt: skip
        # A session of its own: signals of the terminal reach pikerd, which ends its children.
        with handover.lend(service.name) as stdin:
            return subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, start_new_session=True
            )

    async def _greet(self, service: Service, process: subprocess.Popen[bytes]) -> None:
        """Read the child's first line: where it listens, or why it can not start."""
        assert process.stdout is not None
        stream = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        process.stdout.close()
        line = b""
        async with stream:
            while not line.endswith(b"\n"):
                part = await stream.receive_some(65_536)
                if not part:
                    return
                line += part
        said = json.loads(line)
        if "error" in said:  # a mistake of the user's: whoever asked gets it
            service.error = unpack_error(said["error"])
            service.become("failed")
            return
        service.address = (said["host"], said["port"])
        service.become("up")

    async def _watch(self, service: Service, process: subprocess.Popen[bytes]) -> None:
        """Return when the process has ended or is frozen."""
        async with trio.open_nursery() as nursery:

            async def watch_heart() -> None:
                await self._listen(service)
                process.kill()  # a frozen process does not hear SIGTERM

            nursery.start_soon(watch_heart)
            await _wait(process)
            nursery.cancel_scope.cancel()

    async def _listen(self, service: Service) -> None:
        """Return when the service has shown no sign of life for ``FROZEN_S``."""
        silent_since = trio.current_time()
        while trio.current_time() - silent_since < FROZEN_S:
            try:
                async with open_peer(service.name, service.pid, service.address) as peer:
                    silent_since = trio.current_time()
                    await peer.lost.wait()
                    silent_since = trio.current_time()
            except (PeerLost, Refused):
                await trio.sleep(0.2)
        _log.error("service.frozen", service=service.name, pid=service.pid, silent_s=FROZEN_S)


async def _wait(process: subprocess.Popen[bytes]) -> None:
    fd = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and reap it: asked first, then killed. Not cancellable, but bounded."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_S):
                await _wait(process)
        if process.poll() is None:
            process.kill()
            await _wait(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _rss_mb(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0
