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
from piker.clearing.paper_money import PaperMoney
from piker.errors import Bug
from piker.market import MktPair
from piker.money import ZERO
from piker.orders import (
    BrokerdBalance,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
    BrokerdStatus,
    Order,
    OrderKind,
    TimeInForce,
)

__all__ = ["KINDS", "OFFERED", "Fees", "PaperBroker", "stands_again"]

SEEN_KEPT = 10_000  # ended orders that are known when they come again: as many as emsd has at hand
COIN = Decimal("1e-12")  # to which a division is rounded: a coin's smallest unit is larger
#: What the model does itself; emsd's dark book does the rest.
KINDS = frozenset({OrderKind.MARKET, OrderKind.LIMIT})
#: The same in the words of ``Capabilities.orders``.
OFFERED = frozenset({*KINDS, "gtc", "ioc", "fok", "post_only", "edit"})


class Fees(NamedTuple):
    """A venue's rates, as fractions of what is traded; negative ones are paid to us."""

    maker: Decimal = Decimal("0.001")
    taker: Decimal = Decimal("0.001")


def stands_again(order: Order | BrokerdOrder) -> bool:
    """Tell whether an order stands after a crash though nobody knows whether it was taken before.

    It may have been told to be open (docs/adr/0009), and trades at its price or not at all. One
    that trades at any price, or at once, or must not trade at once, is for its client to repeat.
    """
    at_once = order.post_only or order.tif in (TimeInForce.IOC, TimeInForce.FOK)
    return order.kind is OrderKind.LIMIT and not at_once


def _side(order: BrokerdOrder) -> int:
    return 1 if order.action == "buy" else -1


class _Held(NamedTuple):
    """An order that the broker has taken: its terms, its id, and what it has traded."""

    order: BrokerdOrder
    reqid: str
    filled: Decimal


class PaperBroker:
    """One paper account at one provider. ``next_id`` is the first number of an order to use.

    With ``money`` an order that it does not suffice for is refused, and fills move it.
    """

    def __init__(self, account: str, *, next_id: int = 1, money: PaperMoney | None = None) -> None:
        self.account = account
        self.money = money
        self.next_id = next_id
        self._fees: dict[str, Fees] = {}
        self._mkts: dict[str, MktPair] = {}
        self._books: dict[str, PaperMarket] = {}
        self._held: dict[str, _Held] = {}  # by oid, while it stands
        self._seen: dict[str, str] = {}  # of ended ones, client id -> reqid: none is done twice

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

        One whose id from us is not known stands if :func:`stands_again` and the account has enough
        for it, which may be why it was not taken before; else it is absent, or refused. None stands
        whose market is not open, or that is to end.
        """
        order = belief.order
        book = self._books.get(order.symbol)
        if belief.ends:
            return [self.forgotten(belief, now_ns)]
        if not order.reqid and not stands_again(order):
            return [self._of_belief(belief, "absent", now_ns)]
        if book is None or not book.is_known:
            return [self._of_belief(belief, "unknown", now_ns, f"{order.symbol} is not open")]
        if not order.reqid and (why := self._lacks(order, order.size - belief.filled, book)):
            return [self._error(order, why, now_ns)]
        reqid = order.reqid or self._new_id()
        self._held[order.oid] = _Held(order, reqid, belief.filled)
        left = msgspec.structs.replace(order, size=order.size - belief.filled, post_only=False)
        self._set_aside(order.oid)
        fills, end = book.submit(left)
        events: list[BrokerdEvent] = [self._status(order.oid, "open", now_ns)]
        events += self._tell(fills, now_ns)
        if end and end != "closed":
            events.append(self._status(order.oid, "canceled", now_ns, end))
            self._drop(order.oid)
        return events

    def forgotten(self, belief: BrokerdBelief, now_ns: int) -> BrokerdStatus:
        """Return the end of an order that does not stand here, and is not to."""
        return self._of_belief(belief, "canceled", now_ns, "it did not stand again")

    def _of_belief(
        self, belief: BrokerdBelief, status: str, now_ns: int, reason: str = ""
    ) -> BrokerdStatus:
        order = belief.order
        return BrokerdStatus(
            reqid=order.reqid, time_ns=now_ns, status=status, account=self.account, oid=order.oid,
            client_id=order.client_id, symbol=order.symbol, filled=belief.filled, reason=reason,
        )  # fmt: skip

    def balances(self, now_ns: int) -> list[BrokerdBalance]:
        """Return what the account has of each asset; nothing where nobody counts it."""
        return self.money.balances(now_ns) if self.money is not None else []

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
        if request.reqid:
            return [self._error(request, "there is no such order, or it has ended", now_ns)]
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
    def _new_id(self) -> str:
        self.next_id += 1
        return f"p{self.next_id - 1}"

    def _submit(self, order: BrokerdOrder, book: PaperMarket, now_ns: int) -> list[BrokerdEvent]:
        why = self._lacks(order, order.size, book)
        if why:
            return [self._error(order, why, now_ns)]
        reqid = self._new_id()
        self._held[order.oid] = _Held(order, reqid, Decimal(0))
        self._set_aside(order.oid)
        fills, end = book.submit(order)
        taken = self._ack(order, reqid, now_ns) if end else self._status(order.oid, "open", now_ns)
        events: list[BrokerdEvent] = [taken]  # what is open was taken: it needs no word of its own
        events += self._tell(fills, now_ns)
        if end and end != "closed":
            refused = not fills and (order.post_only or order.tif == "fok")
            events.append(
                self._status(order.oid, "rejected" if refused else "canceled", now_ns, end)
            )
            self._drop(order.oid)
        return events

    def _amend(self, order: BrokerdOrder, book: PaperMarket, now_ns: int) -> list[BrokerdEvent]:
        held = self._held[order.oid]
        why = self._lacks(order, order.size - held.filled, book)
        if order.size < held.filled:  # its client had not heard of the last fills yet
            why = f"{held.filled} of it were filled"
        if why:
            return [self._error(order, why, now_ns)]
        outcome = book.amend(order, held.filled)
        if outcome is None:
            return [self._error(order, "the order is gone", now_ns)]
        fills, end = outcome
        if end not in ("", "closed"):
            return [self._error(order, end, now_ns)]
        self._held[order.oid] = held._replace(order=order)
        self._set_aside(order.oid)
        ack = BrokerdOrderAck(
            oid=order.oid, reqid=held.reqid, account=self.account, client_id=order.client_id,
            request="edit", time_ns=now_ns, terms=order,
        )  # fmt: skip
        events: list[BrokerdEvent] = [ack, *self._tell(fills, now_ns)]
        if end == "closed" and order.oid in self._held:  # it had traded as much as it now wants
            events.append(self._status(order.oid, "closed", now_ns))
            self._drop(order.oid)
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
        self._drop(cancel.oid)
        return [told]

    def _tell(self, fills: list[PaperFill], now_ns: int) -> list[BrokerdEvent]:
        events: list[BrokerdEvent] = []
        moved: dict[str, None] = {}
        for fill in fills:
            held = self._held[fill.oid]
            held = held._replace(filled=held.filled + fill.size)
            self._held[fill.oid] = held
            told = self._fill(held, fill, now_ns)
            events.append(told)
            moved.update(dict.fromkeys(told.moved))
            if held.filled == held.order.size:
                events.append(self._status(fill.oid, "closed", now_ns))
                self._drop(fill.oid)
            elif held.filled > held.order.size:
                raise Bug(f"paper filled {held.filled} of {held.order.size}.")
            else:
                self._set_aside(fill.oid)
        if moved and self.money is not None:
            events += self.money.balances(now_ns, moved)
        return events

    def _drop(self, oid: str) -> None:
        """Forget an order that has ended, but that it was here."""
        held = self._held.pop(oid)
        self._seen[held.order.client_id] = held.reqid
        if len(self._seen) > SEEN_KEPT:
            del self._seen[next(iter(self._seen))]
        if self.money is not None:
            self.money.release(oid)

    def _set_aside(self, oid: str) -> None:
        """Keep what an order may still need from the others."""
        if self.money is not None:
            held = self._held[oid]
            order, left = held.order, held.order.size - held.filled
            price = self._price(order, self._books[order.symbol])
            fee = self._fees[order.symbol].taker
            self.money.set_aside(oid, self._mkts[order.symbol], _side(order), left, price, fee)

    def _lacks(self, order: BrokerdOrder, left: Decimal, book: PaperMarket) -> str:
        """Return why the account has not enough for an order, or ""."""
        if self.money is None or left <= 0:
            return ""
        mkt, fee = self._mkts[order.symbol], self._fees[order.symbol].taker
        price = self._price(order, book)
        return self.money.lacks(order.oid, mkt, _side(order), left, price, fee)

    def _price(self, order: BrokerdOrder, book: PaperMarket) -> Decimal:
        """Return what an order pays at most: its limit, or what is quoted now."""
        return order.price or book.price_for(_side(order)) or ZERO

    def _fill(self, held: _Held, fill: PaperFill, now_ns: int) -> BrokerdFill:
        mkt, order = self._mkts[held.order.symbol], held.order
        fees = self._fees[mkt.mktid]
        rate = fees.maker if fill.maker else fees.taker
        self.next_id += 1
        worth = fill.size * mkt.contract_size
        coins = (worth / fill.price).quantize(COIN) if mkt.inverse else worth * fill.price
        fee, asset = coins * rate, (mkt.dst if mkt.inverse else mkt.src).name
        moved: dict[str, Decimal] = {}
        if self.money is not None:
            moved = self.money.fill(mkt, _side(order), fill.size, fill.price, fee, asset)
        return BrokerdFill(
            reqid=held.reqid, tid=f"{held.reqid}.{self.next_id}", time_ns=now_ns, size=fill.size,
            price=fill.price, action=order.action, account=self.account, oid=order.oid,
            client_id=order.client_id, symbol=order.symbol, broker_time_ns=now_ns, fee=fee,
            fee_asset=asset, maker=fill.maker, moved=moved,
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

    def _error(self, order: BrokerdOrder, reason: str, now_ns: int) -> BrokerdError:
        return BrokerdError(
            reason=reason, oid=order.oid, reqid=order.reqid, client_id=order.client_id,
            symbol=order.symbol, account=self.account, time_ns=now_ns,
            request="edit" if order.reqid else "order",
        )  # fmt: skip
