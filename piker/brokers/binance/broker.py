"""Orders of an account at Binance: spot and USD-M by one key. docs/brokers/binance.md.

A market is traded where its id says: ``btcusdt.spot``, ``btcusdt.usdtm.perp``. USD-M is connected
where the key may trade it, and spot does not wait for it. What a dialog owes is said in
:mod:`piker.brokers.trading`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from piker import clock
from piker.brokers._backoff import Backoff
from piker.brokers.binance.api import KINDS, load_markets
from piker.brokers.binance.broker_book import Book, Known, Market, market_by_name
from piker.brokers.binance.broker_deadman import DeadMan
from piker.brokers.binance.broker_facts import VenueName, leg_of
from piker.brokers.binance.broker_history import trade_history
from piker.brokers.binance.broker_key import (
    Options,
    ask_rights,
    key_rights,
    load_options,
    take_over,
)
from piker.brokers.binance.broker_rest import SLACK_MS, Signed, open_signed
from piker.brokers.binance.broker_spot import SpotDesk
from piker.brokers.binance.broker_stream import listen_spot, listen_usdm, spot_api_url
from piker.brokers.binance.broker_sync import Venue
from piker.brokers.binance.broker_usdm import UsdmDesk
from piker.brokers.credentials import Credentials
from piker.errors import BrokerError
from piker.log import get_logger
from piker.orders import (
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdOrder,
    BrokerdRequest,
    BrokerdSync,
    SyncState,
)

__all__ = ["MAX_FLYING", "Dialog", "key_rights", "open_trade_dialog", "trade_history"]

log = get_logger("binance.broker")

MAX_FLYING = 256  # orders under way at a time, beyond which sending waits; cancels never do
USDM_FIRST_S = 10.0  # USD-M is waited for so long at first, then spot is synced without it
LISTS_S = 5.0  # a request for a market that is not known waits so long for the lists
AGAIN = Backoff(floor_s=0.5, cap_s=30.0)


# -- the dialog --------------------------------------------------------------------------------
class Dialog:
    """The way to one account; made by :func:`open_trade_dialog`."""

    def __init__(
        self, account: str, events: trio.MemorySendChannel[BrokerdEvent], nursery: trio.Nursery
    ) -> None:
        self.account = account
        self.venues: dict[VenueName, Venue] = {}
        self.book = Book(account, self._want)
        self._events = events
        self._nursery = nursery
        self._telling = trio.Lock()
        self._turns = trio.Semaphore(MAX_FLYING)
        self._markets: dict[str, Market] = {}
        self._knows_usdm = False
        self._told: tuple[SyncState, tuple[str, ...], tuple[str, ...]] | None = None
        self._counting: set[VenueName] = {"spot"}  # whose state is the account's

    # -- requests ------------------------------------------------------------------------------
    async def send(self, request: BrokerdRequest) -> None:
        """Take a request on its way; see :class:`piker.brokers.trading.TradeDialog`.

        An order waits where ``MAX_FLYING`` are under way; a cancel never does.
        """
        await trio.lowlevel.checkpoint()
        if request.symbol not in self._markets:
            await self._learn(request.symbol)
        market = self._markets.get(request.symbol)
        venue = self.venues.get(market.venue) if market else None
        if market is None or venue is None:
            await self._refuse(request)
            return
        self._count(market.venue)
        if isinstance(request, BrokerdCancel):
            self._nursery.start_soon(venue.requests.cancel, request, market)
            return
        await self._turns.acquire()
        self._nursery.start_soon(self._order, venue, request, market)

    async def _learn(self, symbol: str) -> None:
        """Look whether a market was listed since the lists were read; they are kept for an hour."""
        name: VenueName = "usdm" if ".usdtm" in symbol else "spot"
        if name not in self.venues or (name == "usdm" and not self._knows_usdm):
            return
        with trio.move_on_after(LISTS_S):
            try:
                markets = await load_markets(KINDS["usdtm" if name == "usdm" else "spot"])
            except BrokerError:
                return
            self.know(name, list(markets.values()))

    async def _order(self, venue: Venue, order: BrokerdOrder, market: Market) -> None:
        try:
            if order.reqid:
                await venue.edits.edit(order, market)
            else:
                await venue.requests.submit(order, market)
        finally:
            self._turns.release()

    async def _refuse(self, request: BrokerdRequest) -> None:
        is_cancel = isinstance(request, BrokerdCancel)
        kind = "cancel" if is_cancel else "edit" if request.reqid else "order"
        why = f"{request.symbol} is no market of spot or USD-M"
        if ".usdtm" in request.symbol:
            is_there = "usdm" in self.venues
            why = "USD-M was not reached yet" if is_there else "the key may not trade USD-M"
        self.book.out.append(
            BrokerdError(
                reason=f"{why}; nothing was sent", oid=request.oid, reqid=request.reqid,
                client_id=request.client_id, symbol=request.symbol, account=self.account,
                request=kind, time_ns=clock.wall_ns(),
            )
        )  # fmt: skip
        await self.flush()

    def _want(self, known: Known) -> None:
        venue = self.venues.get(known.market.venue)
        if venue is not None:
            venue.prover.want(known)

    # -- events --------------------------------------------------------------------------------
    async def flush(self) -> None:
        """Hand over what there is to tell, in its order."""
        async with self._telling:
            out = self.book.out
            while out:
                await self._events.send(out[0])
                out.popleft()

    def changed(self) -> None:
        """Tell how the account stands, where that is another than was told."""
        states = {name: self.venues[name].state for name in self._counting if name in self.venues}
        found = SyncState.SYNCED
        for state in (SyncState.LOST, SyncState.SYNCING):
            if state in states.values():
                found = state
                break
        reason = "; ".join(
            f"{name}: {self.venues[name].reason}" for name, state in states.items()
            if state is not SyncState.SYNCED
        )  # fmt: skip
        told = (found, *self._positions_told(found))
        if self._told != told:
            self._told = told
            _, hedges, whole = told
            self.book.out.append(
                BrokerdSync(
                    account=self.account, state=found, time_ns=clock.wall_ns(), reason=reason,
                    hedges=hedges, whole=whole,
                )
            )  # fmt: skip
            self._nursery.start_soon(self.flush)

    def _positions_told(self, state: SyncState) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the venues where the account hedges, and those whose positions were all told."""
        venue = self.venues.get("usdm") if "usdm" in self._counting else None
        if venue is None or state is not SyncState.SYNCED:
            return (), ()
        return ("usdtm",) if venue.desk.is_dual else (), ("usdtm",)

    def _count(self, venue: VenueName) -> None:
        """Have the account's state depend on a market kind from now on."""
        if venue not in self._counting and venue in self.venues:
            self._counting.add(venue)
            self.changed()

    # -- life ----------------------------------------------------------------------------------
    def know(self, venue: VenueName, markets: Sequence[Any]) -> None:
        """Take the markets of a kind in (``MktPair``)."""
        self._knows_usdm = self._knows_usdm or venue == "usdm"
        for mkt in markets:
            market = Market(venue, mkt.bs_mktid)
            self._markets[mkt.mktid] = market
            self.book.markets[market] = mkt.mktid

    def believe(self, beliefs: Sequence[BrokerdBelief], venue: VenueName, expires_ms: int) -> None:
        """Take in what emsd thinks a market kind has, before any request to it."""
        for belief in beliefs:
            if _is_usdm(belief) != (venue == "usdm"):
                continue
            self.book.believe(belief, self._market_of(belief.order), expires_ms)

    def _market_of(self, order: BrokerdOrder) -> Market:
        """Return an order's market; by its names where it is listed no more."""
        found = self._markets.get(order.symbol)
        if found is None:
            leg, found = leg_of(order.reqid), market_by_name(order.symbol)
            if leg is not None:
                found = Market(found.venue, leg[1])
            self._markets[order.symbol] = found
            self.book.markets.setdefault(found, order.symbol)
        return found

    def add(self, desk: SpotDesk | UsdmDesk) -> Venue:
        """Make the dialog's side at a market kind."""
        venue = Venue(desk, self.book, self._nursery, flush=self.flush, changed=self.changed)
        self.venues[venue.name] = venue
        return venue

    async def join(self, venue: Venue) -> None:
        """Have the account's state depend on USD-M once that was compared for the first time."""
        with trio.move_on_after(USDM_FIRST_S) as waiting:
            await venue.synced.wait()
        if not waiting.cancelled_caught:
            return
        self._counting.discard(venue.name)
        log.warning("binance.without_usdm", account=self.account, why=venue.reason)
        self.changed()
        await venue.synced.wait()
        self._count(venue.name)


@asynccontextmanager
async def open_trade_dialog(
    account: str,
    credentials: Credentials,
    beliefs: Sequence[BrokerdBelief],
    events: trio.MemorySendChannel[BrokerdEvent],
) -> AsyncIterator[Dialog]:
    """Open the dialog of an account; see :mod:`piker.brokers.trading`.

    Blocks until spot's REST answers and has taken the key. Raises ``Refused`` in the venue's words
    where it does not take it, ``ConfigError`` where it can not sign or the configuration is wrong.
    On leaving, and on cancellation, the dead man's switch is taken back (two seconds at most); when
    the block is left by an error it is not: whoever watched the orders is gone.
    """
    sign, key = take_over(credentials)
    options = load_options()
    spot_api_url()  # what is wrong with it is said at once
    window_ms = options.recv_window_ms
    async with AsyncExitStack() as stack:
        spot, usdm = [
            await stack.enter_async_context(
                open_signed(
                    name, account, sign, key, window_ms=window_ms, patience_s=options.patience_s
                )
            )
            for name in (_SPOT, _USDM)
        ]
        del key, sign
        rights, markets = await _reach(spot)
        deadman: DeadMan | None = None
        try:
            async with trio.open_nursery() as nursery:
                dialog = Dialog(account, events, nursery)
                dialog.know("spot", markets)
                venue = dialog.add(SpotDesk(spot))
                _begin(dialog, venue, beliefs, nursery)
                nursery.start_soon(listen_spot, spot, venue)
                if "futures" in rights or any(map(_is_usdm, beliefs)):
                    deadman = _add_usdm(dialog, usdm, beliefs, nursery, options)
                else:
                    log.warning("binance.spot_only", account=account, rights=",".join(rights))
                dialog.changed()
                yield dialog
                nursery.cancel_scope.cancel()
        except BaseException as error:
            if deadman is not None and _is_cancellation(error):
                await deadman.disarm()
            raise
        if deadman is not None:
            await deadman.disarm()


def _is_cancellation(error: BaseException) -> bool:
    """Tell an end that was asked for; after any other the dead man's switch is left to run."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_cancellation, error.exceptions))
    return isinstance(error, trio.Cancelled)


def _is_usdm(belief: BrokerdBelief) -> bool:
    return ".usdtm" in belief.order.symbol


_SPOT: VenueName = "spot"
_USDM: VenueName = "usdm"


async def _reach(spot: Signed) -> tuple[tuple[str, ...], list[Any]]:
    """Return the key's rights and spot's markets; try for as long as it takes."""
    attempt = 0
    while True:
        try:
            rights = await ask_rights(spot)
            return rights, list((await load_markets(KINDS["spot"])).values())
        except BrokerError as error:
            attempt += 1
            wait_s = max(AGAIN.wait_s(attempt), getattr(error, "retry_after", None) or 0)
            log.warning("binance.not_reached", attempt=attempt, wait_s=wait_s, why=error)
        await trio.sleep(wait_s)


def _begin(
    dialog: Dialog, venue: Venue, beliefs: Sequence[BrokerdBelief], nursery: trio.Nursery
) -> None:
    """Begin to compare; what a former process sent may still arrive for a while."""
    signed = venue.desk.signed
    dialog.believe(beliefs, venue.name, signed.clock.now_ms() + signed.window_ms + SLACK_MS)
    nursery.start_soon(venue.compare_for_ever)


def _add_usdm(
    dialog: Dialog, signed: Signed, beliefs: Sequence[BrokerdBelief], nursery: trio.Nursery,
    options: Options,
) -> DeadMan | None:  # fmt: skip
    """Begin with USD-M, as soon as it answers."""
    desk = UsdmDesk(signed)
    desk.on_mode = dialog.changed
    venue = dialog.add(desk)
    dialog._counting.add("usdm")
    after_s = options.cancel_after_s
    deadman = DeadMan(venue, desk, after_s=after_s) if after_s else None

    async def begin() -> None:
        attempt = 0
        while True:
            try:
                await signed.clock.measure()
                markets = await load_markets(KINDS["usdtm"])
                break
            except BrokerError as error:
                attempt += 1
                log.warning("binance.not_reached", venue="usdm", attempt=attempt, why=error)
                await trio.sleep(AGAIN.wait_s(attempt))
        dialog.know("usdm", list(markets.values()))
        _begin(dialog, venue, beliefs, nursery)
        if deadman is not None:
            nursery.start_soon(deadman.run)
        await listen_usdm(signed, venue)

    nursery.start_soon(begin)
    if not any(map(_is_usdm, beliefs)):
        nursery.start_soon(dialog.join, venue)
    return deadman
