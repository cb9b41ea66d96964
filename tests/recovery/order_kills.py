"""A busy trading session whose processes are killed at random moments; counts what was lost.

    python order_kills.py --folder FOLDER --kills N --seed S [--torn 0.3] [--live]

A script. A loopback venue, pikerd, emsd, paperboi and datad are real processes; clients place,
edit and cancel orders of every kind and keep what they are told. The killer ends emsd, the broker
or both by SIGKILL, at times again while they start, and at times tears the end of the journal that
was not acknowledged, as a power cut would. In the end the journal must have every acknowledged
order and fill, once, and restarting twice must come to what restarting once did. With ``--live``
the orders go through brokerd to an account of the venue, and journal and venue must have the same.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio_typing import TaskStatus

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))

from daemons import Pikerd
from order_truth import CONF, differences, truth_of

from piker import config, service
from piker.clearing import journal_seal as seal
from piker.clearing.client import OrderClient, arm, cancel_all, open_ems
from piker.clearing.journal import open_journal, verify
from piker.clearing.lifecycle import TERMINAL, EventKind, OrderState
from piker.clearing.linked import Tied, What, due
from piker.clearing.records import Happened, Intent
from piker.clearing.standing import Standing
from piker.data.feed import open_feed
from piker.errors import PikerError
from piker.orders import BrokerdFill, Order, Status, SyncState
from piker.testing.accounts import account_of
from piker.testing.loopback import brokers_toml, open_loopback

FQME = "btcusdt.spot.binance"
CLIENTS = 3
BUSY = 15  # orders acknowledged between two kills, at least
SOON_S = 90.0  # nothing here takes longer unless it is broken
AGAIN, AGAIN_S = 0.3, 1.5  # what was killed is killed again so often, within so long of its start
#: A service that is killed every other second is to be back at once, not after two more.
SOON_BACK = "from piker.service import supervise; supervise.CAP_S = 0.1"
OWNER = account_of("alice:alicekey:alicesecret:USDT=100000000,BTC=10000")
SOON = ("not-synced", "no-reference", "wrong-symbol")  # denials while something is starting
ENDED = frozenset(str(phase) for phase in TERMINAL)
#: What never reached the venue is proved so the sooner, the shorter a request is valid.
BROKERS = "[binance]\noptions = {recv_window_ms = 500, patience_s = 1}\n"


class Session:
    """What the clients did and were told, and what the killer did."""

    def __init__(self, account: str, seed: int) -> None:
        self.account = account
        self.rng = random.Random(seed)
        self.acked: dict[str, str] = {}  # oid -> the first word of it
        self.fills: dict[tuple[str, str], Decimal] = {}  # (oid, tid) -> size
        self.ends: dict[str, tuple[str, Decimal]] = {}  # oid -> how it ended, filled
        self.kills: Counter[str] = Counter()
        self.torn = 0
        self.early = 0  # of the kills: of processes that were not up yet, or only just
        self.wrong: list[str] = []
        self.asked = 0
        self.acked_before = 0
        self.bid = Decimal(0)
        self.balances: list[dict[str, Decimal]] = []  # after each of the restarts at the end
        self.watching = trio.CancelScope()
        self.is_live = not account.endswith(".paper")

    # -- clients -------------------------------------------------------------------------------
    async def client(self, number: int, over: trio.Event) -> None:
        """Trade until told to stop."""
        async with open_ems(FQME, account=self.account, name=f"c{number}") as ems:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.listen, ems)
                while not over.is_set():
                    with trio.move_on_after(SOON_S) as scope:
                        while ems.accounts[self.account].sync is not SyncState.SYNCED:
                            await ems.changed()
                        await self.act(ems)
                    if scope.cancelled_caught:
                        self.wrong.append(f"c{number} waited for {SOON_S} s")
                    await trio.sleep(self.rng.uniform(0, 0.02))
                nursery.cancel_scope.cancel()

    async def act(self, ems: OrderClient) -> None:
        """Do one thing of a trader's."""
        rng = self.rng
        mine = ems.open_orders(self.account)
        what = rng.random()
        self.asked += 1
        side = rng.choice(("buy", "sell"))
        small = Decimal(rng.randrange(1, 30)) / 10_000
        size = 10 * small if self.is_live else small  # on paper no more trades than is shown
        off = Decimal(rng.randrange(-40, 40))
        bid = self.bid
        if len(mine) > 60 or (mine and what < 0.25):
            await ems.cancel(rng.choice(mine).oid)
        elif mine and what < 0.35:
            one = rng.choice(mine)
            if one.req is not None and one.req.price is not None and one.req.trigger is None:
                more = {} if one.req.parent else {"size": one.filled + size}
                await ems.update(one.oid, price=bid + off, **more)
        elif what > 0.9:
            await self.bracket(ems, small)
        else:
            order = ems.order(FQME, side, size, price=bid + off)
            if what < 0.5:
                order = ems.order(FQME, side, size)
            elif what < 0.65:
                order = ems.order(FQME, side, size, trigger=bid + off)
            await self.send(ems, order)

    async def bracket(self, ems: OrderClient, size: Decimal) -> None:
        """Buy with both exits near by; what comes in goes out at most once, whoever is killed."""
        price = self.bid + 5 if self.rng.random() < 0.5 else None
        entry = ems.order(FQME, "buy", size, price=price)
        ties = {"parent": entry.oid, "oco": "exits"}
        up, down = (self.bid + side * self.rng.randrange(1, 15) for side in (1, -1))
        await self.send(ems, entry)
        await self.send(ems, ems.order(FQME, "sell", size, price=up, **ties))
        await self.send(ems, ems.order(FQME, "sell", size, trigger=down, **ties))

    async def send(self, ems: OrderClient, order: Order) -> None:
        """Submit an order; note what became of it."""
        status = await ems.send(order)
        if status.resp not in ("denied", "error", "rejected"):
            self.acked[order.oid] = status.resp
        elif status.resp != "rejected" and status.code not in SOON:
            self.wrong.append(f"{status.code}: {status.reason}")

    async def listen(self, ems: OrderClient) -> None:
        """Keep every fill and every end that is told."""
        async for told in ems:
            if not isinstance(told, Status):
                continue
            if isinstance(told.brokerd_msg, BrokerdFill) and told.resp == "fill":
                self.fills[told.oid, told.brokerd_msg.tid] = told.brokerd_msg.size
            if told.resp in ENDED:
                self.ends[told.oid] = (told.resp, told.filled)
            if told.resp == "rejected":
                self.ends[told.oid] = (told.resp, told.filled)

    async def watch(self, task_status: TaskStatus[None]) -> None:
        """Know where the market is."""
        with self.watching:
            async with open_feed([FQME], tick_throttle=5) as feed:
                async for item in feed:
                    if isinstance(item, dict) and item[FQME].bid:
                        if not self.bid:
                            task_status.started()
                        self.bid = Decimal(int(item[FQME].bid))

    # -- the killer ----------------------------------------------------------------------------
    async def kill(self, pikerd: Pikerd, torn: float) -> None:
        """End emsd, its broker or both, at a moment of its own; at times again as they start."""
        both = ["emsd", self.broker]
        with trio.fail_after(SOON_S):
            while len(self.acked) < self.acked_before + BUSY:
                await trio.sleep(0.01)
            await trio.sleep(self.rng.uniform(0, 0.3))
            self.acked_before = len(self.acked)
            up = await self.pids()
            while not all(name in up for name in both):
                await trio.sleep(0.02)
                up = await self.pids()
        chosen = self.rng.choice((both[:1], both[1:], both, both))
        tears = "emsd" in chosen and self.rng.random() < torn
        await self.end({name: up[name] for name in chosen}, pikerd, tears=tears)
        if self.rng.random() < AGAIN:
            await trio.sleep(self.rng.uniform(0, AGAIN_S))
            up = await self.pids()
            again = {name: pid for name, pid in up.items() if name in chosen}
            await self.end(again, pikerd, tears=False)
            self.early += len(again)

    async def pids(self) -> dict[str, int]:
        """Return the processes there are, by service: those that only start, too."""
        return {one.name: one.pid for one in await service.list_services() if one.pid}

    async def end(self, pids: dict[str, int], pikerd: Pikerd, *, tears: bool) -> None:
        """End processes at once; now and then the journal is torn before emsd is back."""
        if tears:
            pikerd.process.send_signal(signal.SIGSTOP)
        for name, pid in pids.items():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[name] += 1
        for pid in pids.values():
            await service.wait_exit(pid)
        if tears:
            self.tear(config.data_dir() / "journal")
            pikerd.process.send_signal(signal.SIGCONT)

    @property
    def broker(self) -> str:
        """Return the process behind the account."""
        return "brokerd.binance" if self.is_live else "paperboi.binance"

    def tear(self, folder: Path) -> None:
        """Leave half of a commit behind what was acknowledged, as a power cut may."""
        known = seal.read_head(folder).log_bytes
        with (folder / "rows.db-wal").open("r+b") as log:
            log.seek(known + self.rng.randrange(0, 4096))
            log.write(self.rng.randbytes(self.rng.randrange(1, 9000)))
        self.torn += 1


async def picture(account: str) -> dict[str, Any]:
    """Return the orders that stand, and what they have filled, as a client sees them."""
    async with open_ems(account=account, name="judge") as ems:
        with trio.fail_after(SOON_S):
            while ems.accounts[account].sync is not SyncState.SYNCED:
                await ems.changed()
            return {oid: (one.resp, str(one.filled)) for oid, one in sorted(ems.dialogs.items())}


async def held(account: str) -> dict[str, Decimal]:
    """Return what an account has, as it is told once it is synced."""
    async with open_ems(account=account, name="judge") as ems:
        with trio.fail_after(SOON_S):
            while ems.accounts[account].sync is not SyncState.SYNCED:
                await ems.changed()
        return {asset: one.total for (_, asset), one in sorted(ems.balances.items())}


async def rest_of_brackets(counts: dict[str, Any]) -> None:
    """Wait until no order is due anything of those that it hangs on; count those that stay so."""
    left: set[str] | None = None
    with trio.move_on_after(SOON_S):
        while left is None or left:
            async with open_journal(config.data_dir() / "journal", read_only=True) as journal:
                folded = await journal.fold()
            children = by_parent(folded)
            found = {
                oid for oid, state in folded.items()
                if not state.is_over and is_due(state, folded, children)
            }  # fmt: skip
            left = found if left is None else left & found
            await trio.sleep(0.5)
    counts["due"] = sorted(left or ())


def by_parent(orders: dict[str, OrderState]) -> dict[str, list[OrderState]]:
    """Return the children of each order."""
    found: dict[str, list[OrderState]] = {}
    for one in orders.values():
        if one.order.parent:
            found.setdefault(one.order.parent, []).append(one)
    return found


def is_due(
    state: OrderState, orders: dict[str, OrderState], children: dict[str, list[OrderState]]
) -> bool:
    """Tell whether something is to be done to an order: here a group has a parent.

    An exit whose parent may still trade may have nothing to do for now.
    """
    parent = state.order.parent
    group = [one for one in children.get(parent, ()) if one is not state]
    found = due(state, Tied(orders.get(parent), group, children.get(state.order.oid, ())))
    return found is not None and found.what is not What.WAIT


async def settle(session: Session) -> None:
    """Cancel everything and wait until it has ended, but for some waiting and standing orders."""
    async with open_ems(FQME, account=session.account, name="last") as ems:
        with trio.fail_after(SOON_S):
            while True:
                await cancel_all(session.account)
                with trio.move_on_after(2):
                    while ems.open_orders():
                        await ems.changed()
                if not ems.open_orders():
                    break
            for number in range(5):  # restarts are to keep these
                far = Decimal(30_000 + number)
                for more in ({"side": "buy", "price": far}, {"side": "sell", "trigger": far}):
                    await place(ems, session.account, **more)


async def place(ems: OrderClient, account: str, side: str, **more: Decimal) -> None:
    """Submit an order until it is taken: emsd or its broker may be starting yet."""
    while True:
        while ems.accounts[account].sync is not SyncState.SYNCED:
            await ems.changed()
        status = await ems.send(ems.order(FQME, side, "0.01", **more))
        if status.code not in SOON:
            assert status.resp != "denied", status.reason
            return
        await trio.sleep(0.05)


def balances_of(account: str, standing: Standing, folded: dict[str, OrderState]) -> list[str]:
    """Return what a paper account has by the orders' fills; sentences where the journal differs."""
    due = {"usdt": config.load_conf().paper.balances["usdt"], "btc": Decimal(0)}
    begun = dict(due)
    for state in folded.values():
        due["btc"] += state.order.side * state.filled
        due["usdt"] -= state.order.side * state.value + state.fees.get("usdt", Decimal(0))
    kept = {asset: begun[asset] + standing.moved.get((account, asset), 0) for asset in due}
    return [
        f"{asset}: {kept[asset]}, not {due[asset]}" for asset in due if kept[asset] != due[asset]
    ]


async def judge(session: Session, counts: dict[str, Any]) -> None:
    """Compare what was told with what the journal has."""
    path = config.data_dir() / "journal"
    findings = await trio.to_thread.run_sync(verify, path)
    counts["verifies"] = findings.sound
    fills: Counter[tuple[str, str]] = Counter()
    intents: Counter[str] = Counter()
    sizes: dict[str, Decimal] = {}
    async with open_journal(path, read_only=True) as journal:
        async for record in journal.read():
            entry = record.entry
            if isinstance(entry, Intent):
                intents[record.oid] += 1
            elif isinstance(entry, Happened) and entry.event.kind is EventKind.FILL:
                fills[record.oid, entry.event.tid] += 1
                sizes[record.oid] = sizes.get(record.oid, Decimal(0)) + entry.event.size
        folded = await journal.fold()
        net = sum(
            (s.order.side * s.filled for s in folded.values() if s.order.symbol == FQME), Decimal(0)
        )
        counts["net_differs"] = net != journal.standing.nets.get((session.account, FQME), 0)
        if not session.is_live:
            standing = journal.standing
            counts["balances_differ"] = balances_of(session.account, standing, folded)
            told = session.balances[-1]
            begun = config.load_conf().paper.balances["usdt"]
            if told["usdt"] != begun + standing.moved[session.account, "usdt"]:
                counts["balances_differ"].append(f"told: {told}")
        counts["rows"] = journal.seq
    counts["brackets"], counts["oversold"] = 0, []
    for oid, exits in by_parent(folded).items():
        out = sum((one.filled for one in exits), Decimal(0))
        counts["brackets"] += bool(out)
        if out > folded[oid].filled:
            counts["oversold"].append((oid, str(folded[oid].filled), str(out)))
    counts["orders"] = len(intents)
    counts["orders_lost"] = sum(oid not in intents for oid in session.acked)
    counts["orders_doubled"] = sum(count > 1 for count in intents.values())
    counts["fills"] = len(fills)
    counts["fills_told"] = len(session.fills)
    counts["fills_lost"] = sum(key not in fills for key in session.fills)
    counts["fills_doubled"] = sum(count > 1 for count in fills.values())
    counts["overfilled"] = sum(
        state.filled > state.order.size for state in folded.values() if state.filled
    )
    counts["ends_differ"] = [
        (oid, end, str(folded[oid].phase)) for oid, (end, _) in session.ends.items()
        if folded[oid].phase != end
    ][:10]  # fmt: skip


async def hold_against(venue: Any, counts: dict[str, Any]) -> None:
    """Compare the journal with what the venue has of the account."""
    async with open_journal(config.data_dir() / "journal", read_only=True) as journal:
        folded = await journal.fold()
    truth = truth_of(venue, "spot")
    counts["venue_orders"], counts["venue_fills"] = len(truth.legs), len(truth.fills)
    counts["differences"] = {
        name: found for name, found in differences(truth, folded.values()).items() if found
    }


async def main(kills: int, seed: int, torn: float, folder: Path, *, live: bool) -> dict[str, Any]:
    """Run the session; return the counts."""
    for variable, name in config.DIRECTORY_VARS.items():
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[variable] = str(folder / name)
    os.environ["PIKER_LOG"] = "CRITICAL"
    (folder / "config" / "conf.toml").write_text(CONF + "[paper]\nlatency_ms = 2\n")
    session, began = Session("binance.main" if live else "binance.paper", seed), trio.current_time()
    counts: dict[str, Any] = {"seed": seed, "account": session.account}
    assert OWNER.secret is not None
    os.environ["PIKER_API_KEY__BINANCE__MAIN"] = OWNER.key
    os.environ["PIKER_API_SECRET__BINANCE__MAIN"] = OWNER.secret.reveal()
    async with open_loopback(
        "binance", symbols=1, rate=20 if live else 100, limits=False, accounts=[OWNER]
    ) as (venue, port):  # fmt: skip
        (folder / "config" / "brokers.toml").write_text(BROKERS + brokers_toml("binance", port))
        pikerd = Pikerd(SOON_BACK)
        await pikerd.ready()
        await arm(session.account)
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(session.watch)
            for number in range(CLIENTS):
                nursery.start_soon(session.client, number, over)
            while sum(session.kills.values()) < kills:
                before = sum(session.kills.values())
                await session.kill(pikerd, torn)
                if sum(session.kills.values()) // 50 > before // 50:
                    print(round(trio.current_time() - began), dict(session.kills),
                          len(session.fills), session.wrong[:3],
                          file=sys.stderr, flush=True)  # fmt: skip
            over.set()
            session.watching.cancel()
        await rest_of_brackets(counts)
        await settle(session)
        seen = []
        for _ in range(3):
            seen.append(await picture(session.account))
            session.balances.append(await held(session.account))
            (pid,) = [one.pid for one in await service.list_services() if one.name == "emsd"]
            os.kill(pid, signal.SIGKILL)
            await service.wait_exit(pid)
        counts["restarts_differ"] = sum(one != seen[0] for one in seen)
        counts["standing"] = len(seen[0])
        counts["balances_after_restarts"] = len({str(one) for one in session.balances})
        counts["ended_in_order"] = pikerd.end() == 0
        await judge(session, counts)
        if live:
            await hold_against(venue, counts)
    counts |= {
        "kills": dict(session.kills), "early": session.early, "torn": session.torn,
        "asked": session.asked, "acked": len(session.acked), "wrong": session.wrong[:10],
        "took_s": round(trio.current_time() - began),
    }  # fmt: skip
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--torn", type=float, default=0.3)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--paper", action="store_true", help="the default")
    where.add_argument("--live", action="store_true")
    given = parser.parse_args()
    try:
        run = partial(main, live=given.live)
        print(json.dumps(trio.run(run, given.kills, given.seed, given.torn, given.folder)))
    except PikerError as err:
        sys.exit(str(err))
