"""Kraken spot, orders: the face that ``brokerd.kraken`` opens. docs/brokers/kraken.md.

One account is one key. Orders, amendments, cancels, executions and balances go by websocket v2;
REST gives its token, and proves what the stream did not tell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from piker.brokers.credentials import Credentials
from piker.brokers.kraken.api import PROVIDER, load_listings
from piker.brokers.kraken.broker_dialog import PATIENCE, Dialog, Doubt, Patience
from piker.brokers.kraken.broker_history import trade_history
from piker.brokers.kraken.broker_rest import PrivateRest, open_private
from piker.brokers.kraken.broker_sync import Keeper
from piker.brokers.kraken.broker_terms import FEES, ORDERS, Markets
from piker.brokers.trading import TradeDialog
from piker.brokers.ws import Backoff, open_ws
from piker.config import load_brokers
from piker.errors import BrokerError, ConfigError, Refused, Rejected
from piker.log import Secret, get_logger
from piker.orders import BrokerdBelief, BrokerdEvent

__all__ = ["FEES", "ORDERS", "key_rights", "open_trade_dialog", "trade_history"]

log = get_logger("kraken.broker")

AUTH_URL = "wss://ws-auth.kraken.com"
SENDS_PER_S = 50.0  # the engine's counters hold back what trades; the venue states no other figure
PING_S, IDLE_S = 5.0, 15.0  # the venue says a heartbeat every second: orders need a quick alarm
DISARM_S = 2.0  # to stop the dead man's switch when the dialog ends
RECONNECT = Backoff(floor_s=0.25, cap_s=8.0)  # 150 connections in 10 minutes may be made
BOUNDED_RETRY = Backoff(floor_s=0.5, cap_s=30.0)


def _auth_url() -> str:
    """Return the private websocket's URL: ``spot_ws_auth`` of brokers.toml, or the venue's."""
    table = load_brokers().get(PROVIDER)
    urls = table.urls if table else {}
    return (urls.get("spot_ws_auth") or AUTH_URL).rstrip("/")


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """``[kraken] options`` of brokers.toml."""

    deadline_s: float = PATIENCE.deadline_s  # how long an order or amendment is valid

    def __post_init__(self) -> None:
        """Refuse what the venue would."""
        if not 0.5 <= self.deadline_s <= 60:
            raise ValueError("deadline_s is not within 0.5 and 60")


def _patience() -> Patience:
    """Return how long is waited for what: an answer for half as long as a request is valid."""
    table = load_brokers().get(PROVIDER)
    if table is None or not table.options:
        return PATIENCE
    try:
        deadline_s = msgspec.convert(table.options, Options).deadline_s
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"brokers.toml: [kraken] options: {error}.", remedy="docs/brokers/kraken.md lists them."
        ) from None
    return msgspec.structs.replace(PATIENCE, deadline_s=deadline_s, answer_s=deadline_s / 2)


async def key_rights(credentials: Credentials) -> tuple[str, ...]:
    """Return what a key may do, in the venue's words: ``withdraw-funds``, say.

    Asks GetApiKeyInfo, which any key may. The credentials are forgotten.
    """
    async with open_private(credentials, credentials.account) as rest:
        return await rest.rights()


@asynccontextmanager
async def open_trade_dialog(
    account: str,
    credentials: Credentials,
    beliefs: Sequence[BrokerdBelief],
    events: trio.MemorySendChannel[BrokerdEvent],
) -> AsyncIterator[TradeDialog]:
    """Open the way to an account; the contract is :mod:`piker.brokers.trading`.

    Raises ``Refused`` in the venue's words where it does not take the key, and ``ConfigError`` for
    one that can not sign, and for options that make no sense. Waits as long as the venue is away.
    At the end, cancelled or not, the dead man's switch is stopped if it was set, in ``DISARM_S`` at
    most.
    """
    patience = _patience()
    async with open_private(credentials, account) as rest:
        token = await _first_token(rest)
        markets = await _markets()
        async with _dialog(account, rest, markets, beliefs, token, events, patience) as dialog:
            yield dialog


async def _first_token(rest: PrivateRest) -> Secret:
    """Return a token: proof that the venue takes the key."""
    tries = 0
    while True:
        try:
            return await rest.token()
        except Rejected as error:
            raise Refused(
                f"{error.message}.", remedy="Look at the key's rights on Kraken's page of it."
            ) from error
        except BrokerError as error:
            tries += 1
            log.warning("kraken.away", tries=tries, error=error.message)
        await trio.sleep(BOUNDED_RETRY.wait_s(tries))


async def _markets() -> Markets:
    tries = 0
    while True:
        try:
            return Markets((await load_listings()).values())
        except BrokerError as error:
            tries += 1
            log.warning("kraken.away", tries=tries, error=error.message)
        await trio.sleep(BOUNDED_RETRY.wait_s(tries))


@asynccontextmanager
async def _dialog(
    account: str,
    rest: PrivateRest,
    markets: Markets,
    beliefs: Sequence[BrokerdBelief],
    token: Secret,
    events: trio.MemorySendChannel[BrokerdEvent],
    patience: Patience,
) -> AsyncIterator[Dialog]:
    async with trio.open_nursery() as nursery:

        async def send(text: str) -> None:
            await ws.send(text)

        dialog = Dialog(account, rest, markets, send, nursery, patience)
        keeper = Keeper(dialog)
        keeper.first_token = token
        for belief in beliefs:
            held = dialog.book.believe(belief)
            if not held.txid:  # what a former process sent may still arrive for a while
                dialog.doubts.append(Doubt(belief.order, held, "order", dialog.ends_ns()))
        keeper.begin()
        async with open_ws(
            f"{_auth_url()}/v2", venue=PROVIDER, on_connect=keeper.subscribe,
            ping_every_s=PING_S, idle_timeout_s=IDLE_S, sends_per_s=SENDS_PER_S,
            backoff=RECONNECT,
        ) as ws:  # fmt: skip
            keeper.ws = ws
            dialog.on_bad_session = lambda: ws.reset("the session has ended")
            nursery.start_soon(dialog.pump, events)
            nursery.start_soon(keeper.listen)
            nursery.start_soon(keeper.keep)
            nursery.start_soon(keeper.guard)
            try:
                yield dialog
            finally:
                end = trio.current_time() + DISARM_S
                with trio.CancelScope(shield=True, deadline=end):
                    await keeper.disarm()
                nursery.cancel_scope.cancel()
