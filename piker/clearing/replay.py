"""Replay: a strategy on recorded quotes, through the real router, limits and paper broker.

One process, one virtual clock (:mod:`piker.clearing.replay_conductor` moves it), no socket, thread
or disk. The same seed and recording give the same journal, row for row.

The paper venue, the limits and the triggers look at the market when there is something of ours that
it may matter to: what nobody asks for is not computed, and what is asked for is of that moment.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from math import inf

import msgspec
import trio

from piker import clock
from piker.clearing.accounts import PAPER, Account
from piker.clearing.client import OrderClient
from piker.clearing.matching import MODEL, Resting
from piker.clearing.paper import OFFERED, Fees, PaperBroker
from piker.clearing.paper_money import PaperMoney
from piker.clearing.prices import watch
from piker.clearing.replay_clock import ReplayClock, Scheduled, repeatable, unswept
from piker.clearing.replay_conductor import Conductor
from piker.clearing.replay_feed import Moment, ReplayFeed, ReplayFlume
from piker.clearing.replay_journal import MemoryJournal
from piker.clearing.replay_router import ReplayRouter
from piker.clearing.risk import Limits, RiskDesk
from piker.data.feed import Feed, Item
from piker.errors import Bug, DataUnavailable, PikerError
from piker.market import MktPair
from piker.orders import (
    BrokerdCancel,
    BrokerdEvent,
    BrokerdFill,
    BrokerdRequest,
    BrokerdSync,
    Cancel,
    EmsMessage,
    Order,
    SyncState,
    TimeInForce,
)
from piker.ticks import Quote, Side, TickType

__all__ = ["Replay", "Result", "Run"]

#: What a strategy is, once its options are bound.
Run = Callable[[Feed, OrderClient], Awaitable[object]]
DAY_NS = 86_400 * clock.NS
PRICES = 100_000  # exact forms of floats that are remembered, of each market
_SIDES = {Side.BUY: 1, Side.SELL: -1}
_TRADE = TickType.TRADE


class Result(msgspec.Struct, frozen=True):
    """What a replay came to. ``last`` is each market's last quote, times are the recording's."""

    journal: MemoryJournal
    client: OrderClient
    last: dict[str, Quote]
    items: int  # moments of the recording that were shown
    began_ns: int
    ended_ns: int


class _Line:
    """One market: its newest quote, and who has not been told of it yet."""

    __slots__ = (
        "_exact", "_reference", "_sizes", "above", "below", "mkt", "mktid", "priced", "quote",
        "shown", "tick", "watched",
    )  # fmt: skip

    def __init__(self, mkt: MktPair) -> None:
        self.mkt = mkt
        self.mktid = mkt.mktid
        self.quote = Quote(mkt.fqme)
        self.shown = False  # to the paper venue
        self.priced = False  # the reference is that of this quote
        self._reference: Decimal | None = None
        # Prices between these two mean nothing to what stands at the paper venue.
        self.below = -inf
        self.above = inf
        self.watched = False
        self.tick = float(mkt.price_tick)
        self._exact: dict[float, Decimal] = {}
        self._sizes: dict[float | None, Decimal] = {}

    def watch(self, standing: Iterable[Resting]) -> None:
        """Take what stands at the paper venue: between its best prices nothing can touch it."""
        self.below, self.above = -inf, inf
        for one in standing:
            if one.limit is None:  # it takes whatever comes
                self.below, self.above = inf, -inf
            elif one.side > 0:
                self.below = max(self.below, float(one.limit) + self.tick)
            else:
                self.above = min(self.above, float(one.limit) - self.tick)
        self.watched = self.below > -inf or self.above < inf

    def price(self, value: float) -> Decimal:
        """Return a price as the market has it, exactly."""
        found = self._exact.get(value)
        if found is None:
            if len(self._exact) >= PRICES:
                self._exact.clear()
            found = self._exact[value] = self.mkt.round_price(repr(value))
        return found

    def size(self, value: float | None) -> Decimal:
        """Return a size exactly; zero where none was told."""
        found = self._sizes.get(value)
        if found is None:
            if len(self._sizes) >= PRICES:
                self._sizes.clear()
            found = self._sizes[value] = Decimal(repr(value or 0.0))
        return found

    def reference(self) -> Decimal | None:
        """Return what :func:`piker.clearing.prices.reference` does."""
        if not self.priced:
            quote, self.priced = self.quote, True
            if quote.bid and quote.ask:
                self._reference = (self.price(quote.bid) + self.price(quote.ask)) / 2
            else:
                self._reference = self.price(quote.last) if quote.last else None
        return self._reference


class _Link:
    """The way to the paper venue: requests arrive there after the latency, in their order."""

    name = MODEL

    def __init__(self, send: Callable[[BrokerdRequest], None]) -> None:
        self._send = send

    async def send(self, request: BrokerdRequest) -> None:
        """Put a request on its way."""
        self._send(request)

    def ask_again(self) -> None:
        """Have nothing to ask: nothing is ever lost on this way."""


class Replay:
    """One replay of a recording; :meth:`run` does it, once.

    ``moments`` are what the markets showed, in order. ``latency_ms`` is an order's way to the paper
    venue, ``fees`` what a market asks, ``balances`` what the account begins with (None: nobody
    counts it), ``name`` whom the journal says did it. ``heard`` is called with all that clients are
    told.
    """

    def __init__(
        self, mkts: Sequence[MktPair], moments: Iterable[Moment], *, seed: int = 1,
        limits: Limits | None = None, fees: Callable[[MktPair], Fees] | None = None,
        latency_ms: float = 0.0, protect_ticks: int = 0, name: str = "replay",
        balances: Mapping[str, Decimal] | None = None,
        heard: Callable[[EmsMessage], None] | None = None,
    ) -> None:  # fmt: skip
        if len({mkt.provider for mkt in mkts}) != 1:
            raise Bug("a replay is of the markets of one provider.")
        self.account = f"{mkts[0].provider}.{PAPER}"
        self._lines = {mkt.fqme: _Line(mkt) for mkt in mkts}
        self._of_symbol = {line.mktid: line for line in self._lines.values()}
        self._moments = iter(moments)
        self._seed = seed
        self._limits = limits or Limits()
        self._latency_ns = round(latency_ms * 1e6)
        self._protect_ticks = protect_ticks
        self._name = name
        self._heard = heard
        self.journal = MemoryJournal()
        money = PaperMoney(self.account, balances) if balances is not None else None
        self.broker = PaperBroker(self.account, money=money)
        for mkt in mkts:
            self.broker.know(mkt, fees(mkt) if fees is not None else None)

    def run(self, strategy: Run) -> Result:
        """Replay it all; return what came of it. Not to be called from within trio.

        Raises ``DataUnavailable`` for a recording in which a market is never quoted, and whatever
        the strategy raises.
        """
        began_ns = self._go_to_first_quotes()
        self._clock, self._scheduled = ReplayClock(began_ns), Scheduled()
        with repeatable(self._seed), unswept(), clock.use_clock(self._clock):
            session = f"{random.getrandbits(64):016x}"
            self.client = OrderClient(self.account, self._take, session)
            trio.run(self._main, strategy, clock=self._clock, instruments=[self._scheduled])
        last = {fqme: line.quote for fqme, line in self._lines.items()}
        return Result(
            self.journal, self.client, last, self._conductor.items, began_ns, self._clock.wall_ns()
        )

    def _go_to_first_quotes(self) -> int:
        """Go on until every market was quoted, and return when: there a feed would open."""
        missing = set(self._lines)
        for time_ns, item in self._moments:
            for fqme, quote in item.items() if isinstance(item, dict) else ():
                self._lines[fqme].quote = quote
                if quote.bid and quote.ask:
                    missing.discard(fqme)
            if not missing:
                return time_ns
        raise DataUnavailable(
            f"the recording has no bid and ask of {', '.join(sorted(missing))}.",
            remedy="Record a market's feed for some seconds at least.",
        )

    async def _main(self, strategy: Run) -> None:
        self._next_day_ns, self._priced_ns = self._midnight(), -1
        self._conductor = Conductor(self._clock, self._scheduled, self._moments, self._show)
        flumes = {
            fqme: ReplayFlume(line.mkt, msgspec.structs.replace(line.quote, ticks=[]))
            for fqme, line in self._lines.items()
        }
        feed = ReplayFeed(self._conductor, flumes)
        async with trio.open_nursery() as nursery:
            await self._open(nursery)
            self.client.nursery = nursery
            nursery.start_soon(self._conductor.run)
            with self._conductor.strategy:
                await strategy(feed, self.client)
            if self._conductor.hid:
                raise PikerError(
                    "the recording had ended, and the strategy did not.",
                    remedy="It waited, shielded from cancellation, for what never comes.",
                )
            self._conductor.left = True
            await self._conductor.drained.wait()
            nursery.cancel_scope.cancel()

    async def _open(self, nursery: trio.Nursery) -> None:
        """Be the emsd, with its one account synced and its markets priced."""
        tell = self.client.take if self._heard is None else self._tell
        self._router = router = ReplayRouter(self.journal, nursery, self._conductor, tell)
        self._dark = router.dark
        for line in self._lines.values():
            router.know(line.mkt)
        self._desk = RiskDesk(self.account, self._limits)
        link = _Link(self._sent)
        account = Account(
            self.account, self._desk, link, lambda _, what: what in OFFERED,
            protect_ticks=self._protect_ticks,
        )  # fmt: skip
        router.add(account)
        await router.recover()
        synced = BrokerdSync(account=self.account, state=SyncState.SYNCED, time_ns=clock.wall_ns())
        for one in self.broker.balances(clock.wall_ns()):
            router.hear(self.account, one)
        router.hear(self.account, synced)
        self._price()
        self._tell(account.status())

    # -- the client ----------------------------------------------------------------------------
    async def _take(self, message: Order | Cancel) -> None:
        """Take what the client says, as emsd does."""
        if isinstance(message, Cancel):
            await self._router.cancel(message, self._name)
            await self._conductor.work_off()
            return
        self._price()
        if message.tif in (TimeInForce.GTD, TimeInForce.DAY):
            self._conductor.at(message.expire_ns or self._midnight(), self._expire)
        await self._router.order(message, self._name)
        await self._conductor.work_off()

    def _tell(self, message: EmsMessage) -> None:
        self.client.take(message)
        if self._heard is not None:
            self._heard(message)

    def _midnight(self) -> int:
        return (clock.wall_ns() // DAY_NS + 1) * DAY_NS

    def _expire(self) -> None:
        self._price()
        self._conductor.soon(self._router.expire, clock.wall_ns())

    # -- the paper venue -----------------------------------------------------------------------
    def _sent(self, request: BrokerdRequest) -> None:
        at = self._clock.wall_ns() + self._latency_ns
        self._conductor.at(at, partial(self._arrived, request))

    def _arrived(self, request: BrokerdRequest) -> None:
        line = self._of_symbol[request.symbol]
        if not line.shown and not isinstance(request, BrokerdCancel):
            self._show_book(line)
        self._told(line, self.broker.request(request, self._clock.wall_ns()))

    # -- the market ----------------------------------------------------------------------------
    def _show(self, item: Item, now: int) -> None:
        """Take a moment of the recording."""
        if not isinstance(item, dict):
            if item.symbol in ("", *self._lines):
                self._dark.missed(item.symbol)
            return
        self._priced_ns = -1
        if now >= self._next_day_ns:
            self._next_day_ns = self._midnight()
            self._price()
            self._conductor.soon(self._router.keeper.open_days, now)
        lines, waiting = self._lines, self._dark.markets
        for fqme, quote in item.items():
            line = lines[fqme]
            line.quote = quote
            line.shown = line.priced = False
            if line.watched:
                self._meet(line)
            if fqme in waiting:
                self._price()
                watch(self._router, line.mkt, quote)

    def _meet(self, line: _Line) -> None:
        """Let what stands at the paper venue meet what the market shows."""
        now, quote = self._clock.wall_ns(), line.quote
        below, above = line.below, line.above
        for tick in quote.ticks:
            if tick.type is _TRADE and not below < tick.price < above:
                size, side = Decimal(repr(tick.size)), _SIDES.get(tick.side, 0)
                price = line.price(tick.price)
                self._told(line, self.broker.trade(line.mktid, price, size, side, now))
        if not (quote.bid and quote.ask and below < quote.bid and quote.ask < above):
            self._show_book(line)

    def _told(self, line: _Line, events: list[BrokerdEvent]) -> None:
        """Hear what the paper venue says of a market, and look at what stands there now."""
        if not events:
            return
        line.watch(self._standing(line))
        for event in events:
            if isinstance(event, BrokerdFill):  # what it sets free is judged
                self._price()
            self._router.hear(self.account, event)

    def _standing(self, line: _Line) -> Iterable[Resting]:
        return self.broker._books[line.mktid].resting.values()

    def _show_book(self, line: _Line) -> None:
        """Tell the paper venue a market's best bid and ask, if there are both."""
        quote = line.quote
        line.shown = True
        if quote.bid and quote.ask:
            bid = (line.price(quote.bid), line.size(quote.bid_size))
            ask = (line.price(quote.ask), line.size(quote.ask_size))
            self._told(line, self.broker.quote(line.mktid, bid, ask, self._clock.wall_ns()))

    def _price(self) -> None:
        """Tell the limits every market's price: of a feed that is live, the last one holds."""
        now = self._clock.wall_ns()
        if now == self._priced_ns:
            return
        self._priced_ns = now
        for fqme, line in self._lines.items():
            price = line.reference()
            if price is not None:
                self._desk.price(fqme, price, now)
