"""Wake readers without busy waiting: one fifo per reading process, one byte per flush.

A reader makes a fifo in the provider's wake directory and polls it; the writer finds it there and
writes a byte, without ever blocking, each time it has published rows. A full fifo means that the
reader has a wake-up pending, so nothing is lost. Any program can take part: ``mkfifo`` in the
directory is the whole protocol (docs/internals/shm.md).

To lose no wake-up a reader looks for rows *after* it has drained its fifo, then waits.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
from collections.abc import Awaitable, Callable
from pathlib import Path

from piker.config import runtime_dir
from piker.errors import ShmError

__all__ = ["WakeReceiver", "WakeSender", "wake_dir"]

_DRAIN = 1024  # bytes: of a fifo that holds more the rest is one more wake-up, and does no harm
_counter = itertools.count()
_read, _write = os.read, os.write  # hot


def wake_dir(provider: str) -> Path:
    """Return (and make) the directory in which readers of a provider put their fifos."""
    path = runtime_dir() / "wake" / provider
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class WakeSender:
    """The writer's end. ``notify`` costs about a microsecond for each waiting reader.

    Its owner calls ``scan`` some twenty times a second: that is when new readers are found.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fifos: dict[str, int] = {}
        self._fds: tuple[int, ...] = ()
        self.scan()

    def notify(self) -> None:
        """Wake every reader. Never blocks, never raises for a reader that is gone."""
        for fd in self._fds:
            try:
                _write(fd, b"\0")
            except BlockingIOError:
                continue  # a wake-up is pending already
            except OSError:
                self._drop(fd)

    def scan(self) -> None:
        """Take in new fifos and let go of removed ones; a stale one's file is removed too."""
        names = {name for name in os.listdir(self._directory) if name.endswith(".fifo")}
        for name in self._fifos.keys() - names:
            self._drop(self._fifos[name])
        for name in names - self._fifos.keys():
            path = self._directory / name
            try:
                self._fifos[name] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as err:
                if err.errno == errno.ENXIO:  # nobody reads it: its process is gone
                    path.unlink(missing_ok=True)
        self._fds = tuple(self._fifos.values())

    def close(self) -> None:
        """Let go of every fifo."""
        for fd in self._fds:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        self._fifos = {name: one for name, one in self._fifos.items() if one != fd}
        self._fds = tuple(self._fifos.values())
        os.close(fd)


class WakeReceiver:
    """The reader's end; closing it removes the fifo."""

    def __init__(self, directory: Path) -> None:
        name = f"{os.getpid()}-{next(_counter)}.fifo"
        self._path = directory / name
        self._wait_readable: Callable[[int], Awaitable[None]] | None = None
        draft = directory / f".{name}.tmp"
        try:
            os.mkfifo(draft, 0o600)
            # Read and write: then the fifo never signals end-of-file when a writer goes, and a
            # writer that opens it always finds a reader.
            self._fd = os.open(draft, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            draft.rename(self._path)
        except OSError as err:
            raise ShmError(f"can not make a fifo in {directory}: {err.strerror}.") from err

    async def wait(self) -> None:
        """Wait until rows were published since the last wait; a cancellation point."""
        if self._wait_readable is None:
            from trio.lowlevel import wait_readable  # 60 ms that no synchronous reader pays

            self._wait_readable = wait_readable
        await self._wait_readable(self._fd)
        self._drain()

    def wait_sync(self, timeout_s: float | None = None) -> bool:
        """Block until rows were published or the time is up; return whether they were."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(None if timeout_s is None else timeout_s * 1000):
            return False
        self._drain()
        return True

    def close(self) -> None:
        """Remove the fifo."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _drain(self) -> None:
        try:
            _read(self._fd, _DRAIN)
        except BlockingIOError:
            return
