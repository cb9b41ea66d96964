"""What an account remembers, through kills of the processes that tell it: balances and the day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from daemons import Pikerd
from ordering import FQME, kill, open_venue, synced, trading

from piker import config
from piker.clearing.client import OrderClient
from piker.ticks import Resync

pytestmark = pytest.mark.slow
D = Decimal
CONF = """
[paper]
latency_ms = 0
balances = { usdt = 5000 }

[accounts.binance.paper.risk]
daily_loss = 1
duplicate_s = 0
price_collar = 0.5
"""


@pytest.fixture
async def venue(piker_dirs: Path) -> AsyncIterator[object]:
    """Serve a venue; a dollar may be lost in a day."""
    async with open_venue() as served:
        (config.config_dir() / "conf.toml").write_text(CONF)
        yield served


async def back(ems: OrderClient) -> None:
    """Wait until emsd was started again and has heard its venue."""
    async for told in ems:
        if isinstance(told, Resync):
            break
    await synced(ems)


def held(ems: OrderClient) -> dict[str, Decimal]:
    """Return the balances as told."""
    return {asset: one.total for (_, asset), one in ems.balances.items()}


async def test_balances_and_the_day_are_as_before_when_processes_are_killed(
    venue: object, pikerd: Pikerd
) -> None:
    """Fees alone lose more than may be lost: emsd killed, paperboi killed, and it is so still."""
    async with trading(pikerd) as ems:
        assert held(ems)["usdt"] == 5000
        paid, spent = D(0), D(0)
        for side in ("buy", "sell"):
            done = await ems.ended((await ems.send(ems.order(FQME, side, "0.01"))).oid)
            assert (done.resp, done.avg_price is not None) == ("closed", True)
            assert 0 < done.taken_ns <= done.time_ns
            paid += done.fees["usdt"]
            spent += (1 if side == "buy" else -1) * (done.avg_price or D(0)) * done.filled
        while held(ems) != {"usdt": 5000 - spent - paid, "btc": D(0)}:
            await ems.changed()
        before = held(ems)
        assert paid > 1
        denied = await ems.send(ems.order(FQME, "buy", "0.01"))
        assert (denied.resp, denied.code) == ("denied", "daily-loss")
        for process in ("emsd", "paperboi.binance"):
            ems.balances.clear()
            await kill(process)
            if process == "emsd":
                await back(ems)
            while held(ems) != before:
                await ems.changed()
            await synced(ems)
            with trio.fail_after(30):  # no price for a moment: then it is denied for that
                while (again := await ems.send(ems.order(FQME, "buy", "0.01"))).code in (
                    "no-reference", "not-synced",
                ):  # fmt: skip
                    await ems.changed()
            assert (again.resp, again.code) == ("denied", "daily-loss")
            assert again.reason == denied.reason
