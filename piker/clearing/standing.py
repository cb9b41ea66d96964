"""What the journal's rows come to: orders that stand, positions, holdings, days and risk states.

A pure fold. It is bounded by what is open, not by how long the journal is: of the orders that have
ended the newest are kept, older ones are forgotten, and one of which something is still heard is
folded anew from its own rows (:meth:`Standing.lacks`, :meth:`Standing.recall`). What a
:class:`Standing` is follows from the rows alone, in whatever pieces they were folded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from piker.clearing.holdings import DAY_NS, Holding, MarketDay, traded
from piker.clearing.lifecycle import Event, OrderState, begin, step
from piker.clearing.records import Entry, Happened, Intent, Opened, Position, Record, RiskChange
from piker.money import EXACT, ZERO, is_bounded

__all__ = ["ENDED_KEPT", "FOLD", "Snapshot", "Standing", "fold_orders"]

FOLD = 11  # raised when the same rows come to something else: older snapshots are not used then
ENDED_KEPT = 10_000  # ended orders: 10 MB; a busy day's, for clients that ask what became of them


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A standing as it is kept in a file: what the rows up to ``seq``, with ``chain``, come to."""

    fold: int
    ended_kept: int
    seq: int
    chain: bytes
    live: list[OrderState]
    ended: list[OrderState]  # the first that ended first
    positions: list[Position]
    holdings: list[tuple[str, str, Holding]]
    days: list[tuple[str, str, MarketDay]]
    moved: list[tuple[str, str, Decimal]]
    longs: list[tuple[str, str, Decimal]]
    risk: dict[str, RiskChange]

    @property
    def is_ours(self) -> bool:
        """Tell whether our fold would have made it of the same rows."""
        return (self.fold, self.ended_kept) == (FOLD, ENDED_KEPT)


class Standing:
    """The fold of the rows up to ``seq``. Whoever is given one reads it and changes nothing.

    ``live`` are the orders that have not ended, ``ended`` the newest of those that have, by oid.
    ``positions`` are the last that a venue told, by (account, symbol); ``holdings`` what our own
    fills come to, by (account, fqme), and ``nets`` the signed sizes of that; ``days`` the newest
    day of each; ``moved`` what paper fills moved, by (account, asset); ``longs`` what our fills
    come to on the long side, for accounts that hold both sides of a market apart: there a buy
    opens it, and a sell that is reduce-only closes it. ``risk`` is the last state of each account,
    "" being all.
    """

    def __init__(self, chain: bytes = b"") -> None:
        """Begin with no rows; ``chain`` is the journal's genesis."""
        self.seq = 0
        self.chain = chain
        self.live: dict[str, OrderState] = {}
        self.ended: OrderedDict[str, OrderState] = OrderedDict()
        self.positions: dict[tuple[str, str], Position] = {}
        self.nets: dict[tuple[str, str], Decimal] = {}
        self.holdings: dict[tuple[str, str], Holding] = {}
        self.days: dict[tuple[str, str], MarketDay] = {}
        self.moved: dict[tuple[str, str], Decimal] = {}
        self.longs: dict[tuple[str, str], Decimal] = {}
        self.risk: dict[str, RiskChange] = {}

    @classmethod
    def of(cls, snapshot: Snapshot) -> Standing:
        """Return the standing that a snapshot was taken of."""
        self = cls(snapshot.chain)
        self.seq = snapshot.seq
        self.live = {state.order.oid: state for state in snapshot.live}
        self.ended = OrderedDict((state.order.oid, state) for state in snapshot.ended)
        self.positions = {(one.told.account, one.told.symbol): one for one in snapshot.positions}
        self.holdings = {(account, symbol): held for account, symbol, held in snapshot.holdings}
        self.nets = {where: held.size for where, held in self.holdings.items()}
        self.days = {(account, symbol): day for account, symbol, day in snapshot.days}
        self.moved = {(account, asset): amount for account, asset, amount in snapshot.moved}
        self.longs = {(account, symbol): size for account, symbol, size in snapshot.longs}
        self.risk = dict(snapshot.risk)
        return self

    def snapshot(self) -> Snapshot:
        """Return it as it is now; later rows do not change what was returned."""
        return Snapshot(
            fold=FOLD, ended_kept=ENDED_KEPT, seq=self.seq, chain=self.chain,
            live=list(self.live.values()), ended=list(self.ended.values()),
            positions=list(self.positions.values()),
            holdings=[(*where, held) for where, held in self.holdings.items()],
            days=[(*where, day) for where, day in self.days.items()],
            moved=[(*where, amount) for where, amount in self.moved.items()],
            longs=[(*where, size) for where, size in self.longs.items()],
            risk=dict(self.risk),
        )  # fmt: skip

    def get(self, oid: str) -> OrderState | None:
        """Return an order that stands or ended lately; None of one forgotten, or never known."""
        return self.live.get(oid) or self.ended.get(oid)

    def lacks(self, oid: str, entry: Entry) -> bool:
        """Tell whether the order that an entry is about must be recalled before it is applied."""
        return isinstance(entry, Happened) and oid not in self.live and oid not in self.ended

    def recall(self, state: OrderState) -> None:
        """Take a forgotten order in again, as its rows so far have it."""
        self._put(state)

    def apply(self, seq: int, account: str, oid: str, entry: Entry, time_ns: int) -> None:
        """Fold one row. Events of an oid without an intent change no order."""
        self.seq = seq
        if isinstance(entry, Happened):
            state = self.live.get(oid) or self.ended.get(oid)
            if state is not None:
                after = step(state, entry.event).state
                if after.filled != state.filled and state.order.side:
                    self._count(state, entry.event, time_ns)
                self._put(after)
        elif isinstance(entry, Intent):
            self._put(begin(entry.order, time_ns))
        elif isinstance(entry, Position):
            self.positions[entry.told.account, entry.told.symbol] = entry
        elif isinstance(entry, RiskChange):
            self.risk[account] = entry
        elif isinstance(entry, Opened):
            where, day = (account, entry.symbol), time_ns // DAY_NS
            before = self.days.get(where) or MarketDay(day)
            self.days[where] = before.after(day, entry.size, entry.price)

    def _count(self, state: OrderState, event: Event, time_ns: int) -> None:
        """Count a fill that an order has taken in: its day is that of the row."""
        order, day = state.order, time_ns // DAY_NS
        where, fee, asset = (order.account, order.symbol), event.fee, event.fee_asset
        size = event.size if order.side > 0 else event.size.copy_negate()
        held = traded(self.holdings.get(where) or Holding(), size, event.price, fee, asset)
        self.holdings[where], self.nets[where] = held, held.size
        if (order.side > 0) is not order.reduce_only:
            self.longs[where] = EXACT.add(self.longs.get(where, ZERO), size)
        before = self.days.get(where) or MarketDay(day)
        self.days[where] = before.after(day, size, event.price, fee, asset)
        for moved, amount in event.moved.items():
            if is_bounded(amount):
                at = (order.account, moved)
                self.moved[at] = EXACT.add(self.moved.get(at, ZERO), amount)

    def _put(self, state: OrderState) -> None:
        oid = state.order.oid
        if not state.is_over:
            self.ended.pop(oid, None)
            self.live[oid] = state
            return
        self.live.pop(oid, None)
        self.ended[oid] = state
        if len(self.ended) > ENDED_KEPT:
            self.ended.popitem(last=False)


def fold_orders(orders: dict[str, OrderState], records: Iterable[Record]) -> None:
    """Fold records into ``orders``, in place. Events of an oid without an intent change nothing."""
    for record in records:
        entry = record.entry
        if isinstance(entry, Intent):
            orders.setdefault(entry.order.oid, begin(entry.order, record.time_ns))
        elif isinstance(entry, Happened) and record.oid in orders:
            orders[record.oid] = step(orders[record.oid], entry.event).state
