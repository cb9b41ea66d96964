"""Who is alive: pidfds, and the watch a child keeps on its parent.

A pid can be reused; a pidfd can not. Both functions work on processes of this host.
"""

from __future__ import annotations

import os
import select
import signal
import threading

import trio

__all__ = ["GRACE_S", "die_with", "is_alive", "wait_exit"]

GRACE_S = 3.0  # how long a process may take to end in order before it is killed


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and not a zombie."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError, OSError):
        return False
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return not poller.poll(0)
    finally:
        os.close(fd)


async def wait_exit(pid: int) -> None:
    """Wait until a process has ended; returns at once for one that is gone."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError):
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


def die_with(parent: int) -> None:
    """End this process when ``parent`` does, whatever the event loop is busy with.

    A thread waits on the parent's pidfd: first SIGTERM to ourselves, so that trio cleans up, then
    after ``GRACE_S`` the hard way. Nothing survives its pikerd.
    """
    try:
        fd = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)

    def watch() -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
