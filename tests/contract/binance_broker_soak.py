"""Orders, edits and cancels through every fault, and what must hold when all is quiet."""

from __future__ import annotations

import random
import re
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from typing import Any

import trio
from account_client import Trader, account_of, loopback
from binance_broker_client import PERP, SPOT, Ems, View, dialog_of, order_of, point_at
from msgspec.structs import replace

from piker import clock
from piker.brokers import limits
from piker.testing.engine import BUY, SELL
from piker.testing.faults import Fault

__all__ = ["soak"]

TICK = Decimal("0.01")
RICH = account_of("alice:alicekey:alicesecret:USDT=10000000,BTC=10")
MAKER = account_of("bob:bobkey:bobsecret:USDT=10000000,BTC=1000")
AT_ONCE = 24
WAIT_S = 90
ENDS = ("closed", "canceled", "expired", "rejected", "absent")
#: What befalls a request: (what it is, its arguments).
BEFALLS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"what": "half-open"},  # never answered, never done
    {"what": "unanswered"},  # done, and the connection cut
    {"what": "unanswered", "status": 504},
    {"what": "unanswered", "status": 408},  # -1007
    {"what": "close"},  # cut before it is done
    {"what": "status", "status": 503},
    {"what": "status", "status": 500},
    {"what": "status", "status": 429, "retry_after_s": 1.0},
    {"what": "garble"},
    {"what": "garble", "part": "number"},
    {"what": "cut-short"},
    {"what": "delay", "delay_s": 0.9},  # done after a first look
    {"what": "delay", "delay_s": 4.0},  # too late to be done
    {"what": "twice"},
)


class SkewedClock(clock.WallClock):
    """A wall clock that is off, as the venue's looks to ours: at first five seconds behind.

    It jumps ahead only: set back, it would make requests young again that were too old.
    """

    def __init__(self) -> None:
        self.off_s = -5.0

    def wall_ns(self) -> int:
        """Return the time, as it is off."""
        return super().wall_ns() + round(self.off_s * clock.NS)


class Soak:
    """One run: a venue, a dialog, and dice."""

    def __init__(self, venue: Any, bob: Trader, *, kind: str, seed: int) -> None:
        self.venue, self.bob, self.kind = venue, bob, kind
        self.view = View()
        self.ems: Ems | None = None  # while there is a dialog
        self.up = trio.Event()
        self.restarts = 0
        self.orders: dict[str, Any] = {}  # oid -> the terms that were confirmed, or sent first
        self._scope = trio.CancelScope()
        self.dice = random.Random(seed)
        self.befalls = True
        self.twice: list[str] = []  # requests that the gateway doubled
        self.share = 1.0  # of the orders that something befalls
        self.seen: Counter[str] = Counter()
        self.asked: dict[str, Decimal] = {}  # oid -> the most that was ever asked for
        self.api = "/api/v3" if kind == "spot" else "/fapi/v1"

    # -- the dialog ----------------------------------------------------------------------------
    async def keep(self) -> None:
        """Have a dialog, and another one with what emsd believes whenever it is killed."""
        while True:
            beliefs = [
                self.view.believe(order) for oid, order in self.orders.items()
                if not self.is_over(oid)
            ]  # fmt: skip
            with trio.CancelScope() as self._scope:
                opened = dialog_of(RICH, beliefs, synced=False, view=self.view)
                async with opened as ems:
                    self.ems = ems
                    self.up.set()
                    await trio.sleep_forever()
            self.restarts += 1
            limits._budgets.clear()  # a new process has a new one
            self.view.lose()

    def kill(self) -> None:
        """End the dialog, whatever it is doing; nothing is sent by it from now on."""
        self.up, self.ems = trio.Event(), None
        self._scope.cancel()

    async def kill_often(self, times: int) -> None:
        """Kill so many dialogs, at moments of chance: as they begin, sync, or work."""
        for _ in range(times):
            await self.up.wait()
            if self.dice.random() < 0.7:
                await self.view.until(lambda: self.view.sync == "synced", WAIT_S)
            await trio.sleep(self.dice.uniform(0, 0.4))
            before = self.restarts
            self.kill()
            self.seen["killed"] += 1
            await self.view.until(lambda before=before: self.restarts > before, WAIT_S)

    async def ask(self, what: str, order: Any, **more: Any) -> None:
        """Send, edit or cancel an order by the dialog there is; lost where that is killed."""
        while self.ems is None:
            await self.up.wait()
        await getattr(self.ems, what)(order, **more)

    def is_over(self, oid: str) -> bool:
        """Tell whether emsd knows of an order's end."""
        told = self.view.status.get(oid)
        refused = any(e.request == "order" for e in self.view.errors.get(oid, ()))
        return refused or (told is not None and told.status in ENDS)

    def top(self) -> tuple[Decimal, Decimal]:
        """Return the best bid and ask."""
        engine = self.venue.listings[self.kind, "BTCUSDT"].market.engine
        return engine.depth(BUY, 1)[0][0] * TICK, engine.depth(SELL, 1)[0][0] * TICK

    def befall(self, what: str, match: str, *, twice: bool = True) -> None:
        """Let something befall one request."""
        share = self.share if what == "order" else 0.7
        if not self.befalls:
            return
        fault = self.dice.choice(BEFALLS) if self.dice.random() < share else None
        if fault is None or (fault["what"] == "twice" and not twice):
            return
        if fault["what"] == "twice":
            self.twice.append(match)
        self.seen[f"{what}: {' '.join(str(value) for value in fault.values())}"] += 1
        self.venue.gate.add_faults([Fault(on="http", match=match, count=1, **fault)])
        armed = self.venue.gate.injector.armed
        if len(armed) > 700:
            self.venue.gate.injector.armed = [one for one in armed if not one.hits]

    # -- one order's life ----------------------------------------------------------------------
    async def live(self, *, edits: bool) -> None:
        """Send an order, edit it, have it filled or canceled, each through a fault."""
        dice, view = self.dice, self.view
        bid, ask = self.top()
        shape = dice.choice(("rest", "rest", "take", "market"))
        size = Decimal(dice.randrange(2, 9)) / 1000
        price = {"rest": bid - TICK * dice.randrange(100, 5000), "take": ask + 5}.get(shape)
        is_far = shape == "rest" and dice.random() < 0.5
        if shape == "rest" and not is_far:
            price = bid + TICK * dice.randrange(int((ask - bid) / TICK))  # the best bid, or near
        # An order that a gateway doubles must not trade at once, wherever the market is by then:
        # the venue takes a client id again whose order is over, and has two, by its own rules.
        more: dict[str, Any] = {"tif": "ioc"} if shape == "take" else {"post_only": is_far}
        symbol = SPOT if self.kind == "spot" else PERP
        order = order_of("buy", size, price, symbol=symbol, **more)
        self.asked[order.oid] = size
        self.befall("order", f"POST .*{order.client_id}(&|$)", twice=is_far)
        self.orders[order.oid] = order
        await self.ask("send", order)
        await view.until(lambda: view.errors.get(order.oid) or self._settled(order.oid), WAIT_S)
        for _ in range(dice.randrange(3) if edits and shape == "rest" else 0):
            if not self._stands(order.oid):
                break
            if dice.random() < 0.4:
                await self._hit(order.price, Decimal("0.001"))
            order = await self._edit(order, twice=is_far)
        if shape == "rest" and self._stands(order.oid) and dice.random() < 0.4:
            await self._hit(order.price, (order.size / 2).quantize(Decimal("0.001")))
        await self._cancel(order)

    async def _hit(self, price: Decimal, size: Decimal) -> None:
        """Have somebody else sell; what befalls their connection is not ours to mend."""
        said = {"symbol": "BTCUSDT", "side": "SELL", "type": "LIMIT", "timeInForce": "IOC"}
        with suppress(trio.BrokenResourceError):
            await self.bob.ask("POST", f"{self.api}/order", **said, price=price, quantity=size)

    def _settled(self, oid: str) -> bool:
        last = self.view.status.get(oid)
        return last is not None and last.status != "unknown"

    def _stands(self, oid: str) -> bool:
        last = self.view.status.get(oid)
        return last is not None and last.status == "open"

    def _outcomes(self, oid: str, request: str) -> int:
        told = (e for e in self.view.events if getattr(e, "oid", "") == oid)
        return sum(getattr(e, "request", "") == request for e in told)

    async def _edit(self, order: Any, *, twice: bool) -> Any:
        view, dice = self.view, self.dice
        changes: dict[str, Any] = {"size": order.size - Decimal("0.001")}
        if dice.random() < 0.7:
            changes = {"price": order.price - TICK * dice.randrange(1, 500)}
            if dice.random() < 0.3:
                changes["size"] = order.size + Decimal("0.002")
        edited = replace(order, **changes)
        self.asked[order.oid] = max(self.asked[order.oid], edited.size)
        number = view.reqid[order.oid].rpartition("-")[2]
        name = f"({re.escape(order.client_id)}-[0-9]+|orderId={number})"
        self.befall("edit", f"(PUT|POST) .*{name}(&|$)", twice=twice)
        before = self._outcomes(order.oid, "edit")
        restarts = self.restarts
        await self.ask("edit", order, **changes)
        await view.until(
            lambda: (
                self._settled(order.oid)
                and (self._outcomes(order.oid, "edit") > before or self.restarts > restarts)
            ),
            WAIT_S,
        )
        if self._outcomes(order.oid, "edit") == before:
            return order
        last = [e for e in view.events if getattr(e, "oid", "") == order.oid
                and getattr(e, "request", "") == "edit"][-1]  # fmt: skip
        self.seen["edits refused" if hasattr(last, "reason") else "edits done"] += 1
        if not hasattr(last, "reason"):
            self.orders[order.oid] = edited
        return self.orders[order.oid]

    async def _cancel(self, order: Any) -> None:
        view, oid = self.view, order.oid
        for attempt in range(100):
            await view.until(lambda: self.is_over(oid) or self._settled(oid), WAIT_S)
            if self.is_over(oid):
                return
            if not attempt:
                number = view.reqid[oid].rpartition("-")[2]
                self.befall("cancel", f"DELETE .*orderId={number}(&|$)")
            before, restarts = self._outcomes(oid, "cancel"), self.restarts
            await self.ask("cancel", order)
            await view.until(
                lambda before=before, restarts=restarts: (
                    self.is_over(oid)
                    or (
                        self._settled(oid)
                        and (self._outcomes(oid, "cancel") > before or self.restarts > restarts)
                    )
                ),
                WAIT_S,
            )
        raise AssertionError(f"it could not be canceled: {view.errors[oid]}")

    # -- what must hold ------------------------------------------------------------------------
    def check(self) -> None:
        """Hold what was told against what the venue has: orders, fills, fees."""
        view, desk = self.view, self.venue.accounts.desks[self.kind]
        account = desk.accounts["alice"]
        legs: dict[str, list[Any]] = {}
        for one in account.orders.values():
            legs.setdefault(re.sub(r"-[0-9]+$", "", one.client_id), []).append(one)
        names = Counter(one.client_id for one in account.orders.values())
        doubled = [
            (one.client_id, one.number, one.made_ms, one.changed_ms, one.status)
            for one in account.orders.values() if names[one.client_id] > 1
        ]  # fmt: skip
        assert not doubled, f"an order was doubled: {doubled}, {self.twice}"
        oids = {event.client_id: event.oid for event in view.events if getattr(event, "oid", "")}
        for client_id, found in legs.items():
            told = view.status[oids[client_id]]
            whole = sum(one.filled for one in found)
            assert told.filled == whole == view.filled(told.oid), self._story(told.oid, found)
            assert told.filled <= self.asked[told.oid], "more was traded than was asked for"
            assert told.status in ENDS
            assert not any(one.is_open for one in found)
            last = {"FILLED": "closed", "CANCELED": "canceled", "EXPIRED": "expired",
                    "EXPIRED_IN_MATCH": "expired"}  # fmt: skip
            assert told.status in (last[found[-1].status], "closed")
            refused = [e for e in view.errors.get(told.oid, ()) if e.request == "order"]
            assert not refused, "an order that stands was called rejected"
        for oid, told in view.status.items():
            if told.client_id not in legs:
                assert told.status == "absent", (oid, told)
        rows = {(f"t{r['id']}", Decimal(r["qty"]), Decimal(r["price"]), Decimal(r["commission"]))
                for r in account.fills}  # fmt: skip
        assert {(f.tid, f.size, f.price, f.fee) for f in view.fills.values()} == rows
        assert len(account.fills) == len(view.fills)
        self.seen["absent"] = sum(s.status == "absent" for s in view.status.values())
        self.seen["unknown"] = sum(getattr(e, "status", "") == "unknown" for e in view.events)
        self.seen["refused"] = sum(map(len, view.errors.values()))
        self.seen["orders at the venue"] = len(account.orders)
        self.seen["fills"] = len(account.fills)

    def _story(self, oid: str, legs: list[Any]) -> str:
        """Return what was told of an order, and what the venue has of it."""
        told = [str(e) for e in self.view.events if getattr(e, "oid", "") == oid]
        has = [(o.number, o.client_id, o.status, o.made_ms, o.filled) for o in legs]
        return "\n".join([*told, str(has)])

    async def quiet(self) -> None:
        """Wait until the account is synced, and its balances are the venue's."""
        view, desk = self.view, self.venue.accounts.desks[self.kind]
        account = desk.accounts["alice"]
        await view.until(lambda: view.sync == "synced", WAIT_S)
        if self.kind == "spot":
            held = {
                asset.lower(): (one.free + one.locked, one.free)
                for asset, one in account.purse.assets.items()
            }
            await view.until(
                lambda: all(
                    (view.balances[a].total, view.balances[a].available) == h
                    for a, h in held.items()
                ),
                WAIT_S,
            )
            return
        margin = desk.margin_of(account)
        await view.until(lambda: view.balances["usdt.usdtm"].total == margin.wallet, WAIT_S)
        size = margin.position("BTCUSDT", "BOTH").amount
        await view.until(lambda: not size or view.positions[PERP].size == size, WAIT_S)


async def soak(
    count: int,
    *,
    kind: str,
    seed: int,
    edits: bool,
    faults: tuple[Fault, ...] = (),
    kills: int = 0,
) -> Counter[str]:
    """Run so many orders' lives; hold the view against the venue; return what befell them.

    With ``faults``, these are all that befalls them.
    """
    skewed = SkewedClock()
    with clock.use_clock(skewed):
        owners = (RICH, MAKER)
        async with loopback(rate=20, accounts=owners, limits=not kills) as (venue, alice, bob):
            point_at(alice.port, recv_window_ms=1500)
            run = Soak(venue, bob, kind=kind, seed=seed)
            async with trio.open_nursery() as dialogs:
                dialogs.start_soon(run.keep)
                await run.view.until(lambda: run.view.sync == "synced", WAIT_S)
                run.share = 0.3 if edits else 1.0  # an order that never came is not edited
                if faults:
                    run.befalls = False
                    venue.gate.add_faults(faults)
                turns = trio.Semaphore(AT_ONCE)

                async def one() -> None:
                    try:
                        await run.live(edits=edits)
                    finally:
                        turns.release()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run.kill_often, kills)
                    number = -1
                    while number + 1 < count or run.seen["killed"] < kills:
                        number += 1
                        await turns.acquire()
                        if number % 20 == 19 and not faults:
                            skewed.off_s = -5 + 10 * number / max(count, number)
                            run.seen["skew"] += 1
                        if number % 50 == 25 and not faults:
                            venue.gate.add_faults([Fault(what="refuse", on="http", count=2)])
                            run.seen["refuse"] += 1
                        if number % 100 == 60 and not faults and not kills:
                            venue.cut(refuse_s=0.5)
                            run.seen["cut"] += 1
                        nursery.start_soon(one)
                await run.quiet()
                run.check()
                dialogs.cancel_scope.cancel()
                assert kills or not venue.limits.violations["ORDERS"]
    return run.seen
