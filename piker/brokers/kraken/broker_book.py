"""What we know of an account's orders at Kraken, and what each word of the venue means to emsd.

Pure: facts in (reports of the stream, rows of REST), events out. Facts may come twice, late and in
any order: a sum never falls, an end is an end, a fill counts once. An order's end is told when
every fill that led to it has been; until then it is among :meth:`Book.incomplete`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import msgspec

from piker.brokers.kraken.broker_ids import cl_ord_id_of, client_id_of
from piker.brokers.kraken.broker_schema import OrderRow, Report, TradeRow
from piker.brokers.kraken.broker_terms import Markets, order_of_report, order_of_row
from piker.brokers.kraken.decode import time_ns
from piker.clock import NS
from piker.orders import (
    Action,
    BrokerdBelief,
    BrokerdCancel,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdStatus,
)

__all__ = ["ENDS", "Book", "Held"]

ZERO = Decimal(0)
MAX_ENDED = 20_000  # orders that have ended and are remembered: what comes late is known by them
ENDS = {  # a status that ends an order -> what is told
    "filled": "closed",
    "closed": "closed",
    "canceled": "canceled",
    "expired": "expired",
}


class Held(msgspec.Struct, eq=False):
    """One order, ours or a stranger's.

    ``filled`` is the venue's own sum, ``fills`` what was told: a fill that the first has no room
    for is another name of one that was told.
    """

    client_id: str = ""
    oid: str = ""
    txid: str = ""
    symbol: str = ""
    order: BrokerdOrder | None = None  # with the terms that the venue has, as far as we know
    fills: dict[str, Decimal] = msgspec.field(default_factory=dict)
    trade_ids: set[str] = msgspec.field(default_factory=set)  # that REST named
    filled: Decimal = ZERO
    had: Decimal = ZERO  # of it, what emsd knew when the dialog began
    is_summed: bool = False  # the venue has told its sum
    end: str = ""  # the venue's word for it; told once every fill has been
    reason: str = ""
    told: str = ""  # the last status that was told
    believed: bool = False  # emsd asked about it when the dialog began
    vanished: bool = False  # the venue had it, and does not know its txid any more
    made_ns: int = 0
    changed_ns: int = 0  # when it was last amended, as far as we heard
    names: set[str] = msgspec.field(default_factory=set)  # under which it is found

    @property
    def is_over(self) -> bool:
        """Tell whether the venue has ended it."""
        return bool(self.end)

    @property
    def missing(self) -> Decimal:
        """Return how much was filled that has not been told."""
        return self.filled - self.told_sum

    @property
    def told_sum(self) -> Decimal:
        """Return what the fills come to that emsd knows."""
        return sum(self.fills.values(), self.had)

    def learn_sum(self, filled: Decimal) -> None:
        """Take a sum of the venue's: one that is less is an older one."""
        self.filled, self.is_summed = max(self.filled, filled), True


class Book:
    """The orders of one account."""

    def __init__(self, account: str, markets: Markets) -> None:
        self.account = account
        self._markets = markets
        self._named: dict[str, Held] = {}  # by txid and by client id: the two are never alike
        self._live: dict[int, Held] = {}  # by identity, oldest first
        self._ended: dict[int, Held] = {}  # whose end was told, likewise
        self.odd: list[str] = []  # why fills were withheld just now; taken by who asks anew
        self._withheld: dict[str, None] = {}  # for which a sum had no room, oldest first

    def __iter__(self) -> Iterator[Held]:
        """Yield every order that has not ended, or of which not everything is told."""
        return iter(list(self._live.values()))

    def find(self, client_id: str = "", txid: str = "") -> Held | None:
        """Return an order by either id."""
        return self._named.get(txid) or self._named.get(client_id)

    def lacks(self, tid: str, txid: str) -> bool:
        """Tell whether a fill of an order was not told, under that name at least."""
        held = self._named.get(txid)
        return held is None or tid not in held.fills

    def is_named(self, txid: str) -> bool:
        """Tell whether it is known whose order has a txid: a fill alone does not say."""
        held = self._named.get(txid)
        return held is not None and bool(held.client_id or held.order is not None)

    def incomplete(self) -> list[Held]:
        """Return the orders that were filled by more than has been told."""
        return [one for one in self if one.txid and one.missing > 0]

    def standing(self) -> list[Held]:
        """Return those that the venue has and that have not ended."""
        return [one for one in self if one.txid and not one.end]

    # -- what is ours --------------------------------------------------------------------------
    def believe(self, belief: BrokerdBelief) -> Held:
        """Take an order that emsd thinks the venue has."""
        held = self.sent(belief.order)
        held.txid, held.believed = belief.order.reqid, True
        if belief.tids:
            held.had, held.fills = belief.filled, dict.fromkeys(belief.tids, ZERO)
        self._name(held, held.txid)
        return held

    def sent(self, order: BrokerdOrder) -> Held:
        """Take an order that is about to be sent."""
        held = Held(
            client_id=order.client_id, oid=order.oid, symbol=order.symbol, order=order,
            made_ns=order.time_ns,
        )  # fmt: skip
        self._place(held)
        # An id of another form is known again by its digest.
        self._name(held, order.client_id, client_id_of(cl_ord_id_of(order.client_id)))
        return held

    def adopt(self, cancel: BrokerdCancel) -> Held:
        """Take an order of which nothing but its names is known."""
        held = Held(
            client_id=cancel.client_id, oid=cancel.oid, txid=cancel.reqid, symbol=cancel.symbol
        )
        self._place(held)
        self._name(held, cancel.client_id, held.txid)
        return held

    def forget(self, held: Held) -> None:
        """Forget an order that the venue never had."""
        self._live.pop(id(held), None)
        self._ended.pop(id(held), None)
        for name in held.names:
            if self._named.get(name) is held:
                del self._named[name]

    def _name(self, held: Held, *names: str) -> None:
        for name in names:
            if name:
                held.names.add(name)
                self._named[name] = held

    def _place(self, held: Held) -> None:
        """Put an order among those that live or have ended; forget the oldest of the latter."""
        ended = held.told in _TOLD_ENDS and held.missing <= 0
        here, there = (self._ended, self._live) if ended else (self._live, self._ended)
        there.pop(id(held), None)
        here[id(held)] = held
        if len(self._ended) > MAX_ENDED:
            self.forget(next(iter(self._ended.values())))

    def _whose(self, txid: str, cl_ord_id: str | None) -> Held:
        """Return whose fact it is; a stranger's order is taken in."""
        client_id = client_id_of(cl_ord_id or "")
        held, own = self._named.get(txid), self._named.get(client_id) if client_id else None
        if own is not None and own.txid not in ("", txid):
            own = None  # another one that once had the same id
        if own is not None and held is not None and held is not own:
            # What was taken for a stranger's is ours: its fills are told once more, as such.
            own.trade_ids |= held.fills.keys() | held.trade_ids
            self.forget(held)
        held = own or held
        if held is None:
            held = Held(client_id=client_id)
            self._place(held)
        return held

    def _learn_txid(self, held: Held, txid: str, now_ns: int) -> list[BrokerdEvent]:
        """Keep the venue's id; acknowledge an order of ours when it is first known."""
        if held.txid == txid:
            return []
        held.txid = txid
        self._name(held, txid)
        if not held.oid:
            return []
        return [
            BrokerdOrderAck(
                oid=held.oid, reqid=txid, account=self.account, client_id=held.client_id,
                time_ns=now_ns,
            )
        ]  # fmt: skip

    def ack(self, held: Held, txid: str, now_ns: int) -> list[BrokerdEvent]:
        """Take the venue's answer that it has an order."""
        return self._learn_txid(held, txid, now_ns)

    # -- what the venue says -------------------------------------------------------------------
    def report(self, said: Report, now_ns: int, *, whole: bool = False) -> list[BrokerdEvent]:
        """Take a report of the stream; ``whole`` is one of a snapshot."""
        held = self._whose(said.order_id, said.cl_ord_id)
        events = self._learn_txid(held, said.order_id, now_ns)
        if said.symbol:
            held.symbol = self._markets.symbol(said.symbol)
        expire_ns = time_ns(said.expire_time) if said.expire_time else None
        self._learn_terms(held, order_of_report(said, self.account, self._markets, expire_ns))
        self._amend(held, said, now_ns)
        if said.cum_qty is not None:
            held.learn_sum(said.cum_qty)
        if said.exec_type == "trade" and said.exec_id:
            events += self._fill(held, said, now_ns)
        word = said.order_status if whole else said.exec_type
        if word in ENDS:
            held.end, held.reason = held.end or word, held.reason or said.reason or ""
        is_open = said.exec_type not in ("pending_new", "trade")
        return events + self._status(held, now_ns, is_open=is_open, again=whole)

    @staticmethod
    def _amend(held: Held, said: Report, now_ns: int) -> None:
        """Keep the terms that an amendment changed, and when it did."""
        if said.exec_type == "amended":
            held.changed_ns = now_ns
        if held.order is None or said.exec_type not in ("amended", "restated"):
            return
        changes: dict[str, object] = {}
        if said.order_qty is not None:
            changes["size"] = said.order_qty
        if said.limit_price is not None and held.order.price is not None:
            changes["price"] = said.limit_price
        held.order = msgspec.structs.replace(held.order, **changes)

    def row(
        self, txid: str, said: OrderRow, now_ns: int, *, again: bool = False
    ) -> list[BrokerdEvent]:  # fmt: skip
        """Take an order as REST tells it; ``again``: its status is told though it was before."""
        held = self._whose(txid, said.cl_ord_id)
        events = self._learn_txid(held, txid, now_ns)
        held.symbol = held.symbol or self._markets.symbol(said.descr.pair)
        if not held.end:
            self._learn_terms(held, order_of_row(txid, said, self.account, self._markets))
        held.learn_sum(said.vol_exec)
        held.trade_ids.update(said.trades)
        if said.status in ENDS:
            held.end, held.reason = held.end or said.status, held.reason or said.reason or ""
        return events + self._status(held, now_ns, is_open=said.status == "open", again=again)

    @staticmethod
    def _learn_terms(held: Held, found: BrokerdOrder | None) -> None:
        """Keep the venue's terms where it tells them; who ordered it is ours to know."""
        if found is None:
            return
        if held.order is None:
            held.order = found
            return
        held.order = msgspec.structs.replace(
            held.order, size=found.size,
            price=(found.price or held.order.price) if held.order.price is not None else None,
            trigger=found.trigger or held.order.trigger, trail=found.trail or held.order.trail,
            reqid=found.reqid,
        )  # fmt: skip

    def _status(
        self, held: Held, now_ns: int, *, is_open: bool, again: bool = False
    ) -> list[BrokerdEvent]:  # fmt: skip
        """Return what is to be told of an order's state, and put the order where it belongs."""
        told = self._due(held, now_ns, is_open=is_open, again=again)
        self._place(held)
        return told

    def _due(
        self, held: Held, now_ns: int, *, is_open: bool, again: bool
    ) -> list[BrokerdEvent]:  # fmt: skip
        if held.end:
            if held.missing > 0 or held.told in _TOLD_ENDS:
                return []
            status = ENDS[held.end]
        elif is_open and (again or held.told != "open"):
            status = "open"
        else:
            return []
        held.told = status
        return [self.status(held, status, now_ns, held.reason)]

    def status(
        self, held: Held, status: str, now_ns: int, reason: str = ""
    ) -> BrokerdStatus:  # fmt: skip
        """Return a status of an order, with what the venue has of it."""
        size = held.order.size if held.order is not None else None
        filled = max(held.filled, held.told_sum)
        return BrokerdStatus(
            reqid=held.txid, time_ns=now_ns, status=status, account=self.account, oid=held.oid,
            client_id=held.client_id, symbol=held.symbol, filled=filled,
            remaining=None if size is None else max(ZERO, size - filled), reason=reason,
            order=held.order,
        )  # fmt: skip

    def doubt(self, held: Held, now_ns: int, reason: str) -> BrokerdStatus:
        """Tell that nothing is known of an order; whatever is heard of it next is told."""
        held.told = "unknown"
        return self.status(held, "unknown", now_ns, reason)

    # -- fills ---------------------------------------------------------------------------------
    def _fill(self, held: Held, said: Report, now_ns: int) -> list[BrokerdEvent]:
        tid, size, price = said.exec_id or "", said.last_qty or ZERO, said.last_price or ZERO
        if tid in held.fills or size <= 0 or price <= 0 or said.side not in ("buy", "sell"):
            return []
        if said.cum_qty is not None and not self._has_room(held, tid, size):
            return []
        fees = said.fees or []
        at_ns = time_ns(said.timestamp) if said.timestamp else 0
        maker = None if said.liquidity_ind is None else said.liquidity_ind == "m"
        return self._told_fill(
            held, tid, size, price, Action(said.side), now_ns, at_ns, maker,
            sum((fee.qty for fee in fees), ZERO), fees[0].asset.lower() if fees else "",
        )  # fmt: skip

    def _has_room(self, held: Held, tid: str, size: Decimal) -> bool:
        """Tell whether the venue's own sum of an order has room for one more fill.

        One and the same may come under two names: whether the stream tells each trade of a taker's
        order, as REST is asked to, is not known. Or the sum is behind: it is to be asked for anew.
        """
        told = held.told_sum
        if not held.is_summed or told + size <= held.filled:
            return True
        if tid not in self._withheld:
            self.odd.append(f"{tid}: {size} of {held.txid}, and of {held.filled} {told} were told")
            self._withheld[tid] = None
            if len(self._withheld) > MAX_ENDED:
                del self._withheld[next(iter(self._withheld))]
        return False

    def trade(self, tid: str, said: TradeRow, now_ns: int) -> list[BrokerdEvent]:
        """Take a fill as REST tells it; nothing is told of one too many for its order's sum."""
        held = self._whose(said.ordertxid, None)
        if held.txid != said.ordertxid:
            self._learn_txid(held, said.ordertxid, now_ns)
        held.symbol = held.symbol or self._markets.symbol(said.pair)
        if tid in held.fills or said.vol <= 0 or said.price <= 0:
            return []
        if not self._has_room(held, tid, said.vol):
            return []
        asset = self._markets.quote_of(said.pair)  # what REST reckons every fee in
        events = self._told_fill(
            held, tid, said.vol, said.price, Action(said.type), now_ns, int(said.time * NS),
            said.maker, said.fee, asset,
        )  # fmt: skip
        return events + self._status(held, now_ns, is_open=False)

    def _told_fill(
        self, held: Held, tid: str, size: Decimal, price: Decimal, action: Action, now_ns: int,
        at_ns: int, maker: bool | None, fee: Decimal, asset: str,
    ) -> list[BrokerdEvent]:  # fmt: skip
        held.fills[tid] = size
        fill = BrokerdFill(
            reqid=held.txid, tid=tid, time_ns=now_ns, size=size, price=price, action=action,
            account=self.account, oid=held.oid, client_id=held.client_id, symbol=held.symbol,
            broker_time_ns=at_ns, fee=fee, fee_asset=asset, maker=maker,
        )  # fmt: skip
        return [fill]

    def wanted_trades(self) -> list[str]:
        """Return the ids of fills that are known to be, and were not told."""
        return [name for one in self.incomplete() for name in one.trade_ids - one.fills.keys()]


_TOLD_ENDS: frozenset[str] = frozenset(ENDS.values())
