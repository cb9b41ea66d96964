"""Work that is done in its order for one order, and side by side for others."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import trio

__all__ = ["Lanes"]


class _OfOrder(Protocol):
    @property
    def oid(self) -> str: ...


T = TypeVar("T", bound=_OfOrder)


class Lanes(Generic[T]):
    """Hands messages to ``work``: of one oid one after the other, those of others past them."""

    def __init__(self, work: Callable[[T], Awaitable[None]], nursery: trio.Nursery) -> None:
        self._work = work
        self._nursery = nursery
        self._waiting: dict[str, deque[T]] = {}

    def put(self, message: T) -> None:
        """Work a message off when those of its oid before it are done. Never blocks."""
        waiting = self._waiting.get(message.oid)
        if waiting is not None:
            waiting.append(message)
            return
        self._waiting[message.oid] = deque([message])
        self._nursery.start_soon(self._run, message.oid)

    async def _run(self, oid: str) -> None:
        waiting = self._waiting[oid]
        try:
            while waiting:
                await self._work(waiting.popleft())
        finally:
            del self._waiting[oid]
