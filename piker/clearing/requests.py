"""What emsd says: to a backend of an order, and to clients of what became of it. Pure."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from piker import clock
from piker.clearing.lifecycle import OrderState, Phase
from piker.orders import (
    BrokerdCancel,
    BrokerdError,
    BrokerdFill,
    BrokerdOrder,
    BrokerdStatus,
    ExecMode,
    Order,
    Status,
    TimeInForce,
)

__all__ = ["Box", "cancel_of", "client_id_of", "request_of", "status_of"]

Box = BrokerdFill | BrokerdStatus | BrokerdError | None
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"  # base 32, as RFC 4648 has it
_PAIRS = [one + two for one in _DIGITS for two in _DIGITS]
_SHIFTS = range(120, -1, -10)  # of 130 bits, ten at a time
_WAITS = (Phase.DARK, Phase.HELD)
_WAITED = ExecMode.DARK  # bound once, as in lifecycle.py


@lru_cache(maxsize=65_536)
def client_id_of(oid: str) -> str:
    """Return the id that a venue is given for an order: the same at every retry and restart.

    ``pk`` and 26 letters and digits of the oid's BLAKE2b: it fits the rules of Binance (36 of
    ``[a-zA-Z0-9-_]``) and Kraken (18 free characters or a UUID: its backend maps it).
    """
    number = int.from_bytes(blake2b(oid.encode(), digest_size=16).digest()) << 2
    return "pk" + "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def request_of(order: Order, mktid: str, tif: TimeInForce, reqid: str) -> BrokerdOrder:
    """Return an order as its backend gets it; ``tif`` is what the venue itself is to do."""
    return BrokerdOrder(
        oid=order.oid, client_id=client_id_of(order.oid), account=order.account,
        time_ns=clock.wall_ns(), symbol=mktid, action=order.action, size=order.size,
        kind=order.kind, price=order.price, trigger=order.trigger, trail=order.trail,
        trigger_by=order.trigger_by, tif=tif,
        expire_ns=order.expire_ns if tif is order.tif else None,
        post_only=order.post_only, reduce_only=order.reduce_only, reqid=reqid,
    )  # fmt: skip


def cancel_of(state: OrderState, mktid: str) -> BrokerdCancel:
    """Return the request to cancel an order, by all ids that are known of it."""
    order = state.order
    return BrokerdCancel(
        oid=order.oid, client_id=client_id_of(order.oid), account=order.account, symbol=mktid,
        time_ns=clock.wall_ns(), reqid=state.reqid,
    )  # fmt: skip


def status_of(
    state: OrderState, src: str, *, resp: str = "", seq: int = 0, box: Box = None, time_ns: int = 0
) -> Status:
    """Return what clients are told of an order; ``src`` is where it trades once it does.

    ``time_ns`` is of what happened to it; now, where nothing did.
    """
    order, phase = state.order, state.phase
    return Status(
        oid=order.oid, resp=resp or phase, time_ns=time_ns or clock.wall_ns(), seq=seq,
        reqid=state.reqid, req=order, cancel_called=state.cancel_called,
        src="dark" if phase in _WAITS or _only_waited(state) else src, filled=state.filled,
        avg_price=state.avg_price if state.tids else None,
        fees=state.fees, code=state.code, reason=state.reason or state.met, brokerd_msg=box,
        taken_ns=state.taken_ns, level=state.level,
    )  # fmt: skip


def _only_waited(state: OrderState) -> bool:
    """Tell whether an order has ended that waited in emsd to the end: it was never elsewhere."""
    if state.freed or not state.is_over:
        return False
    return bool(state.order.parent) or state.order.exec_mode is _WAITED
