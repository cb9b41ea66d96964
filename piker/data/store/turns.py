"""Writers of one folder take turns: a lock file in it, which tells when its holder was killed.

The kernel gives the lock up with the process that held it. The file is empty unless somebody
holds the lock, or died while he did: then there may be files that no manifest names.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from piker.clock import NS, monotonic_ns
from piker.errors import StoreError

__all__ = ["LOCK_S", "may_be_cut", "turn"]

LOCK_S = 60.0  # how long a writer waits for another one of the same series
PAUSE_S = 0.01  # between two looks: an append of a bar takes about as long
_FILE = ".lock"


@contextmanager
def turn(folder: Path, what: object, *, wait_s: float = LOCK_S) -> Iterator[bool]:
    """Be the only writer of a folder, among all threads and processes, for the block.

    Gives whether an earlier turn was cut: by a kill, or by an error. Blocks for ``wait_s`` at most,
    then raises ``StoreError``.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise StoreError.of(err, folder) from err
    try:
        _wait(fd, what, wait_s)
        cut = os.fstat(fd).st_size > 0
        with suppress(OSError):  # a full disk: what is left behind is not known, and stays a while
            os.pwrite(fd, b"w", 0)
        yield cut
        with suppress(OSError):
            os.ftruncate(fd, 0)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
        os.close(fd)


def may_be_cut(folder: str) -> bool:
    """Tell whether somebody writes in a folder now, or was killed when he did."""
    try:
        return os.stat(f"{folder}/{_FILE}").st_size > 0
    except OSError:
        return False


def _wait(fd: int, what: object, wait_s: float) -> None:
    deadline = monotonic_ns() + int(wait_s * NS)
    pause = threading.Event()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if monotonic_ns() > deadline:
                raise StoreError(
                    f"another process has been writing {what} for {wait_s:.0f} s.",
                    remedy="See which with: fuser -v on the .lock file in its folder.",
                ) from None
            pause.wait(PAUSE_S)
