"""Orders of a client through emsd and brokerd to a venue where everything goes wrong on the way.

    python order_faults.py --folder FOLDER --submits N --seed S --venue spot|usdtm|kraken

A script. A loopback venue, pikerd, emsd, brokerd and datad are real processes. Each order of a
client's, each edit and each cancel, meets a fault of chance on its way to the venue or back: no
answer, the connection reset before or after the venue has done it, 5xx, 429, an answer that can not
be read, done late, done twice, a name that does not resolve, a clock that is off. In the end, when
all is quiet, emsd's journal must have what the venue has: orders, fills, fees, positions, balances;
no order twice, none that nobody knows of, and none called rejected that stands or traded. Prints
one JSON line.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import sys
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))

from daemons import Pikerd
from order_truth import CONF, Truth, differences, truth_of

from piker import clock, config, handover
from piker.clearing.client import OrderClient, arm, open_ems
from piker.clearing.journal import open_journal, verify
from piker.clearing.lifecycle import TERMINAL
from piker.clearing.requests import client_id_of
from piker.errors import PikerError
from piker.orders import Order, Status, SyncState
from piker.testing.accounts import account_of
from piker.testing.engine import BUY, SELL
from piker.testing.faults import Fault
from piker.testing.loopback import brokers_toml, open_loopback

RESOLVER = Path(__file__).with_name("resolver")
HOST = "venue.test"  # resolver/sitecustomize.py
AT_ONCE = 24  # orders under way at most
SOON_S = 180.0  # no order's outcome takes longer unless something is broken
QUIET_S = 150.0  # nor the end
EDITED = 0.4  # of the orders that rest
STANDING = 0.15  # of the orders that rest: they are not canceled
ENDED = frozenset(str(phase) for phase in TERMINAL)
SETTLED = ENDED | {"open", "partially_filled"}
#: Denied, and asked for again: an account only reduces while a fill that nobody told is looked for.
NOT_YET = ("not-synced", "no-reference", "wrong-symbol", "reducing")
SECRET = base64.b64encode(b"alice's own key." * 4).decode()  # 64 bytes, as Kraken's are


class Place(NamedTuple):
    """Where is traded: names of the venue, and of its market here and there."""

    provider: str
    kind: str  # of order_truth
    fqme: str
    balances: str
    tick: str
    options: str  # of brokers.toml: requests are valid for a shorter time, so all is proved sooner


PLACES = {
    "spot": Place(
        "binance", "spot", "btcusdt.spot.binance", "USDT=100000000,BTC=10000", "0.01",
        "{recv_window_ms = 1500, patience_s = 1}",
    ),
    "usdtm": Place(
        "binance", "usdm", "btcusdt.usdtm.perp.binance", "USDT=100000000", "0.01",
        "{recv_window_ms = 1500, patience_s = 1}",
    ),
    "kraken": Place(
        "kraken", "kraken", "xbtusd.spot.kraken", "USD=100000000,BTC=10000", "0.1",
        "{deadline_s = 2.0}",
    ),
}  # fmt: skip

#: What befalls a request to Binance: one of these, or nothing.
BEFALLS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"what": "half-open"},  # never answered, never done
    {"what": "unanswered"},  # done, and the connection cut
    {"what": "unanswered", "status": 504},
    {"what": "unanswered", "status": 408},  # -1007
    {"what": "close"},  # cut before it is done
    {"what": "status", "status": 503},
    {"what": "status", "status": 500},
    {"what": "status", "status": 429, "retry_after_s": 0.5},
    {"what": "garble"},
    {"what": "garble", "part": "number"},
    {"what": "cut-short"},
    {"what": "delay", "delay_s": 0.9},  # done after a first look
    {"what": "delay", "delay_s": 4.0},  # too late to be done
    {"what": "twice"},
)
#: What the user stream and the queries suffer all the while.
HARM_BINANCE = (
    Fault(what="drop", match="executionReport|ORDER_TRADE_UPDATE", probability=0.1),
    Fault(what="duplicate", match="executionReport|ORDER_TRADE_UPDATE", probability=0.1),
    Fault(what="late", match="executionReport|ORDER_TRADE_UPDATE", probability=0.1, delay_s=0.4),
    Fault(what="garble", match="executionReport|ORDER_TRADE_UPDATE", probability=0.02),
    Fault(what="status", status=503, match="GET .*signature", probability=0.05),
    Fault(what="garble", on="http", match="GET .*signature", probability=0.05),
    Fault(what="close", on="http", match="GET .*signature", probability=0.05),
)
#: Kraken's requests go by websocket: what befalls them is drawn for each.
HARM_KRAKEN = (
    Fault(what="drop", match="answer (add|amend|cancel)_order", probability=0.15),
    Fault(what="drop", match="executions", probability=0.03),
    Fault(what="duplicate", match="answer|executions", probability=0.1),
    Fault(what="reorder", match="executions", probability=0.03),
    Fault(what="late", match="executions", probability=0.03, delay_s=0.3),
    Fault(what="late", match="answer (add|cancel)_order", probability=0.1, delay_s=6.0),
    Fault(what="garble", match="answer (add|cancel)_order", probability=0.05),
    Fault(what="garble", match="executions", part="number", probability=0.01),
    Fault(what="close", match="answer add_order", probability=0.03),
    Fault(what="close", match='"exec_type":"new"', probability=0.01),
    Fault(what="status", status=503, match="/private/", probability=0.03),
    Fault(what="status", status=429, match="/private/", probability=0.02, retry_after_s=0.2),
    Fault(what="unanswered", match="/private/", probability=0.03),
    Fault(what="twice", match="CancelOrder", probability=0.3),
    Fault(what="garble", on="http", match="/private/", probability=0.03),
    Fault(what="close", on="http", match="/private/", probability=0.03),
    Fault(what="cut-short", match="/private/", probability=0.03),
)


class SkewedClock(clock.WallClock):
    """The venue's clock as ours sees it: five seconds behind at first; it is put ahead by steps."""

    off_s = -5.0

    def wall_ns(self) -> int:
        """Return the time, as it is off."""
        return super().wall_ns() + round(self.off_s * clock.NS)


class Run:
    """One client's orders, and what befell them."""

    def __init__(
        self, venue: Any, place: Place, submits: int, seed: int, no_dns: Path, skewed: SkewedClock
    ) -> None:  # fmt: skip
        self.venue, self.place, self.submits, self.skewed = venue, place, submits, skewed
        self.rng = random.Random(seed)
        self.account = f"{place.provider}.main"
        self.no_dns = no_dns
        self.sent = 0  # submits begun: their number
        self.acked: set[str] = set()
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.words: dict[str, set[str]] = {}  # oid -> every state that was told

    # -- the market ----------------------------------------------------------------------------
    def top(self) -> tuple[Decimal, Decimal]:
        """Return the best bid and ask."""
        tick = Decimal(self.place.tick)
        if self.place.provider == "kraken":
            listing = self.venue.listings[0]
            bid, ask = listing.depth(BUY, 1)[0][0], listing.depth(SELL, 1)[0][0]
        else:
            engine = self.venue.listings[self.place.kind, "BTCUSDT"].market.engine
            bid, ask = engine.depth(BUY, 1)[0][0], engine.depth(SELL, 1)[0][0]
        return bid * tick, ask * tick

    def made(self, ems: OrderClient) -> tuple[Order, bool]:
        """Return an order of chance, and whether it can not trade at once."""
        rng, tick = self.rng, Decimal(self.place.tick)
        bid, ask = self.top()
        side = rng.choice(("buy", "sell"))
        near, far, step = (bid, ask, -tick) if side == "buy" else (ask, bid, tick)
        size = Decimal(rng.randrange(20, 90)) / 10_000 if self.place.kind == "kraken" else (
            Decimal(rng.randrange(2, 9)) / 1000
        )  # fmt: skip
        shape = rng.choice(("rest", "post", "take", "market"))
        if shape == "market":
            return ems.order(self.place.fqme, side, size), False
        if shape == "take":
            return ems.order(self.place.fqme, side, size, price=far - 50 * step, tif="ioc"), False
        off = rng.choice((0, 1, 300, 3000)) if shape == "rest" else rng.randrange(500, 5000)
        return ems.order(
            self.place.fqme, side, size, price=near + off * step, post_only=shape == "post"
        ), shape == "post"  # fmt: skip

    # -- faults --------------------------------------------------------------------------------
    def befall(self, what: str, match: str, *, twice: bool) -> None:
        """Let something befall one request; of Kraken's something may befall any."""
        fault = self.rng.choice(BEFALLS)
        if self.place.provider == "kraken" or fault is None:
            return
        if fault["what"] == "twice" and not twice:
            return  # the venue takes an id again whose order is over: two orders, by its own rules
        self.seen[f"{what}: {' '.join(map(str, fault.values()))}"] += 1
        injector = self.venue.gate.injector
        if len(injector.armed) > 500:
            injector.armed = [a for a in injector.armed if a.fault.count is None or not a.hits]
        self.venue.gate.add_faults([Fault(on="http", match=match, count=1, **fault)])

    async def weather(self) -> None:
        """Let the venue's connections, the name server and the clocks go wrong now and then."""
        done = 0
        while True:
            await trio.sleep(0.05)
            if self.sent < done + 20:
                continue
            done, what = self.sent, self.rng.choice(("skew", "dns", "refuse", "cut"))
            self.seen[what] += 1
            if what == "skew":
                off_s = self.skewed.off_s + 400 / max(400, self.submits)
                self.skewed.off_s = min(5.0, off_s)
            elif what == "refuse":
                self.venue.gate.add_faults([Fault(what="refuse", on="http", count=3)])
            elif what == "cut":
                self.venue.cut(refuse_s=self.rng.uniform(0, 0.5))
            else:  # names are asked for with each new connection
                self.no_dns.touch()
                self.venue.gate.add_faults(
                    [Fault(what="close", on="http", count=2), Fault(what="close")]
                )
                await trio.sleep(self.rng.uniform(0.3, 1.0))
                self.no_dns.unlink()

    # -- one order -----------------------------------------------------------------------------
    async def life(self, ems: OrderClient) -> None:
        """Submit an order until emsd has taken it, see how it stands, and take it back."""
        while True:
            await self.synced(ems)
            order, rests = self.made(ems)
            client_id = client_id_of(order.oid)
            self.befall("order", f"POST .*{client_id}(&|$)", twice=rests)
            status = await ems.send(order)
            if status.resp != "denied":
                break
            self.seen[f"denied: {status.code}"] += 1
            if status.code not in NOT_YET:
                self.wrong.append(f"{status.code}: {status.reason}")
                return
            await trio.sleep(0.05)
        self.acked.add(order.oid)
        status = await ems.until(order.oid, SETTLED)
        if order.price is None:
            return
        if status.resp not in ENDED and self.rng.random() < EDITED:
            await self.edit(ems, order)
            status = await ems.until(order.oid, SETTLED)
        if self.rng.random() < STANDING:
            return
        while status.resp not in ENDED:
            number = status.reqid.rpartition("-")[2]
            self.befall("cancel", f"DELETE .*rderId={number}(&|$)", twice=True)
            await ems.cancel(order.oid)
            while status.resp not in ENDED and ems.dialogs[order.oid].cancel_called:
                await ems.changed()
                status = ems.dialogs[order.oid]
            status = await ems.until(order.oid, SETTLED)  # refused: it is asked for again

    async def edit(self, ems: OrderClient, order: Order) -> None:
        """Give an order other terms, or twice at once; return when each was answered."""
        rng, tick = self.rng, Decimal(self.place.tick)
        number = ems.dialogs[order.oid].reqid.rpartition("-")[2]

        async def once() -> None:
            near, step = (self.top()[0], -tick) if order.side > 0 else (self.top()[1], tick)
            size = max(ems.dialogs[order.oid].filled, order.size * rng.choice((1, 2))) + order.size
            price = near + rng.randrange(300, 5000) * step
            self.befall("edit", f"(PUT|POST|DELETE) .*rderId={number}(&|$)", twice=False)
            status = await ems.update(order.oid, size=size, price=price)
            done = status.resp != "error" and status.req is not None and status.req.size == size
            self.seen["edited" if done else f"not edited: {status.code or 'by the venue'}"] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(rng.choice((1, 1, 2, 3))):
                nursery.start_soon(once)

    async def synced(self, ems: OrderClient) -> None:
        """Wait until the account takes orders."""
        while ems.accounts[self.account].sync is not SyncState.SYNCED:
            await ems.changed()

    async def listen(self, ems: OrderClient) -> None:
        """Keep every word that is told of an order."""
        async for told in ems:
            if isinstance(told, Status):
                self.words.setdefault(told.oid, set()).add(told.resp)

    async def trade(self) -> None:
        """Have every order live its life, some at a time; then wait until all is quiet."""
        async with open_ems(self.place.fqme, account=self.account, name="trader") as ems:
            at_once = min(AT_ONCE, self.submits // 3)
            turns = trio.Semaphore(at_once)

            async def one() -> None:
                with trio.move_on_after(SOON_S) as scope:
                    await self.life(ems)
                if scope.cancelled_caught:
                    self.wrong.append(f"an order had no outcome within {SOON_S:g} s")
                turns.release()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.listen, ems)
                async with trio.open_nursery() as lives:
                    lives.start_soon(self.weather)
                    while self.sent < self.submits:
                        await turns.acquire()
                        self.sent += 1
                        lives.start_soon(one)
                    for _ in range(at_once):
                        await turns.acquire()
                    lives.cancel_scope.cancel()
                await self.quiet(ems)
                nursery.cancel_scope.cancel()

    async def quiet(self, ems: OrderClient) -> None:
        """End every fault and the market's flow; wait until the client is told what there is."""
        self.venue.gate.injector.clear()
        self.venue.rate = 0.0001  # what stands, stands
        with suppress(FileNotFoundError):
            self.no_dns.unlink()
        with trio.move_on_after(QUIET_S) as scope:
            while self.unlike(ems):
                await ems.changed()
        if scope.cancelled_caught:
            self.wrong.append(f"it was not quiet within {QUIET_S:g} s: {self.unlike(ems)}")

    def unlike(self, ems: OrderClient) -> list[str]:
        """Return what a client was told otherwise than the venue has it."""
        found = [
            f"{oid}: {ems.phase(oid)}" for oid in ems.dialogs if ems.phase(oid) not in SETTLED
        ]  # fmt: skip
        if ems.accounts[self.account].sync is not SyncState.SYNCED:
            found.append("not synced")
        truth = truth_of(self.venue, self.place.kind)
        for asset, held in truth.held.items():
            told = ems.balances.get((self.account, asset))
            if told is None or told.total != held:
                found.append(f"{asset}: {told and told.total}, not {held}")
        if truth.position is not None:
            symbol = self.place.fqme.removesuffix(f".{self.place.provider}")
            position = ems.positions.get((self.account, symbol))
            size = position.size if position is not None else Decimal(0)
            if size != truth.position:
                found.append(f"position: {size}, not {truth.position}")
        return found


async def judge(run: Run, truth: Truth) -> dict[str, Any]:
    """Compare the journal with the venue, and with what the client was told."""
    path = config.data_dir() / "journal"
    findings = await trio.to_thread.run_sync(verify, path)
    async with open_journal(path, read_only=True) as journal:
        folded = await journal.fold()
        net = journal.standing.nets.get((run.account, run.place.fqme), Decimal(0))
        told = journal.standing.positions.get(
            (run.account, run.place.fqme.removesuffix(f".{run.place.provider}"))
        )
    found = {name: what for name, what in differences(truth, folded.values()).items() if what}
    counts: dict[str, Any] = {"verifies": findings.sound, "differences": found}
    counts["orders_lost"] = sum(oid not in folded for oid in run.acked)
    if truth.position is not None:
        size = told.told.size + net - told.net if told is not None else net  # the last, and since
        counts["positions_differ"] = [str(one) for one in (net, size) if one != truth.position]
    phases = Counter(str(folded[oid].phase) for oid in run.acked if oid in folded)
    counts["unknown"] = sum("unknown" in words for words in run.words.values())
    counts["rejected"] = phases["rejected"]
    counts["standing"] = sum(leg.is_open for leg in truth.legs)
    counts["venue_orders"], counts["fills"] = len(truth.legs), len(truth.fills)
    counts["submits"], counts["phases"] = len(run.acked), dict(phases)
    return counts


async def main(
    submits: int, seed: int, place: Place, folder: Path, skewed: SkewedClock
) -> dict[str, Any]:  # fmt: skip
    """Run the session; return the counts. ``skewed`` is this process' clock, and the venue's."""
    for variable, name in config.DIRECTORY_VARS.items():
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[variable] = str(folder / name)
    no_dns = folder / "no-dns"
    os.environ |= {
        "PIKER_LOG": os.environ.get("PIKER_LOG", "CRITICAL"), "PIKER_REGISTRY": "127.0.0.1:0",
        "PIKER_TEST_NO_DNS": str(no_dns),
        "PYTHONPATH": f"{RESOLVER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        handover.name_of("key", place.provider, "main"): "alicekey",
        handover.name_of("secret", place.provider, "main"): SECRET,
    }  # fmt: skip
    (folder / "config" / "conf.toml").write_text(CONF)
    owner = account_of(f"alice:alicekey:{SECRET}:{place.balances}")
    async with open_loopback(
        place.provider, symbols=1, rate=20, seed=seed, accounts=[owner]
    ) as (venue, port):  # fmt: skip
        text = brokers_toml(place.provider, port).replace("127.0.0.1", HOST)
        if place.provider == "binance":
            text += f'spot_ws_api = "ws://{HOST}:{port}"\n'
        (folder / "config" / "brokers.toml").write_text(
            f"[{place.provider}]\noptions = {place.options}\n{text}"
        )
        run = Run(venue, place, submits, seed, no_dns, skewed)
        pikerd = Pikerd()
        try:
            await pikerd.ready()
            await arm(run.account)
            venue.gate.add_faults(HARM_KRAKEN if place.kind == "kraken" else HARM_BINANCE)
            await run.trade()
            truth = truth_of(venue, place.kind)
        finally:
            ended = pikerd.end() == 0
        counts = {"seed": seed, "venue": place.fqme, **await judge(run, truth)}
    hits = venue.gate.injector.hits
    return counts | {
        "ended_in_order": ended, "befell": dict(run.seen), "hits": dict(hits),
        "wrong": run.wrong[:10],
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--submits", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--venue", choices=PLACES, default="spot")
    given = parser.parse_args()
    try:
        skew = SkewedClock()
        with clock.use_clock(skew):
            counted = trio.run(
                main, given.submits, given.seed, PLACES[given.venue], given.folder, skew
            )
        print(json.dumps(counted))
    except PikerError as err:
        sys.exit(str(err))
