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
  and each fill that emsd does not have a ``BrokerdFill``. An order that the venue never had is
  ``absent``, and only after the venue has proved it. Positions and balances are told whole.
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
