"""What became of an order at Binance: the venue is asked until it has proved it.

An order that the venue does not know right after a time-out may still be on its way. It is absent
when the venue has said so twice after the request could no longer be taken: its time and recvWindow
are over by the venue's own clock (rest-api.md, "Timing security"). Once is not enough: what answers
queries follows what takes orders, and may be behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import trio

from piker.brokers._backoff import Backoff
from piker.brokers.binance.broker_book import Book, Known
from piker.brokers.binance.broker_facts import (
    ENDED,
    MAX_DERIVED,
    FillFact,
    OrderFact,
    derived_id,
)
from piker.brokers.binance.broker_rest import Sent, Signed
from piker.errors import BrokerError, Rejected
from piker.log import get_logger
from piker.orders import BrokerdOrder

__all__ = ["Desk", "Prover"]

log = get_logger("binance.broker")

AT_ONCE = 4  # orders asked for at the same time: as many as there are sockets for queries
MISSES = 2  # times the venue has to say that there is no such order, when none can come any more
ASK_AGAIN = Backoff(floor_s=0.25, cap_s=2.0)  # while an outcome is open, by its number of looks
AFTER_FAILURE = Backoff(floor_s=0.5, cap_s=30.0)  # while the venue does not answer
_ARCHIVED = "-2026"  # canceled or expired without a fill, more than 90 days ago
_NO_MARKET = "-1121"  # it was delisted, or delivered: nothing stands there
#: USD-M does not find an order that ended without a fill and was made more than three days ago.
KEPT_MS = 3 * 86_400_000


class Desk(Protocol):
    """One market kind's requests: spot's or USD-M's."""

    signed: Signed
    edits_price: bool
    is_dual: bool

    async def prepare(self) -> None: ...
    async def learn_mode(self) -> None: ...
    def unfit(self, order: BrokerdOrder) -> str: ...
    def is_algo(self, order: BrokerdOrder) -> bool: ...
    async def place(
        self, order: BrokerdOrder, symbol: str, client_id: str, size: Any, sent: Sent
    ) -> OrderFact: ...
    async def cancel(
        self, symbol: str, number: int, client_id: str, *, is_algo: bool, sent: Sent
    ) -> OrderFact | None: ...
    async def order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None: ...
    async def open_orders(self) -> list[OrderFact]: ...
    async def trades(self, leg: OrderFact) -> list[FillFact]: ...
    async def standing(self) -> list[Any]: ...
    def events(self, kind: str, raw: bytes) -> list[Any]: ...


class Prover:
    """Asks for the orders of one market kind, each by one task at a time."""

    def __init__(
        self, desk: Desk, book: Book, nursery: trio.Nursery, flush: Callable[[], Awaitable[None]]
    ) -> None:
        self._desk = desk
        self._book = book
        self._nursery = nursery
        self._flush = flush
        self._turns = trio.CapacityLimiter(AT_ONCE)

    def want(self, known: Known) -> trio.Event:
        """Have an order asked for; return what is set once it is known how it stands."""
        if known.proof is None:
            known.proof = trio.Event()
            self._nursery.start_soon(self._prove, known, known.proof)
        else:
            known.again = True
        return known.proof

    async def prove(self, known: Known) -> None:
        """Ask for an order, and wait until it is known how it stands."""
        while (proof := known.proof) is not None:  # one that began before we wanted it
            await proof.wait()
        await self.want(known).wait()

    async def _prove(self, known: Known, proof: trio.Event) -> None:
        failures = looks = 0
        while True:
            known.again = False
            wait_s = 0.0
            try:
                async with self._turns:
                    is_clear = await self._look(known)
            except BrokerError as error:
                failures += 1
                wait_s = max(AFTER_FAILURE.wait_s(failures), getattr(error, "retry_after", 0) or 0)
                log.warning(
                    "binance.not_answered", oid=known.order.oid, attempt=failures, why=error
                )
                is_clear = False
            else:
                looks += 1
                failures = 0
            await self._flush()
            if is_clear and not known.again:
                break
            await trio.sleep(wait_s or self._pause_s(known, looks))
        known.proof = None
        proof.set()

    def _pause_s(self, known: Known, looks: int) -> float:
        """Return how long to wait for another look: not much beyond the request's last moment."""
        pause_s = ASK_AGAIN.wait_s(looks)
        left_s = (known.expires_ms - self._desk.signed.clock.now_ms()) / 1000
        return min(pause_s, left_s + 0.01) if left_s > 0 else pause_s

    # -- one look ------------------------------------------------------------------------------
    async def _look(self, known: Known) -> bool:
        """Ask once for all that is not known of an order; tell whether it is clear now."""
        for leg in list(known.legs.values()):
            if leg.status not in ENDED or known.probing:
                await self._look_at(known, leg)
        if not known.legs or known.probing:
            if not await self._search(known):
                return False
            if not known.legs:
                known.probing = False
                self._book.gone(known)
                return True
        if (child := known.missing_child()) is not None:
            fact = await self._child(child)
            if fact is None:
                return False
            self._book.learn(fact)
        if known.lacks_fills:
            await self._fetch(known)
        self._book.probed(known)
        self._book.settle(known)
        return not known.lacks_fills and known.missing_child() is None

    async def _order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None:
        """Ask for an order; None where there is none, or no such market any more."""
        try:
            return await self._desk.order(
                symbol, number=number, client_id=client_id, is_algo=is_algo
            )
        except Rejected as error:
            if error.code == _NO_MARKET:
                return None
            raise

    async def _child(self, algo: OrderFact) -> OrderFact | None:
        """Ask for what a triggered order became; None while it may only be late."""
        now_ms = self._desk.signed.clock.now_ms()
        fact = await self._order(algo.symbol, number=algo.sent)
        if fact is None and now_ms - algo.time_ms > KEPT_MS:
            return msgspec.structs.replace(
                algo, number=algo.sent, sent=0, is_algo=False, status="canceled",
                reason="the venue does not know it any more",
            )  # fmt: skip
        return fact

    async def _look_at(self, known: Known, leg: OrderFact) -> None:
        asked_ms = self._desk.signed.clock.now_ms()
        try:
            fact = await self._order(leg.symbol, number=leg.number, is_algo=leg.is_algo)
        except Rejected as error:
            if error.code != _ARCHIVED:
                raise
            fact = msgspec.structs.replace(leg, status="canceled", reason="archived")
        if fact is not None:
            self._book.learn(fact)
        elif self.is_gone(known, -leg.number, asked_ms):
            self._book.learn(
                msgspec.structs.replace(
                    leg, status="canceled", reason="the venue does not know it any more"
                )
            )
        else:
            known.again = True

    async def _search(self, known: Known) -> bool:
        """Ask for every leg by client id; tell whether there is no other one, proved."""
        base, is_algo = known.order.client_id, self._desk.is_algo(known.order)
        for index in range(MAX_DERIVED + 1):
            legs = [leg for leg in known.legs.values() if known.index_of(leg) == index]
            found = next((leg for leg in legs if leg.client_id == derived_id(base, index)), None)
            asked_ms = self._desk.signed.clock.now_ms()
            if found is None:
                found = await self._order(
                    known.market.wire, client_id=derived_id(base, index), is_algo=is_algo
                )
                if found is not None:
                    found = self._learnt(known, found)
            if found is None:
                if index < known.last_index:
                    continue
                is_last = self.is_gone(known, index, asked_ms)
                if is_last and known.legs:
                    known.sought = known.newest.reqid
                return is_last
            if found.status not in ("canceled", "open") or (
                found.status == "open" and index >= known.last_index
            ):
                return True  # what stands, or ended of itself, was not replaced
        return True

    def _learnt(self, known: Known, fact: OrderFact) -> OrderFact:
        self._book.learn(fact)
        return known.legs.get(fact.reqid, fact)

    @staticmethod
    def is_gone(known: Known, name: int, asked_ms: int) -> bool:
        """Count that the venue does not have a leg; tell whether that is proved now."""
        if asked_ms <= known.expires_ms:
            return False
        known.misses[name] = known.misses.get(name, 0) + 1
        return known.misses[name] >= MISSES

    async def _fetch(self, known: Known) -> None:
        """Ask for the fills of every leg."""
        for leg in list(known.legs.values()):
            if leg.executed and not leg.is_algo:
                for fill in await self._desk.trades(leg):
                    self._book.fill(known, fill)
        known.fetched = True
