"""What the keeper makes of what a venue tells of an account, in moments when it must not err."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from paper_routing import PERP

from piker.clearing import keeper
from piker.clearing.accounts import Account
from piker.clearing.journal import open_journal
from piker.clearing.records import Record
from piker.clearing.risk import Limits, RiskDesk, TradingState
from piker.clearing.router import Router
from piker.clock import wall_ns
from piker.orders import (
    Action,
    BrokerdFill,
    BrokerdOrderAck,
    BrokerdPosition,
    BrokerdRequest,
    BrokerdSync,
    Order,
    SyncState,
)

D = Decimal
MAIN = "binance.main"
OFFERED = {"market", "limit", "reduce_only", "edit"}
SYNCED = BrokerdSync(account=MAIN, state=SyncState.SYNCED, time_ns=1, whole=("usdtm",))


class Line:
    """An account's link whose venue is the test."""

    name = "binance"

    async def send(self, request: BrokerdRequest) -> None:
        """Take it."""

    def ask_again(self) -> None:
        """Have nothing to ask."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the last look at positions that differ at once."""
    monkeypatch.setattr(keeper, "SETTLE_S", 0.0)


def held(size: Any) -> BrokerdPosition:
    """Return what a venue tells of a position."""
    return BrokerdPosition(broker="binance", account=MAIN, symbol=PERP.mktid, size=D(size))


@asynccontextmanager
async def emsd(folder: Path) -> AsyncIterator[Router]:
    """Run a router on the journal in a folder, with a live account that nobody has armed."""
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        router = Router(journal, nursery)
        desk = RiskDesk(MAIN, Limits(duplicate_s=0.0))
        router.add(Account(MAIN, desk, Line(), lambda _, what: what in OFFERED))
        router.know(PERP)
        await router.recover()
        router.price(PERP.fqme, D(100), wall_ns())
        yield router
        nursery.cancel_scope.cancel()


async def synced(router: Router, size: Any) -> None:
    """Let the venue tell a position and be synced; return when that has been looked at."""
    router.hear(MAIN, held(size))
    router.keeper.hear(MAIN, SYNCED)
    await router._synced(MAIN)


async def until(what: Callable[[], Any]) -> None:
    """Wait until something holds."""
    with trio.fail_after(20):
        while not what():
            await trio.sleep(0.005)


async def filled(router: Router, oid: str, size: Any) -> None:
    """Buy some, and have it filled and counted."""
    one = Order(oid=oid, symbol=PERP.fqme, account=MAIN, action=Action.BUY, size=D(size),
                price=D(100))  # fmt: skip
    await router.order(one)
    tell_fill(router, oid, size)
    await until(lambda: router.orders[oid].filled)


def tell_fill(router: Router, oid: str, size: Any) -> None:
    """Tell that an order was filled."""
    router.hear(MAIN, BrokerdOrderAck(oid=oid, reqid=f"r{oid}", account=MAIN, client_id=""))
    router.hear(
        MAIN,
        BrokerdFill(
            reqid=f"r{oid}", tid=f"t{oid}", time_ns=wall_ns(), size=D(size), price=D(100),
            action="buy", symbol=PERP.mktid, oid=oid, account=MAIN,
        ),
    )  # fmt: skip


async def test_account_that_nobody_armed_stays_unarmed_when_its_positions_differ(
    tmp_path: Path,
) -> None:
    """A person arms real money: neither a trade made elsewhere nor its end does, nor a start."""
    async with emsd(tmp_path) as router:
        account = router.accounts[MAIN]
        await synced(router, 1)
        for size in (2, 1):
            await synced(router, size)
            await router.keeper.agree_again()
            assert account.state == "unarmed"
    async with emsd(tmp_path) as router:
        assert router.accounts[MAIN].state == "unarmed"


async def test_account_only_reduces_when_its_positions_were_found_to_differ_while_all_was_halted(
    tmp_path: Path,
) -> None:
    """What lifts the halt of all has looked at no account's positions."""
    async with emsd(tmp_path) as router:
        account = router.accounts[MAIN]
        await router.set_state(MAIN, TradingState.ACTIVE, "for the test")
        await synced(router, 1)
        await router.set_state("", TradingState.HALTED, "for the test")
        await synced(router, 2)
        assert account.state == "halted"
        await router.set_state("", TradingState.ACTIVE, "go on")
        assert account.state == "reducing"
        assert "the venue has 2, we have 1" in account.why
        await router.keeper.agree_again()
        assert account.state == "reducing"
        await synced(router, 1)
        assert account.state == "active"


async def test_positions_that_agree_again_are_kept_as_they_were_when_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position that is told while this is journaled, before its fill, is not counted twice."""
    async with emsd(tmp_path) as router:
        account = router.accounts[MAIN]
        await router.set_state(MAIN, TradingState.ACTIVE, "for the test")
        await synced(router, 0)
        await synced(router, 1)
        assert account.state == "reducing"
        append = router.keeper._journal.append

        async def slow(records: Sequence[Record]) -> Any:
            monkeypatch.undo()
            router.hear(MAIN, held(-3))
            return await append(records)

        router.hear(MAIN, held(0))
        monkeypatch.setattr(router.keeper._journal, "append", slow)
        monkeypatch.setattr(keeper, "SETTLE_S", 0.0)
        await router.keeper.agree_again()
        assert account.state == "active"
        assert account.desk.held(PERP.fqme) == 0
        assert router.keeper._journal.standing.positions[MAIN, PERP.mktid].told.size == 0


@pytest.mark.parametrize("size", ["1e-9999", "1e9999", "NaN", "sNaN"])
async def test_position_that_is_no_number_reduces_the_account_and_ends_nothing(
    tmp_path: Path, size: str
) -> None:
    """Sums with it are not exact: emsd would end at the next look, and again after each start."""
    async with emsd(tmp_path) as router:
        account = router.accounts[MAIN]
        await router.set_state(MAIN, TradingState.ACTIVE, "for the test")
        await synced(router, 1)
        await synced(router, size)
        assert account.state == "reducing"
        assert "which is no size, we have 1" in account.why
        await router.keeper.open_days(wall_ns())
        await router.keeper.agree_again()
        assert (account.state, account.desk.held(PERP.fqme)) == ("reducing", 1)
    async with emsd(tmp_path) as router:
        await synced(router, 1)
        assert router.accounts[MAIN].state == "active"
