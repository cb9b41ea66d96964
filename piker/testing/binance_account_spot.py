"""Spot's orders at the loopback Binance: taken, matched, booked and told.

What a purchase may cost at most is locked, what is sold is locked; fees are a tenth of a percent
of what is received, taken from it and rounded down to 8 decimals.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from typing import Any

from piker.clock import wall_ns
from piker.testing import binance_account_wire as wire
from piker.testing.account_matching import OwnFill
from piker.testing.accounts import ZERO, Account, VenueOrder
from piker.testing.binance_account_desk import SIDES, BinanceDesk, Place
from piker.testing.binance_account_params import Params, VenueRefusal, missing
from piker.testing.engine import BUY

__all__ = ["FEES", "SpotDesk"]

FEES = {"maker": Decimal("0.001"), "taker": Decimal("0.001")}  # the venue's first tier
UNIT = Decimal("1e-8")
TIFS = ("GTC", "IOC", "FOK")
SHAPES = ("ACK", "RESULT", "FULL")
STOPS = ("STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT")
KINDS = ("LIMIT", "LIMIT_MAKER", "MARKET", *STOPS)
_LIMITED = frozenset({"LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"})  # with a time in force
_PRICED = _LIMITED | {"LIMIT_MAKER"}
_POOR = (-2010, "Account has insufficient balance for requested action.")
_UNKNOWN = (-2011, "Unknown order sent.")


class SpotDesk(BinanceDesk):
    """The accounts of spot."""

    kind = "spot"
    first_order = 12_569_099_452  # numbers there have eleven digits

    archive_ms = 90 * 86_400_000  # what ended without a fill longer ago is archived

    def asked(self, account: Account, symbol: str, name: tuple[int, str]) -> VenueOrder:
        """Return an order to whoever asks for it; -2026 where it is archived."""
        order = super().asked(account, symbol, name)
        age_ms = wall_ns() // 1_000_000 - order.changed_ms
        if not order.is_open and not order.filled and age_ms > self.archive_ms:
            text = "Order was canceled or expired with no executed qty over 90 days ago"
            raise VenueRefusal(-2026, f"{text} and has been archived.")
        return order

    # -- new orders ----------------------------------------------------------------------------
    def new(
        self, account: Account, p: Params, now_ms: int, *, test: bool = False
    ) -> dict[str, Any]:  # fmt: skip
        """Take an order; return the answer."""
        order, place = self._asked(account, p, now_ms)
        default = "FULL" if order.kind in ("LIMIT", "MARKET") else "ACK"
        said = (-1130, "Data sent for parameter 'newOrderRespType' is not valid.")
        shape = p.choice("newOrderRespType", SHAPES, said, default)
        if test:
            return self._rates() if p.flag("computeCommissionRates") else {}
        self._check_now(order, place)
        self._enter(order, place, now_ms)
        fills = [row for row in account.fills[-1000:] if row["orderId"] == order.number]
        return wire.new_order(order, shape, fills)

    @staticmethod
    def _rates() -> dict[str, Any]:
        own = {name: wire.money(rate) for name, rate in FEES.items()}
        none = dict.fromkeys(FEES, wire.money(ZERO))
        discount = {"enabledForAccount": False, "enabledForSymbol": False, "discountAsset": "BNB",
                    "discount": wire.money(ZERO)}  # fmt: skip
        return {"standardCommissionForOrder": own, "specialCommissionForOrder": none,
                "taxCommissionForOrder": none, "discount": discount}  # fmt: skip

    def _asked(self, account: Account, p: Params, now_ms: int) -> tuple[VenueOrder, Place]:
        """Return the order that a request describes; refuse what is wrong with it alone."""
        place = self.place_of(p.needed("symbol"))
        side = SIDES[p.choice("side", SIDES, (-1117, "Invalid side."))]
        kind = p.choice("type", KINDS, (-1116, "Invalid orderType."))
        tif = "GTC"
        if kind in _LIMITED:
            tif = p.choice("timeInForce", TIFS, (-1115, "Invalid timeInForce."))
        wanted = {"price": kind in _PRICED, "stopPrice": kind in STOPS,
                  "timeInForce": kind in _LIMITED}  # fmt: skip
        for name in ("price", "quantity", "stopPrice", "quoteOrderQty"):
            p.decimal(name)
        by_quote = kind == "MARKET" and "quoteOrderQty" in p
        wanted |= {"quantity": not by_quote, "quoteOrderQty": by_quote}
        for name, is_wanted in wanted.items():
            if is_wanted and name not in p:
                raise missing(name)
            if not is_wanted and name in p:
                raise VenueRefusal(-1106, f"Parameter '{name}' sent when not required.")
        for name in ("icebergQty", "trailingDelta", "pegPriceType"):
            if name in p:
                raise VenueRefusal(-1014, "Unsupported order combination.")
        client_id = p.client_id("newClientOrderId") or self.made_id()
        order = VenueOrder(
            number=0, client_id=client_id, account=account, market=place.listing.wire, side=side,
            kind=kind, tif=tif, price=p.decimal("price"), size=p.decimal("quantity"),
            quote_size=p.decimal("quoteOrderQty"), stop=p.decimal("stopPrice"),
            rises=(side == BUY) == kind.startswith("STOP_LOSS"), made_ms=now_ms, changed_ms=now_ms,
            more={name: p.whole(name) for name in ("strategyId", "strategyType") if name in p},
        )  # fmt: skip
        self._check_rules(order, place)
        return order, place

    def _check_rules(self, order: VenueOrder, place: Place) -> None:
        rules, market = place.rules, order.kind not in _PRICED
        if place.listing.status != "TRADING":
            raise VenueRefusal(-1013, "Market is closed.")
        for price in (order.price, order.stop):
            if price:
                rules.check_price(price)
        if order.kind in _PRICED and not order.price:
            rules.check_price(order.price)
        if not order.quote_size:
            rules.check_size(order.size, market=market)
        worth = order.quote_size or order.size * (order.price or order.stop or place.book.last)
        rules.check_worth(worth, market=market)

    def _check_now(self, order: VenueOrder, place: Place) -> None:
        """Refuse what can not be done as things stand."""
        account, waits = order.account, order.kind in STOPS
        if order.client_id in account.open:
            raise VenueRefusal(-2010, "Duplicate order sent.")
        here = [one for one in account.open.values() if one.market == order.market]
        place.rules.check_count(len(here), sum(bool(one.stop) for one in here), waits=waits)
        if waits and place.book.is_met(order, place.book.last):
            raise VenueRefusal(-2010, "Order would trigger immediately.")
        if order.kind == "LIMIT_MAKER" and place.book.crosses(order.side, order.price):
            raise VenueRefusal(-2010, "Order would immediately match and take.")
        if order.kind == "MARKET":
            self._size_up(order, place)
        if order.kind in ("STOP_LOSS", "TAKE_PROFIT") and order.side == BUY:
            return  # what it costs is known when it is triggered
        if not self._lock(order, place):
            raise VenueRefusal(*_POOR)

    def _size_up(self, order: VenueOrder, place: Place) -> None:
        """Say in base what was said in quote: as much as the book gives for it."""
        place.book.make_way(order, order.made_ms, priced=False)
        levels = place.book.takeable(order.side, None)
        if not levels:
            text = "Order book liquidity is less than symbol minimum quantity."
            raise VenueRefusal(-2010, text)
        left = order.quote_size
        for price, size in levels if left else ():
            lots = min(size, left / price) // place.book.lot
            order.size += lots * place.book.lot
            left -= lots * place.book.lot * price
            if lots * place.book.lot < size:
                break
        if order.quote_size:
            place.rules.check_size(order.size, market=True)

    def _lock(self, order: VenueOrder, place: Place) -> bool:
        spec = place.listing.spec
        if order.side != BUY:
            asset, amount = spec.base, order.left
        elif order.kind in _PRICED:
            asset, amount = spec.quote, order.price * order.left
        else:
            asset, amount, left = spec.quote, ZERO, order.left
            for price, size in place.book.takeable(order.side, None):
                amount += min(left, size) * price
                left -= min(left, size)
        if not order.account.purse.lock(asset, amount):
            return False
        order.locked = amount
        return True

    def _enter(self, order: VenueOrder, place: Place, now_ms: int) -> None:
        order.number = self.next_order()
        order.working_ms = 0 if order.kind in STOPS else now_ms
        order.account.add(order)
        self._tell(order, "NEW")
        if order.kind in STOPS:
            place.book.wait(order)
        else:
            self._work(order, place, now_ms)

    def _work(self, order: VenueOrder, place: Place, now_ms: int) -> None:
        """Let an order trade; end at once what may not rest."""
        priced = order.kind in _PRICED
        if order.tif == "FOK":
            takeable = place.book.takeable(order.side, order.price)
            if sum(size for _, size in takeable) < order.size:
                self._end(order, "EXPIRED", now_ms)
                return
        place.book.enter(order, now_ms, priced=priced)
        if order.is_open and (not priced or order.tif != "GTC"):
            self._end(order, "EXPIRED", now_ms)

    # -- what the book says --------------------------------------------------------------------
    def filled(self, order: VenueOrder, fill: OwnFill) -> None:
        """Move what was bought and sold, take the fee, and tell."""
        spec = self.place_of(order.market).listing.spec
        purse, worth = order.account.purse, fill.price * fill.size
        rate = FEES["maker" if fill.maker else "taker"]
        if order.side == BUY:
            held = (order.price or fill.price) * fill.size
            purse.spend(spec.quote, locked=worth)
            purse.release(spec.quote, held - worth)
            paid, got, asset = held, fill.size, spec.base
        else:
            purse.spend(spec.base, locked=fill.size)
            paid, got, asset = fill.size, worth, spec.quote
        fee = (got * rate).quantize(UNIT, ROUND_DOWN)
        purse.add(asset, got - fee)
        order.locked -= paid
        order.filled += fill.size
        order.worth += worth
        order.changed_ms = fill.time_ms
        order.status = "PARTIALLY_FILLED" if order.left else "FILLED"
        row = wire.fill_row(order, fill, fee, asset)
        order.account.record_fill(row)
        if not order.left:
            self._unlock(order)
            order.account.ended(order)
        self._tell(order, "TRADE", fill=row)

    def triggered(self, order: VenueOrder, time_ms: int) -> None:
        """Send an order to the book whose stop was met; without the money it expires."""
        place = self.place_of(order.market)
        order.working_ms = order.changed_ms = time_ms
        if order.kind not in _PRICED:
            place.book.make_way(order, time_ms, priced=False)
        if not order.locked and not self._lock(order, place):
            self._end(order, "EXPIRED", time_ms)
            return
        self._tell(order, "NEW")
        self._work(order, place, time_ms)

    def prevented(self, order: VenueOrder, time_ms: int) -> None:
        """End an order that its own account would have traded with."""
        self._end(order, "EXPIRED_IN_MATCH", time_ms)

    def _unlock(self, order: VenueOrder) -> None:
        if order.locked:
            spec = self.place_of(order.market).listing.spec
            asset = spec.quote if order.side == BUY else spec.base
            order.account.purse.release(asset, order.locked)
            order.locked = ZERO

    def _end(self, order: VenueOrder, status: str, now_ms: int, cancel_id: str = "") -> None:
        self.place_of(order.market).book.withdraw(order, now_ms)
        order.status, order.changed_ms = status, now_ms
        self._unlock(order)
        order.account.ended(order)
        what = "TRADE_PREVENTION" if status == "EXPIRED_IN_MATCH" else status
        self._tell(order, what, cancel_id=cancel_id)

    def _tell(
        self,
        order: VenueOrder,
        what: str,
        *,
        cancel_id: str = "",
        fill: dict[str, Any] | None = None,
    ) -> int:
        """Tell the account's listeners; return the execution's number."""
        account, execution = order.account, self.next_execution()
        account.tell(wire.execution_report(order, what, execution, cancel_id=cancel_id, fill=fill))
        if touched := account.purse.take_touched():
            account.tell(wire.account_position(account, touched, order.changed_ms))
        return execution

    # -- cancels and edits ---------------------------------------------------------------------
    def cancel(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Take an order back."""
        order = self._to_cancel(account, p, p.order_name())
        self._restrict(order, p)
        return self._cancel(order, p.client_id("newClientOrderId"), now_ms)

    @staticmethod
    def _restrict(order: VenueOrder, p: Params) -> None:
        """Refuse a cancel that is only for orders that are filled more or less."""
        limits = ("ONLY_NEW", "ONLY_PARTIALLY_FILLED")
        if "cancelRestrictions" in p:
            said = (-1145, "Invalid cancelRestrictions")
            if order.status != p.choice("cancelRestrictions", limits, said)[5:]:
                text = "Order was not canceled due to cancel restrictions."
                raise VenueRefusal(-2011, text)

    def _to_cancel(self, account: Account, p: Params, name: tuple[int, str]) -> VenueOrder:
        symbol = p.needed("symbol")
        self.place_of(symbol)
        order = self.found(account, symbol, name)
        if order is None or not order.is_open:
            raise VenueRefusal(*_UNKNOWN)
        return order

    def _cancel(self, order: VenueOrder, cancel_id: str, now_ms: int) -> dict[str, Any]:
        cancel_id = cancel_id or self.made_id()
        self._end(order, "CANCELED", now_ms, cancel_id)
        return wire.cancelled_order(order, cancel_id)

    def cancel_all(self, account: Account, p: Params, now_ms: int) -> list[dict[str, Any]]:
        """Take every open order of a market back; -2011 where there is none."""
        orders = self.open_orders(account, p.needed("symbol"))
        if not orders:
            raise VenueRefusal(*_UNKNOWN)
        cancel_id = self.made_id()
        return [self._cancel(order, cancel_id, now_ms) for order in orders]

    def replace(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Cancel an order, and place another: -2021 when one of both failed, -2022 when both."""
        modes = ("STOP_ON_FAILURE", "ALLOW_FAILURE")
        bad_mode = (-1130, "Data sent for parameter 'cancelReplaceMode' is not valid.")
        mode = p.choice("cancelReplaceMode", modes, bad_mode)
        name = p.order_name("cancelOrderId", "cancelOrigClientOrderId")
        self._asked(account, p, now_ms)  # what is wrong with it alone refuses the whole request
        data: dict[str, Any] = {}
        refused = 0
        try:
            order = self._to_cancel(account, p, name)
            self._restrict(order, p)
            cancel_id = p.client_id("cancelNewClientOrderId")
            data |= {"cancelResult": "SUCCESS", "newOrderResult": "",
                     "cancelResponse": self._cancel(order, cancel_id, now_ms)}  # fmt: skip
        except VenueRefusal as refusal:
            refused += 1
            data |= {"cancelResult": "FAILURE", "newOrderResult": "NOT_ATTEMPTED",
                     "cancelResponse": refusal.body, "newOrderResponse": None}  # fmt: skip
        if not refused or mode == "ALLOW_FAILURE":
            try:
                placed = self.new(account, p, now_ms)
                data |= {"newOrderResult": "SUCCESS", "newOrderResponse": placed}
            except VenueRefusal as refusal:
                refused += 1
                data |= {"newOrderResult": "FAILURE", "newOrderResponse": refusal.body}
        if not refused:
            return data
        if refused == 2 or data["newOrderResult"] == "NOT_ATTEMPTED":
            raise VenueRefusal(-2022, "Order cancel-replace failed.", data=data)
        text = "Order cancel-replace partially failed."
        raise VenueRefusal(-2021, text, status=409, data=data)

    def amend(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Make an order smaller; its place in the queue stays."""
        symbol, name, size = p.needed("symbol"), p.order_name(), p.decimal("newQty")
        p.needed("newQty")
        place = self.place_of(symbol)
        order = self.found(account, symbol, name)
        if order is None or not order.is_open:
            raise VenueRefusal(-2013, "Order does not exist.")
        place.rules.check_size(size, market=False)
        if size >= order.size:
            raise VenueRefusal(-2038, "Order amend (quantity increase) is not supported.")
        if size <= order.filled:
            raise VenueRefusal(-2038, "Order amend rejected.")  # the code is the venue's
        client_id = p.client_id("newClientOrderId") or self.made_id()
        if client_id in account.open and client_id != order.client_id:
            raise VenueRefusal(-2010, "Duplicate order sent.")
        self._amend(order, place, size, client_id, now_ms)
        return wire.amended_order(order, self._tell(order, "REPLACED"))

    def _amend(
        self, order: VenueOrder, place: Place, size: Decimal, client_id: str, now_ms: int
    ) -> None:
        account, less = order.account, order.size - size
        place.book.shrink(order, less, now_ms)
        freed = less * order.price if order.side == BUY else less
        if order.locked:
            spec = place.listing.spec
            account.purse.release(spec.quote if order.side == BUY else spec.base, freed)
            order.locked -= freed
        account.ended(order)
        order.original_id, order.client_id = order.client_id, client_id
        account.open[client_id] = order
        order.size, order.changed_ms = size, now_ms
