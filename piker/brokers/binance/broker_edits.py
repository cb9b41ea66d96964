"""Edits of orders at Binance: in place where the venue can, else one order is canceled for another.

What must not happen is that more trades than the edit asks for. Spot's cancel-and-replace is used
while nothing is filled, and only goes through then (``ONLY_NEW``); an order that is partly filled
is canceled first, and what is left by the venue's own figure is sent as a new one, whose client id
is derived from the first one's. A second order that the venue refuses leaves a canceled one behind;
both is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeVar

import msgspec
import trio

from piker.brokers.binance.broker_book import Known, Market, differs, next_id
from piker.brokers.binance.broker_doubt import MISSES
from piker.brokers.binance.broker_facts import ENDED, OrderFact
from piker.brokers.binance.broker_proof import AFTER_FAILURE
from piker.brokers.binance.broker_requests import RESEND_S, Requests, is_duplicate, said
from piker.brokers.binance.broker_spot import SpotDesk
from piker.brokers.binance.broker_usdm import UsdmDesk
from piker.errors import BrokerError, PikerError, Rejected, Transient
from piker.orders import BrokerdOrder, OrderKind

__all__ = ["Edits"]

T = TypeVar("T")


class Edits:
    """Edits of one market kind's orders, one at a time of each."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._book = requests.book
        self._desk = requests.desk
        self._evidence = requests.prover.evidence

    async def edit(self, order: BrokerdOrder, market: Market) -> None:
        """Give an order new terms, and tell the outcome."""
        known = self._book.find(order.client_id, order.reqid)
        if known is None or known.is_foreign:
            self._refuse(Known(order, market), "there is no such order")
        else:
            async with known.lane:
                await self._edit(known, order)
        await self._requests.flush()

    def _refuse(self, known: Known, why: str) -> None:
        self._book.refuse(known, "edit", why)

    async def _edit(self, known: Known, order: BrokerdOrder) -> None:
        if known.flying:
            await known.landed.wait()
        if known.proof is not None:
            await self._requests.prover.prove(known)
        leg = known.open_leg()
        if leg is None or known.is_over:
            self._refuse(known, f"it has ended: {known.told}")
            return
        if problem := self._desk.unfit(order):
            self._refuse(known, f"{problem}; nothing was sent")
            return
        known.editing = True
        try:
            await self._change(known, order, leg)
        finally:
            known.editing = False
        self._book.settle(known)

    async def _change(self, known: Known, order: BrokerdOrder, leg: OrderFact) -> None:
        size = order.size - (known.executed - (Decimal(0) if leg.is_algo else leg.executed))
        if size <= leg.executed:
            self._refuse(known, f"{known.executed} of it were filled")
        elif self._fits_in_place(order, leg, size):
            await self._amend(known, order, leg, size)
        elif isinstance(self._desk, SpotDesk) and not known.executed:
            await self._replace(known, order, leg)
        else:
            await self._cancel_and_send(known, order, leg)

    def _fits_in_place(self, order: BrokerdOrder, leg: OrderFact, size: Decimal) -> bool:
        same = _terms(order)[1:] == _terms(leg)[1:]
        if isinstance(self._desk, UsdmDesk):
            return same and order.kind is OrderKind.LIMIT and not leg.is_algo
        return same and order.price == leg.price and size < leg.size

    # -- in place ------------------------------------------------------------------------------
    async def _amend(
        self, known: Known, order: BrokerdOrder, leg: OrderFact, size: Decimal
    ) -> None:
        desk, asked = self._desk, msgspec.structs.replace(order, size=size)
        assert isinstance(desk, SpotDesk | UsdmDesk)

        async def once() -> None:
            fact = await desk.amend(asked, known.market.wire, leg.number, leg.client_id, known.sent)
            now = known.legs[leg.reqid]
            self._book.learn(fact or msgspec.structs.replace(now, size=size))

        error = await self._requests.fly(known, once, RESEND_S)
        if error is None:
            self._book.ack_edit(known, order, known.legs[leg.reqid])
        elif isinstance(error, Transient):
            self._refuse(known, f"it was not taken: {said(error)}")
        else:
            await self._prove_amended(known, order, leg, size, error)

    async def _prove_amended(
        self, known: Known, order: BrokerdOrder, leg: OrderFact, size: Decimal, error: PikerError
    ) -> None:
        """Ask what terms the order has; a refusal may be that of an edit which came twice."""
        proved = isinstance(error, Rejected)
        await self._doubt(known, error)
        looks = 0
        while True:
            asked_ms = self._desk.signed.clock.now_ms()
            fact = await self._standing(known, leg)
            if fact is not None:
                if (fact.size, fact.price) == (size, order.price):
                    self._book.ack_edit(known, order, fact)
                    return
                if fact.status in ENDED or proved or asked_ms > known.expires_ms:
                    self._refuse(known, said(error))
                    return
            looks += 1
            await self._pause(known, looks)

    # -- one for another -----------------------------------------------------------------------
    async def _replace(self, known: Known, order: BrokerdOrder, leg: OrderFact) -> None:
        """Cancel an order of which nothing is filled, and send another, in one request."""
        desk, client_id = self._desk, next_id(known)
        assert isinstance(desk, SpotDesk)

        async def once() -> None:
            old, new = await desk.replace(
                order, known.market.wire, leg.number, client_id, order.size, known.sent
            )
            self._book.learn(old)
            self._book.learn(new)
            self._book.ack_edit(known, order, new)

        error = await self._requests.fly(known, once, RESEND_S)
        if error is None:
            return
        if isinstance(error, Transient):
            self._refuse(known, f"it was not taken: {said(error)}")
            return
        if isinstance(error, Rejected) and error.code.startswith("-1"):
            self._refuse(known, said(error))  # of the request itself: nothing was tried
            return
        await self._doubt(known, error)
        leg = await self._prove_sent(known, order, client_id, error, leg)
        if "cancel restrictions" in error.message and leg.status == "open":
            await self._cancel_and_send(known, order, leg)  # some of it was filled meanwhile
        elif known.reqid == leg.reqid:
            self._refuse(known, said(error))

    async def _cancel_and_send(self, known: Known, order: BrokerdOrder, leg: OrderFact) -> None:
        """Cancel an order, and send another for what the venue says is left."""
        error = await self._requests.cancel_leg(known)
        if error is not None:
            if isinstance(error, Transient):
                self._refuse(known, f"it was not taken: {said(error)}")
                return
            await self._doubt(known, error)
            if not await self._prove_canceled(known, leg, proved=isinstance(error, Rejected)):
                self._refuse(known, said(error))
                return
        left = order.size - known.executed
        if known.legs[leg.reqid].status != "canceled" or left <= 0:
            self._refuse(known, f"it has ended, {known.executed} of it filled")
            return
        client_id = next_id(known)
        error = await self._requests.send(known, order, client_id, left)
        if error is not None:
            is_refused = isinstance(error, Rejected) and not is_duplicate(error)
            if not is_refused and not isinstance(error, Transient):
                await self._doubt(known, error)
                await self._prove_sent(known, order, client_id, error, None)
            if known.reqid == leg.reqid:
                self._refuse(known, f"canceled; what was to replace it: {said(error)}")
            return
        self._book.ack_edit(known, order, self._leg_of(known, client_id))

    async def _prove_canceled(self, known: Known, leg: OrderFact, *, proved: bool) -> bool:
        """Ask until an order has ended, or is proved to outlive its cancel."""
        looks = 0
        while True:
            asked_ms = self._desk.signed.clock.now_ms()
            fact = await self._standing(known, leg)
            if fact is not None:
                if fact.status in ENDED or fact.sent:
                    return not fact.sent
                if proved or asked_ms > known.expires_ms:
                    return False
            looks += 1
            await self._pause(known, looks)

    async def _prove_sent(
        self, known: Known, order: BrokerdOrder, client_id: str, error: PikerError,
        old: OrderFact | None,
    ) -> OrderFact:  # fmt: skip
        """Ask until a new leg is found, and told, or proved never to have come; return the old."""
        known.in_doubt = client_id
        try:
            return await self._look_for(known, order, client_id, error, old)
        finally:
            known.in_doubt = ""

    async def _look_for(
        self, known: Known, order: BrokerdOrder, client_id: str, error: PikerError,
        old: OrderFact | None,
    ) -> OrderFact:  # fmt: skip
        refused = isinstance(error, Rejected) and not is_duplicate(error)
        looks = misses = 0
        while True:
            asked_ms = self._desk.signed.clock.now_ms()
            found = await self._ask(
                known.market.wire, client_id=client_id, is_algo=self._desk.is_algo(order)
            )
            stands = False
            if old is not None:
                fact = await self._ask(old.symbol, number=old.number)
                old = self._book.learn(fact).legs[old.reqid] if fact is not None else old
                stands = fact is not None and old.status == "open"
            if found is not None:
                self._book.learn(found)
                terms = self._book.terms(known, found)
                if differs(terms, order):
                    self._book.ack_edit(known, terms, found)
                    self._refuse(known, "an earlier edit of it was carried out meanwhile")
                else:
                    self._book.ack_edit(known, order, found)
                return old or found
            if stands and asked_ms > known.expires_ms:
                misses += 1  # one is there only where the other is not: should both be late,
                known.is_believed = True  # its end is not told before that was looked for
            misses += refused
            if misses >= MISSES or await self._never_came(known, client_id, asked_ms):
                return old or known.legs[known.reqid]
            looks += 1
            await self._pause(known, looks)

    # -- asking --------------------------------------------------------------------------------
    async def _standing(self, known: Known, leg: OrderFact) -> OrderFact | None:
        """Return how a leg stands; None while the venue may only be late with it."""
        now = known.legs[leg.reqid]
        fact = await _until_answered(lambda: self._evidence.standing(known, now))
        if fact is None:
            fact = known.legs[leg.reqid]
            return fact if fact.status in ENDED else None
        return self._book.learn(fact).legs[leg.reqid]

    async def _never_came(self, known: Known, client_id: str, asked_ms: int) -> bool:
        return await _until_answered(lambda: self._evidence.never_came(known, client_id, asked_ms))

    def _leg_of(self, known: Known, client_id: str) -> OrderFact:
        return next(leg for leg in known.legs.values() if leg.client_id == client_id)

    async def _doubt(self, known: Known, error: PikerError) -> None:
        """Tell that the outcome is not known, but where a refusal only has to be looked into."""
        self._requests.expires(known, known.sent)
        known.misses.clear()
        if not isinstance(error, Rejected):
            self._book.unknown(known, said(error))
            await self._requests.flush()

    async def _pause(self, known: Known, looks: int) -> None:
        await trio.sleep(self._requests.prover.pause_s(known, looks))

    async def _ask(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None:
        return await _until_answered(
            lambda: self._evidence.order(
                symbol, number=number, client_id=client_id, is_algo=is_algo
            )
        )


async def _until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    failures = 0
    while True:
        try:
            return await ask()
        except BrokerError:
            failures += 1
            await trio.sleep(AFTER_FAILURE.wait_s(failures))


def _terms(order: BrokerdOrder | OrderFact) -> tuple[object, ...]:
    """Return what an edit may change, the price first."""
    return (order.price, order.kind, order.trigger, order.tif, order.post_only, order.reduce_only,
            order.expire_ns, order.action)  # fmt: skip
