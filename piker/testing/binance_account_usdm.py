"""USD-M's orders and positions at the loopback Binance.

One wallet of USDT per account; positions one-way or hedged; the margin of an order is what it may
cost divided by its market's leverage. Nothing is liquidated and no funding is paid here.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from typing import Any

import msgspec

from piker.clock import wall_ns
from piker.testing import binance_account_usdm_wire as wire
from piker.testing.account_matching import OwnFill
from piker.testing.accounts import ZERO, Account, VenueOrder
from piker.testing.binance_account_desk import SIDES, BinanceDesk, Place
from piker.testing.binance_account_params import Params, VenueRefusal, missing
from piker.testing.engine import BUY

__all__ = ["FEES", "MAX_LEVERAGE", "Margin", "Position", "UsdmDesk"]

FEES = {"maker": Decimal("0.0002"), "taker": Decimal("0.0005")}  # the venue's first tier
UNIT = Decimal("1e-8")
LEVERAGE, MAX_LEVERAGE = 20, 125
TIFS = ("GTC", "IOC", "FOK", "GTX", "GTD")
GTD_MIN_MS = 600_000  # goodTillDate is later than that from now
POSITION_SIDES = ("BOTH", "LONG", "SHORT")
CONDITIONAL = ("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET")
_NOT_RECORDED = "will be rejected. The order will not be recorded in the order history"
_UNKNOWN = (-2011, "Unknown order sent.")


class Position(msgspec.Struct):
    """What is held of a market; ``amount`` is below zero where it was sold short."""

    amount: Decimal = ZERO
    entry: Decimal = ZERO
    realised: Decimal = ZERO
    changed_ms: int = 0


class Margin:
    """The futures wallet of an account."""

    def __init__(self, wallet: Decimal) -> None:
        self.wallet = wallet
        self.is_dual = False
        self.positions: dict[tuple[str, str], Position] = {}  # by market and position side
        self.leverages: dict[str, int] = {}

    def position(self, market: str, side: str) -> Position:
        """Return a position, an empty one where there is none."""
        return self.positions.setdefault((market, side), Position())

    def leverage(self, market: str) -> int:
        """Return a market's leverage."""
        return self.leverages.get(market, LEVERAGE)


class UsdmDesk(BinanceDesk):
    """The accounts of USD-M."""

    kind = "usdm"
    first_order = 8_389_765_000_000  # numbers there have thirteen digits
    window_days = 7
    memory_ms = 90 * 86_400_000  # an order that was made longer ago can not be asked for
    barren_ms = 3 * 86_400_000  # nor one that was made so long ago, and ended without a fill

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: those of BinanceDesk
        super().__init__(*args, **kwargs)
        self.margins = {
            name: Margin(account.spec.balances.get("USDT", ZERO))
            for name, account in self.accounts.items()
        }
        self._shrunk: list[tuple[Account, str, str]] = []  # positions that became smaller
        self._countdowns: dict[tuple[str, str], int] = {}  # -> when all is cancelled
        self._dated: list[VenueOrder] = []  # that are good till a date
        self.trades_kept_ms = 90 * 86_400_000  # three months

    def margin_of(self, account: Account) -> Margin:
        """Return an account's wallet and positions."""
        return self.margins[account.spec.name]

    def unrealised(self, market: str, position: Position) -> Decimal:
        """Return what a position would bring at the last price."""
        if not position.amount:
            return ZERO
        return (self.place_of(market).book.last - position.entry) * position.amount

    def available(self, account: Account) -> Decimal:
        """Return what new orders may use: wallet and unrealised gains, less what is bound."""
        margin = self.margin_of(account)
        left = margin.wallet
        for (market, _), position in margin.positions.items():
            worth = abs(position.amount) * self.place_of(market).book.last
            left += self.unrealised(market, position) - worth / margin.leverage(market)
        return left - sum(order.locked for order in account.open.values())

    def forgot(self, order: VenueOrder) -> bool:
        """Tell whether an order is too old to be asked for; it may stand all the same."""
        age_ms = wall_ns() // 1_000_000 - order.made_ms
        is_barren = not order.is_open and not order.filled and not order.more.get("sent")
        return age_ms > (self.barren_ms if is_barren else self.memory_ms)

    # -- new orders ----------------------------------------------------------------------------
    def new(
        self, account: Account, p: Params, now_ms: int, *, test: bool = False
    ) -> dict[str, Any]:  # fmt: skip
        """Take an order; return the answer."""
        place = self.place_of(p.needed("symbol"))
        order = self._asked(account, p, place, now_ms)
        if test:
            return wire.order_row(order)
        shapes = (-1130, "Data sent for parameter 'newOrderRespType' is not valid.")
        shape = p.choice("newOrderRespType", ("ACK", "RESULT"), shapes, "ACK")
        self._check_now(order, place)
        order.number = self.next_order()
        order.working_ms = now_ms
        account.add(order)
        if order.tif == "GTD":
            self._dated.append(order)
        self._tell(order, "NEW")
        said = wire.order_row(order)
        self._work(order, place, now_ms)
        return wire.order_row(order) if shape == "RESULT" else said

    def _asked(self, account: Account, p: Params, place: Place, now_ms: int) -> VenueOrder:
        side = SIDES[p.choice("side", SIDES, (-1117, "Invalid side."))]
        kind = p.needed("type")
        if kind in CONDITIONAL:
            text = "Order type not supported for this endpoint."
            raise VenueRefusal(-4120, f"{text} Please use the Algo Order API endpoints instead.")
        p.choice("type", ("LIMIT", "MARKET"), (-1116, "Invalid orderType."))
        tif, limited = "GTC", kind == "LIMIT"
        if limited:
            tif = p.choice("timeInForce", TIFS, (-1115, "Invalid timeInForce."))
        for name, wanted in (("quantity", True), ("price", limited)):
            if wanted and name not in p:
                raise missing(name)
            if not wanted and name in p:
                raise VenueRefusal(-1106, f"Parameter '{name}' sent when not required.")
        order = VenueOrder(
            number=0, client_id=p.client_id("newClientOrderId") or self.made_id(),
            account=account, market=place.listing.wire, side=side, kind=kind, tif=tif,
            price=p.decimal("price"), size=p.decimal("quantity"), made_ms=now_ms,
            changed_ms=now_ms, reduce_only=p.flag("reduceOnly"),
            position_side=self._position_side(account, p),
            more={"gtd": self._good_till(p, now_ms)} if tif == "GTD" else {},
        )  # fmt: skip
        self._check_rules(order, place)
        return order

    @staticmethod
    def _good_till(p: Params, now_ms: int) -> int:
        p.needed("goodTillDate")
        until_ms = p.whole("goodTillDate") // 1000 * 1000  # the venue counts seconds
        if until_ms <= now_ms + GTD_MIN_MS:
            raise VenueRefusal(-1130, "Data sent for parameter 'goodTillDate' is not valid.")
        return until_ms

    def _position_side(self, account: Account, p: Params) -> str:
        bad = (-1116, "Invalid positionSide.")
        side = p.choice("positionSide", POSITION_SIDES, bad, "BOTH")
        if (side != "BOTH") != self.margin_of(account).is_dual:
            text = "Order's position side does not match user's setting."
            raise VenueRefusal(-4061, text)
        if side != "BOTH" and "reduceOnly" in p:
            raise VenueRefusal(-1106, "Parameter 'reduceonly' sent when not required.")
        return side

    def _check_rules(self, order: VenueOrder, place: Place) -> None:
        book = place.book
        if place.listing.status != "TRADING":
            raise VenueRefusal(-4140, "Invalid symbol status for opening position.")
        if order.kind == "LIMIT" and order.price <= 0:
            raise VenueRefusal(-4001, "Price less than 0.")
        if order.price % book.tick:
            raise VenueRefusal(-4014, "Price not increased by tick size.")
        if order.size <= 0:
            raise VenueRefusal(-4003, "Quantity less than or equal to zero.")
        if order.size % book.lot:
            text = "Precision is over the maximum defined for this asset."
            raise VenueRefusal(-1111, text)
        if place.rules.most_size(market=order.kind == "MARKET") < order.size:
            raise VenueRefusal(-4005, "Quantity greater than max quantity.")
        least = place.rules.least_worth()
        if not order.reduce_only and order.size * (order.price or book.last) < least:
            text = f"Order's notional must be no smaller than {least}"
            raise VenueRefusal(-4164, f"{text} (unless you choose reduce only).")

    def _check_now(self, order: VenueOrder, place: Place) -> None:
        """Refuse what can not be done as things stand; bind the margin of what can."""
        account, book = order.account, place.book
        if order.client_id in account.open:
            raise VenueRefusal(-4116, "ClientOrderId is duplicated.")
        closable = self._closable(order)
        if order.reduce_only or self._closes(order):
            if not closable or (order.position_side != "BOTH" and closable < order.size):
                raise VenueRefusal(-2022, "ReduceOnly Order is rejected.")
            order.size = min(order.size, closable)
        if order.tif == "GTX" and book.crosses(order.side, order.price):
            text = "Due to the order could not be executed as maker, the Post Only order"
            raise VenueRefusal(-5022, f"{text} {_NOT_RECORDED}")
        takeable = book.takeable(order.side, order.price or None)
        if order.tif == "FOK" and sum(size for _, size in takeable) < order.size:
            text = "Due to the order could not be filled immediately, the FOK order"
            raise VenueRefusal(-5021, f"{text} {_NOT_RECORDED}")
        opened = max(ZERO, order.size - closable)
        price = order.price or (takeable[-1][0] if takeable else book.last)
        order.locked = opened * price / self.margin_of(account).leverage(order.market)
        if opened and order.locked > self.available(account):
            raise VenueRefusal(-2019, "Margin is insufficient.")

    @staticmethod
    def _closes(order: VenueOrder) -> bool:
        """Tell whether an order of hedge mode closes."""
        return (order.position_side, order.side) in (("LONG", -BUY), ("SHORT", BUY))

    def _closable(self, order: VenueOrder) -> Decimal:
        """Return how much of a position an order could close."""
        position = self.margin_of(order.account).position(order.market, order.position_side)
        return max(ZERO, -order.side * position.amount)

    def _work(self, order: VenueOrder, place: Place, now_ms: int) -> None:
        place.book.enter(order, now_ms, priced=order.kind == "LIMIT")
        if order.is_open and (order.kind == "MARKET" or order.tif in ("IOC", "FOK")):
            self._end(order, "EXPIRED", now_ms, why="9" if order.kind == "MARKET" else "2")

    # -- what the book says --------------------------------------------------------------------
    def filled(self, order: VenueOrder, fill: OwnFill) -> None:
        """Change the position and the wallet, and tell."""
        margin = self.margin_of(order.account)
        position = margin.position(order.market, order.position_side)
        worth = fill.price * fill.size
        fee = (worth * FEES["maker" if fill.maker else "taker"]).quantize(UNIT, ROUND_DOWN)
        gain = _change(position, order.side * fill.size, fill.price)
        position.changed_ms = order.changed_ms = fill.time_ms
        margin.wallet += gain - fee
        order.locked -= order.locked * fill.size / order.left
        order.filled += fill.size
        order.worth += worth
        order.status = "PARTIALLY_FILLED" if order.left else "FILLED"
        row = wire.fill_row(order, fill, fee, gain)
        order.account.record_fill(row)
        if not order.left:
            order.locked = ZERO
            order.account.ended(order)
        order.account.tell(wire.trade_lite(order, row))
        self._tell(order, "TRADE", fill=row)
        order.account.tell(wire.account_update(self, order, gain - fee))
        self._shrunk.append((order.account, order.market, order.position_side))

    def settled(self, time_ms: int) -> None:
        """Expire reduce-only orders that are larger than what is left to reduce."""
        shrunk, self._shrunk = self._shrunk, []
        for account, market, side in shrunk:
            for order in self.open_orders(account, market):
                reduces = order.reduce_only or self._closes(order)
                if reduces and order.position_side == side and order.left > self._closable(order):
                    self._end(order, "EXPIRED", time_ms, why="4")

    def prevented(self, order: VenueOrder, time_ms: int) -> None:
        """End an order that its own account would have traded with."""
        self._end(order, "EXPIRED_IN_MATCH", time_ms, why="1")

    def _end(self, order: VenueOrder, status: str, now_ms: int, *, why: str = "0") -> None:
        self.place_of(order.market).book.withdraw(order, now_ms)
        order.status, order.changed_ms, order.locked = status, now_ms, ZERO
        order.more["er"] = why  # the venue's number of why it ended an order by itself
        order.account.ended(order)
        self._tell(order, "EXPIRED" if status == "EXPIRED_IN_MATCH" else status)

    def _tell(self, order: VenueOrder, what: str, fill: dict[str, Any] | None = None) -> None:
        order.account.tell(wire.order_update(order, what, fill))

    # -- cancels and edits ---------------------------------------------------------------------
    def _open(self, account: Account, p: Params) -> VenueOrder:
        symbol = p.needed("symbol")
        self.place_of(symbol)
        order = self.found(account, symbol, p.order_name())
        if order is None or not order.is_open:
            raise VenueRefusal(*_UNKNOWN)
        return order

    def cancel(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Take an order back."""
        order = self._open(account, p)
        self._end(order, "CANCELED", now_ms)
        return wire.order_row(order)

    def cancel_all(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Take every open order of a market back."""
        self.cancel_market(account, p.needed("symbol"), now_ms)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def cancel_market(self, account: Account, symbol: str, now_ms: int) -> None:
        """Take every open order of a market back."""
        for order in self.open_orders(account, symbol):
            self._end(order, "CANCELED", now_ms)

    def count_down(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Cancel a market's orders after so many ms, unless asked again before; 0: never."""
        symbol, wait_ms = p.needed("symbol"), p.whole("countdownTime")
        self.place_of(symbol)
        p.needed("countdownTime")
        self._countdowns.pop((account.spec.name, symbol), None)
        if wait_ms:
            self._countdowns[account.spec.name, symbol] = now_ms + wait_ms
        return {"symbol": symbol, "countdownTime": str(wait_ms)}

    def tick(self, now_ms: int) -> None:
        """Cancel what was counted down, and end what was good till now."""
        due = [key for key, at_ms in self._countdowns.items() if now_ms >= at_ms]
        for name, symbol in due:
            del self._countdowns[name, symbol]
            self.cancel_market(self.accounts[name], symbol, now_ms)
        for order in [one for one in self._dated if one.more["gtd"] <= now_ms]:
            if order.is_open:
                self._end(order, "EXPIRED", now_ms)
            self._dated.remove(order)

    def modify(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Give an order another price and size: its number stays, its place in the queue goes."""
        side = SIDES[p.choice("side", SIDES, (-1117, "Invalid side."))]
        for name in ("quantity", "price"):
            p.needed(name)
        order, place = self._open(account, p), self.place_of(p.needed("symbol"))
        size, price = p.decimal("quantity"), p.decimal("price")
        if order.kind != "LIMIT" or order.side != side:
            raise VenueRefusal(-5024, "Modify order fail.")
        if (size, price) == (order.size, order.price):
            raise VenueRefusal(-5027, "No need to modify the order.")
        if size <= order.filled or (order.tif == "GTX" and place.book.crosses(side, price)):
            self._end(order, "CANCELED", now_ms)
            return wire.order_row(order)
        self._check_rules(msgspec.structs.replace(order, size=size, price=price), place)
        left = (size - order.filled) * price / self.margin_of(account).leverage(order.market)
        closes = order.reduce_only or self._closes(order)
        if closes and size - order.filled > self._closable(order):
            raise VenueRefusal(-2022, "ReduceOnly Order is rejected.")
        if left - order.locked > self.available(account) and not closes:
            raise VenueRefusal(-2019, "Margin is insufficient.")
        place.book.withdraw(order, now_ms)
        order.size, order.price, order.changed_ms = size, price, now_ms
        order.locked = ZERO if closes else left
        self._tell(order, "AMENDMENT")
        self._work(order, place, now_ms)
        return wire.order_row(order)

    # -- settings ------------------------------------------------------------------------------
    def set_dual(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Hold both sides of a market at once, or one."""
        p.needed("dualSidePosition")
        is_dual, margin = p.flag("dualSidePosition"), self.margin_of(account)
        if is_dual == margin.is_dual:
            raise VenueRefusal(-4059, "No need to change position side.")
        text = "Position side cannot be changed if there exists"
        if account.open:
            raise VenueRefusal(-4067, f"{text} open orders.")
        if any(position.amount for position in margin.positions.values()):
            raise VenueRefusal(-4068, f"{text} position.")
        margin.is_dual = is_dual
        return {"code": 200, "msg": "success"}

    def set_leverage(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Set a market's leverage."""
        symbol, leverage = p.needed("symbol"), p.whole("leverage")
        self.place_of(symbol)
        if not 1 <= leverage <= MAX_LEVERAGE:
            raise VenueRefusal(-4028, f"Leverage {leverage} is not valid")
        self.margin_of(account).leverages[symbol] = leverage
        return {"leverage": leverage, "maxNotionalValue": "1000000", "symbol": symbol}


def _change(position: Position, size: Decimal, price: Decimal) -> Decimal:
    """Add ``size`` (below zero: sold) to a position; return what was gained by closing."""
    before = position.amount
    position.amount += size
    if before * size >= 0:
        total = abs(before) * position.entry + abs(size) * price
        position.entry = (total / abs(position.amount)).quantize(UNIT)
        return ZERO
    closed = min(abs(size), abs(before))
    gain = ((price - position.entry) * closed * (1 if before > 0 else -1)).quantize(UNIT)
    position.realised += gain
    if before * position.amount < 0:
        position.entry = price
    elif not position.amount:
        position.entry = ZERO
    return gain
