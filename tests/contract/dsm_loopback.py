"""A loopback Binance in a thread of its own, for tests that call piker.dsm synchronously."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from piker.brokers import limits
from piker.brokers.binance import api
from piker.dsm import runner
from piker.testing.loopback import open_loopback, point_backend_at

WAIT_S = 30  # nothing here takes longer unless it is broken


class Loopback:
    """The venue's control endpoint."""

    def __init__(self, venue: Any, port: int) -> None:
        self.venue = venue
        self.port = port

    def requests(self) -> int:
        """Return how many requests there were, those for listings too."""
        return sum(self.paths().values())

    def paths(self) -> dict[str, int]:
        """Return the number of requests by path."""
        found: dict[str, int] = self._ask("GET", "stats")["requests"]
        return found

    def errors(self) -> int:
        """Return how often the venue itself failed."""
        return int(self._ask("GET", "stats")["errors"])

    def fault(self, what: str, **more: Any) -> None:
        """Add a fault."""
        self._ask("POST", "faults", json.dumps({"what": what, **more}).encode())

    def heal(self) -> None:
        """End all faults."""
        self._ask("DELETE", "faults")

    def _ask(self, method: str, what: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.port}/_piker/{what}"
        request = urllib.request.Request(url, data=body, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.loads(answer.read() or b"null")


@contextmanager
def serve(**options: Any) -> Iterator[Loopback]:
    """Serve a venue for the block, and point the backend at it (in a private directory)."""
    started: Future[tuple[Any, int, Callable[[], None]]] = Future()

    async def main() -> None:
        async with open_loopback("binance", **({"limits": False} | options)) as (venue, port):
            token, ended = trio.lowlevel.current_trio_token(), trio.Event()
            started.set_result((venue, port, lambda: token.run_sync_soon(ended.set)))
            await ended.wait()

    def work() -> None:
        try:
            trio.run(main)
        except BaseException as err:
            if started.done():
                raise
            started.set_exception(err)

    thread = threading.Thread(target=work, name="loopback", daemon=True)
    thread.start()
    venue, port, end = started.result(WAIT_S)
    point_backend_at("binance", port)
    forget_venue()
    try:
        yield Loopback(venue, port)
    finally:
        end()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def forget_venue() -> None:
    """Let nothing of an earlier test's venue count: its listings, what its limits had left."""
    api._cache.clear()
    if runner.is_running():

        async def forget() -> None:
            limits._elsewhere.__dict__.clear()

        runner.run(forget)


def closed_stores(root: Path) -> list[str]:
    """Return what a fresh look finds wrong with the store in a directory."""
    from piker.data.store import maintenance
    from piker.data.store.store import Store

    store = Store(root)
    try:
        return [f"{one.file}: {one.problem}" for one in maintenance.verify(store) if one.problem]
    finally:
        store.close()
