"""What waits for a price in emsd fires once: with no client attached, whatever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from daemons import Pikerd
from ordering import FQME, SOON_S, MovedMarket, bid, fills_of, happened, open_venue, pid_of, trading

from piker import service
from piker.clearing._ems import journal_path
from piker.clearing.client import OrderClient
from piker.clearing.journal import open_journal, verify

pytestmark = pytest.mark.slow
D = Decimal
TRAIL = D(300)
#: How far above the market each pair of a stop and an alert waits; who is there when it is met.
LEVELS = {"alone": D(200), "down": D(400), "later": D(600), "never": D(5000)}


@pytest.fixture
async def market(piker_dirs: Path) -> AsyncIterator[MovedMarket]:
    """Serve a venue; return its market."""
    async with open_venue() as venue:
        yield MovedMarket(venue)


async def place(ems: OrderClient, start: Decimal) -> dict[str, str]:
    """Have a stop and an alert wait at each level, and a trailing stop; return their oids."""
    found = {}
    for name, above in LEVELS.items():
        found[f"{name} stop"] = ems.order(FQME, "buy", "0.01", trigger=start + above)
        found[f"{name} alert"] = ems.order(FQME, "alert", trigger=start + above)
    found["trail"] = ems.order(FQME, "sell", "0.01", trail=TRAIL)
    for order in found.values():
        status = await ems.send(order)
        assert (status.resp, status.src) == ("dark_open", "dark"), status
    return {name: order.oid for name, order in found.items()}


async def fired(*oids: str) -> None:
    """Wait until the journal has that triggers were met, and what they sent was filled."""
    for oid in oids:
        with trio.move_on_after(SOON_S):
            while not (await happened("trigger", oid) or await happened("deny", oid)):
                await trio.sleep(0.1)
        assert await happened("trigger", oid), await happened("deny", oid)


async def followed(oid: str, price: Decimal) -> None:
    """Wait until the journal has that a trailing stop has followed the market to a price."""
    with trio.fail_after(SOON_S):
        while not any(row.event.price >= price for _, row in await happened("follow", oid)):
            await trio.sleep(0.1)


async def without(name: str, pikerd: Pikerd, do: Callable[[], None]) -> None:
    """SIGKILL emsd or pikerd, do something, and have both there again: nobody asks for it."""
    emsd = await pid_of("emsd")
    if name == "emsd":
        pikerd.process.send_signal(signal.SIGSTOP)  # it starts another one at once
        os.kill(emsd, signal.SIGKILL)
        await service.wait_exit(emsd)
        do()
        pikerd.process.send_signal(signal.SIGCONT)
        return
    assert pikerd.end(signal.SIGKILL) == -signal.SIGKILL
    while service.read_pikerd() is not None or service.is_alive(emsd):
        await trio.sleep(0.05)
    do()
    pikerd.start()
    await pikerd.ready()


@pytest.mark.parametrize("name", ["emsd", "pikerd"])
async def test_waiting_orders_fire_once_with_no_client_whatever_is_killed(
    market: MovedMarket, pikerd: Pikerd, name: str
) -> None:
    """Before, during and after; what is met while nobody looks says that it was, and once."""
    async with trading(pikerd) as ems:
        start = (await bid()).quantize(D(1))
        oids = await place(ems, start)
    market.go(start + 200)
    await fired(oids["alone stop"], oids["alone alert"])
    with trio.fail_after(SOON_S):
        await without(name, pikerd, lambda: market.go(start + 400))
    await fired(oids["down stop"], oids["down alert"])
    market.go(start + 600)
    await fired(oids["later stop"], oids["later alert"])
    await followed(oids["trail"], start + 600)
    with trio.fail_after(SOON_S):
        await without(name, pikerd, lambda: market.go(start + 100))
    await fired(oids["trail"])
    await judge(oids)


async def judge(oids: dict[str, str]) -> None:
    """Hold what the journal has against what was to happen, each of it once."""
    with trio.fail_after(SOON_S):
        for oid in [oid for name, oid in oids.items() if name.endswith(("stop", "trail"))]:
            while oid != oids["never stop"] and sum((await fills_of(oid)).values()) < D("0.01"):
                await trio.sleep(0.1)
    met = await happened("trigger")
    reasons = {record.oid: entry.event.reason for record, entry in met}
    assert len(reasons) == len(met)  # each at most once
    for name, oid in oids.items():
        if name.startswith("never"):
            assert oid not in reasons
            assert await fills_of(oid) == {}
            continue
        assert reasons[oid].endswith(", across a gap") == name.startswith(("down", "trail")), name
        size = D(0) if name.endswith("alert") else D("0.01")
        assert sum((await fills_of(oid)).values()) == size
    async with open_journal(journal_path(), read_only=True) as journal:
        standing = journal.standing
        assert set(standing.live) == {oids["never stop"], oids["never alert"]}
        ends = {oid: str(state.phase) for oid, state in standing.ended.items()}
    assert ends == {
        oid: "triggered" if name.endswith("alert") else "closed"
        for name, oid in oids.items()
        if not name.startswith("never")
    }
    assert (await trio.to_thread.run_sync(verify, journal_path())).sound
