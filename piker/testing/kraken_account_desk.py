"""Orders at the loopback Kraken: taken, matched, booked and told.

What a purchase may cost at most, its fee included, is held; what is sold is held. Fees are in the
quote asset (``fciq``), rounded down to 5 decimals. A size must be a multiple of the market's least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_DOWN, Decimal
from functools import partial
from typing import Any

import msgspec

from piker.testing import kraken_account_wire as wire
from piker.testing.account_matching import OwnBook, OwnFill
from piker.testing.accounts import ZERO, Account, AccountSpec, VenueOrder
from piker.testing.engine import BUY, Top
from piker.testing.kraken_account_params import KINDS, Refusal, Terms, invalid
from piker.testing.kraken_account_rates import MAX_OPEN, TRADES, Counter, age_cost
from piker.testing.kraken_account_wire import KrakenOrder
from piker.testing.kraken_wire import Listing
from piker.testing.synthetic import Trade

__all__ = ["FEES", "Change", "KrakenBook", "KrakenDesk"]

FEES = {"maker": Decimal("0.0025"), "taker": Decimal("0.004")}  # of AssetPairs' first tier
FEE_UNIT = Decimal("1e-5")
COST_MIN = Decimal("0.5")
NO_LIMIT_TIER = 18_000  # a hundred times the largest: what is told where nothing is counted
FIRST_ORDER = 1_000_000
Moved = list[tuple[str, Decimal, Decimal]]  # of each asset how much, and its fee
Announce = Callable[[Listing, Top, list[Trade], int], None]
_MODES = {"cancel_only": "cancel_only", "post_only": "post_only", "limit_only": "limit_only"}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """New terms of an order; zero is what stays as it was.

    ``post_only`` is of this change alone: without it a post-only order that is moved may take.
    """

    size: Decimal = ZERO
    price: Decimal = ZERO
    trigger: Decimal = ZERO
    post_only: bool = False
    deadline_ms: int = 0


class KrakenBook(OwnBook):
    """A market's orders of accounts; its trailing stops follow the price."""

    def is_met(self, order: VenueOrder, price: Decimal) -> bool:
        """Tell whether a price meets an order's stop, which a better price moves first."""
        if isinstance(order, KrakenOrder) and order.trail:
            best = max(order.peak, price) if order.side != BUY else min(order.peak, price)
            if best != order.peak or not order.stop:
                order.peak = best
                away = best * order.trail / 100 if order.trail_pct else order.trail
                order.stop = best + order.side * away
        return super().is_met(order, price)


class KrakenDesk:
    """The accounts of the venue."""

    def __init__(
        self,
        specs: Iterable[AccountSpec],
        listings: Sequence[Listing],
        announce: Announce,
        *,
        enforce: bool,
    ) -> None:
        self.accounts = {spec.name: Account(spec) for spec in specs}
        self.rates = Counter(*TRADES)
        self.violations: list[str] = []  # since last taken
        self._listings = {
            name: listing
            for listing in listings
            for name in (listing.pair_id, listing.altname, listing.wsname, listing.wire)
        }
        self._books = {
            listing.wire: KrakenBook(listing.market, self, partial(announce, listing))
            for listing in listings
        }
        self._enforce = enforce
        #: Whether the stream makes one fill of all that a taker's order hits at once, as REST does
        #: unless told: no, or under the ``first`` one's id, or under one of its ``own``.
        self.merges = ""
        self.earn: dict[tuple[str, str], Decimal] = {}  # (account, asset) -> what can not be traded
        self._unsaid: list[tuple[dict[str, Any], Moved]] = []
        self.tier = round(TRADES[0]) if enforce else NO_LIMIT_TIER
        self._orders = self._trades = self._ledger = FIRST_ORDER

    # -- markets -------------------------------------------------------------------------------
    def listing_of(self, name: str) -> Listing:
        """Return a market by any of its names."""
        listing = self._listings.get(name)
        if listing is None:
            raise Refusal("EQuery:Unknown asset pair")
        return listing

    def listings(self) -> list[Listing]:
        """Return its markets."""
        return list(dict.fromkeys(self._listings.values()))

    def heed(self, listing: Listing, trades: list[Trade]) -> None:
        """Book what the flow traded in a market."""
        self._books[listing.wire].heed(trades)

    # -- new orders ----------------------------------------------------------------------------
    def place(self, account: Account, terms: Terms, now_ms: int) -> KrakenOrder:
        """Take an order; what comes of it at once is told before this returns."""
        listing = self.listing_of(terms.pair)
        book = self._books[listing.wire]
        self._check_open(listing, terms, now_ms)
        self._check_rules(listing, book, terms.size, terms.price, terms.trigger or terms.trail)
        self._check_client(account, listing, terms)
        order = self._made(account, listing, terms, now_ms)
        if order.trail:
            order.peak = book.last
            book.is_met(order, book.last)
        if terms.post_only and book.crosses(order.side, order.price):
            raise Refusal("EOrder:Post only order")
        if not self._holds_later(order) and not self._hold(order, book):
            raise Refusal("EOrder:Insufficient funds")
        if terms.validate:
            self._let_go(order, listing)
            return order
        self._spend(account, order, "add", now_ms)
        self._orders += 1
        account.add(order)
        self._tell(order, "pending_new", whole=True)
        self._tell(order, "new")
        if order.waits and not book.is_met(order, book.last):
            book.wait(order)
        elif order.waits:
            self.triggered(order, now_ms)
        else:
            self._work(order, book, now_ms)
        return order

    def _made(
        self, account: Account, listing: Listing, terms: Terms, now_ms: int
    ) -> KrakenOrder:  # fmt: skip
        name = wire.txid("O", self._orders + 1)
        rises = (terms.side == BUY) == (terms.kind in ("stop-loss", "stop-loss-limit"))
        return KrakenOrder(
            number=self._orders + 1, client_id=terms.cl_ord_id or name, account=account,
            market=listing.wire, side=terms.side, kind=terms.kind, tif=terms.tif,
            price=terms.price, size=terms.size, stop=terms.trigger,
            rises=terms.side == BUY if terms.trail else rises, made_ms=now_ms, changed_ms=now_ms,
            txid=name, cl_ord_id=terms.cl_ord_id, userref=terms.userref, trail=terms.trail,
            trail_pct=terms.trail_pct, reference=terms.reference, post_only=terms.post_only,
            expire_ms=terms.expire_ms,
        )  # fmt: skip

    @staticmethod
    def _check_open(listing: Listing, terms: Terms, now_ms: int) -> None:
        if terms.deadline_ms and now_ms > terms.deadline_ms:
            raise Refusal("EService:Deadline elapsed")
        status = listing.status
        allowed = status == "online" or (
            terms.kind == "limit" and (status == "limit_only" or (status == "post_only"
            and terms.post_only))
        )  # fmt: skip
        if not allowed:
            mode = _MODES.get(status)
            raise Refusal(f"EService:Market in {mode} mode" if mode else "EService:Unavailable")

    @staticmethod
    def _check_rules(
        listing: Listing, book: OwnBook, size: Decimal, price: Decimal, trigger: Decimal
    ) -> None:
        least = Decimal(str(listing.market.spec.lot))
        if size < least:
            raise Refusal("EOrder:Order minimum not met")
        if size % least:
            raise invalid("volume")
        for one in (price, trigger):
            if one % book.tick:
                raise Refusal("EOrder:Tick size check failed")
        if size * (price or book.last) < COST_MIN:
            raise Refusal("EOrder:Cost minimum not met")

    def _check_client(self, account: Account, listing: Listing, terms: Terms) -> None:
        if terms.cl_ord_id and terms.cl_ord_id in account.open:
            raise Refusal("EOrder:cl_ord_id already in use")
        here = sum(order.market == listing.wire for order in account.open.values())
        if self._enforce and here >= MAX_OPEN:
            self.violations.append("open orders")
            raise Refusal("EOrder:Orders limit exceeded")

    def _spend(self, account: Account, order: KrakenOrder, deed: str, now_ms: int) -> None:
        """Count a deed at the trading engine, by its order's age since it was last amended."""
        age_s = 0.0 if deed == "add" else (now_ms - max(order.made_ms, order.amended_ms)) / 1000
        taken = self.rates.take(f"{account.spec.name} {order.market}", age_cost(deed, age_s))
        if not taken and self._enforce:
            if deed == "add":
                self._let_go(order, self.listing_of(order.market))
            self.violations.append("trading")
            raise Refusal("EOrder:Rate limit exceeded")

    # -- money ---------------------------------------------------------------------------------
    @staticmethod
    def _holds_later(order: KrakenOrder) -> bool:
        """Tell a purchase whose cost is not known before it is triggered."""
        return order.waits and order.side == BUY and not order.is_priced

    @staticmethod
    def _cost(price: Decimal, size: Decimal) -> Decimal:
        return price * size * (1 + FEES["taker"])

    def _hold(self, order: KrakenOrder, book: OwnBook) -> bool:
        """Set aside what an order may cost; return whether there was enough."""
        base, _, quote = order.market.partition("/")
        asset, amount = base, order.left
        if order.side == BUY and order.is_priced:
            asset, amount = quote, self._cost(order.price, order.left)
        elif order.side == BUY:
            asset, amount, left = quote, ZERO, order.left
            for price, size in book.takeable(order.side, None):
                amount += self._cost(price, min(left, size))
                left -= min(left, size)
        if not order.account.purse.lock(asset, amount):
            return False
        order.locked = amount
        return True

    @staticmethod
    def _let_go(order: KrakenOrder, listing: Listing) -> None:
        base, _, quote = listing.wire.partition("/")
        if order.locked:
            order.account.purse.release(quote if order.side == BUY else base, order.locked)
            order.locked = ZERO

    # -- what the book says --------------------------------------------------------------------
    def _work(self, order: KrakenOrder, book: OwnBook, now_ms: int) -> None:
        """Let an order trade; end at once what may not rest."""
        order.working_ms = now_ms
        if order.tif == "FOK":
            limit = order.price if order.is_priced else None
            if sum(size for _, size in book.takeable(order.side, limit)) < order.left:
                self.end(order, "CANCELED", now_ms, "FOK order could not be filled")
                return
        book.enter(order, now_ms, priced=order.is_priced)
        self._tell_merged(order)
        if order.is_open and (not order.is_priced or order.tif == "IOC"):
            self.end(order, "CANCELED", now_ms, "Immediate or cancel")

    def filled(self, order: VenueOrder, fill: OwnFill) -> None:
        """Move what was bought and sold, take the fee, and tell."""
        assert isinstance(order, KrakenOrder)
        listing, purse = self.listing_of(order.market), order.account.purse
        base, _, quote = order.market.partition("/")
        worth = fill.price * fill.size
        rate = FEES["maker" if fill.maker else "taker"]
        fee = (worth * rate).quantize(FEE_UNIT, ROUND_DOWN)
        if order.side == BUY:
            held = self._cost(order.price if order.is_priced else fill.price, fill.size)
            purse.spend(quote, locked=worth + fee)
            purse.release(quote, held - worth - fee)
            purse.add(base, fill.size)
            moved = [(base, fill.size, ZERO), (quote, -worth, fee)]
        else:
            held = fill.size
            purse.spend(base, locked=fill.size)
            purse.add(quote, worth - fee)
            moved = [(base, -fill.size, ZERO), (quote, worth, fee)]
        order.locked -= held
        order.filled += fill.size
        order.worth += worth
        order.fee += fee
        order.changed_ms = fill.time_ms
        order.status = "PARTIALLY_FILLED" if order.left else "FILLED"
        self._trades += 1
        row = wire.fill_row(order, listing, fill, fee, wire.txid("T", self._trades))
        order.trades.append(row["id"])
        order.account.record_fill(row)
        if not order.left:
            self._let_go(order, listing)
            order.account.ended(order)
        if self.merges and not fill.maker:
            self._unsaid.append((row, moved))
        else:
            self._tell_fill(order, row, moved)

    def allocate(self, account: Account, asset: str, amount: Decimal, now_ms: int) -> None:
        """Move what is free of an asset into the account's Earn wallet, and tell of both."""
        key = account.spec.name, asset
        account.purse.spend(asset, free=amount)
        self.earn[key] = self.earn.get(key, ZERO) + amount
        rows = wire.allocation_rows(account, asset, amount, self.earn[key], self._ledger, now_ms)
        self._ledger += len(rows)
        account.tell({"channel": "balances", "data": rows})

    def _tell_merged(self, order: KrakenOrder) -> None:
        """Tell what an order took as one fill, where the stream makes it one."""
        unsaid = [one for one in self._unsaid if one[0]["ordertxid"] == order.txid]
        if not unsaid:
            return
        self._unsaid = [one for one in self._unsaid if one[0]["ordertxid"] != order.txid]
        row, moved = unsaid[0]
        for other, more in unsaid[1:]:
            row = wire.consolidated(row, other)
            pairs = zip(moved, more, strict=True)
            moved = [(name, one + two, fee + rest) for (name, one, fee), (_, two, rest) in pairs]
        if self.merges == "own" and len(unsaid) > 1:
            row = {**row, "id": wire.txid("T", FIRST_ORDER // 2 + self._trades)}
        self._tell_fill(order, row, moved)

    def _tell_fill(self, order: KrakenOrder, row: dict[str, Any], moved: Moved) -> None:
        told = wire.report(order, "trade", fill=row)
        told["order_status"] = "partially_filled"  # even of the one that fills it
        order.account.tell({"channel": "executions", "data": [told]})
        if order.status == "FILLED":
            self._tell(order, "filled")
        rows = wire.ledger_rows(
            order.account, moved, self._ledger, str(row["id"]), order.changed_ms
        )
        self._ledger += len(rows)
        order.account.tell({"channel": "balances", "data": rows})

    def triggered(self, order: VenueOrder, time_ms: int) -> None:
        """Send an order to the book whose trigger was met; without the money it is canceled."""
        assert isinstance(order, KrakenOrder)
        book = self._books[order.market]
        needs = self._holds_later(order)
        order.triggered, order.changed_ms = True, time_ms
        if needs and not self._hold(order, book):
            self.end(order, "CANCELED", time_ms, "Insufficient funds")
            return
        self._tell(order, "status", whole=True)
        self._work(order, book, time_ms)

    def settled(self, time_ms: int) -> None:
        """Follow up on fills; nothing is to be done at spot."""

    def _tell(self, order: KrakenOrder, what: str, *, whole: bool = False) -> None:
        rows = [wire.report(order, what, whole=whole)]
        order.account.tell({"channel": "executions", "data": rows})

    # -- cancels and edits ---------------------------------------------------------------------
    def found(self, account: Account, name: str) -> KrakenOrder:
        """Return an open order by its txid or the client's own id."""
        order = account.open.get(name) or account.orders.get(wire.number_of(name, "O"))
        if not isinstance(order, KrakenOrder) or not order.is_open:
            raise Refusal("EOrder:Unknown order")
        return order

    def open_orders(self, account: Account, market: str = "") -> list[KrakenOrder]:
        """Return those that may still be filled, oldest first."""
        found = [o for o in account.open.values() if isinstance(o, KrakenOrder)]
        return sorted((o for o in found if market in ("", o.market)), key=lambda o: o.number)

    def cancel(self, account: Account, name: str, now_ms: int) -> KrakenOrder:
        """Take an order back."""
        order = self.found(account, name)
        self._spend(account, order, "cancel", now_ms)
        self.end(order, "CANCELED", now_ms, "User requested")
        return order

    def cancel_all(self, account: Account, now_ms: int, reason: str = "User requested") -> int:
        """Take every open order back; return how many there were."""
        orders = self.open_orders(account)
        for order in orders:
            self.end(order, "CANCELED", now_ms, reason)
        return len(orders)

    def expire(self, now_ms: int) -> None:
        """End what stood until now."""
        for account in self.accounts.values():
            for order in list(account.open.values()):
                if isinstance(order, KrakenOrder) and 0 < order.expire_ms <= now_ms:
                    self.end(order, "EXPIRED", now_ms, "Order expired")

    def end(self, order: KrakenOrder, status: str, now_ms: int, reason: str) -> None:
        """End an order that is open."""
        self._books[order.market].withdraw(order, now_ms)
        order.status, order.changed_ms, order.reason = status, now_ms, reason
        self._let_go(order, self.listing_of(order.market))
        order.account.ended(order)
        self._tell(order, status.lower())

    def amend(self, account: Account, name: str, change: Change, now_ms: int) -> KrakenOrder:
        """Change an order in place; what it costs more must be there."""
        order = self.found(account, name)
        listing, book = self.listing_of(order.market), self._books[order.market]
        if change.deadline_ms and now_ms > change.deadline_ms:
            raise Refusal("EService:Deadline elapsed")
        size, price = change.size or order.size, change.price or order.price
        if (change.price and not order.is_priced) or (change.trigger and not order.waits):
            raise invalid("limit_price" if change.price else "trigger_price")
        self._check_rules(listing, book, size, price, change.trigger)
        self._spend(account, order, "amend", now_ms)
        if size <= order.filled:
            self.end(order, "CANCELED", now_ms, "User requested")
            return order
        if change.post_only and not order.waits and book.crosses(order.side, price):
            raise Refusal("EOrder:Post only order")
        self._retain(order, size, price)
        shrinks = price == order.price and size < order.size and bool(order.engine_id)
        moves = bool(order.engine_id) and not shrinks and (price, size) != (order.price, order.size)
        if shrinks:
            book.shrink(order, order.size - size, now_ms)
        elif moves:
            book.withdraw(order, now_ms)
        order.size, order.price = size, price
        if change.trigger:
            self._move_trigger(order, book, change.trigger)
        order.changed_ms, order.amended_ms, order.reason = now_ms, now_ms, "User requested"
        self._tell(order, "amended")
        order.reason = ""
        if moves:
            self._work(order, book, now_ms)
        elif order.waits and book.is_met(order, book.last):
            book.withdraw(order, now_ms)
            self.triggered(order, now_ms)
        return order

    @staticmethod
    def _move_trigger(order: KrakenOrder, book: OwnBook, trigger: Decimal) -> None:
        if order.trail:
            order.trail, order.stop = trigger, ZERO
            book.is_met(order, order.peak)
        else:
            order.stop = trigger

    def _retain(self, order: KrakenOrder, size: Decimal, price: Decimal) -> None:
        """Hold what an order with other terms may cost, in place of what it may cost now."""
        if self._holds_later(order):
            return
        base, _, quote = order.market.partition("/")
        left = size - order.filled
        buys = order.side == BUY
        amount = self._cost(price, left) if buys else left
        asset, purse = quote if buys else base, order.account.purse
        if amount > order.locked and not purse.lock(asset, amount - order.locked):
            raise Refusal("EOrder:Insufficient funds")
        if amount < order.locked:
            purse.release(asset, order.locked - amount)
        order.locked = amount

    def edit(self, account: Account, name: str, change: Change, now_ms: int) -> KrakenOrder:
        """Cancel an order and place another with a new txid and none of its fills."""
        old = self.found(account, name)
        self._spend(account, old, "edit", now_ms)
        terms = Terms(
            pair=old.market, side=old.side, kind=old.kind, size=change.size or old.left,
            price=change.price or old.price,
            trigger=ZERO if old.trail else change.trigger or old.stop, trail=old.trail,
            trail_pct=old.trail_pct, reference=old.reference, tif=old.tif,
            expire_ms=old.expire_ms, post_only=old.post_only or change.post_only,
            userref=old.userref,
        )  # fmt: skip
        assert terms.kind in KINDS
        self.end(old, "CANCELED", now_ms, "Order replaced")
        return self.place(account, terms, now_ms)
