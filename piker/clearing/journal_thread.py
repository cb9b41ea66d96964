"""One thread that lives as long as the journal, and is handed one commit after another.

``trio.to_thread`` wakes a thread and the event loop through locks, a socket and a task of its
own; for a commit of a fifth of a millisecond that is a third on top. Here each side waits for an
eventfd, which costs a tenth of it; and where the event loop has nothing else to do it waits for
the thread right there, for a millisecond at most: a disk that stalls must not make us look frozen.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

__all__ = ["CommitThread"]

PATIENCE_MS = 1  # a quick disk syncs in a tenth of it; to go round the event loop costs another
UNFAIR_S = 0.002  # who commits again and again goes round the event loop so often
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class CommitThread(Generic[_In, _Out]):
    """A thread that calls ``do`` with whatever :meth:`run` is given, for one caller at a time."""

    def __init__(self, do: Callable[[_In], _Out]) -> None:
        """Start the thread; :meth:`end` ends it."""
        self._do = do
        self._given: _In | None = None
        self._out: _Out | None = None
        self._failed: BaseException | None = None
        self._asked = os.eventfd(0, os.EFD_CLOEXEC)
        self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._look = select.poll()
        self._look.register(self._done, select.POLLIN)
        self._gave_way = 0.0
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            os.eventfd_read(self._asked)
            if self._ending:
                return
            assert self._given is not None
            try:
                self._out, self._failed = self._do(self._given), None
            except BaseException as err:
                self._out, self._failed = None, err
            os.eventfd_write(self._done, 1)

    async def run(self, given: _In) -> _Out:
        """Return what ``do`` makes of it, or raise what it raises.

        Not cancelled while the thread is at it: what it does to the disk is whole.
        """
        self._given = given
        os.eventfd_write(self._asked, 1)
        idle = trio.lowlevel.current_statistics().tasks_runnable == 0
        with trio.CancelScope(shield=True):
            if idle and self._look.poll(PATIENCE_MS):
                await self._give_way()
            else:
                await trio.lowlevel.wait_readable(self._done)
        os.eventfd_read(self._done)
        out, failed = self._out, self._failed
        self._given = self._out = self._failed = None
        if failed is not None:
            raise failed
        assert out is not None
        return out

    async def _give_way(self) -> None:
        """Let whoever became ready meanwhile have a turn, where nobody had one for long."""
        now = trio.current_time()
        if now - self._gave_way > UNFAIR_S:
            self._gave_way = now
            await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """End the thread, which must be idle, and wait for it: some microseconds."""
        self._ending = True
        os.eventfd_write(self._asked, 1)
        self._thread.join()
        os.close(self._asked)
        os.close(self._done)
