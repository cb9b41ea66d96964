"""A paper broker: what a venue would say, of orders that never leave this machine.

It speaks the order protocol as a venue's backend does (requests in, events out) and holds one
:class:`~piker.clearing.matching.PaperMarket` for each market. Pure: times and prices are told to
it; ids count on from what it is given, so that they are unique across restarts.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import msgspec

from piker.clearing.matching import PaperFill, PaperMarket
from piker.errors import Bug
from piker.market import MktPair
from piker.orders import (
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
    BrokerdStatus,
    OrderKind,
)

__all__ = ["KINDS", "OFFERED", "Fees", "PaperBroker"]

COIN = Decimal("1e-12")  # to which a division is rounded: a coin's smallest unit is larger
#: What the model does itself; emsd's dark book does the rest.
KINDS = frozenset({OrderKind.MARKET, OrderKind.LIMIT})
#: The same in the words of ``Capabilities.orders``.
OFFERED = frozenset({*KINDS, "gtc", "ioc", "fok", "post_only", "edit"})


class Fees(NamedTuple):
    """A venue's rates, as fractions of what is traded; negative ones are paid to us."""

    maker: Decimal = Decimal("0.001")
    taker: Decimal = Decimal("0.001")


class _Held(NamedTuple):
    """An order that the broker has taken: its terms, its id, and what it has traded."""

    order: BrokerdOrder
    reqid: str
    filled: Decimal


class PaperBroker:
    """One paper account at one provider. ``next_id`` is the first number of an order to use."""

    def __init__(self, account: str, *, next_id: int = 1) -> None:
        self.account = account
        self.next_id = next_id
        self._fees: dict[str, Fees] = {}
        self._mkts: dict[str, MktPair] = {}
        self._books: dict[str, PaperMarket] = {}
        self._held: dict[str, _Held] = {}  # by oid, while it stands
        self._seen: dict[str, str] = {}  # client id -> reqid: the same order twice is one

    def know(self, mkt: MktPair, fees: Fees | None = None) -> None:
        """Take a market in, with what its venue asks."""
        self._mkts[mkt.mktid] = mkt
        self._fees[mkt.mktid] = fees or Fees()
        self._books.setdefault(mkt.mktid, PaperMarket())

    def is_quoted(self, symbol: str) -> bool:
        """Tell whether both sides of a market have been seen."""
        return symbol in self._books and self._books[symbol].is_known

    def has_orders(self, symbol: str) -> bool:
        """Tell whether anything stands in a market."""
        return symbol in self._books and bool(self._books[symbol].resting)

    def reach(self, symbol: str) -> tuple[float, float]:
        """Return the prices strictly between which a trade touches nothing that stands."""
        low, high = self._books[symbol].reach()
        return float(low), float(high)

    def restore(self, belief: BrokerdBelief, now_ns: int) -> list[BrokerdEvent]:
        """Let an order stand again as emsd knows it, at the end of its queue; or prove it absent.

        One that never had an id from us never stood; nor does one whose market is not open.
        """
        order, reqid = belief.order, belief.order.reqid
        book = self._books.get(order.symbol)
        if not reqid:
            return [self._of_belief(belief, "absent", now_ns)]
        if book is None or not book.is_known:
            return [self._of_belief(belief, "unknown", now_ns, f"{order.symbol} is not open")]
        self._seen[order.client_id] = reqid
        self._held[order.oid] = _Held(order, reqid, belief.filled)
        left = msgspec.structs.replace(order, size=order.size - belief.filled, post_only=False)
        fills, end = book.submit(left)
        events: list[BrokerdEvent] = [self._status(order.oid, "open", now_ns)]
        events += self._tell(fills, now_ns)
        if end and end != "closed":
            events.append(self._status(order.oid, "canceled", now_ns, end))
            del self._held[order.oid]
        return events

    def forgotten(self, belief: BrokerdBelief, now_ns: int) -> BrokerdStatus:
        """Return the end of an order that does not stand here, and is not to."""
        return self._of_belief(belief, "canceled", now_ns)

    def _of_belief(
        self, belief: BrokerdBelief, status: str, now_ns: int, reason: str = ""
    ) -> BrokerdStatus:
        order = belief.order
        return BrokerdStatus(
            reqid=order.reqid, time_ns=now_ns, status=status, account=self.account, oid=order.oid,
            client_id=order.client_id, symbol=order.symbol, filled=belief.filled, reason=reason,
        )  # fmt: skip

    # -- requests ------------------------------------------------------------------------------
    def request(self, request: BrokerdRequest, now_ns: int) -> list[BrokerdEvent]:
        """Carry a request out; return what a venue would say, in its order."""
        if isinstance(request, BrokerdCancel):
            return self._cancel(request, now_ns)
        book = self._books.get(request.symbol)
        if book is None:
            return [self._error(request, f"{request.symbol} is not open here", now_ns)]
        if not book.is_known:
            return [self._error(request, f"{request.symbol} has no quote yet", now_ns)]
        if request.kind not in KINDS:
            return [self._error(request, f"{request.kind} is not done here", now_ns)]
        if request.oid in self._held:
            return self._amend(request, book, now_ns)
        if request.client_id in self._seen:  # it was carried out before: say so again
            reqid = self._seen[request.client_id]
            return [self._ack(request, reqid, now_ns)]
        return self._submit(request, book, now_ns)

    def quote(
        self, symbol: str, bid: tuple[Decimal, Decimal], ask: tuple[Decimal, Decimal], now_ns: int
    ) -> list[BrokerdEvent]:
        """Take a market's best bid and ask, each (price, size); return what they fill."""
        return self._tell(self._books[symbol].quote(*bid, *ask), now_ns)

    def trade(
        self, symbol: str, price: Decimal, size: Decimal, aggressor: int, now_ns: int
    ) -> list[BrokerdEvent]:
        """Take a print; return what it fills."""
        return self._tell(self._books[symbol].trade(price, size, aggressor), now_ns)

    # -- inside --------------------------------------------------------------------------------
    def _submit(self, order: BrokerdOrder, book: PaperMarket, now_ns: int) -> list[BrokerdEvent]:
        reqid = f"p{self.next_id}"
        self.next_id += 1
        self._seen[order.client_id] = reqid
        self._held[order.oid] = _Held(order, reqid, Decimal(0))
        fills, end = book.submit(order)
        events: list[BrokerdEvent] = [self._ack(order, reqid, now_ns)]
        if not end:
            events.append(self._status(order.oid, "open", now_ns))
        events += self._tell(fills, now_ns)
        if end and end != "closed":
            refused = not fills and (order.post_only or order.tif == "fok")
            events.append(
                self._status(order.oid, "rejected" if refused else "canceled", now_ns, end)
            )
            del self._held[order.oid]
        return events

    def _amend(self, order: BrokerdOrder, book: PaperMarket, now_ns: int) -> list[BrokerdEvent]:
        held = self._held[order.oid]
        outcome = book.amend(order, held.filled)
        if outcome is None:
            return [self._error(order, "the order is gone", now_ns, request="edit")]
        self._held[order.oid] = held._replace(order=order)
        fills, end = outcome
        ack = BrokerdOrderAck(
            oid=order.oid, reqid=held.reqid, account=self.account, client_id=order.client_id,
            request="edit", time_ns=now_ns,
        )  # fmt: skip
        events: list[BrokerdEvent] = [ack, *self._tell(fills, now_ns)]
        if end == "closed" and order.oid in self._held:  # it had traded as much as it now wants
            events.append(self._status(order.oid, "closed", now_ns))
            del self._held[order.oid]
        return events

    def _cancel(self, cancel: BrokerdCancel, now_ns: int) -> list[BrokerdEvent]:
        held = self._held.get(cancel.oid)
        if held is None:
            error = BrokerdError(
                reason="there is no such order, or it has ended", oid=cancel.oid,
                reqid=cancel.reqid, client_id=cancel.client_id, symbol=cancel.symbol,
                account=self.account, request="cancel", time_ns=now_ns,
            )  # fmt: skip
            return [error]
        self._books[held.order.symbol].cancel(cancel.oid)
        told = self._status(cancel.oid, "canceled", now_ns)
        del self._held[cancel.oid]
        return [told]

    def _tell(self, fills: list[PaperFill], now_ns: int) -> list[BrokerdEvent]:
        events: list[BrokerdEvent] = []
        for fill in fills:
            held = self._held[fill.oid]
            held = held._replace(filled=held.filled + fill.size)
            self._held[fill.oid] = held
            events.append(self._fill(held, fill, now_ns))
            if held.filled == held.order.size:
                events.append(self._status(fill.oid, "closed", now_ns))
                del self._held[fill.oid]
            elif held.filled > held.order.size:
                raise Bug(f"paper filled {held.filled} of {held.order.size}.")
        return events

    def _fill(self, held: _Held, fill: PaperFill, now_ns: int) -> BrokerdFill:
        mkt, order = self._mkts[held.order.symbol], held.order
        fees = self._fees[mkt.mktid]
        rate = fees.maker if fill.maker else fees.taker
        self.next_id += 1
        worth = fill.size * mkt.contract_size
        coins = (worth / fill.price).quantize(COIN) if mkt.inverse else worth * fill.price
        fee = coins * rate
        return BrokerdFill(
            reqid=held.reqid, tid=f"{held.reqid}.{self.next_id}", time_ns=now_ns, size=fill.size,
            price=fill.price, action=order.action, account=self.account, oid=order.oid,
            client_id=order.client_id, symbol=order.symbol, broker_time_ns=now_ns, fee=fee,
            fee_asset=(mkt.dst if mkt.inverse else mkt.src).name, maker=fill.maker,
        )  # fmt: skip

    def _ack(self, order: BrokerdOrder, reqid: str, now_ns: int) -> BrokerdOrderAck:
        return BrokerdOrderAck(
            oid=order.oid, reqid=reqid, account=self.account, client_id=order.client_id,
            time_ns=now_ns,
        )  # fmt: skip

    def _status(self, oid: str, status: str, now_ns: int, reason: str = "") -> BrokerdStatus:
        held = self._held[oid]
        return BrokerdStatus(
            reqid=held.reqid, time_ns=now_ns, status=status, account=self.account, oid=oid,
            client_id=held.order.client_id, symbol=held.order.symbol, filled=held.filled,
            remaining=held.order.size - held.filled, reason=reason,
        )  # fmt: skip

    def _error(
        self, order: BrokerdOrder, reason: str, now_ns: int, *, request: str = "order"
    ) -> BrokerdError:
        return BrokerdError(
            reason=reason, oid=order.oid, reqid=order.reqid, client_id=order.client_id,
            symbol=order.symbol, account=self.account, request=request, time_ns=now_ns,
        )  # fmt: skip
