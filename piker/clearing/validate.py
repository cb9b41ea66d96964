"""Whether an order makes sense at all in its market, before any limit is looked at. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation

from piker.clearing.denials import Denial, DenialCode
from piker.market import MktPair
from piker.money import is_sane, plain
from piker.orders import Action, ExecMode, Order, OrderKind, TimeInForce, TriggerBy

__all__ = ["MAX_VALUE", "TRIGGERED", "senseless", "too_little"]

#: Kinds that wait for a trigger, natively or in emsd.
TRIGGERED = frozenset(
    {
        OrderKind.STOP, OrderKind.STOP_LIMIT, OrderKind.TAKE_PROFIT, OrderKind.TAKE_PROFIT_LIMIT,
        OrderKind.TRAILING_STOP,
    }
)  # fmt: skip
MAX_VALUE = Decimal("1e18")  # as history's (piker.data.history.quality): a whole token's supply
_FINEST, _LARGEST = Decimal("1e-12"), Decimal("1e12")  # of both 24 digits: Decimal counts 28
_MISSING, _WRONG, _DARK = DenialCode.MISSING_FIELD, DenialCode.SENSELESS, ExecMode.DARK
_ALERT, _TRAILING, _GTD = Action.ALERT, OrderKind.TRAILING_STOP, TimeInForce.GTD
_TIMED = (TimeInForce.GTD, TimeInForce.DAY)  # a day order is given the end of its day
_LIMITED = frozenset({OrderKind.LIMIT, OrderKind.STOP_LIMIT, OrderKind.TAKE_PROFIT_LIMIT})
_OPEN = ("online", "post_only", "limit_only", "reduce_only")  # MktPair.status: it takes some orders


def senseless(order: Order, mkt: MktPair, now_ns: int) -> Denial | None:
    """Return what is wrong with an order by itself, or None; the first rule that it breaks."""
    return next(_rules(order, mkt, now_ns), None)


def _rules(order: Order, mkt: MktPair, now_ns: int) -> Iterator[Denial]:
    if order.symbol != mkt.fqme:
        yield Denial(DenialCode.WRONG_SYMBOL, f"{order.symbol} is not {mkt.fqme}.")
    trades = order.action is not _ALERT
    if trades:
        yield from _size(order, mkt)
    if order.trigger_by is TriggerBy.MARK and mkt.address.venue == "spot":
        yield Denial(DenialCode.SENSELESS, f"{mkt.fqme} has no mark price to wait for.")
    yield from _prices(order, mkt)
    yield from _fields(order, now_ns)
    if trades:
        yield from _worth(order, mkt)
        if mkt.status not in _OPEN:
            yield Denial(DenialCode.MARKET_CLOSED, f"{mkt.fqme} is {mkt.status}.")


def _near(value: Decimal, tick: Decimal, rounded: Callable[[Decimal], Decimal]) -> Decimal | None:
    """Return the nearest value on the grid; None where it has too many digits for Decimal."""
    if not tick:
        return value if is_sane(value) else None
    if tick >= _FINEST and value < _LARGEST and not value % tick:
        return value  # without a division, a product and two roundings
    try:
        return rounded(value)
    except InvalidOperation:
        return None


def _size(order: Order, mkt: MktPair) -> Iterator[Denial]:
    size = order.size
    if not size.is_finite() or not 0 < size < MAX_VALUE:
        is_huge = size.is_finite() and size > 0
        what = "is more than there is of anything" if is_huge else "can not be traded"
        yield Denial(DenialCode.BAD_SIZE, f"a size of {plain(size)} {what}.")
        return
    near = _near(size, mkt.size_tick, mkt.round_size)
    if near is None:
        what = f"a size of {plain(size)} has more digits than can be counted."
        yield Denial(DenialCode.BAD_SIZE, what)
    elif size != near:
        what = f"{plain(size)} is no multiple of {plain(mkt.size_tick)}, the lot of {mkt.fqme}"
        yield Denial(DenialCode.OFF_LOT, f"{what}; {plain(near or mkt.size_tick)} is.")
    if size < mkt.min_size:
        what = f"{plain(size)} is less than {plain(mkt.min_size)}, the least of {mkt.fqme}."
        yield Denial(DenialCode.TOO_SMALL, what)


def _prices(order: Order, mkt: MktPair) -> Iterator[Denial]:
    for name in ("price", "trigger", "trail"):
        value: Decimal | None = getattr(order, name)
        if value is None:
            continue
        if not value.is_finite() or not 0 < value < MAX_VALUE:
            yield Denial(DenialCode.BAD_PRICE, f"a {name} of {plain(value)} is no price.")
            return
        near = _near(value, mkt.price_tick, mkt.round_price)
        if near is None:
            what = f"a {name} of {plain(value)} has more digits than can be counted."
            yield Denial(DenialCode.BAD_PRICE, what)
        elif value != near:
            tick = plain(mkt.price_tick)
            what = f"{name} {plain(value)} is no multiple of {tick}, the tick of {mkt.fqme}"
            yield Denial(DenialCode.OFF_TICK, f"{what}; {plain(near or mkt.price_tick)} is.")


def _fields(order: Order, now_ns: int) -> Iterator[Denial]:
    """Say which fields the order lacks, and which ones contradict each other."""
    missing, wrong = _MISSING, _WRONG
    kind, waits = order.kind, order.kind in TRIGGERED
    is_alert = order.action is _ALERT
    if kind in _LIMITED and order.price is None and not is_alert:
        yield Denial(missing, f"a {kind} order needs a price.")
    if (waits or is_alert or order.exec_mode == _DARK) and kind is not _TRAILING:
        if order.trigger is None:
            yield Denial(missing, f"a {'n alert' if is_alert else kind} needs a trigger.")
    elif order.trigger is not None and kind is not _TRAILING:
        yield Denial(wrong, f"a {kind} order has no trigger.")
    if kind is _TRAILING and order.trail is None:
        yield Denial(missing, "a trailing_stop order needs a trail.")
    if order.trail is not None and kind is not _TRAILING:
        yield Denial(wrong, f"a {kind} order has no trail.")
    if order.price is not None and kind not in _LIMITED:
        yield Denial(wrong, f"a {kind} order has no price of its own.")
    if order.post_only and (
        kind not in _LIMITED or order.tif in (TimeInForce.IOC, TimeInForce.FOK)
    ):
        yield Denial(wrong, "post_only is for limit orders that may stand.")
    if order.expire_ns is None:
        if order.tif is _GTD:
            yield Denial(missing, "a gtd order needs an end.")
    elif order.tif not in _TIMED:
        yield Denial(wrong, f"a {order.tif} order has no end.")
    elif order.expire_ns <= now_ns:
        yield Denial(wrong, "the order would have expired before it is sent.")
    if order.parent and order.parent == order.oid:
        yield Denial(wrong, "an order is not its own parent.")


def _worth(order: Order, mkt: MktPair) -> Iterator[Denial]:
    denial = too_little(order, mkt, order.price or order.trigger)
    if denial is not None:
        yield denial


def too_little(order: Order, mkt: MktPair, price: Decimal | None) -> Denial | None:
    """Say that an order is worth less at a price than its market's least; None without a price."""
    if price is None or not mkt.min_notional or mkt.inverse:
        return None
    worth = order.size * mkt.contract_size * price
    if worth < mkt.min_notional:
        what = f"{plain(order.size)} at {plain(price)} is worth {plain(worth)}"
        least = f"less than {plain(mkt.min_notional)}, the least of {mkt.fqme}."
        return Denial(DenialCode.TOO_SMALL, f"{what}, {least}")
    return None
