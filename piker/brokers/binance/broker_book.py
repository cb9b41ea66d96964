"""What is known of an account's orders at Binance, and what of it emsd has been told.

One :class:`Known` is one intent of emsd's (or an order of somebody else's). It may have several
*legs* at the venue: an edit can cancel one and make another, a triggered conditional order makes
an order of its own. Facts come from answers, queries and user events in any order and any number;
they are merged by what only ever grows. Pure: it does no I/O, and what it has to say waits in
:attr:`Book.out`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal

import msgspec
import trio

from piker import clock
from piker.brokers.binance.broker_facts import (
    ENDED,
    FillFact,
    OrderFact,
    VenueName,
    derived_id,
    leg_of,
    reqid_of,
    split_id,
)
from piker.brokers.binance.broker_rest import Sent
from piker.orders import (
    BrokerdBelief,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdStatus,
    OrderKind,
)

__all__ = ["MAX_ENDED", "Book", "Known", "Market", "Miss", "differs", "market_by_name", "next_id",
           "told_fill"]  # fmt: skip

ZERO = Decimal(0)
MAX_ENDED = 20_000  # orders that ended and are remembered: late fills find them; some 40 MB


class Market(msgspec.Struct, frozen=True):
    """Where a market id of emsd's is at the venue."""

    venue: VenueName
    wire: str


class Miss(msgspec.Struct):
    """Since when, by its time, the venue says that it has no such order, and how often it did."""

    since_ms: int
    count: int = 0


class Known:
    """One intent, and its legs at the venue by their ids."""

    def __init__(self, order: BrokerdOrder, market: Market, *, is_foreign: bool = False) -> None:
        self.order = order  # the terms that the venue confirmed, or was sent first
        self.market = market
        self.is_foreign = is_foreign
        self.legs: dict[str, OrderFact] = {}
        self.reqid = order.reqid  # that emsd was told
        self.believed = ZERO  # filled by what emsd knew when the dialog began
        #: Requests of a former dialog's, or one that was given up, may be taken all the same.
        self.is_believed = False
        self.in_doubt = ""  # the client id of the leg that an edit may have made
        self.sought = ""  # the leg that is proved to be the last one
        self.unseen: Decimal | None = None  # of what was believed, once every fill was asked for
        self.forgone = ZERO  # filled by the venue's count, and of which it has no trades
        self.tids: dict[int, Decimal] = {}
        self.told = ""  # the status that emsd was told last
        self.sent = Sent()  # when its latest request was signed
        self.expires_ms = 0  # from then on (venue's time) no request of it can be taken any more
        self.flying = 0  # requests whose answers are awaited
        self.landed = trio.Event()  # none is
        self.editing = False
        self.is_archived = False  # it was canceled long ago, whatever its number was
        self.probing = False  # whether later legs exist is not known yet
        self.misses: dict[str, Miss] = {}  # by id: since when it says that it has no such leg
        self.listed: frozenset[str] = frozenset()  # among the open ones just now: proved to stand
        self.lane = trio.Lock()  # edits, one after the other
        self.proof: trio.Event | None = None  # set once what is true of it is known
        self.again = False  # something came while it was being proved

    @property
    def is_over(self) -> bool:
        """Tell whether emsd was told its end."""
        return self.told in ENDED or self.told == "absent"

    @property
    def executed(self) -> Decimal:
        """Return what the venue has said was filled, of all legs."""
        return sum((leg.executed for leg in self.legs.values() if not leg.is_algo), ZERO)

    @property
    def told_size(self) -> Decimal:
        """Return what emsd knows to be filled."""
        before = self.believed if self.unseen is None else self.unseen
        return before + sum(self.tids.values(), ZERO)

    @property
    def lacks_fills(self) -> bool:
        """Tell whether the venue has filled more than was told, and may tell how."""
        return self.executed > self.told_size + self.forgone

    def index_of(self, leg: OrderFact) -> int:
        """Return which leg of the order's it is, by its client id; 0 where that says nothing."""
        base, index = split_id(leg.client_id)
        return index if base == self.order.client_id else 0

    def rank(self, leg: OrderFact) -> tuple[int, int]:
        """Return what orders its legs, newest last; a triggered order's own follows it."""
        for other in self.legs.values():
            if other.is_algo and other.sent == leg.number and not leg.is_algo:
                return self.index_of(other), 1
        return self.index_of(leg), 0

    @property
    def last_index(self) -> int:
        """Return the number of the newest leg."""
        return max((self.index_of(leg) for leg in self.legs.values()), default=0)

    @property
    def newest(self) -> OrderFact:
        """Return the newest leg; there is one."""
        return max(self.legs.values(), key=self.rank)

    @property
    def may_be_replaced(self) -> bool:
        """Tell whether a request that nobody waits for may have canceled it for another leg.

        Spot does both at once; the request may arrive after the order was found to stand.
        """
        if not self.is_believed or self.market.venue != "spot":
            return False
        last = self.newest
        in_time = last.time_ms <= self.expires_ms
        return last.status == "canceled" and in_time and last.reqid != self.sought

    def open_leg(self) -> OrderFact | None:
        """Return the leg that may trade; of a triggered order the one that it became."""
        found = [leg for leg in self.legs.values() if leg.status not in ENDED]
        plain = [leg for leg in found if not leg.is_algo]
        waiting = [leg for leg in found if leg.is_algo and not leg.sent]
        return max(plain or waiting, key=self.rank, default=None)

    def missing_child(self) -> OrderFact | None:
        """Return a leg that was triggered, and whose order has not been seen."""
        for leg in self.legs.values():
            child = reqid_of(leg.venue, leg.symbol, leg.sent)
            if leg.is_algo and leg.sent and child not in self.legs:
                return leg
        return None

    def standing(self) -> str:
        """Return how it stands: a status for emsd, or nothing while that is not known."""
        if not self.legs:
            return ""
        if self.open_leg() is not None or self.missing_child() is not None:
            return "open"
        legs = [leg for leg in self.legs.values() if not (leg.is_algo and leg.sent)]
        last = max(legs, key=self.rank)
        return "closed" if self.executed >= self.order.size > 0 else last.status

    def reason(self) -> str:
        """Return what the venue said of why its newest leg ended."""
        return self.newest.reason if self.legs else ""


class Book:
    """The orders of one account. ``want`` is called with each one that has to be asked for."""

    def __init__(self, account: str, want: Callable[[Known], None]) -> None:
        self.account = account
        self.out: deque[BrokerdEvent] = deque()  # emptied by whoever made it say something
        self.markets: dict[Market, str] = {}  # -> market id
        self._want = want
        self._by_client: dict[str, Known] = {}
        self._by_leg: dict[str, Known] = {}
        self._live: dict[Known, None] = {}  # in the order in which they came
        self._ended: deque[Known] = deque()

    # -- finding -------------------------------------------------------------------------------
    def find(self, client_id: str, reqid: str = "") -> Known | None:
        """Return an order by either of its names."""
        return self._by_leg.get(reqid) or self._by_client.get(client_id)

    def owner(self, fact: OrderFact) -> Known | None:
        """Return whose leg a fact is about."""
        known = self._by_leg.get(fact.reqid)
        if known is None:
            base, _ = split_id(fact.client_id)
            known = self._by_client.get(fact.client_id) or self._by_client.get(base)
        if known is None or known.market != Market(fact.venue, fact.symbol):
            return None
        return known

    def live(self, venue: VenueName) -> list[Known]:
        """Return the orders of a market kind whose end emsd was not told."""
        return [one for one in self._live if one.market.venue == venue and not one.is_over]

    def has_leg(self, reqid: str) -> bool:
        """Tell whether an order is known by an id of the venue's."""
        return reqid in self._by_leg

    def waiting_algos(self, symbol: str) -> list[OrderFact]:
        """Return the conditional orders of a market that may have become an order unseen."""
        return [
            leg for known in self.live("usdm") if known.market.wire == symbol
            for leg in known.legs.values()
            if leg.is_algo and leg.status not in ENDED and not leg.sent
        ]  # fmt: skip

    # -- taking in -----------------------------------------------------------------------------
    def add(self, order: BrokerdOrder, market: Market) -> Known:
        """Take an order in that is about to be sent."""
        known = Known(order, market)
        self._by_client[order.client_id] = known
        self._live[known] = None
        return known

    def believe(self, belief: BrokerdBelief, market: Market, expires_ms: int) -> Known:
        """Take an order in that emsd thinks the venue has; what is true of it is to be asked."""
        known = self.add(belief.order, market)
        known.believed = belief.filled
        known.probing = known.is_believed = True
        known.expires_ms = expires_ms
        if leg_of(known.reqid) is not None:
            self._by_leg[known.reqid] = known
        return known

    def learn(self, fact: OrderFact) -> Known:
        """Take in how an order stood, and tell what is new of it."""
        known = self.owner(fact) or self._foreign(fact)
        if known.is_over and _overrules(fact, known):
            known.told = ""
        if not fact.is_inferred:
            known.misses.pop(fact.reqid, None)
            known.misses.pop(fact.client_id, None)
        if not known.is_over:
            self._live[known] = None
        leg = _merged(known.legs.get(fact.reqid), fact)
        known.legs[fact.reqid] = leg
        self._by_leg[fact.reqid] = known
        if leg.sent:
            self._by_leg[reqid_of(leg.venue, leg.symbol, leg.sent)] = known
        if not known.probing:  # else once all its legs are known
            self._acknowledge(known, leg)
        for fill in fact.fills:
            self.fill(known, fill)
        self.settle(known)
        return known

    def fill(self, known: Known, fill: FillFact) -> None:
        """Tell a fill, once."""
        if fill.trade in known.tids or not fill.size:  # what traded nothing is no trade yet
            return
        known.tids[fill.trade] = fill.size
        order = known.order
        told = told_fill(
            fill, account=self.account, symbol=order.symbol, oid=order.oid,
            client_id=order.client_id,
        )  # fmt: skip
        self.out.append(told)

    def fetched(self, known: Known) -> None:
        """Take note that every fill was asked for: what is believed is among them, or is too old.

        The venue keeps trades for a while only. What it does not show counts as it was believed.
        """
        unseen = max(ZERO, known.believed - sum(known.tids.values(), ZERO))
        known.unseen = unseen if known.unseen is None else min(unseen, known.unseen)
        known.forgone = ZERO

    def forgo(self, known: Known) -> None:
        """Wait no longer for fills of which the venue has no trades; tell how much was filled."""
        known.forgone = known.executed - known.told_size
        known.told = "" if known.told not in ENDED else known.told

    def settle(self, known: Known) -> None:
        """Tell how an order stands where that is another than was told; ask where it is unclear."""
        status = known.standing()
        if not status or known.editing:
            return
        if known.lacks_fills or known.missing_child() is not None:
            self._want(known)
        if status in ENDED and not known.probing and known.may_be_replaced:
            known.probing = True
            self._want(known)
        if known.probing or (status in ENDED and known.lacks_fills):
            return  # it is told once all that went before it was
        if status != known.told and not (known.told in ENDED and status == "open"):
            self._status(known, status, known.reason())
            if status in ENDED:
                self._retire(known)

    # -- saying --------------------------------------------------------------------------------
    def ack_edit(self, known: Known, order: BrokerdOrder, leg: OrderFact) -> None:
        """Tell that an order has new terms, under whatever id it has now."""
        known.order = msgspec.structs.replace(order, reqid=leg.reqid)
        known.reqid = leg.reqid
        self._ack(known, leg.reqid, "edit", order)

    def probed(self, known: Known) -> None:
        """Take note that every leg is known: the newest is acknowledged, with terms that are new.

        An edit may have been carried out that was never answered to whoever asked for it.
        """
        was_probing, known.probing = known.probing, False
        if not known.legs:
            return
        self._acknowledge(known, known.newest)
        leg = known.open_leg()
        if was_probing and leg is not None and not known.is_foreign and not known.editing:
            terms = self.terms(known, leg)
            if differs(terms, known.order):
                self.ack_edit(known, terms, leg)

    def terms(self, known: Known, leg: OrderFact) -> BrokerdOrder:
        """Return an order with a leg's terms, its size that of all legs together."""
        size = leg.size + known.executed - (ZERO if leg.is_algo else leg.executed)
        return _order_of(leg, known.order, size)

    def unknown(self, known: Known, reason: str) -> None:
        """Tell that the outcome of a request is not known."""
        if known.told != "unknown":
            self._status(known, "unknown", reason)

    def gone(self, known: Known) -> None:
        """Tell that the venue has proved not to have an order: it never had one without its id.

        One with an id has ended, and one that is archived. It forgets what ended without a fill;
        what is absent emsd may send once more.
        """
        if leg_of(known.reqid) is None and not known.is_archived:
            self._status(known, "absent", "the venue was asked, and never had it")
        else:
            self._status(known, "canceled", "the venue does not know it any more")
        self._retire(known)

    def refuse(self, known: Known, request: str, reason: str) -> None:
        """Tell that a request was proved not to have been carried out."""
        self.out.append(
            BrokerdError(
                reason=reason, oid=known.order.oid, reqid=known.reqid, symbol=known.order.symbol,
                client_id=known.order.client_id, account=self.account, request=request,
                time_ns=clock.wall_ns(),
            )
        )  # fmt: skip
        if request == "order":
            known.told = "rejected"
            self._retire(known)

    def tell_again(self, known: Known) -> None:
        """Tell once more what is known of an order, its id first."""
        if known.reqid and not known.is_foreign:
            self._ack(known, known.reqid, "order")
        known.told = ""
        self.settle(known)

    # -- inside --------------------------------------------------------------------------------
    def _acknowledge(self, known: Known, leg: OrderFact) -> None:
        """Tell the id of an order's newest leg, if that is not the one which was told."""
        if known.is_foreign or known.editing:
            return
        if leg.reqid == known.reqid or leg.status == "rejected":
            return
        told = known.legs.get(known.reqid)
        if told is not None and known.rank(leg) <= known.rank(told):
            return  # an older one, heard of late
        known.reqid = leg.reqid
        if known.index_of(leg):
            self.ack_edit(known, self.terms(known, leg), leg)
        else:
            self._ack(known, leg.reqid, "order")

    def _ack(
        self, known: Known, reqid: str, request: str, terms: BrokerdOrder | None = None
    ) -> None:  # fmt: skip
        order = known.order
        self.out.append(
            BrokerdOrderAck(
                oid=order.oid, reqid=reqid, account=self.account, client_id=order.client_id,
                request=request, time_ns=clock.wall_ns(), terms=terms,
            )
        )  # fmt: skip

    def _status(self, known: Known, status: str, reason: str) -> None:
        order, filled = known.order, known.executed
        known.told = status
        self.out.append(
            BrokerdStatus(
                reqid=known.reqid, time_ns=clock.wall_ns(), status=status, account=self.account,
                oid=order.oid, client_id=order.client_id, symbol=order.symbol, filled=filled,
                remaining=max(ZERO, order.size - filled), reason=reason,
                order=self._seen(known) if status == "open" else None,
            )
        )  # fmt: skip

    def _seen(self, known: Known) -> BrokerdOrder | None:
        """Return an order as the venue has it, its size that of all legs together."""
        leg = known.open_leg()
        return self.terms(known, leg) if leg is not None else None

    def _foreign(self, fact: OrderFact) -> Known:
        market = Market(fact.venue, fact.symbol)
        symbol = self.markets.get(market) or f"{fact.symbol.lower()}.{fact.venue}"
        blank = BrokerdOrder(
            oid="", client_id=fact.client_id, account=self.account, time_ns=0, symbol=symbol,
            action=fact.action, size=fact.size, reqid=fact.reqid,
        )  # fmt: skip
        return Known(_order_of(fact, blank, fact.size), market, is_foreign=True)

    def _retire(self, known: Known) -> None:
        """Remember an order that has ended, for a while."""
        self._live.pop(known, None)
        self._ended.append(known)
        while len(self._ended) > MAX_ENDED:
            if (oldest := self._ended.popleft()).is_over:
                self.forget(oldest)

    def forget(self, known: Known) -> None:
        """Remember an order no more."""
        if self._by_client.get(known.order.client_id) is known:
            del self._by_client[known.order.client_id]
        for reqid in known.legs:
            self._by_leg.pop(reqid, None)
        self._live.pop(known, None)


def told_fill(
    fill: FillFact, *, account: str, symbol: str, oid: str = "", client_id: str = ""
) -> BrokerdFill:
    """Return a fill as emsd and the books are told it, live or out of the venue's history."""
    return BrokerdFill(
        reqid=reqid_of(fill.venue, fill.symbol, fill.number), tid=f"t{fill.trade}",
        time_ns=clock.wall_ns(), size=fill.size, price=fill.price, action=fill.action,
        account=account, oid=oid, client_id=client_id, symbol=symbol,
        broker_time_ns=fill.time_ms * 1_000_000, fee=fill.fee, fee_asset=fill.fee_asset,
        maker=fill.maker, realised=fill.realised,
    )  # fmt: skip


def market_by_name(symbol: str) -> Market:
    """Return where a market id is at the venue by its words alone: it is listed no more."""
    pair, _, *rest = [*symbol.split("."), "", ""][:3]
    dated = f"_{rest[0]}" if rest[0].isdecimal() else ""
    return Market("usdm" if ".usdtm" in symbol else "spot", f"{pair.upper()}{dated}")


def differs(terms: BrokerdOrder, order: BrokerdOrder) -> bool:
    """Tell whether a limit order has other terms than an order has."""
    both_limited = terms.kind is OrderKind.LIMIT and order.kind is OrderKind.LIMIT
    return both_limited and (terms.size, terms.price) != (order.size, order.price)


def next_id(known: Known) -> str:
    """Return the client id of an order's next leg."""
    return derived_id(known.order.client_id, known.last_index + 1)


def _overrules(fact: OrderFact, known: Known) -> bool:
    """Tell whether a fact proves an end wrong that emsd was told.

    The order was refused, or never there, and stands all the same; its end was inferred; or a leg
    of it stands that nobody knew of.
    """
    leg = known.legs.get(fact.reqid)
    if leg is None:
        return not known.legs or fact.status not in ENDED
    return leg.is_inferred and not fact.is_inferred


def _merged(old: OrderFact | None, new: OrderFact) -> OrderFact:
    """Return what two facts about one leg come to: ends are final, what is filled only rises.

    An end that we inferred is not: whatever the venue says of the order overrules it.
    """
    if old is None:
        return msgspec.structs.replace(new, fills=())
    if old.is_inferred and not new.is_inferred:
        old = msgspec.structs.replace(old, status="open", is_inferred=False, reason="")
    newer = new if new.time_ms >= old.time_ms else old
    end = next((one for one in (old, new) if one.status in ENDED), newer)
    return msgspec.structs.replace(
        newer, status=end.status, is_inferred=end.is_inferred,
        executed=max(old.executed, new.executed), fills=(),
        sent=new.sent or old.sent, reason=new.reason or old.reason,
        made_ms=new.made_ms or old.made_ms,
        client_id=old.client_id if newer.client_id == "" else newer.client_id,
    )  # fmt: skip


def _order_of(fact: OrderFact, order: BrokerdOrder, size: Decimal) -> BrokerdOrder:
    return msgspec.structs.replace(
        order, size=size, kind=fact.kind, price=fact.price, trigger=fact.trigger,
        trigger_by=fact.trigger_by, tif=fact.tif, expire_ns=fact.expire_ns,
        post_only=fact.post_only, reduce_only=fact.reduce_only, reqid=fact.reqid,
        time_ns=fact.time_ms * 1_000_000,
    )  # fmt: skip
