"""A router that does not wait: what it sets going is done at the same moment, in its order.

Nothing that it calls waits in a replay: not its journal, not its links. So its tasks need no turn
of the event loop each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import trio

from piker.clearing.journal import Journal
from piker.clearing.router import OF_ACCOUNT, Router
from piker.clearing.turns import Turns
from piker.orders import BrokerdEvent, EmsMessage

__all__ = ["ReplayRouter", "Worker"]


class Worker(Protocol):
    """What does work at once."""

    def soon(self, do: Callable[..., Awaitable[object]], *args: object) -> None:
        """Have something done after what is being done now."""


class ReplayRouter(Router):
    """``tell`` is called with all that clients are told; nobody else listens."""

    def __init__(
        self, journal: Journal, nursery: trio.Nursery, worker: Worker,
        tell: Callable[[EmsMessage], None],
    ) -> None:  # fmt: skip
        nursery_at_once = _AtOnce(nursery, worker)
        super().__init__(journal, cast(trio.Nursery, nursery_at_once), cast(Turns, _Free()))
        nursery_at_once.slow = (self._synced,)  # it waits for others: it has a task of its own
        self.news.tell = tell  # type: ignore[assignment,method-assign]  # past the channels of clients
        self._worker = worker

    def hear(self, account: str, event: BrokerdEvent) -> None:
        """Take what the paper venue says, as :meth:`Router.hear` does.

        It names its orders and proves none absent, and nothing is worked off meanwhile: so what it
        says of an order need not wait for what it said before.
        """
        if isinstance(event, OF_ACCOUNT):
            super().hear(account, event)
        else:
            self._worker.soon(self._hear, event.oid, [event])


class _Free:
    """Stands where the router has its turns: who does not wait leaves nobody in between."""

    async def of(self, oid: str) -> _Free:
        """Let it be done."""
        return self

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *failed: object) -> None:
        """End."""


class _AtOnce:
    """Stands where the router has its nursery."""

    def __init__(self, nursery: trio.Nursery, worker: Worker) -> None:
        self._nursery = nursery
        self._worker = worker
        self.slow: tuple[object, ...] = ()

    def start_soon(self, do: Callable[..., Awaitable[object]], *args: object) -> None:
        """Have it done."""
        if do in self.slow:
            self._nursery.start_soon(do, *args)
        else:
            self._worker.soon(do, *args)
