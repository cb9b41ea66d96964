"""The tables of docs/reference/orders.md, read from the code."""

from __future__ import annotations

import importlib
import re
from decimal import Decimal
from pathlib import Path

from piker.clearing.denials import MEANINGS
from piker.clearing.lifecycle import TABLE, Event, EventKind, OrderState, Phase, Problem, step
from piker.orders import Action, ExecMode, Order, OrderKind, TimeInForce, TriggerBy

__all__ = ["denials", "lifecycle", "order_kinds"]

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
SIZE, FILLED, FILL = Decimal(10), Decimal(3), Decimal(4)  # of the order that the table is made with


def order_kinds() -> Table:
    """Return the kinds of order, their times in force, what wakes them, and where they wait."""
    source = Path(str(importlib.import_module("piker.orders").__file__)).read_text()
    words = dict(re.findall(r'    [A-Z_]+ = "(\w+)"  # (.+)', source))
    kinds = {
        "kind": OrderKind,
        "time in force": TimeInForce,
        "trigger by": TriggerBy,
        "waits": ExecMode,
    }
    rows: list[tuple[str, ...]] = [
        (what, f"`{one}`", words[one.value].replace("``", "`"))
        for what, kind in kinds.items()
        for one in kind
    ]
    return ("", "word", "meaning"), rows


def lifecycle() -> Table:
    """Return what each event does in each phase where it does anything."""
    order = Order(oid="o", symbol="", account="", action=Action.BUY, size=SIZE)
    found: dict[tuple[str, ...], list[str]] = {}
    for phase, kind in TABLE:
        filled = {Phase.PARTIAL: FILLED, Phase.FILLED: SIZE}.get(phase, Decimal(0))
        state = OrderState(order=order, phase=phase, filled=filled, editing=order)
        size = FILL if kind is EventKind.FILL else filled
        event = Event(
            kind=kind, time_ns=0, reqid="r", tid="t", size=size, price=SIZE, order=order
        )  # fmt: skip
        after = step(state, event)
        late = after.problem is Problem.LATE and kind is not EventKind.FILL
        if late or after.problem in (Problem.ILLEGAL, Problem.DUPLICATE):
            continue
        to = "as before" if after.state.phase is phase else f"`{after.state.phase}`"
        told = after.problem.replace("_", " ") if after.problem else ""
        found.setdefault((f"`{kind}`", after.transition, to, told), []).append(f"`{phase}`")
    rows: list[tuple[str, ...]] = [
        (row[0], ", ".join(phases), *row[1:]) for row, phases in found.items()
    ]
    return ("event", "in phase", "transition", "phase after", "told as"), rows


def denials() -> Table:
    """Return the codes of denials and what they mean."""
    return ("code", "meaning"), [(f"`{code}`", words) for code, words in MEANINGS.items()]
