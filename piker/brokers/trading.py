"""The order half of the provider contract: what a backend's ``.broker`` offers, and what it owes.

    @asynccontextmanager
    async def open_trade_dialog(
        account: str,                                     # "binance.main"
        credentials: Credentials,                         # taken over: forgotten by the backend
        beliefs: Sequence[BrokerdBelief],                 # what emsd thinks the venue has
        events: trio.MemorySendChannel[BrokerdEvent],     # whatever the venue says
    ) -> AsyncIterator[TradeDialog]: ...

It runs in ``brokerd.<provider>``, once for an account, and yields when the venue has taken the key
(``Refused`` in the venue's words, and ``ConfigError`` for a key that can not sign, are raised from
its entry; an absent venue is no error: it is connected to for as long as it takes). Then:

- It tells ``BrokerdSync`` LOST, SYNCING, SYNCED as they come to be: first SYNCING, and anew after
  every loss of the venue's user stream. What SYNCED promises is said there. The beliefs, and every
  order sent since that has not ended, are compared with the venue: each gets a ``BrokerdStatus``,
  and each fill that emsd does not have a ``BrokerdFill``; a belief names those that it has. An
  order that the venue never had is ``absent``, and only after the venue has proved it. Positions
  and balances are told whole.
- Every request has its outcome among the events: an ack, a status, or an error. An error
  (``BrokerdError``) is the venue's proof that a request was not carried out. An answer that did not
  come, a 5xx, or one that can not be read proves nothing: the order is ``unknown``, told at once,
  and the backend then asks for it, with back-off, until the venue proves what became of it.
- A request is sent once. It is not repeated by the backend, but for one that is proved not to have
  reached the venue (429, 418, a refused connection); the same client id is used.
- Fills carry the venue's trade id. They may be told twice and in any order; emsd counts each once.
- Fills and statuses of orders that emsd did not send are told too, with what ids there are.
- Cancels go before orders, and orders before queries, in the budget that the provider's processes
  share (:mod:`piker.brokers.limits`).
- Cancellation ends it at once; nothing at the venue is canceled by it.

It may offer what an account traded, too::

    @asynccontextmanager
    async def trade_history(
        credentials: Credentials,                         # taken over: forgotten by the backend
        symbols: Sequence[str],                           # market ids, as fills have them
        since_ns: int,                                    # by the venue's time; 0: all it keeps
    ) -> AsyncIterator[AsyncIterator[list[BrokerdFill]]]: ...

- A fill is told as a live dialog of that account tells it: the same ``tid``, ``symbol``, ``size``,
  ``price``, ``action``, ``fee``, ``fee_asset`` and ``reqid``, so that both count as one. ``oid``
  and ``client_id`` are empty where the venue does not tell them here. ``account`` is the
  credentials' venue and account with a point between: ``binance.main``.
- A page may be empty. Of one market the oldest come first; a fill comes once.
- No symbols means every market, but where ``Capabilities.trades_by_market`` is set: a venue that
  must be asked for each. There it is a ``ConfigError`` that says so.
- It asks with the priority of queries, and repeats a question whose answer is lost a few times at
  most; then it raises what it came to (``BrokerError``). ``Refused`` is a key that the venue does
  not take. Nothing that was told before an error is to be taken for all there is.
- It may run beside a dialog of the same account, in the same process, and must not disturb it.
- Cancellation ends it at once, in the context manager and in the iteration.
"""

from __future__ import annotations

from typing import Protocol

from piker.orders import BrokerdRequest

__all__ = ["TradeDialog"]


class TradeDialog(Protocol):
    """The way to one account at one venue."""

    async def send(self, request: BrokerdRequest) -> None:
        """Take a request on its way; its outcome comes as events. Raises no venue's error.

        Returns when it is handed over: at most it waits for the venue's limits. Whether a
        cancelled ``send`` was carried out is told as after a time-out: ``unknown``, then proved.
        """
