"""Orders of accounts in a synthetic market's book: one per market that accounts may trade.

They stand in the queue among the flow's orders, by price and time, and are filled by the flow, by
each other and by themselves. What a fill does to an account is its desk's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, Protocol

from piker.testing.accounts import VenueOrder
from piker.testing.engine import BUY, Top
from piker.testing.synthetic import SyntheticMarket, Trade

__all__ = ["Desk", "OwnBook", "OwnFill"]


class OwnFill(NamedTuple):
    """A fill of an account's order, by the market's trade of that number."""

    number: int
    time_ms: int
    price: Decimal
    size: Decimal
    maker: bool


class Desk(Protocol):
    """Who keeps the accounts of a market."""

    def filled(self, order: VenueOrder, fill: OwnFill) -> None:
        """Book a fill."""
        ...

    def triggered(self, order: VenueOrder, time_ms: int) -> None:
        """Do what an order says whose stop was met; it waits no more."""
        ...

    def settled(self, time_ms: int) -> None:
        """Follow up on fills: everything that traded at once is booked."""
        ...


Announce = Callable[[Top, list[Trade], int], None]  # the top before, what traded, and when


class OwnBook:
    """The orders of accounts in one market."""

    def __init__(self, market: SyntheticMarket, desk: Desk, announce: Announce) -> None:
        self.market = market
        self.tick, self.lot = Decimal(str(market.spec.tick)), Decimal(str(market.spec.lot))
        self._desk = desk
        self._announce = announce
        self._resting: dict[int, VenueOrder] = {}  # by the engine's id
        self._waiting: list[VenueOrder] = []  # for their stops

    # -- reading -------------------------------------------------------------------------------
    @property
    def last(self) -> Decimal:
        """Return the price of the last trade."""
        return self._price(self.market.last)

    def _price(self, price: float) -> Decimal:
        return round(price / self.market.spec.tick) * self.tick

    def takeable(self, side: int, price: Decimal | None) -> list[tuple[Decimal, Decimal]]:
        """Return what an order of that side could take now, best first: (price, size)."""
        ticks = None if price is None else int(price / self.tick)
        levels = self.market.engine.takeable(side, ticks)
        return [(p * self.tick, size * self.lot) for p, size in levels]

    def crosses(self, side: int, price: Decimal) -> bool:
        """Tell whether an order at that price would trade at once."""
        top = self.market.engine.top()
        best = top.ask if side == BUY else top.bid
        return bool(best) and (best * self.tick - price) * side <= 0

    def is_met(self, order: VenueOrder, price: Decimal) -> bool:
        """Tell whether a price meets an order's stop."""
        return price >= order.stop if order.rises else price <= order.stop

    # -- acting --------------------------------------------------------------------------------
    def enter(self, order: VenueOrder, time_ms: int, *, priced: bool) -> None:
        """Let an order trade; with a price, what is left of it rests."""
        market, before = self.market, self.market.engine.top()
        ticks = int(order.price / self.tick) if priced else None
        number, trades = market.place(order.side, ticks, int(order.left / self.lot), time_ms)
        if number:
            order.engine_id = number
            self._resting[number] = order
        self._announce(before, trades, time_ms)
        self._settle(trades, order)

    def wait(self, order: VenueOrder) -> None:
        """Keep an order until its stop is met."""
        self._waiting.append(order)

    def withdraw(self, order: VenueOrder, time_ms: int) -> None:
        """Take an order out, wherever it is."""
        if order in self._waiting:
            self._waiting.remove(order)
        if order.engine_id:
            before = self.market.engine.top()
            self.market.withdraw(order.engine_id)
            self._gone(order)
            self._announce(before, [], time_ms)

    def shrink(self, order: VenueOrder, size: Decimal, time_ms: int) -> None:
        """Take ``size`` off an order that rests or waits; its place stays."""
        if order.engine_id:
            before = self.market.engine.top()
            self.market.shrink(order.engine_id, int(size / self.lot))
            self._announce(before, [], time_ms)

    def heed(self, trades: list[Trade]) -> None:
        """Book what the flow traded."""
        if self._resting or self._waiting:
            self._settle(trades, None)

    def _settle(self, trades: list[Trade], taker: VenueOrder | None) -> None:
        met: list[VenueOrder] = []
        for trade in trades:
            price, size = self._price(trade.price), round(trade.size / self.market.spec.lot)
            fill = OwnFill(trade.number, trade.time_ms, price, size * self.lot, maker=True)
            maker = self._resting.get(trade.maker_id)
            if maker is not None:
                if fill.size == maker.left:
                    self._gone(maker)
                self._desk.filled(maker, fill)
            if taker is not None:
                self._desk.filled(taker, fill._replace(maker=False))
            hit = [order for order in self._waiting if self.is_met(order, price)]
            met += hit
            self._waiting = [order for order in self._waiting if order not in hit]
        if trades:
            self._desk.settled(trades[-1].time_ms)
        for order in met:
            if order.is_open:
                self._desk.triggered(order, trades[-1].time_ms)

    def _gone(self, order: VenueOrder) -> None:
        self._resting.pop(order.engine_id, None)
        self.market.kept.discard(order.engine_id)
        order.engine_id = 0
