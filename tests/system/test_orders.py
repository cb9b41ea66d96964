"""Orders through emsd and paperboi as processes, against a loopback venue: killed, and whole."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from daemons import Pikerd

from piker import service
from piker.clearing import client
from piker.clearing._ems import halt_file, journal_path
from piker.clearing.client import OrderClient, open_ems
from piker.clearing.journal import open_journal
from piker.clearing.records import Happened
from piker.data.feed import open_feed
from piker.errors import ConfigError, ProviderError, Refused, SymbolNotFound
from piker.orders import BrokerdFill, Status, SyncState
from piker.testing.loopback import open_loopback, point_backend_at
from piker.ticks import Resync

pytestmark = pytest.mark.slow
FQME = "btcusdt.spot.binance"
PAPER = "binance.paper"
SOON_S = 60  # nothing here takes longer unless it is broken
D = Decimal


@pytest.fixture
async def venue(piker_dirs: Path) -> AsyncIterator[object]:
    """Serve a synthetic Binance; the paper venue is next door."""
    (piker_dirs / "config" / "conf.toml").write_text("[paper]\nlatency_ms = 0\n")
    async with open_loopback("binance", symbols=2, rate=20, limits=False) as (served, port):
        point_backend_at("binance", port)
        yield served


@asynccontextmanager
async def trading(pikerd: Pikerd) -> AsyncIterator[OrderClient]:
    """Open the paper account, synced, and its market."""
    with trio.fail_after(SOON_S):
        await pikerd.ready()
        async with open_ems(PAPER, [FQME], name="test") as ems:
            await synced(ems)
            yield ems


async def synced(ems: OrderClient) -> None:
    """Wait until the account is heard."""
    while ems.accounts[PAPER].sync is not SyncState.SYNCED:
        await ems.changed()


async def bid() -> Decimal:
    """Return the market's best bid now."""
    async with open_feed([FQME]) as feed:
        flume = feed.flumes[FQME]
        assert flume.first_quote.bid is not None
        return flume.mkt.round_price(repr(flume.first_quote.bid))


async def pid_of(name: str) -> int:
    """Return a service's process."""
    return next(one.pid for one in await service.list_services() if one.name == name)


async def kill(name: str) -> None:
    """SIGKILL a service and wait for its end."""
    pid = await pid_of(name)
    os.kill(pid, signal.SIGKILL)
    await service.wait_exit(pid)


async def test_order_lives_through_edit_fill_and_cancel_on_paper(
    venue: object, pikerd: Pikerd
) -> None:
    """Each step is told; a market order is filled at quoted prices, with the venue's fee."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        order = ems.order(FQME, "buy", "0.01", price=low)
        assert (await ems.submit(order)).resp in ("pending", "open")
        await ems.until(order.oid, ["open"])
        assert (await ems.edit(order.oid, price=low - 1, size="0.02")).req is not None
        terms = ems.dialogs[order.oid].req
        assert terms is not None
        assert (terms.price, terms.size) == (low - 1, D("0.02"))
        assert (await ems.cancel(order.oid)).cancel_called
        assert (await ems.ended(order.oid)).resp == "canceled"
        market = await ems.submit(ems.order(FQME, "buy", "0.01"))
        done = await ems.ended(market.oid)
        assert (done.resp, done.filled, done.src) == ("closed", D("0.01"), "paper.queue")
        assert done.avg_price is not None
        assert abs(done.avg_price - low) < 1500
        assert done.fees["usdt"] == done.avg_price * done.filled * D("0.001")


async def test_clients_and_a_late_one_see_the_same_orders(venue: object, pikerd: Pikerd) -> None:
    """Any of them steers any order; the journal says who did."""
    async with trading(pikerd) as one, open_ems(PAPER, name="second") as two:
        low = await bid() - 500
        for number in range(3):
            await one.submit(one.order(FQME, "buy", "0.01", price=low - number))
        oids = {status.oid for status in one.open_orders()}
        async with open_ems(PAPER, name="late") as late:
            assert {status.oid for status in late.open_orders()} == oids
            for ems in (two, late):
                for oid in oids:
                    await ems.until(oid, ["open"])
            last = max(oids)
            await late.cancel(last)
            ended = [await ems.ended(last) for ems in (one, two, late)]
            assert len({status.seq for status in ended}) == 1
            assert {status.oid for status in two.open_orders()} == oids - {last}
    async with open_journal(journal_path(), read_only=True) as journal:
        actors = [
            record.actor async for record in journal.read()
            if isinstance(record.entry, Happened) and record.entry.event.kind == "cancel_asked"
        ]  # fmt: skip
    assert [actor.partition(" ")[0] for actor in actors] == ["late"]


@pytest.mark.parametrize("name", ["emsd", "paperboi.binance", "datad.binance"])
async def test_orders_stand_when_a_process_is_killed(
    venue: object, pikerd: Pikerd, name: str
) -> None:
    """The client is attached again by itself and told; orders go on where they were."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        order = ems.order(FQME, "buy", "0.01", price=low)
        await ems.submit(order)
        await ems.until(order.oid, ["open"])
        await kill(name)
        if name == "emsd":
            while not isinstance(await ems.__anext__(), Resync):
                pass
        elif name == "paperboi.binance":
            while ems.accounts[PAPER].sync is SyncState.SYNCED:
                await ems.changed()
        await synced(ems)
        assert (await ems.until(order.oid, ["open"])).filled == 0
        while (await ems.submit(ems.order(FQME, "buy", "0.01"))).resp == "denied":
            await trio.sleep(0.1)  # datad is on its way: no price is known yet
        edited = await ems.edit(order.oid, price=low + 3000)
        done = await ems.ended(edited.oid)
        assert (done.resp, done.filled) == ("closed", D("0.01"))
        fills = await fills_of(order.oid)
        assert sum(fill.size for fill in fills) == done.filled


async def fills_of(oid: str) -> list[BrokerdFill]:
    """Return an order's fills as the journal has them."""
    found = []
    async with open_journal(journal_path(), read_only=True) as journal:
        async for record in journal.read():
            entry = record.entry
            if record.oid == oid and isinstance(entry, Happened) and entry.event.kind == "fill":
                event = entry.event
                found.append(
                    BrokerdFill(
                        reqid="", tid=event.tid, time_ns=0, size=event.size, price=event.price,
                        action="buy",  # type: ignore[arg-type]
                    )
                )  # fmt: skip
    return found


async def test_dark_order_fires_once_with_no_client_after_everything_was_killed(
    venue: object, pikerd: Pikerd
) -> None:
    """pikerd comes back, and with it emsd: the order waits on, and trades when its price comes."""
    async with trading(pikerd) as ems:
        low = await bid() - 5000
        stop = ems.order(FQME, "sell", "0.01", trigger=low)
        far = await ems.submit(stop)
        assert (far.resp, far.src) == ("dark_open", "dark")
        near = ems.order(FQME, "sell", "0.01", trigger=low + 10_000)
        alert = ems.order(FQME, "alert", trigger=low + 4990)
        await ems.submit(alert)
    with trio.fail_after(SOON_S):
        assert pikerd.end(signal.SIGKILL) == -signal.SIGKILL
        while service.read_pikerd() is not None:
            await trio.sleep(0.05)
        pikerd.start()
        await pikerd.ready()
        while not any(one.name == "emsd" for one in await service.list_services()):
            await trio.sleep(0.05)  # nobody asks for it
        async with open_ems(PAPER, name="looker") as ems:
            assert ems.dialogs[stop.oid].resp == "dark_open"
            await synced(ems)
            await ems.submit(near)
            done = await ems.ended(near.oid)
            assert (done.resp, done.filled) == ("closed", D("0.01"))
            assert len(await fills_of(near.oid)) >= 1
            assert ems.dialogs[stop.oid].resp == "dark_open"


async def test_what_makes_no_sense_is_denied_in_words(venue: object, pikerd: Pikerd) -> None:
    """Before anything is sent, each with its code; accounts and markets that are not, by error."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        wrong = {
            "bad-size": {"size": 0, "price": low}, "off-tick": {"size": "0.01", "price": "1.001"},
            "off-lot": {"size": "0.000001", "price": low},
            "too-small": {"size": "0.00001", "price": low},
            "price-collar": {"size": "0.01", "price": low * 2},
            "order-notional": {"size": "5", "price": low},
        }  # fmt: skip
        for code, terms in wrong.items():
            status = await ems.submit(ems.order(FQME, "buy", **terms))  # type: ignore[arg-type]
            assert (status.resp, status.code) == ("denied", code), status
            assert status.reason.endswith(".")
        status = await ems.cancel("nobody")
        assert (status.resp, status.code) == ("error", "unknown-order")
        status = await ems.submit(ems.order("nope.spot.binance", "buy", "1", price="1"))
        assert (status.resp, status.code) == ("denied", "wrong-symbol")
        assert "has no market" in status.reason
        nobody = ems.order(FQME, "buy", "0.01", price=low, account="binance.nobody")
        status = await ems.submit(nobody)
        assert (status.resp, status.code) == ("denied", "unknown-account")
        assert "piker keys add binance nobody" in status.reason or "no orders" in status.reason
    for account, error in (("paper", ConfigError), ("nowhere.paper", ProviderError)):
        with pytest.raises(error):
            async with open_ems(account):
                pass
    with pytest.raises(SymbolNotFound):
        async with open_ems(PAPER, ["btcusd.spot.binance"]):
            pass


async def test_halt_stops_everything_until_it_is_armed(venue: object, pikerd: Pikerd) -> None:
    """By a call, by a file; across a restart; for one account and for all."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        order = ems.order(FQME, "buy", "0.01", price=low)
        await ems.submit(order)
        await client.halt(reason="a test")
        assert (await ems.ended(order.oid)).resp == "canceled"
        await kill("emsd")
        while not isinstance(await ems.__anext__(), Resync):
            pass
        status = await ems.submit(ems.order(FQME, "buy", "0.01", price=low))
        assert status.code == "halted"
        await client.arm()
        await synced(ems)
        assert (await ems.submit(ems.order(FQME, "buy", "0.01", price=low))).code == ""
        halt_file().write_text("")
        while ems.accounts[PAPER].state != "halted":
            await ems.changed()
        with pytest.raises(Refused, match="rm "):
            await client.arm()
        halt_file().unlink()
        await client.arm()
        await client.halt(PAPER)
        assert (await ems.submit(ems.order(FQME, "buy", "0.02", price=low))).code == "halted"
        assert {one.account: one.state for one in await client.list_accounts()} == {PAPER: "halted"}
        assert all(isinstance(one, Status) for one in ems.dialogs.values())
