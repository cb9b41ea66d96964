"""emsd's requests carried out at Binance, and every outcome told: orders and cancels.

An order is sent once. It is sent again, under the same client id, only when the venue has proved
that it was not carried out (429, 418, a refused connection, a refused time), and not for long: an
order that comes late is another order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal

import msgspec
import trio

from piker.brokers._backoff import Backoff
from piker.brokers.binance.broker_book import Book, Known, Market
from piker.brokers.binance.broker_doubt import Desk
from piker.brokers.binance.broker_facts import ENDED, OrderFact, derived_id, leg_of
from piker.brokers.binance.broker_proof import Prover
from piker.brokers.binance.broker_rest import SLACK_MS, Sent
from piker.errors import BrokerError, PikerError, Rejected, Transient, Unknown
from piker.log import get_logger
from piker.orders import Action, BrokerdCancel, BrokerdOrder

__all__ = ["CANCEL_RESEND_S", "RESEND_S", "Requests", "said"]

log = get_logger("binance.broker")

RESEND_S = 10.0  # an order that is proved not to have been taken is sent again for so long
CANCEL_RESEND_S = 60.0  # a cancel, which is safe at any time
CANCEL_TRIES = 4  # as often an order may turn out to stand under another number
AGAIN = Backoff(floor_s=0.1, cap_s=5.0)
_DUPLICATE = "-4116"
_REFUSED_BY_BOOK = "-2010"
_NO_SUCH = ("-2011", "-2013")


def said(error: PikerError) -> str:
    """Return a refusal in the venue's words."""
    return error.message.removeprefix("binance: ")


def is_duplicate(error: Rejected) -> bool:
    """Tell the refusal of a client id that stands already: its order was taken before."""
    return error.code == _DUPLICATE or (
        error.code == _REFUSED_BY_BOOK and "Duplicate order sent" in error.message
    )


def _check_ended(algo: OrderFact) -> None:
    """Raise what an accepted cancel of a conditional order came to, unless that is its end."""
    if algo.sent:
        raise Rejected("binance: it was triggered before its cancel", code=_NO_SUCH[0])
    if algo.status not in ENDED:
        raise Unknown("binance: its cancel was accepted, and it is shown to stand")


class Requests:
    """New orders and cancels of one market kind."""

    def __init__(
        self, desk: Desk, book: Book, prover: Prover, flush: Callable[[], Awaitable[None]]
    ) -> None:
        self.desk = desk
        self.book = book
        self.prover = prover
        self.flush = flush

    # -- new orders ----------------------------------------------------------------------------
    async def submit(self, order: BrokerdOrder, market: Market) -> None:
        """Send a new order, and tell its outcome; one that was sent before is told again."""
        known = self.book.find(order.client_id)
        if known is not None and (known.flying or known.legs or not known.is_over):
            if known.legs:
                self.book.tell_again(known)
            await self.flush()
            return
        known = self.book.add(order, market)
        if problem := self.desk.unfit(order):
            self.book.refuse(known, "order", f"{problem}; nothing was sent")
            await self.flush()
            return
        error = await self.send(known, order, order.client_id, order.size)
        if isinstance(error, Rejected) and not is_duplicate(error) and not known.legs:
            self.book.refuse(known, "order", said(error))
        elif isinstance(error, Transient) and not known.legs:
            self.book.refuse(known, "order", f"it was not taken: {said(error)}")
        elif error is not None:
            self.doubt(known, error)
        await self.flush()

    async def send(
        self, known: Known, order: BrokerdOrder, client_id: str, size: Decimal
    ) -> PikerError | None:
        """Send an order, or another leg of it; return what went wrong.

        ``Rejected`` and ``Transient`` prove that it does not stand; anything else proves nothing.
        """

        async def once() -> None:
            self.book.learn(
                await self.desk.place(order, known.market.wire, client_id, size, known.sent)
            )

        return await self.fly(known, once, RESEND_S)

    async def fly(
        self, known: Known, once: Callable[[], Awaitable[None]], for_s: float
    ) -> PikerError | None:
        """Make a request of an order, again while it is proved not to have been carried out."""
        end = trio.current_time() + for_s
        attempt = 0
        known.flying += 1
        try:
            while True:
                attempt += 1
                try:
                    await once()
                    return None
                except Transient as error:
                    wait_s = max(AGAIN.wait_s(attempt), error.retry_after or 0.0)
                    if trio.current_time() + wait_s > end:
                        return error
                    log.info("binance.again", oid=known.order.oid, wait_s=wait_s, why=error)
                except BrokerError as error:
                    return error
                await trio.sleep(wait_s)
        finally:
            known.flying -= 1
            if not known.flying:
                known.landed.set()
                known.landed = trio.Event()

    def doubt(self, known: Known, error: PikerError) -> trio.Event:
        """Tell that an outcome is not known, and have it proved."""
        self.expires(known, known.sent)
        known.misses.clear()
        log.warning("binance.unknown", oid=known.order.oid, client_id=known.order.client_id,
                    why=error)  # fmt: skip
        if not known.is_over:
            self.book.unknown(known, said(error))
        return self.prover.want(known)

    def expires(self, known: Known, sent: Sent) -> None:
        """Note until when the venue could still take what was sent."""
        last_ms = sent.at_ms + self.desk.signed.window_ms + SLACK_MS
        known.expires_ms = max(known.expires_ms, last_ms)

    # -- cancels -------------------------------------------------------------------------------
    async def cancel(self, request: BrokerdCancel, market: Market) -> None:
        """Take an order back, and tell the outcome."""
        known = self.book.find(request.client_id, request.reqid)
        if known is None:
            await self._cancel_stranger(request, market)
        else:
            if known.in_doubt:
                await self._cancel_doubted(known)
            async with _editing(known):
                await self._cancel(known)
        await self.flush()

    async def _cancel_doubted(self, known: Known) -> None:
        """Cancel at once what an edit may have made: whether it did may not be known for minutes.

        What that comes to is found out by the edit; what stands then is canceled after it.
        """
        client_id, is_algo = known.in_doubt, self.desk.is_algo(known.order)

        async def once() -> None:
            fact = await self.desk.cancel(
                known.market.wire, 0, client_id, is_algo=is_algo, sent=Sent()
            )
            if fact is not None:
                self.book.learn(fact)

        await self.fly(known, once, CANCEL_RESEND_S)

    async def _cancel(self, known: Known) -> None:
        for _ in range(CANCEL_TRIES):
            if known.is_over:
                if known.told != "canceled":
                    self.book.refuse(known, "cancel", f"it has ended: {known.told}")
                return
            if (error := await self.cancel_leg(known)) is None:
                return
            if isinstance(error, Transient):
                self.book.refuse(known, "cancel", f"it was not taken: {said(error)}")
                return
            if not isinstance(error, Rejected):
                await self._prove_cancel(known, error)
                return
            if error.code not in _NO_SUCH:
                self.book.refuse(known, "cancel", said(error))
                return
            if known.flying:  # it is not there yet
                await known.landed.wait()
            before = known.open_leg()
            await self.prover.prove(known)
            if not known.is_over and known.open_leg() == before:
                self.book.refuse(known, "cancel", said(error))
                return
        self.book.refuse(known, "cancel", "it stands under another number each time")

    async def cancel_leg(self, known: Known) -> PikerError | None:
        """Cancel the leg that stands, or is to stand; return what went wrong."""
        leg = known.open_leg()
        sent = known.sent

        async def once() -> None:
            number, is_algo = (leg.number, leg.is_algo) if leg else (0, False)
            if leg is None:
                is_algo = self.desk.is_algo(known.order)
            client_id = leg.client_id if leg else derived_id(known.order.client_id, 0)
            fact = await self.desk.cancel(
                known.market.wire, number, client_id, is_algo=is_algo, sent=sent
            )
            if fact is None:
                raise Unknown("binance: its cancel was accepted, and its end is not shown yet")
            self.book.learn(fact)
            if fact.is_algo:
                _check_ended(known.legs[fact.reqid])

        return await self.fly(known, once, CANCEL_RESEND_S)

    async def _prove_cancel(self, known: Known, error: PikerError) -> None:
        """Find out what an unanswered cancel did: if the order outlives it, it did nothing."""
        self.doubt(known, error)
        await self.flush()
        await self.prover.prove(known)
        if not known.is_over:
            await self.sleep_beyond(known)
            await self.prover.prove(known)
        if not known.is_over:
            self.book.refuse(known, "cancel", f"the order stands: {said(error)}")
        elif known.told != "canceled":
            self.book.refuse(known, "cancel", f"it has ended: {known.told}")

    async def sleep_beyond(self, known: Known) -> None:
        """Wait until no request of an order can be taken any more."""
        left_ms = known.expires_ms - self.desk.signed.clock.now_ms()
        await trio.sleep(max(0, left_ms) / 1000 + 0.01)

    async def _cancel_stranger(self, request: BrokerdCancel, market: Market) -> None:
        """Cancel an order that is in no book of ours, by the names that emsd has for it."""
        order = BrokerdOrder(
            oid=request.oid, client_id=request.client_id, account=request.account,
            time_ns=request.time_ns, symbol=request.symbol, action=Action.BUY,
            size=Decimal(0), reqid=request.reqid,
        )  # fmt: skip
        known = self.book.add(order, market)
        leg = leg_of(request.reqid)
        fact = await self._sought(known, leg)
        if fact is None:
            return
        self.book.learn(fact)
        known.order = msgspec.structs.replace(
            order, action=fact.action, size=fact.size, kind=fact.kind, price=fact.price
        )
        await self._cancel(known)

    async def _sought(
        self, known: Known, leg: tuple[str, str, int, bool] | None
    ) -> OrderFact | None:
        """Ask for an order by its names; where it can not be had, the cancel is refused."""
        try:
            found = await self.desk.order(
                known.market.wire, number=leg[2] if leg else 0,
                client_id=known.order.client_id, is_algo=bool(leg and leg[3]),
            )  # fmt: skip
        except BrokerError as error:
            self.book.refuse(known, "cancel", f"nothing was sent: {said(error)}")
            self.book.forget(known)
            return None
        if found is None:
            self.book.refuse(known, "cancel", "the venue has no such order")
            self.book.forget(known)
        return found


class _editing:  # reads as a word: async with _editing(known)
    """Waits while an order is being edited; else does not wait."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._held = False

    async def __aenter__(self) -> None:
        if self._known.lane.locked():
            await self._known.lane.acquire()
            self._held = True

    async def __aexit__(self, *_: object) -> None:
        if self._held:
            self._known.lane.release()
