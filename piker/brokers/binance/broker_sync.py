"""One of Binance's market kinds for an account: heard, and compared with emsd's view.

After every (re)connection of the user stream: the open orders; each order that was believed or
sent and is not among them, one by one; the fills of those of which more was filled than was told;
balances and positions. Events that come meanwhile are merged as they come: facts only ever grow,
so their order does not matter. The same is done every minute without a loss, for events that were
dropped on the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal

import trio

from piker import clock
from piker.brokers._backoff import Backoff
from piker.brokers.binance.api import PROVIDER
from piker.brokers.binance.broker_book import Book, Market
from piker.brokers.binance.broker_doubt import Desk
from piker.brokers.binance.broker_edits import Edits
from piker.brokers.binance.broker_facts import (
    BalanceFact,
    Changed,
    FillFact,
    OrderFact,
    PositionFact,
    VenueName,
)
from piker.brokers.binance.broker_proof import Prover
from piker.brokers.binance.broker_requests import Requests
from piker.brokers.quality import venue_quality
from piker.errors import BrokerError, DataQuality
from piker.log import get_logger
from piker.orders import BrokerdBalance, BrokerdPosition, PositionLeg, SyncState

__all__ = ["AUDIT_S", "Venue"]

log = get_logger("binance.broker")

AUDIT_S = (
    60.0  # between comparisons without a loss: 104 of spot's 6,000 weight a minute, 120 of 2,400
)
AGAIN = Backoff(floor_s=0.5, cap_s=30.0)
READ_S = 2.0  # between an event and the question that it leads to: 10 of the weight
STEADY = 3  # times balances are read until no event came between
ZERO = Decimal(0)


class Venue:
    """An account's orders at spot, or at USD-M; told of events by its user stream."""

    def __init__(
        self,
        desk: Desk,
        book: Book,
        nursery: trio.Nursery,
        *,
        flush: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """``changed`` is called when :attr:`state` is another."""
        self.desk = desk
        self.book = book
        self.name: VenueName = desk.signed.venue
        self.state = SyncState.SYNCING
        self.reason = "not connected yet"
        self._is_heard = False
        self.synced = trio.Event()  # for the first time
        self.prover = Prover(desk, book, nursery, flush)
        self.requests = Requests(desk, book, self.prover, flush)
        self.edits = Edits(self.requests)
        self._flush = flush
        self._changed = changed
        self._nursery = nursery
        self._round = 0  # of what was heard: a loss makes a comparison void
        self._wanted = trio.Event()
        self._balances: dict[str, tuple[Decimal, Decimal | None]] = {}
        self._positions: dict[str, dict[str, PositionFact]] = {}
        self._told: dict[str, tuple[PositionLeg, ...]] = {}
        self._account_events = 0
        self._will_read = False
        self._reading = trio.Lock()
        self._adopting: Counter[str] = Counter()

    # -- what the user stream says -------------------------------------------------------------
    def subscribed(self) -> None:
        """Compare: from now on events come."""
        self._round += 1
        self._is_heard = True
        self._set(SyncState.SYNCING, "connected")
        self._wanted.set()

    def lost(self, reason: str) -> None:
        """Say that no events come."""
        self._round += 1
        self._is_heard = False
        self._set(SyncState.LOST, reason)

    def doubted(self, reason: str) -> None:
        """Compare again: what an event said is not known."""
        venue_quality(PROVIDER).count("malformed", f"user event of {self.name}")
        self._compare_again(reason)

    def _compare_again(self, reason: str) -> None:
        if self._is_heard:
            self._round += 1
            self._set(SyncState.SYNCING, reason)
            self._wanted.set()

    async def event(self, kind: str, raw: bytes) -> None:
        """Take an event in, and tell what is new by it."""
        try:
            facts = self.desk.events(kind, raw)
        except DataQuality as error:
            self.doubted(error.message)
            return
        for fact in facts:
            if isinstance(fact, OrderFact):
                self._order(fact)
            elif isinstance(fact, Changed):
                self._account_events += 1
                self._read_soon()
            elif not isinstance(fact, FillFact):
                self._account_events += 1
                self._standing(fact)
        self._tell_positions()
        await self._flush()

    def _order(self, fact: OrderFact) -> None:
        """Take an order in; one that nobody knows may be what a triggered one of ours became."""
        is_strange = not fact.is_algo and self.book.owner(fact) is None
        if is_strange and self.name == "usdm" and self.book.waiting_algos(fact.symbol):
            self._nursery.start_soon(self._adopt, fact)
        else:
            self.book.learn(fact)

    async def _adopt(self, fact: OrderFact) -> None:
        """Ask the conditional orders that wait what they became, then take an order in."""
        failures = 0
        while self.book.owner(fact) is None:
            algos = self.book.waiting_algos(fact.symbol)
            try:
                for algo in algos:
                    now = await self.desk.order(algo.symbol, number=algo.number, is_algo=True)
                    if now is not None:
                        self.book.learn(now)
                break
            except BrokerError:
                failures += 1
                await trio.sleep(AGAIN.wait_s(failures))
        self.book.learn(fact)
        await self._flush()

    # -- comparing -----------------------------------------------------------------------------
    async def compare_for_ever(self) -> None:
        """Compare whenever that is wanted, and from time to time."""
        failures = 0
        while True:
            with trio.move_on_after(AUDIT_S if not failures else AGAIN.wait_s(failures)):
                await self._wanted.wait()
                failures = 0
            self._wanted = trio.Event()
            if not self._is_heard:
                continue
            this_round = self._round
            try:
                await self._compare()
            except BrokerError as error:
                failures += 1
                log.warning("binance.not_compared", venue=self.name, attempt=failures, why=error)
                continue
            failures = 0
            await self._flush()
            if this_round == self._round and self._is_heard:
                self.synced.set()
                self._set(SyncState.SYNCED, "")

    async def _compare(self) -> None:
        """Have every order, fill, balance and position told that is not; may raise."""
        afresh = self.state is not SyncState.SYNCED
        await (self.desk.prepare() if afresh else self.desk.learn_mode())
        rows = await self.desk.open_orders()
        if afresh:
            for known in self.book.live(self.name):
                if not known.flying and not known.editing and known.told != "unknown":
                    known.told = ""  # each is told how it stands
        for row in rows:
            self._order(row)
        there = frozenset(row.reqid for row in rows)
        proofs = []
        for known in self.book.live(self.name):
            if (known.flying or known.editing) and not known.probing:
                continue  # its outcome is told when it is known
            leg = known.open_leg()
            if known.probing or leg is None or leg.reqid not in there or known.lacks_fills:
                known.listed = there.intersection(known.legs)
                proof = self.prover.want(known)
                if not known.is_foreign:  # emsd waits for its own alone
                    proofs.append(proof)
        await self._flush()
        for proof in proofs if afresh else ():  # else what is in doubt holds up no comparison
            await proof.wait()
        await self._read_standing()

    def _read_soon(self) -> None:
        """Have balances and positions read, once for what comes within ``READ_S``."""
        if not self._will_read:
            self._will_read = True
            self._nursery.start_soon(self._read_again)

    async def _read_again(self) -> None:
        await trio.sleep(READ_S)
        self._will_read = False
        try:
            await self._read_standing()
        except BrokerError as error:
            log.info("binance.not_read", venue=self.name, why=error)
            self._wanted.set()  # the comparison asks for them, too
        await self._flush()

    async def _read_standing(self) -> None:
        """Read balances and positions, again where they changed while they were read."""
        async with self._reading:  # what was asked for first is told first
            await self._read_all()

    async def _read_all(self) -> None:
        for _ in range(STEADY):
            before = self._account_events
            facts = await self.desk.standing()
            if before == self._account_events:
                break
        held = {(fact.symbol, fact.side) for fact in facts if isinstance(fact, PositionFact)}
        for symbol, sides in self._positions.items():
            for side in sides:
                if (symbol, side) not in held:
                    facts.append(PositionFact(symbol=symbol, side=side, size=ZERO, entry=ZERO))
        there = {fact.asset for fact in facts if isinstance(fact, BalanceFact)}
        for asset in self._balances.keys() - there:  # spot is asked for what is not zero
            facts.append(BalanceFact(venue=self.name, asset=asset, total=ZERO, available=ZERO))
        for fact in facts:
            self._standing(fact)
        self._tell_positions()

    # -- balances and positions ----------------------------------------------------------------
    def _standing(self, fact: BalanceFact | PositionFact) -> None:
        if isinstance(fact, PositionFact):
            self._positions.setdefault(fact.symbol, {})[fact.side] = fact
            is_other = fact.size and (fact.side != "BOTH") is not self.desk.is_dual
            if is_other and self.state is SyncState.SYNCED:
                self._compare_again("the account's position mode was changed")
            return
        held = (fact.total, fact.available)
        if self._balances.get(fact.asset) == held:
            return
        self._balances[fact.asset] = held
        self.book.out.append(
            BrokerdBalance(
                broker=PROVIDER, account=self.book.account, total=fact.total,
                asset=fact.asset if self.name == "spot" else f"{fact.asset}.usdtm",
                available=fact.available, time_ns=clock.wall_ns(),
            )
        )  # fmt: skip

    def _tell_positions(self) -> None:
        """Tell what is held of each market: the sum, and of a hedging account each side."""
        for symbol, sides in self._positions.items():
            held = [one for one in sides.values() if one.size]
            legs = tuple(PositionLeg(size=one.size, avg_price=one.entry) for one in held)
            if self._told.get(symbol) == legs:
                continue
            self._told[symbol] = legs
            market = Market("usdm", symbol)
            self.book.out.append(
                BrokerdPosition(
                    broker=PROVIDER, account=self.book.account,
                    size=sum((one.size for one in held), ZERO),
                    avg_price=held[0].entry if len(held) == 1 else None,
                    symbol=self.book.markets.get(market) or f"{symbol.lower()}.usdm",
                    currency=next((one.currency for one in held if one.currency), ""),
                    time_ns=clock.wall_ns(),
                    legs=legs if any(one.side != "BOTH" for one in held) else (),
                )
            )  # fmt: skip

    def _set(self, state: SyncState, reason: str) -> None:
        self.reason = reason
        if state is not self.state:
            self.state = state
            self._changed()

    @property
    def open_symbols(self) -> set[str]:
        """Return the markets where orders of emsd's stand that are no conditional ones."""
        known = (one for one in self.book.live(self.name) if not one.is_foreign)
        legs = (one.open_leg() for one in known)
        return {leg.symbol for leg in legs if leg is not None and not leg.is_algo}
