"""USD-M's conditional orders at the loopback Binance (``/fapi/v1/algoOrder``).

They wait for their trigger price, by the last trade; then an order of their own is sent, whose
number they tell. Trailing stops are not offered, nor triggers by the mark price.
"""

from __future__ import annotations

from typing import Any

from piker.testing.accounts import Account, VenueOrder
from piker.testing.binance_account_desk import SIDES
from piker.testing.binance_account_params import Params, VenueRefusal
from piker.testing.binance_account_usdm import UsdmDesk
from piker.testing.binance_account_usdm_wire import text_of
from piker.testing.engine import BUY

__all__ = ["AlgoDesk"]

KINDS = {  # -> what is sent once it is triggered
    "STOP": "LIMIT", "STOP_MARKET": "MARKET", "TAKE_PROFIT": "LIMIT",
    "TAKE_PROFIT_MARKET": "MARKET",
}  # fmt: skip
KEPT = ("symbol", "side", "positionSide", "timeInForce", "price", "quantity", "reduceOnly")
_UNKNOWN = (-2011, "Unknown order sent.")


class AlgoDesk(UsdmDesk):
    """The accounts of USD-M, with their conditional orders."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: those of BinanceDesk
        super().__init__(*args, **kwargs)
        self._algos: dict[str, dict[int, VenueOrder]] = {name: {} for name in self.accounts}

    # -- new, cancelled --------------------------------------------------------------------------
    def new_algo(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Take a conditional order; return the answer."""
        p.choice("algoType", ("CONDITIONAL",), (-1130, "Invalid algoType."))
        place = self.place_of(p.needed("symbol"))
        side = SIDES[p.choice("side", SIDES, (-1117, "Invalid side."))]
        kind = p.choice("type", KINDS, (-1116, "Invalid orderType."))
        p.needed("triggerPrice")
        stop, client_id = p.decimal("triggerPrice"), p.client_id("clientAlgoId") or self.made_id()
        if p.word("workingType", "CONTRACT_PRICE") != "CONTRACT_PRICE":
            raise VenueRefusal(-1130, "Data sent for parameter 'workingType' is not valid.")
        if any(one.client_id == client_id for one in self._open_algos(account)):
            raise VenueRefusal(-4116, "ClientOrderId is duplicated.")
        whole = p.flag("closePosition")
        if whole:
            self._position_side(account, p)
        else:  # what would be sent, as far as it can be judged now
            self._asked(account, self._sent(p, kind), place, now_ms)
        order = VenueOrder(
            number=self.next_order(), client_id=client_id, account=account,
            market=place.listing.wire, side=side, kind=kind, tif=p.word("timeInForce", "GTC"),
            price=p.decimal("price"), size=p.decimal("quantity"), stop=stop,
            rises=(side == BUY) == kind.startswith("STOP"), made_ms=now_ms, changed_ms=now_ms,
            reduce_only=p.flag("reduceOnly"), position_side=p.word("positionSide", "BOTH"),
            more={"asked": dict(p.values), "whole": whole, "sent": 0},
        )  # fmt: skip
        if stop <= 0 or stop % place.book.tick:
            raise VenueRefusal(-4014, "Price not increased by tick size.")
        if place.book.is_met(order, place.book.last):
            raise VenueRefusal(-2021, "Order would immediately trigger.")
        self._algos[account.spec.name][order.number] = order
        place.book.wait(order)
        self._tell_algo(order)
        return _row(order)

    @staticmethod
    def _sent(p: Params, kind: str) -> Params:
        values = {name: p.values[name] for name in KEPT if name in p}
        if KINDS[kind] == "MARKET":
            values = {n: v for n, v in values.items() if n not in ("price", "timeInForce")}
        elif "timeInForce" not in values:
            values["timeInForce"] = "GTC"
        return Params({**values, "type": KINDS[kind], "newOrderRespType": "RESULT"}, p.kind)

    def cancel_algo(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Take a conditional order back."""
        order = self._found_algo(account, p)
        if order is None or not order.is_open:
            raise VenueRefusal(*_UNKNOWN)
        self._end_algo(order, "CANCELED", now_ms)
        return {"algoId": order.number, "clientAlgoId": order.client_id, "code": "200",
                "msg": "success"}  # fmt: skip

    def cancel_algos(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Take every conditional order of a market back."""
        symbol = p.needed("symbol")
        self.place_of(symbol)
        for order in self._open_algos(account, symbol):
            self._end_algo(order, "CANCELED", now_ms)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def _end_algo(self, order: VenueOrder, status: str, now_ms: int) -> None:
        self.place_of(order.market).book.withdraw(order, now_ms)
        order.status, order.changed_ms = status, now_ms
        self._tell_algo(order)

    # -- triggered -------------------------------------------------------------------------------
    def triggered(self, order: VenueOrder, time_ms: int) -> None:
        """Send the order that was kept; tell what became of it."""
        order.status, order.changed_ms = "TRIGGERED", time_ms
        self._tell_algo(order)
        p = self._sent(Params(order.more["asked"], self.kind), order.kind)
        if order.more["whole"]:
            p.values["quantity"] = text_of(self._closable(order))
            if order.position_side == "BOTH":
                p.values["reduceOnly"] = "true"
        try:
            order.more["sent"] = self.new(order.account, p, time_ms)["orderId"]
            order.status = "FINISHED"
        except VenueRefusal as refusal:
            order.status = "REJECTED"
            order.more["reason"] = refusal.text
        self._tell_algo(order)

    # -- what there is ---------------------------------------------------------------------------
    def _open_algos(self, account: Account, symbol: str = "") -> list[VenueOrder]:
        algos = self._algos[account.spec.name].values()
        return [one for one in algos if one.is_open and symbol in ("", one.market)]

    def _found_algo(self, account: Account, p: Params) -> VenueOrder | None:
        number, client_id = p.order_name("algoId", "clientAlgoId")
        algos = self._algos[account.spec.name]
        if number:
            return algos.get(number)
        return next((o for o in reversed(algos.values()) if o.client_id == client_id), None)

    def one_algo(self, account: Account, p: Params, now_ms: int) -> dict[str, Any]:
        """Return a conditional order."""
        order = self._found_algo(account, p)
        if order is None or not self.shows(order.made_ms) or self.forgot(order):
            raise VenueRefusal(-2013, "Order does not exist.")
        return _row(order)

    def open_algos(self, account: Account, p: Params, now_ms: int) -> list[dict[str, Any]]:
        """Return the conditional orders that wait."""
        algos = self._open_algos(account, p.word("symbol"))
        return [_row(order) for order in algos if self.shows(order.made_ms)]

    def all_algos(self, account: Account, p: Params, now_ms: int) -> list[dict[str, Any]]:
        """Return the conditional orders of a market, ended ones too."""
        symbol = p.needed("symbol")
        found = [one for one in self._algos[account.spec.name].values() if one.market == symbol]
        return [_row(order) for order in found[-p.whole("limit", 500, top=1000) :]]

    @staticmethod
    def _tell_algo(order: VenueOrder) -> None:
        order.account.tell(_update(order))


def _row(order: VenueOrder) -> dict[str, Any]:
    """Return a conditional order as answers and queries show it."""
    sent = order.more["sent"]
    return {
        "algoId": order.number, "clientAlgoId": order.client_id, "algoType": "CONDITIONAL",
        "orderType": order.kind, "symbol": order.market,
        "side": "BUY" if order.side == BUY else "SELL", "positionSide": order.position_side,
        "timeInForce": order.tif, "quantity": text_of(order.size), "algoStatus": order.status,
        "actualOrderId": str(sent) if sent else "", "triggerPrice": text_of(order.stop),
        "price": text_of(order.price), "icebergQuantity": None,
        "selfTradePreventionMode": "EXPIRE_MAKER", "workingType": "CONTRACT_PRICE",
        "priceMatch": "NONE",
        "closePosition": order.more["whole"], "priceProtect": False,
        "reduceOnly": order.reduce_only, "createTime": order.made_ms,
        "updateTime": order.changed_ms, "triggerTime": 0 if order.is_open else order.changed_ms,
        "goodTillDate": 0,
    }  # fmt: skip


def _update(order: VenueOrder) -> dict[str, Any]:
    """Return ALGO_UPDATE."""
    row = _row(order)
    body = {
        "caid": row["clientAlgoId"], "aid": row["algoId"], "at": row["algoType"],
        "o": row["orderType"], "s": row["symbol"], "S": row["side"], "ps": row["positionSide"],
        "f": row["timeInForce"], "q": row["quantity"], "X": row["algoStatus"],
        "ai": row["actualOrderId"], "tp": row["triggerPrice"], "p": row["price"],
        "V": "EXPIRE_MAKER",
        "wt": row["workingType"], "pm": "NONE", "cp": row["closePosition"], "pP": False,
        "R": row["reduceOnly"], "tt": row["triggerTime"], "gtd": 0,
        "rm": order.more.get("reason", ""),
    }  # fmt: skip
    return {"e": "ALGO_UPDATE", "E": order.changed_ms, "T": order.changed_ms, "o": body}
