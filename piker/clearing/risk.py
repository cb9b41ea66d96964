"""Limits in the order's path: what may be sent, and the switch that stops everything.

One :class:`RiskDesk` holds an account. It is told of every order that is sent or ends, of fills,
positions and prices, and answers for each order with :class:`RiskApproved`, the only thing that
backends are given, or a :class:`~piker.clearing.denials.Denial`. It knows nothing of files, venues
or clocks: times are arguments. Whatever it can not judge it denies. Cancels are never asked about.

Worth is in the currency of the limits. Exposure is counted at its worst: of each market whichever
is more of the position with all buys filled, and the position with all sells filled. Where an
account holds both sides of a market apart (hedge mode) it is all of them together: nothing but an
order that is reduce-only makes either smaller.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from enum import StrEnum

import msgspec

from piker.clearing.denials import Denial, DenialCode
from piker.clearing.exposure import Exposure, Stand
from piker.clearing.holdings import DAY_NS, MarketDay, coins_of
from piker.clearing.records import Opened
from piker.config import Limits
from piker.errors import Bug
from piker.market import MktPair
from piker.money import EXACT, exact, plain
from piker.orders import Order, OrderKind

__all__ = ["Limits", "RiskApproved", "RiskDesk", "TradingState"]

ZERO = Decimal(0)
NS = 1_000_000_000
Apart = tuple[Decimal, Decimal]  # what is held long and short of a market, neither below zero
_SEAL = object()


class TradingState(StrEnum):
    """What an account may do. Journaled; it survives restarts."""

    ACTIVE = "active"
    REDUCING = "reducing"  # only what makes a position smaller
    HALTED = "halted"  # nothing but cancels, until somebody arms it again


class RiskApproved:
    """An order that may be sent. Only a :class:`RiskDesk` makes one; ``worth`` is its notional."""

    __slots__ = ("order", "worth")

    order: Order
    worth: Decimal

    def __init__(self, order: Order, worth: Decimal, *, seal: object) -> None:
        if seal is not _SEAL:
            raise Bug("an order was called approved by somebody else than a RiskDesk.")
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "worth", worth)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: what was approved is what is sent."""
        raise AttributeError("an approved order can not be changed")


class _Price(msgspec.Struct, frozen=True, gc=False):
    price: Decimal
    time_ns: int


class RiskDesk:
    """Judges the orders of one account against its limits."""

    def __init__(self, account: str, limits: Limits) -> None:
        self.account = account
        self.limits = limits
        self.state = TradingState.ACTIVE
        self.all_halted = False  # it is by a halt of all accounts that this one is
        self._markets: dict[str, MktPair] = {}
        self._prices: dict[str, _Price] = {}
        self._positions: dict[str, Decimal] = {}
        self.hedges: frozenset[str] = frozenset()  # venues where both sides are held apart
        self._told: dict[str, Apart] = {}  # long and short, as the venue said
        self._own: dict[str, Apart] = {}  # ... as it was agreed, with our fills since
        self._standing = Exposure()
        self._sent_ns: deque[int] = deque()  # within ``messages_s``
        #: When what was sent last, of which order: within ``duplicate_s``, the oldest first.
        self._recent: dict[tuple[object, ...], tuple[int, str]] = {}
        self._days: dict[str, MarketDay] = {}  # by market: what counts for the day's result

    # -- what it is told -----------------------------------------------------------------------
    def know(self, mkt: MktPair) -> None:
        """Take a market in."""
        self._markets[mkt.fqme] = mkt

    def price(self, fqme: str, price: Decimal, time_ns: int) -> None:
        """Take the market's price: the middle of its book, or its last trade."""
        self._prices[fqme] = _Price(price, time_ns)

    def position(self, fqme: str, size: Decimal) -> None:
        """Take a position, signed; the venue's, or the journal's."""
        self._positions[fqme] = size

    def apart(self, fqme: str, long: Decimal, short: Decimal, *, agreed: bool = False) -> None:
        """Take the venue's word for both sides of a position; ``agreed``: our fills explain it.

        Fills and positions are told in any order: until they agree, whichever is more counts.
        """
        self._told[fqme] = (long, short)
        self._positions.setdefault(fqme, ZERO)
        if agreed:
            self._own[fqme] = (long, short)

    def is_hedged(self, fqme: str) -> bool:
        """Tell whether both sides of a market are held apart."""
        return bool(self.hedges) and fqme.split(".")[1] in self.hedges

    def sides(self, fqme: str) -> Apart:
        """Return what is held long and short at most, where both are held apart."""
        known = [one[fqme] for one in (self._told, self._own) if fqme in one]
        if not known:
            held = self.held(fqme)
            known = [(max(held, ZERO), max(-held, ZERO))]
        return max(long for long, _ in known), max(short for _, short in known)

    def last(self, fqme: str) -> Decimal | None:
        """Return the market's last price that was told, of whatever age."""
        known = self._prices.get(fqme)
        return known.price if known is not None else None

    def held(self, fqme: str) -> Decimal:
        """Return the position in a market, signed."""
        return self._positions.get(fqme, ZERO)

    def standing(self, order: Order, remaining: Decimal, editing: Order | None = None) -> None:
        """Take an order that may still trade ``remaining``; with nothing left it is forgotten.

        While it is ``editing``, whichever terms are worse count: the venue may have either.
        """
        price = self._worth_at(order)
        if editing is not None:
            price = max(price, self._worth_at(editing))
            if editing.size > order.size:
                remaining = EXACT.add(remaining, EXACT.subtract(editing.size, order.size))
        if remaining <= 0:
            self._standing.drop(order.oid)
            return
        self._stand(order, remaining, price)

    def _stand(self, order: Order, remaining: Decimal, price: Decimal) -> None:
        if order.symbol not in self._positions:
            self._positions[order.symbol] = ZERO
        self._standing.put(
            order.oid,
            Stand(order.symbol, order.side, remaining, price, order.reduce_only, _group(order)),
        )

    def _worth_at(self, order: Order) -> Decimal:
        known = self._prices.get(order.symbol)
        return order.price or order.trigger or (known.price if known else ZERO)

    def ended(self, oid: str) -> None:
        """Forget an order that can not trade any more."""
        self._standing.drop(oid)

    def filled(
        self, order: Order, size: Decimal, price: Decimal, fee: Decimal = ZERO, *,
        fee_asset: str = "", time_ns: int = 0,
    ) -> None:  # fmt: skip
        """Count a fill into position and the day's result, as the journal's fold does.

        ``fee_asset`` is the market's currency where not given; ``time_ns`` that of the fill's row.
        """
        fqme, signed = order.symbol, size if order.side > 0 else size.copy_negate()
        self._positions[fqme] = EXACT.add(self._positions.get(fqme, ZERO), signed)
        if self.is_hedged(fqme):
            self._own[fqme] = _traded(self._own.get(fqme, (ZERO, ZERO)), order, size)
        self._enter(fqme, time_ns // DAY_NS, signed, price, fee, fee_asset)

    def resume(self, fqme: str, day: MarketDay) -> None:
        """Take a market's day as the journal has it: after a start."""
        self._days[fqme] = day

    def followed(self) -> list[str]:
        """Return the markets whose prices are needed: those held, and those of the day."""
        held = [fqme for fqme, size in self._positions.items() if size]
        return sorted({*held, *self._days})

    def open_day(self, now_ns: int) -> list[Opened]:
        """Enter what is held and does not count yet; return it, to be journaled.

        At midnight that is every position, at the market's price; else what the venue has and our
        fills do not come to. What has no price that is young enough is entered once it has one.
        """
        day, found = now_ns // DAY_NS, []
        for fqme in [fqme for fqme, known in self._days.items() if known.day < day]:
            del self._days[fqme]
        for fqme, held in self._positions.items():
            known, price = self._days.get(fqme), self._prices.get(fqme)
            missing = held if known is None else EXACT.subtract(held, known.size)
            if not missing or price is None or (known is not None and known.day > day):
                continue
            if now_ns - price.time_ns <= self.limits.max_price_age_s * NS:
                self._enter(fqme, day, missing, price.price)
                found.append(Opened(fqme, missing, price.price))
        return found

    def _enter(
        self, fqme: str, day: int, size: Decimal, price: Decimal, fee: Decimal = ZERO,
        fee_asset: str = "",
    ) -> None:  # fmt: skip
        known = self._days.get(fqme) or MarketDay(day)
        self._days[fqme] = known.after(day, size, price, fee, fee_asset)

    # -- what it says --------------------------------------------------------------------------
    def check(
        self, order: Order, now_ns: int, *, by_client: bool = True
    ) -> RiskApproved | Denial:  # fmt: skip
        """Judge a new order, or an edit of a standing one; an approval counts as sent.

        Of an edit the standing order is left out of every sum: it is replaced. What emsd itself
        sets free (not ``by_client``) was judged when it came: it is never too soon after another,
        nor too like it, and an old price will do. A market that falls through two stops sends two
        market orders at once, and both are meant.
        """
        if order.account != self.account:
            return Denial(DenialCode.UNKNOWN_ACCOUNT, f"{order.account} is not {self.account}.")
        mkt = self._markets.get(order.symbol)
        if mkt is None:
            return Denial(DenialCode.WRONG_SYMBOL, f"{order.symbol} is not known here.")
        group = "" if by_client else _group(order)  # of which one at most trades
        denial = self._by_state(order, group)
        if denial is not None:
            return denial
        judged = self._judge_price(order, mkt, now_ns if by_client else 0)
        if isinstance(judged, Denial):
            return judged
        rate = self._rate(mkt)
        if rate is None:
            currency = mkt.src.name or f"{mkt.fqme}, whose currency its backend does not tell,"
            what = f"{currency} has no rate to {self.limits.currency}"
            return Denial(
                DenialCode.NO_RATE, f'{what}: give "{mkt.src.name}" one under risk.rates.'
            )
        worth = _notional(mkt, order.size, judged) * rate
        self._forget_sent(now_ns)
        denial = (
            self._by_size(order, worth)
            or (self._by_time(order) if by_client else None)
            or self._by_sums(order, judged, group, by_client=by_client)
        )
        if denial is not None:
            return denial
        self._sent_ns.append(now_ns)
        if self.limits.duplicate_s > 0:
            like = _likeness(order)
            self._recent.pop(like, None)  # in their order
            self._recent[like] = (now_ns, order.oid)
        return RiskApproved(order, worth, seal=_SEAL)

    @exact
    def day_result(self) -> Decimal:
        """Return the day's realised and unrealised result after fees, in the limits' currency.

        Markets of :meth:`unpriced` are left out. Fees in an asset that is neither the market's nor
        has a rate are not counted.
        """
        total = ZERO
        for fqme, day in self._days.items():
            mkt, known = self._markets.get(fqme), self._prices.get(fqme)
            if mkt is None or (known is None and _needs_price(mkt, day)):
                continue
            price = known.price if known is not None else ZERO
            rate = self._rate(mkt) or Decimal(1)
            total += _result(mkt, day, price) * rate
            for asset, fee in day.fees.items():
                if asset in ("", mkt.src.name):
                    total -= fee * rate
                elif asset == mkt.dst.name:
                    total -= fee * price * rate
                else:
                    total -= fee * self.limits.rates.get(asset, ZERO)
        return total

    def unpriced(self) -> list[str]:
        """Return the markets of the day without which its result is not known: no price yet."""
        return [
            fqme for fqme, day in self._days.items()
            if (mkt := self._markets.get(fqme)) is None
            or (fqme not in self._prices and _needs_price(mkt, day))
        ]  # fmt: skip

    # -- rules ---------------------------------------------------------------------------------
    def _by_state(self, order: Order, group: str) -> Denial | None:
        if self.state is TradingState.ACTIVE:
            return None
        if self.state is TradingState.HALTED:
            return Denial(DenialCode.HALTED, self._halted())
        if self.state is TradingState.REDUCING and not self._reduces(order, group):
            what = f"{plain(self.held(order.symbol))} {order.symbol} smaller may be sent."
            if self.is_hedged(order.symbol):
                long, short = (plain(one) for one in self.sides(order.symbol))
                what = f"{long} long or {short} short {order.symbol} smaller, as reduce-only does."
            what = f"only what makes {what}"
            return Denial(DenialCode.REDUCING, what)
        return None

    def _halted(self) -> str:
        """Return who is halted, and what lifts it: a halt of all stands above that of one."""
        if self.all_halted:
            return "all accounts are halted. To lift that: piker arm"
        return f"{self.account} is halted. To let it trade: piker arm {self.account}"

    def _reduces(self, order: Order, group: str) -> bool:
        """Tell whether the order, with all that stands on its side, at most closes the position.

        What emsd sets free takes the place of its ``group``, which does not count.
        Where both sides are held apart the venue sees to it, and nothing else closes.
        """
        if self.is_hedged(order.symbol):
            return order.reduce_only
        held = self._positions.get(order.symbol)
        if not held or held * order.side >= 0:
            return False
        same = self._standing.on_side(order.symbol, order.side)
        for known in self._standing.instead(order.oid, group):
            if (known.fqme, known.side) == (order.symbol, order.side):
                same = EXACT.subtract(same, known.remaining)
        return same + order.size <= abs(held)

    def _judge_price(self, order: Order, mkt: MktPair, now_ns: int) -> Decimal | Denial:
        """Return the price to value the order at, once it is known to be near the market's.

        With a ``now_ns`` of 0 the market's price is of any age, and the limit may be far from it.
        """
        known = self._prices.get(order.symbol)
        if known is None or now_ns - known.time_ns > self.limits.max_price_age_s * NS:
            age = "none at all" if known is None else f"{(now_ns - known.time_ns) / NS:.1f} s old"
            what = f"the last price of {mkt.fqme} is {age}; it may be"
            why = f"{what} {self.limits.max_price_age_s:g} s old."
            return Denial(DenialCode.NO_REFERENCE, why)
        collar, market = self.limits.price_collar, known.price
        limit = order.price
        if limit is None:
            return max(market, order.trigger) if order.trigger is not None else market
        # A stop-limit's price is judged from its trigger: there it will be sent.
        near = order.trigger if order.trigger and order.kind is OrderKind.STOP_LIMIT else market
        if now_ns and order.side * (limit - near) > near * collar:
            side, bound = ("above", 1 + collar) if order.side > 0 else ("below", 1 - collar)
            far = f"{abs(limit / near - 1):.1%} {side} {plain(near)}"
            what = f"{plain(limit)} is {far}; the collar ends at {plain(near * bound)}."
            return Denial(DenialCode.PRICE_COLLAR, what)
        return max(limit, market) if order.side < 0 else limit

    def _by_size(self, order: Order, worth: Decimal) -> Denial | None:
        most = self.limits.order_size.get(order.symbol)
        if most is not None and order.size > most:
            what = f"{plain(order.size)} is more than {plain(most)} an order."
            return Denial(DenialCode.ORDER_SIZE, what)
        if worth > self.limits.order_notional:
            what = f"{_cents(worth)} {self.limits.currency} is more than"
            most_worth = plain(self.limits.order_notional)
            return Denial(DenialCode.ORDER_NOTIONAL, f"{what} {most_worth} an order.")
        return None

    def _by_sums(
        self, order: Order, price: Decimal, group: str, *, by_client: bool
    ) -> Denial | None:
        """Judge what all come to with this order, which stands from now on unless it is denied."""
        oid, before = order.oid, self._standing.get(order.oid)
        reduces = self._reduces(order, group)
        self._stand(order, order.size, price)
        passed = False
        try:
            denial = self._by_count() if by_client or not reduces else None
            if denial is None and not reduces:
                denial = self._by_exposure() or self._by_loss()
            passed = denial is None
        finally:
            if not passed:
                self._standing.drop(oid)
            if before is not None:  # until its edit is journaled: see :meth:`standing`
                self._standing.put(oid, before.worse(order.size, price) if passed else before)
        return denial

    def _by_count(self) -> Denial | None:
        if len(self._standing) > self.limits.open_orders:
            what = f"{len(self._standing) - 1} orders stand; there may be"
            return Denial(DenialCode.OPEN_ORDERS, f"{what} {self.limits.open_orders}.")
        return None

    def _by_exposure(self) -> Denial | None:
        gross = self._gross()
        if gross > self.limits.gross_exposure:
            what = (
                f"positions and orders would be worth {_cents(gross)} {self.limits.currency}; they"
            )
            why = f"{what} may be worth {plain(self.limits.gross_exposure)}."
            return Denial(DenialCode.GROSS_EXPOSURE, why)
        return None

    def _gross(self) -> Decimal:
        """Return what positions would be worth with the worse of both sides wholly filled."""
        total = ZERO
        for fqme, held in self._positions.items():  # one of nothing where orders stand alone
            mkt = self._markets.get(fqme)
            most, price = self._standing.worst(fqme, held)
            if self.is_hedged(fqme):
                most = sum(self.sides(fqme), self._standing.growing(fqme))
            if mkt is None or not most:
                continue
            known = self._prices.get(fqme)
            if known is not None and known.price > price:
                price = known.price
            total += _notional(mkt, most, price) * (self._rate(mkt) or Decimal(1))
        return total

    def _by_loss(self) -> Denial | None:
        missing = self.unpriced()
        if missing:
            what = f"today's result is not known: {missing[0]}, traded today, has no price yet."
            return Denial(DenialCode.NO_REFERENCE, what)
        result = self.day_result() if self._days else ZERO
        if result <= -self.limits.daily_loss:
            what = f"today's result is {_cents(result)} {self.limits.currency}, the limit"
            return Denial(DenialCode.DAILY_LOSS, f"{what} -{plain(self.limits.daily_loss)}.")
        return None

    def _forget_sent(self, now_ns: int) -> None:
        """Forget what was sent too long ago for any limit."""
        since = now_ns - int(self.limits.messages_s * NS)
        while self._sent_ns and self._sent_ns[0] <= since:
            self._sent_ns.popleft()
        since, recent = now_ns - int(self.limits.duplicate_s * NS), self._recent
        while recent and recent[oldest := next(iter(recent))][0] <= since:
            del recent[oldest]

    def _by_time(self, order: Order) -> Denial | None:
        if len(self._sent_ns) >= self.limits.messages:
            what = f"{len(self._sent_ns)} orders in {self.limits.messages_s:g} s; there may be"
            return Denial(DenialCode.MESSAGE_RATE, f"{what} {self.limits.messages}.")
        known = self._recent.get(_likeness(order)) if self._recent else None
        if known is not None and known[1] != order.oid:
            what = f"the same order was sent less than {self.limits.duplicate_s:g} s ago."
            return Denial(DenialCode.DUPLICATE_ORDER, what)
        return None

    def _rate(self, mkt: MktPair) -> Decimal | None:
        name = mkt.src.name.lower()
        if name == self.limits.currency:
            return Decimal(1)
        return self.limits.rates.get(name)


def _traded(before: Apart, order: Order, size: Decimal) -> Apart:
    """Return both sides of a position after a fill of an order."""
    long, short = before
    more = -size if order.reduce_only else size
    if (order.side > 0) != order.reduce_only:
        return max(ZERO, long + more), short
    return long, max(ZERO, short + more)


def _notional(mkt: MktPair, size: Decimal, price: Decimal) -> Decimal:
    """Return what a size is worth in the market's quote currency."""
    worth = size * mkt.contract_size
    return worth if mkt.inverse else worth * price


def _needs_price(mkt: MktPair, day: MarketDay) -> bool:
    """Tell whether a day's result hangs on the price now."""
    return bool(day.size) or mkt.inverse or mkt.dst.name in day.fees


def _result(mkt: MktPair, day: MarketDay, price: Decimal) -> Decimal:
    """Return a market's day in its quote currency, before fees.

    An inverse contract of c quote units is worth c / price coins, and who buys it is short of
    them: its result is c * (1 / entry - 1 / exit) coins.
    """
    if mkt.inverse:
        coins = coins_of(day.size, price) - day.coins
        return coins * mkt.contract_size * price
    return (day.size * price - day.cost) * mkt.contract_size


def _cents(value: Decimal) -> str:
    """Return an amount for people: two decimals at most."""
    return plain(round(value, 2))


def _group(order: Order) -> str:
    """Return the group of an order, "" of none; a bracket's exits are one by their parent."""
    return f"{order.parent} {order.oco}" if order.oco else ""


def _likeness(order: Order) -> tuple[object, ...]:
    prices = (order.price, order.trigger, order.trail)
    return (order.symbol, order.action, order.size, order.kind, order.reduce_only, *prices)
