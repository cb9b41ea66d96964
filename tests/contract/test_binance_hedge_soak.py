"""Orders of a hedging account through every fault, lost streams and killed dialogs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from account_client import loopback
from binance_broker_client import PERP, order_of, point_at
from binance_broker_soak import MAKER, RICH, WAIT_S, Soak

KINDS = (("sell", False), ("sell", False), ("sell", True), ("buy", True))


class HedgedSoak(Soak):
    """Lives of orders that open long, and after each one that opens short, or closes a side."""

    async def live(self, *, edits: bool) -> None:
        """Open long as others do, then trade the other way; a side that is too small refuses."""
        await super().live(edits=edits)
        action, reduces = self.dice.choice(KINDS)
        size = Decimal(self.dice.randrange(1, 6)) / 1000
        order = order_of(action, size, symbol=PERP, reduce_only=reduces)
        self.asked[order.oid], self.orders[order.oid] = size, order
        self.befall("order", f"POST .*{order.client_id}(&|$)", twice=False)
        await self.ask("send", order)
        await self.view.until(lambda: self.is_over(order.oid), WAIT_S)
        refused = self.view.errors.get(order.oid, ())
        self.seen["closes refused"] += any("ReduceOnly" in one.reason for one in refused)
        self.seen["closes"] += reduces

    async def quiet(self) -> None:
        """Wait until the account is synced, and its wallet and sides are the venue's."""
        view, desk = self.view, self.venue.accounts.desks["usdm"]
        margin = desk.margin_of(desk.accounts["alice"])
        await view.until(lambda: view.sync == "synced", WAIT_S)
        await view.until(lambda: view.balances["usdt.usdtm"].total == margin.wallet, WAIT_S)
        sides = [margin.position("BTCUSDT", side).amount for side in ("LONG", "SHORT")]
        told = view.positions.get
        await view.until(
            lambda: (
                not any(sides)
                or ((one := told(PERP)) is not None and [one.long, -one.short] == sides)
            ),
            WAIT_S,
        )
        assert sides[0] >= 0 >= sides[1]
        assert not margin.position("BTCUSDT", "BOTH").amount


async def hedged_soak(count: int, *, seed: int, kills: int) -> dict[str, int]:
    """Run so many pairs of orders; hold what was told against the venue; say what befell them."""
    async with loopback(rate=20, accounts=(RICH, MAKER), limits=False) as (venue, alice, bob):
        point_at(alice.port, recv_window_ms=1500)
        path = "/fapi/v1/positionSide/dual"
        assert (await alice.ask("POST", path, dualSidePosition="true"))[0] == 200
        run = HedgedSoak(venue, bob, kind="usdm", seed=seed)
        run.share = 0.5
        async with trio.open_nursery() as dialogs:
            dialogs.start_soon(run.keep)
            await run.view.until(lambda: run.view.sync == "synced", WAIT_S)
            turns = trio.CapacityLimiter(12)

            async def one(number: int) -> None:
                async with turns:
                    if number % 20 == 10:
                        venue.cut(refuse_s=0.3)
                        run.seen["cut"] += 1
                    await run.live(edits=True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.kill_often, kills)
                for number in range(count):
                    nursery.start_soon(one, number)
            await run.quiet()
            run.check()
            dialogs.cancel_scope.cancel()
    return dict(run.seen)


@pytest.mark.slow
async def test_a_hedging_account_is_the_venues_when_faults_are_over(piker_dirs: Path) -> None:
    """Time-outs, resets, 5xx, 429, garbled and late answers, cuts, and killed dialogs."""
    seen: Any = await hedged_soak(20, seed=31, kills=2)
    assert seen["closes"]
    assert seen["fills"]


@pytest.mark.full
async def test_three_hundred_orders_of_a_hedging_account_are_the_venues(piker_dirs: Path) -> None:
    """The same, longer; the seed is printed."""
    print("seed 20261124", await hedged_soak(150, seed=20261124, kills=10))
