"""brokerd: one provider's order session, alone with its keys. pikerd starts ``brokerd.<provider>``.

It does what emsd says and tells what the venue says; it decides nothing and remembers nothing that
the venue does not. emsd opens one dialog for each account (:func:`open_broker_dialog`); a second
one for the same account ends the first: its emsd is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio
from trio_typing import TaskStatus

from piker import config, service
from piker.brokers.credentials import fetch_credentials
from piker.brokers.spec import Backend, load_backend
from piker.brokers.trading import TradeDialog
from piker.clearing.accounts import split_account
from piker.clearing.lanes import Lanes
from piker.errors import Bug, ProviderError
from piker.log import get_logger
from piker.orders import (
    BrokerdBeginning,
    BrokerdBelief,
    BrokerdEvent,
    BrokerdRequest,
    decode,
    encode,
)

__all__ = ["Broker", "get_key_rights", "main", "open_broker_dialog", "open_trade_history",
           "serve"]  # fmt: skip

#: What opens one account's dialog with its venue, as piker.brokers.trading says.
OpenDialog = Callable[
    [str, Sequence[BrokerdBeginning], trio.MemorySendChannel[BrokerdEvent]],
    Awaitable[AbstractAsyncContextManager[TradeDialog]],
]
EVENTS = 10_000  # that wait for emsd at most; then the venue's stream is read no further
log = get_logger("brokerd")


class Broker:
    """The dialogs of one process, by account."""

    def __init__(self, open_dialog: OpenDialog) -> None:
        self._open = open_dialog
        self._scopes: dict[str, trio.CancelScope] = {}
        self._ended: dict[str, trio.Event] = {}

    async def talk(self, talk: service.ServerDialog, account: str, beliefs: list[bytes]) -> None:
        """Serve emsd's dialog for an account until either end goes."""
        while account in self._scopes:  # also one that waited with this one
            self._scopes[account].cancel()
            await self._ended[account].wait()
        scope = self._scopes[account] = trio.CancelScope()
        ended = self._ended[account] = trio.Event()
        try:
            with scope:
                told = [decode(one, BrokerdBeginning) for one in beliefs]
                await self._serve(talk, account, told)
        finally:
            if self._scopes.get(account) is scope:
                del self._scopes[account]
            ended.set()

    async def _serve(
        self, talk: service.ServerDialog, account: str, beliefs: list[BrokerdBeginning]
    ) -> None:
        send, receive = trio.open_memory_channel[BrokerdEvent](EVENTS)
        with send, receive:
            async with await self._open(account, beliefs, send) as venue:
                log.info("brokerd.dialog", account=account, beliefs=len(beliefs))
                async with talk.start(None) as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(stream.relay, receive, encode)
                    lanes: Lanes[BrokerdRequest] = Lanes(venue.send, nursery)
                    async for data in stream:
                        lanes.put(decode(data, BrokerdRequest))
                    nursery.cancel_scope.cancel()


_broker: Broker | None = None
_backend: Backend | None = None


async def serve(open_dialog: OpenDialog, task_status: TaskStatus[None]) -> None:
    """Be the broker of this process until cancelled."""
    global _broker
    _broker = Broker(open_dialog)
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        _broker = None


async def main(name: str, task_status: TaskStatus[None]) -> None:
    """Serve a provider's live accounts; raise its ``ProviderError`` at start-up."""
    global _backend
    provider = name.partition(".")[2]
    backend = _backend = load_backend(provider, config.load_conf().brokers.modules)
    if backend.open_trade_dialog is None:
        raise ProviderError(
            f"the backend {provider!r} has no orders.",
            remedy=f"Trade its markets on paper: {provider}.paper",
        )
    opener = backend.open_trade_dialog

    async def open_dialog(
        account: str,
        told: Sequence[BrokerdBeginning],
        events: trio.MemorySendChannel[BrokerdEvent],
    ) -> AbstractAsyncContextManager[TradeDialog]:
        beliefs = [one for one in told if isinstance(one, BrokerdBelief)]
        credentials = await fetch_credentials(provider, split_account(account)[1])
        found: AbstractAsyncContextManager[TradeDialog] = opener(
            account, credentials, beliefs, events
        )
        return found

    await serve(open_dialog, task_status)


@service.dialog
async def open_broker_dialog(
    talk: service.ServerDialog, account: str, beliefs: list[bytes]
) -> None:
    """Open an account: the caller sends ``BrokerdRequest``, and is sent ``BrokerdEvent``."""
    if _broker is None:
        raise Bug("the broker was called before it was ready.")
    await _broker.talk(talk, account, beliefs)


@service.request
async def get_key_rights(account: str) -> list[str] | None:
    """Return what the key of an account may do, in the venue's words; None where it does not tell.

    Asks the venue once. Raises ``ConfigError`` without a key, and what the venue says to it.
    """
    if _backend is None or _backend.key_rights is None:
        return None
    credentials = await fetch_credentials(_backend.name, split_account(account)[1])
    return list(await _backend.key_rights(credentials))


@service.dialog
async def open_trade_history(
    talk: service.ServerDialog, account: str, symbols: list[str], since_ns: int
) -> None:
    """Tell what an account traded: the caller is sent lists of ``BrokerdFill``, then their count.

    A list may be empty: it says that the venue was asked so far. Without the count, which is the
    last word, something is missing. Runs beside the account's dialog, and ends when the caller
    goes. Raises ``ProviderError`` where the backend does not tell, ``ConfigError`` without a key,
    and what the backend raises.
    """
    if _backend is None or _backend.trade_history is None:
        raise ProviderError(
            f"the backend of {account} does not tell what an account traded.",
            remedy="Import the venue's own file: piker ledger import",
        )
    with await fetch_credentials(_backend.name, split_account(account)[1]) as credentials:
        async with talk.start(None) as stream:
            count = 0
            async with _backend.trade_history(credentials, symbols, since_ns) as pages:
                async for page in pages:
                    count += len(page)
                    await stream.send([encode(fill) for fill in page])
            log.info("brokerd.trade_history", account=account, fills=count)
            await stream.send(count)
