"""brokerd's dialogs: one for each account, whatever asks for more."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from piker.clearing.brokerd import Broker


class _Slow(Broker):
    """A broker whose dialogs take a moment to end: a dead man's switch is taken back."""

    def __init__(self) -> None:
        self._scopes = {}
        self._ended = {}
        self.now: list[Any] = []

    async def _serve(self, talk: Any, account: str, beliefs: Any) -> None:
        self.now.append(talk)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked(0.02)
            self.now.remove(talk)


async def test_account_has_one_dialog_when_two_wait_for_the_end_of_another() -> None:
    """Two would both arm the venue's dead man's switch, and the older's end would take it back."""
    broker = _Slow()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            talk: Any = number
            nursery.start_soon(broker.talk, talk, "kraken.main", [])
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(broker.now) == 1
        nursery.cancel_scope.cancel()
