"""The journal's fills as a backend would tell them: what accounting makes transactions of.

Clearing and accounting know nothing of each other. What they share is
:class:`piker.orders.BrokerdFill`: ``piker.accounting.of_fill`` takes it from here::

    ledger = Ledger(of_fill(one.fill, symbol=one.symbol) for one in executions(records))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from piker.clearing.lifecycle import EventKind, OrderState
from piker.clearing.records import Happened, Record
from piker.clearing.standing import fold_orders
from piker.orders import Action, BrokerdFill

__all__ = ["Execution", "executions"]


class Execution(NamedTuple):
    """A fill that the journal counts: in which row, of which market (the whole fqme)."""

    seq: int
    symbol: str
    fill: BrokerdFill


def executions(
    records: Iterable[Record], orders: dict[str, OrderState] | None = None
) -> Iterator[Execution]:
    """Yield the fills that the fold of the records counts, each once, in order.

    Account, market and side are those of the order, as in the fold: the sum of these sizes is
    ``Standing.nets``, the sum of their fees that of the orders, exactly. A fill of an order that is
    not there changes no order, and is not here. ``orders`` is what came before, and is folded
    along: 1 kB an order.
    """
    states = {} if orders is None else orders
    for record in records:
        before = states.get(record.oid)
        fold_orders(states, (record,))
        after, entry = states.get(record.oid), record.entry
        if before is None or after is None or not isinstance(entry, Happened):
            continue
        event, order = entry.event, before.order
        if event.kind is not EventKind.FILL or after.filled == before.filled:
            continue
        if order.action is Action.ALERT:
            continue  # it trades nothing, whatever was told of it
        fill = BrokerdFill(
            reqid=event.reqid, tid=event.tid, time_ns=record.time_ns, size=event.size,
            price=event.price, action=order.action, account=order.account, oid=order.oid,
            broker_time_ns=event.time_ns, fee=event.fee, fee_asset=event.fee_asset,
        )  # fmt: skip
        yield Execution(record.seq, order.symbol, fill)
