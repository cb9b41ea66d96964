"""What became of an order at Binance: the venue is asked until it has proved it.

An order that the venue does not know right after a time-out may still be on its way, and one that
it does not know right after it took it may only not have arrived where queries are answered: what
is believed then is said in :mod:`piker.brokers.binance.broker_doubt`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal

import msgspec
import trio

from piker.brokers._backoff import Backoff
from piker.brokers.binance.api import PROVIDER
from piker.brokers.binance.broker_book import Book, Known
from piker.brokers.binance.broker_doubt import ARCHIVED, FILLS, Desk, Evidence
from piker.brokers.binance.broker_facts import ENDED, MAX_DERIVED, OrderFact, derived_id, leg_of
from piker.brokers.quality import venue_quality
from piker.errors import BrokerError, Rejected
from piker.log import get_logger

__all__ = ["Prover"]

log = get_logger("binance.broker")

AT_ONCE = 4  # orders asked for at the same time: as many as there are sockets for queries
ASK_AGAIN = Backoff(floor_s=0.25, cap_s=5.0)  # while an outcome is open, by its number of looks
AFTER_FAILURE = Backoff(floor_s=0.5, cap_s=30.0)  # while the venue does not answer
#: USD-M does not find an order that ended without a fill and was made more than three days ago.
KEPT_MS = 3 * 86_400_000
ZERO = Decimal(0)


class Prover:
    """Asks for the orders of one market kind, each by one task at a time."""

    def __init__(
        self, desk: Desk, book: Book, nursery: trio.Nursery, flush: Callable[[], Awaitable[None]]
    ) -> None:
        self.evidence = Evidence(desk, book)
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
            await trio.sleep(wait_s or self.pause_s(known, looks))
        known.proof = None
        proof.set()

    def pause_s(self, known: Known, looks: int) -> float:
        """Return how long to wait for another look: not much beyond what it may prove."""
        pause_s, left_s = ASK_AGAIN.wait_s(looks), self.evidence.wait_s(known)
        return min(pause_s, left_s + 0.01) if left_s > 0 else pause_s

    # -- one look ------------------------------------------------------------------------------
    async def _look(self, known: Known) -> bool:
        """Ask once for all that is not known of an order; tell whether it is clear now."""
        listed, known.listed = known.listed, frozenset()
        for leg in list(known.legs.values()):
            if leg.reqid not in listed and (leg.status not in ENDED or known.probing):
                await self._look_at(known, leg)
        if not known.legs and (believed := believed_leg(known)) is not None:
            there = await self.evidence.standing(known, believed)
            if there is None:
                return False
            self._book.learn(there)
        if not known.legs or known.probing:
            if not await self._search(known):
                return False
            if not known.legs:
                known.probing = False
                self._book.gone(known)
                return True
        if (child := known.missing_child()) is not None:
            fact = await self._child(known, child)
            if fact is None:
                return False
            self._book.learn(fact)
        if known.lacks_fills:
            await self._fetch(known)
        if not known.lacks_fills or self.evidence.has_no_fills(known):
            known.misses.pop(FILLS, None)
            self._forgo(known)
        self._book.probed(known)
        self._book.settle(known)
        return not known.lacks_fills and known.missing_child() is None

    async def _child(self, known: Known, algo: OrderFact) -> OrderFact | None:
        """Ask for what a triggered order became; None while it may only be late."""
        fact = await self.evidence.order(algo.symbol, number=algo.sent)
        if fact is None:
            now_ms = self._desk.signed.clock.now_ms()
            leg = msgspec.structs.replace(algo, number=algo.sent, sent=0, is_algo=False)
            fact = await self.evidence.listed_or_gone(known, leg)
            if fact is not None and fact.is_inferred and now_ms - algo.time_ms <= KEPT_MS:
                return None
        return fact

    async def _look_at(self, known: Known, leg: OrderFact) -> None:
        fact = await self.evidence.standing(known, leg)
        if fact is not None:
            self._book.learn(fact)
        elif leg.status not in ENDED:
            known.again = True

    async def _search(self, known: Known) -> bool:
        """Ask for every leg by client id; tell whether there is no other one, proved."""
        base, is_algo = known.order.client_id, self._desk.is_algo(known.order)
        for index in range(MAX_DERIVED + 1):
            legs = [leg for leg in known.legs.values() if known.index_of(leg) == index]
            found = next((leg for leg in legs if leg.client_id == derived_id(base, index)), None)
            asked_ms = self._desk.signed.clock.now_ms()
            if found is None:
                try:
                    found = await self.evidence.order(
                        known.market.wire, client_id=derived_id(base, index), is_algo=is_algo
                    )
                except Rejected as error:
                    if error.code != ARCHIVED:
                        raise
                    known.is_archived = True
                    continue
                if found is not None:
                    found = self._learnt(known, found)
            if found is None:
                if index < known.last_index:
                    continue
                name = derived_id(base, index)
                is_last = await self.evidence.never_came(known, name, asked_ms)
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

    async def _fetch(self, known: Known) -> None:
        """Ask for the fills of every leg."""
        for leg in list(known.legs.values()):
            if leg.executed and not leg.is_algo:
                for fill in await self._desk.trades(leg):
                    self._book.fill(known, fill)
        self._book.fetched(known)

    def _forgo(self, known: Known) -> None:
        """Wait no longer for fills that the venue does not tell, where there are any."""
        order, missing = known.order, known.executed - known.told_size - known.forgone
        if missing <= 0:
            return
        what = f"{missing} of {known.executed} filled of {known.reqid or order.client_id}"
        log.error("binance.missing_fills", oid=order.oid, symbol=order.symbol, what=what)
        venue_quality(PROVIDER).count("missing-fills", what)
        self._book.forgo(known)


def believed_leg(known: Known) -> OrderFact | None:
    """Return the order that emsd believes in, as far as it knows it; None without its number."""
    name, order = leg_of(known.reqid), known.order
    if name is None:
        return None
    _, symbol, number, is_algo = name
    return OrderFact(
        venue=known.market.venue, symbol=symbol, number=number, client_id="", status="open",
        action=order.action, size=order.size, executed=ZERO if is_algo else known.believed,
        kind=order.kind, price=order.price, trigger=order.trigger, trigger_by=order.trigger_by,
        tif=order.tif, expire_ns=order.expire_ns, post_only=order.post_only,
        reduce_only=order.reduce_only, is_algo=is_algo,
    )  # fmt: skip
