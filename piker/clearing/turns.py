"""One at a time for each order: locks by oid, each there only while somebody has it."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import msgspec
import trio

__all__ = ["Turn", "Turns"]


class Turn(msgspec.Struct):
    """An order that is held. Leave its block to let the next one have it."""

    held: dict[str, Turn]
    oid: str
    waiting: deque[trio.lowlevel.Task] | None = None

    def __enter__(self) -> None:
        """Have it."""

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        """Give it to who waits longest, or let go of it."""
        if self.waiting:
            trio.lowlevel.reschedule(self.waiting.popleft())
        else:
            del self.held[self.oid]


class Turns:
    """Who has which order::

        with await turns.of(oid):
            ...

    Nobody waits for an order that nobody has, not even for the event loop; others have it in the
    order in which they asked. Cancelled while it waits, a task never has it. Not to be taken again
    by who has it: it would wait for itself.
    """

    def __init__(self) -> None:
        self._held: dict[str, Turn] = {}

    def __len__(self) -> int:
        """Return how many orders somebody has."""
        return len(self._held)

    async def of(self, oid: str) -> Turn:
        """Return an order's turn, as soon as it is ours."""
        turn = self._held.get(oid)
        if turn is None:
            turn = self._held[oid] = Turn(self._held, oid)
            return turn
        if turn.waiting is None:
            turn.waiting = deque()
        waiting, task = turn.waiting, trio.lowlevel.current_task()
        waiting.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return turn
