"""What the desks of spot and of USD-M share: their accounts, books, numbers, names and events."""

from __future__ import annotations

import random
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial

from piker.clock import wall_ns
from piker.testing.account_matching import OwnBook, OwnFill
from piker.testing.accounts import Account, AccountSpec, VenueOrder
from piker.testing.binance_account_params import Params, VenueRefusal
from piker.testing.binance_account_rules import Rules
from piker.testing.binance_market import Listing
from piker.testing.engine import Top
from piker.testing.synthetic import SyntheticMarket, Trade

__all__ = ["SIDES", "Announce", "BinanceDesk", "Place"]

ID_LENGTH = 22  # of the client ids that the venue makes
SIDES = {"BUY": 1, "SELL": -1}
_LETTERS = string.ascii_letters + string.digits
Announce = Callable[[Listing, Top, list[Trade], int], None]
Tell = Callable[[Top, list[Trade], int], None]  # the same, of one market


class BinanceBook(OwnBook):
    """The orders of accounts in one market, none of which trades with its own account.

    Before an order trades, the account's own at every price that it reaches expire: that is the
    venue's ``EXPIRE_MAKER``, the default of its markets.
    """

    def __init__(self, market: SyntheticMarket, desk: BinanceDesk, announce: Tell) -> None:
        super().__init__(market, desk, announce)
        self._own_desk = desk

    def enter(self, order: VenueOrder, time_ms: int, *, priced: bool) -> None:
        """Let an order trade; with a price, what is left of it rests."""
        self.make_way(order, time_ms, priced=priced)
        super().enter(order, time_ms, priced=priced)

    def make_way(self, order: VenueOrder, time_ms: int, *, priced: bool) -> None:
        """Have the account's own orders expire that an order would trade with."""
        while met := self._own_reached(order, order.price if priced else None):
            for one in met:
                self._own_desk.prevented(one, time_ms)

    def _own_reached(self, order: VenueOrder, price: Decimal | None) -> list[VenueOrder]:
        own = [
            one for one in self._resting.values()
            if one.account is order.account and one.side != order.side
        ]  # fmt: skip
        reached, left = set(), order.left
        for at, size in self.takeable(order.side, price) if own else ():
            if not left and order.quote_size:
                left = order.quote_size / at  # more than that it does not get
            reached.add(at)
            left -= size
            if left <= 0:
                break
        return [one for one in own if one.price in reached]


class Place:
    """A market with the orders of accounts in it."""

    def __init__(self, listing: Listing, book: BinanceBook) -> None:
        self.listing = listing
        self.book = book
        self.rules = Rules(listing)


class BinanceDesk(ABC):
    """One kind of market's accounts; :mod:`piker.testing.account_matching` calls it back."""

    kind = ""
    first_order = 1

    def __init__(
        self,
        specs: Iterable[AccountSpec],
        listings: Mapping[tuple[str, str], Listing],
        announce: Announce,
        *,
        seed: int,
    ) -> None:
        self.accounts = {spec.name: Account(spec) for spec in specs}
        self._listings = listings
        self._announce = announce
        self._places: dict[str, Place] = {}
        self._random = random.Random(f"{seed}:{self.kind}:ids")
        self._orders = self.first_order
        self._executions = 0
        #: What is younger than so much the queries do not show: the venue answers them beside its
        #: engine, and documents that they may be behind it.
        self.lag_ms = 0
        self.trades_kept_ms = 10**15  # what was traded longer ago is told no more

    # -- markets -------------------------------------------------------------------------------
    def place_of(self, symbol: str) -> Place:
        """Return a market; -1121 where there is none."""
        listing = self._listings.get((self.kind, symbol))
        if listing is None:
            raise VenueRefusal(-1121, "Invalid symbol.")
        place = self._places.get(symbol)
        if place is None or place.listing is not listing:
            book = BinanceBook(listing.market, self, partial(self._announce, listing))
            place = self._places[symbol] = Place(listing, book)
        return place

    def symbols(self) -> list[str]:
        """Return the symbols of its markets."""
        return [symbol for kind, symbol in self._listings if kind == self.kind]

    def heed(self, listing: Listing, trades: list[Trade]) -> None:
        """Book what the flow traded in a market."""
        place = self._places.get(listing.wire)
        if place is not None:
            place.book.heed(trades)

    # -- numbers and names ---------------------------------------------------------------------
    def next_order(self) -> int:
        """Return the next order's number."""
        self._orders += 1
        return self._orders

    def next_execution(self) -> int:
        """Return the next execution's number."""
        self._executions += 1
        return self._executions

    def made_id(self) -> str:
        """Return a client id of the venue's own making."""
        return "".join(self._random.choices(_LETTERS, k=ID_LENGTH))

    # -- orders --------------------------------------------------------------------------------
    @staticmethod
    def found(account: Account, symbol: str, name: tuple[int, str]) -> VenueOrder | None:
        """Return an order by its number or client id; -2039 where both are sent and differ."""
        number, client_id = name
        order = account.find(symbol, number, client_id)
        if order is not None and number and client_id and order.client_id != client_id:
            text = "Client order ID is not correct for this order ID."
            raise VenueRefusal(-2039, text)
        return order

    def shows(self, at_ms: int) -> bool:
        """Tell whether queries show what happened at a moment."""
        return at_ms <= wall_ns() // 1_000_000 - self.lag_ms

    def shows_trade(self, at_ms: int) -> bool:
        """Tell whether queries show what was traded at a moment."""
        return self.shows(at_ms) and at_ms >= wall_ns() // 1_000_000 - self.trades_kept_ms

    def asked(self, account: Account, symbol: str, name: tuple[int, str]) -> VenueOrder:
        """Return an order to whoever asks for it; -2013 where queries have none."""
        order = self.found(account, symbol, name)
        if order is None or not self.shows(order.made_ms) or self.forgot(order):
            raise VenueRefusal(-2013, "Order does not exist.")
        return order

    def forgot(self, order: VenueOrder) -> bool:
        """Tell whether an order is too old to be asked for; whether it stands is another matter."""
        return False

    def listed(self, account: Account, symbol: str = "") -> list[VenueOrder]:
        """Return the open orders that queries show."""
        return [one for one in self.open_orders(account, symbol) if self.shows(one.made_ms)]

    def open_orders(self, account: Account, symbol: str = "") -> list[VenueOrder]:
        """Return those that may still be filled, oldest first."""
        if symbol:
            self.place_of(symbol)
        found = [order for order in account.open.values() if symbol in ("", order.market)]
        return sorted(found, key=lambda order: order.number)

    def of_symbol(self, account: Account, p: Params) -> list[VenueOrder]:
        """Return the orders that a query for all of them asks for, oldest first."""
        symbol = p.needed("symbol")
        self.place_of(symbol)
        start, end = p.whole("startTime"), p.whole("endTime", 10**15)
        if "startTime" in p and "endTime" in p and end - start > 86_400_000 * self.window_days:
            hours = 24 * self.window_days
            raise VenueRefusal(-1127, f"More than {hours} hours between startTime and endTime.")
        limit = p.whole("limit", 500, top=1000)
        first = p.whole("orderId")
        found = [
            order for order in account.orders.values()
            if order.market == symbol and order.number >= first and start <= order.made_ms <= end
        ]  # fmt: skip
        return found[:limit] if first or start else found[-limit:]

    window_days = 1  # that a query may span

    @abstractmethod
    def filled(self, order: VenueOrder, fill: OwnFill) -> None:
        """Book a fill."""

    @abstractmethod
    def triggered(self, order: VenueOrder, time_ms: int) -> None:
        """Do what an order says whose stop was met."""

    @abstractmethod
    def prevented(self, order: VenueOrder, time_ms: int) -> None:
        """End an order that its own account would have traded with."""

    def settled(self, time_ms: int) -> None:  # noqa: B027  # nothing is to be done at spot
        """Follow up on fills."""
