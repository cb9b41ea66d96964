"""paperboi: a provider's paper account, behind the same contract as a live one.

pikerd starts ``paperboi.<provider>``. It is a venue without a memory of its own: what stands, and
what has traded, it takes from emsd's beliefs whenever emsd opens a dialog: an order that was
acknowledged is there again after any process was killed, and a fill that nobody was told never was.
Orders trade against the provider's live feed by the model of :mod:`piker.clearing.matching`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal

import trio
from trio_typing import TaskStatus

from piker import clock, config
from piker.brokers.spec import Capabilities, load_backend
from piker.brokers.trading import TradeDialog
from piker.clearing import brokerd
from piker.clearing.paper import Fees, PaperBroker, stands_again
from piker.clearing.paper_money import PaperMoney
from piker.data.feed import open_feed
from piker.errors import PikerError
from piker.log import get_logger
from piker.market import MktPair
from piker.orders import (
    BrokerdBeginning,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdMemory,
    BrokerdOrder,
    BrokerdRequest,
    BrokerdSync,
    SyncState,
)
from piker.ticks import Quote, Side, TickType

__all__ = ["endpoint_modules", "fees_of", "main", "open_paper_dialog"]

endpoint_modules = ("piker.clearing.brokerd",)
OPEN_S = 20.0  # how long an order waits for its market's first quote before it is refused
BALANCES_S = 1.0  # how old what is told of set-aside money may be
log = get_logger("paperboi")
_TRADE, _SIDES = TickType.TRADE, {Side.BUY: 1, Side.SELL: -1}  # bound once: asked for every tick


async def main(name: str, task_status: TaskStatus[None]) -> None:
    """Serve a provider's paper account; raise its ``ProviderError`` at start-up."""
    provider = name.partition(".")[2]
    conf = config.load_conf()
    capabilities = load_backend(provider, conf.brokers.modules).capabilities

    async def open_dialog(
        account: str,
        told: Sequence[BrokerdBeginning],
        events: trio.MemorySendChannel[BrokerdEvent],
    ) -> AbstractAsyncContextManager[TradeDialog]:
        memory = next((one for one in told if isinstance(one, BrokerdMemory)), None)
        beliefs = [one for one in told if isinstance(one, BrokerdBelief)]
        money = PaperMoney(account, conf.paper.balances, memory)
        latency_s = conf.paper.latency_ms / 1000
        return open_paper_dialog(account, beliefs, events, capabilities, money, latency_s=latency_s)

    await brokerd.serve(open_dialog, task_status)


def fees_of(capabilities: Capabilities, venue: str) -> Fees:
    """Return what a venue asks of its smallest customers, as its backend declares it."""
    declared = capabilities.fees.get(venue)
    return Fees(*(Decimal(rate) for rate in declared)) if declared else Fees()


@asynccontextmanager
async def open_paper_dialog(
    account: str, beliefs: Sequence[BrokerdBelief], events: trio.MemorySendChannel[BrokerdEvent],
    capabilities: Capabilities, money: PaperMoney, *, latency_s: float,
) -> AsyncIterator[TradeDialog]:  # fmt: skip
    """Open the paper account of a provider; it is synced as soon as its markets are open."""
    async with trio.open_nursery() as nursery:
        engine = PaperEngine(account, events, nursery, capabilities, money, latency_s)
        nursery.start_soon(engine.take_up, beliefs)
        yield engine
        nursery.cancel_scope.cancel()


class PaperEngine:
    """The paper account at work: requests go in after the latency, quotes and trades fill them."""

    def __init__(
        self, account: str, events: trio.MemorySendChannel[BrokerdEvent], nursery: trio.Nursery,
        capabilities: Capabilities, money: PaperMoney, latency_s: float,
    ) -> None:  # fmt: skip
        # Ids count on from the time, so that none was used by a paperboi before this one.
        self.broker = PaperBroker(account, next_id=clock.wall_ns(), money=money)
        self._money = money
        self.account = account
        self._provider = account.partition(".")[0]
        self._events = events
        self._nursery = nursery
        self._capabilities = capabilities
        self._latency_s = latency_s
        self._markets: dict[str, trio.Event] = {}  # market id -> set once it is open
        self._refused: dict[str, str] = {}
        self._beliefs: dict[str, BrokerdBelief] = {}  # that do not stand again yet
        self._told: deque[BrokerdEvent] = deque()
        self._news = trio.Event()
        nursery.start_soon(self._relay)
        nursery.start_soon(self._tell_balances)

    async def take_up(self, beliefs: Sequence[BrokerdBelief]) -> None:
        """Let stand what emsd believes to stand; then the account is synced."""
        self._sync(SyncState.SYNCING)
        self._beliefs = {one.order.oid: one for one in beliefs}
        # What was acknowledged has its money before what may not have been taken for lack of it.
        for taken in (True, False):
            some = [one for one in beliefs if bool(one.order.reqid) is taken]
            async with trio.open_nursery() as nursery:
                for symbol in {one.order.symbol for one in some}:
                    nursery.start_soon(self._restore, symbol, some)
        self._tell(self.broker.balances(clock.wall_ns()))
        self._sync(SyncState.SYNCED)
        while self._beliefs:  # of markets that can not be opened now
            await trio.sleep(OPEN_S)
            left = list(self._beliefs.values())
            for symbol in {one.order.symbol for one in left}:
                await self._restore(symbol, left)

    async def _restore(self, symbol: str, beliefs: Sequence[BrokerdBelief]) -> None:
        """Let stand those of a market that wait for it, once it is open."""
        why = await self._market(symbol)
        if why and self.broker.is_quoted(symbol):
            return  # its feed is gone: what stood again now would be let stand once more later
        for belief in beliefs:
            oid = belief.order.oid
            if belief.order.symbol == symbol and oid in self._beliefs:
                self._tell(self.broker.restore(belief, clock.wall_ns()))
                is_absent = not belief.order.reqid and not stands_again(belief.order)
                if not why or belief.ends or is_absent:  # absent once: it may come anew
                    del self._beliefs[oid]

    async def send(self, request: BrokerdRequest) -> None:
        """Take a request, as a venue would take it: after the latency."""
        if self._latency_s:
            await trio.sleep(self._latency_s)
        now = clock.wall_ns()
        belief = self._beliefs.get(request.oid)
        if belief is not None and isinstance(request, BrokerdCancel):
            del self._beliefs[request.oid]
            self._tell([self.broker.forgotten(belief, now)])
            return
        why = await self._market(request.symbol)
        now = clock.wall_ns()
        if why and isinstance(request, BrokerdOrder):
            refusal = BrokerdError(
                reason=why, oid=request.oid, client_id=request.client_id, symbol=request.symbol,
                account=self.account, time_ns=now, request="edit" if request.reqid else "order",
            )  # fmt: skip
            self._tell([refusal])
            return
        self._tell(self.broker.request(request, now))

    async def _market(self, symbol: str) -> str:
        """Wait until a market is open; return why it can not be, or ""."""
        opened = self._markets.get(symbol)
        if opened is None:
            opened = self._markets[symbol] = trio.Event()
            self._nursery.start_soon(self._follow, symbol, opened)
        if not opened.is_set():
            with trio.move_on_after(OPEN_S):
                await opened.wait()
        if not opened.is_set():
            return f"{symbol} gave no quote within {OPEN_S:.0f} s"
        why = self._refused.get(symbol, "")
        if why:
            self._markets.pop(symbol, None)  # the next order tries again
        return why

    async def _follow(self, symbol: str, opened: trio.Event) -> None:
        """Feed a market's quotes and trades to the model."""
        fqme = f"{symbol}.{self._provider}"
        try:
            async with open_feed([fqme], start_pikerd=False) as feed:
                mkt = feed.flumes[fqme].mkt
                self._refused.pop(symbol, None)
                self.broker.know(mkt, fees_of(self._capabilities, mkt.address.venue))
                self._see(mkt, feed.flumes[fqme].first_quote)
                if self.broker.is_quoted(symbol):
                    opened.set()
                async for item in feed:
                    if isinstance(item, dict):
                        self._see(mkt, item[fqme])
                        if not opened.is_set() and self.broker.is_quoted(symbol):
                            opened.set()
        except PikerError as err:
            self._refused[symbol] = err.message
            log.warning("paperboi.market", symbol=symbol, why=err.message)
            opened.set()

    def _see(self, mkt: MktPair, quote: Quote) -> None:
        """Tell the model what the market shows, and what it has traded, in their order."""
        broker, now = self.broker, clock.wall_ns()
        if broker.has_orders(mkt.mktid):
            low, high = broker.reach(mkt.mktid)
            for tick in quote.ticks:
                if tick.type is _TRADE and not low < tick.price < high:
                    price, size = mkt.round_price(repr(tick.price)), Decimal(repr(tick.size))
                    side = _SIDES.get(tick.side, 0)
                    self._tell(broker.trade(mkt.mktid, price, size, side, now))
                    low, high = broker.reach(mkt.mktid)
        if quote.bid and quote.ask:
            bid = (mkt.round_price(repr(quote.bid)), Decimal(repr(quote.bid_size or 0.0)))
            ask = (mkt.round_price(repr(quote.ask)), Decimal(repr(quote.ask_size or 0.0)))
            self._tell(broker.quote(mkt.mktid, bid, ask, now))

    # -- telling -------------------------------------------------------------------------------
    def _sync(self, state: SyncState) -> None:
        self._tell([BrokerdSync(account=self.account, state=state, time_ns=clock.wall_ns())])

    def _tell(self, events: Sequence[BrokerdEvent]) -> None:
        self._told += events
        while self._told:
            try:
                self._events.send_nowait(self._told[0])  # what is told at once goes together
            except trio.WouldBlock:
                self._news.set()
                return
            self._told.popleft()

    async def _tell_balances(self) -> None:
        """Tell what orders have set aside, a moment later; what fills moved is told with them."""
        while True:
            await trio.sleep(BALANCES_S)
            if self._money.is_new:
                self._tell(self.broker.balances(clock.wall_ns()))

    async def _relay(self) -> None:
        """Tell what emsd had no room for, when it has."""
        while True:
            while self._told:
                await self._events.send(self._told.popleft())
            self._news = trio.Event()
            await self._news.wait()
