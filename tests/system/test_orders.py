"""Orders through emsd and paperboi as processes, against a loopback venue: killed, and whole."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Collection
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from daemons import Pikerd
from ordering import FQME, PAPER, SOON_S, bid, fills_of, happened, kill, open_venue, synced, trading

from piker import service
from piker.clearing import client
from piker.clearing._ems import halt_file
from piker.clearing.client import OrderClient, open_ems
from piker.errors import ConfigError, ProviderError, Refused, SymbolNotFound
from piker.orders import Order, Status, SyncState
from piker.ticks import Resync

pytestmark = pytest.mark.slow
D = Decimal


@pytest.fixture
async def venue(piker_dirs: Path) -> AsyncIterator[object]:
    """Serve a venue."""
    async with open_venue() as served:
        yield served


async def test_order_lives_through_edit_fill_and_cancel_on_paper(
    venue: object, pikerd: Pikerd
) -> None:
    """Each step is told; a market order is filled at quoted prices, with the venue's fee."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        order = ems.order(FQME, "buy", "0.01", price=low)
        assert (await ems.send(order)).resp in ("pending", "open")
        await ems.until(order.oid, ["open"])
        assert (await ems.update(order.oid, price=low - 1, size="0.02")).req is not None
        terms = ems.dialogs[order.oid].req
        assert terms is not None
        assert (terms.price, terms.size) == (low - 1, D("0.02"))
        assert (await ems.cancel(order.oid)).cancel_called
        assert (await ems.ended(order.oid)).resp == "canceled"
        market = await ems.send(ems.order(FQME, "buy", "0.01"))
        done = await ems.ended(market.oid)
        assert (done.resp, done.filled, done.src) == ("closed", D("0.01"), "paper.queue")
        assert done.avg_price is not None
        assert abs(done.avg_price - low) < 1500
        assert done.fees["usdt"] == done.avg_price * done.filled * D("0.001")


def shown(ems: OrderClient, oids: Collection[str] = ()) -> dict[str, tuple[object, ...]]:
    """Return what a client sees of the open orders, or of some: all but when it was told."""
    wanted = set(oids) or {status.oid for status in ems.open_orders()}
    return {
        oid: (one.resp, one.req, one.src, one.reqid, one.filled, one.fees, one.cancel_called)
        for oid, one in ems.dialogs.items()
        if oid in wanted
    }


async def every_kind(ems: OrderClient, low: Decimal, trail: int) -> list[Order]:
    """Have an order of each kind stand: at its venue, waiting, held by its parent; and an alert."""
    entry = ems.order(FQME, "buy", "0.02", price=low - 7)
    exits = {"parent": entry.oid, "oco": "exits"}
    sent = [
        ems.order(FQME, "buy", "0.01", price=low),
        ems.order(FQME, "sell", "0.01", price=low + 1500, post_only=True),
        ems.order(FQME, "sell", "0.01", trigger=low - 5000),
        ems.order(FQME, "sell", "0.01", trail=trail),
        ems.order(FQME, "buy", "0.01", trigger=low - 5000, kind="take_profit"),
        ems.order(FQME, "alert", trigger=low + 5000),
        ems.order(FQME, "sell", "0.02", price=low + 4000, **exits),
        ems.order(FQME, "sell", "0.02", trigger=low - 4000, **exits),
        entry,
    ]
    for order in sent:
        status = await ems.send(order)
        assert status.resp in ("pending", "open", "dark_open", "held"), status
    return sent


async def test_clients_and_a_late_one_see_the_same_orders(venue: object, pikerd: Pikerd) -> None:
    """Of every kind, whoever sent them; any of them steers any order; the journal says who did."""
    async with trading(pikerd) as one, open_ems(account=PAPER, name="second") as two:
        low = await bid() - 500
        sent = [*await every_kind(one, low, 5000), *await every_kind(two, low - 11, 5011)]
        oids = {order.oid for order in sent}
        at_venue = [order.oid for order in sent if not (order.trigger or order.trail or order.oco)]
        for ems in (one, two):
            for oid in at_venue:
                await ems.until(oid, ["open"])
        async with open_ems(account=PAPER, name="late") as late:
            for ems in (one, two, late):
                assert set(shown(ems)) == oids
            assert shown(one) == shown(two) == shown(late)
            dropped, edited, traded = sent[5].oid, sent[0].oid, sent[9].oid
            await late.cancel(dropped)
            await two.update(edited, price=low + 1)
            await one.update(traded, price=low + 3000)
            every = (one, two, late)
            ends = [[await ems.ended(oid) for ems in every] for oid in (dropped, traded)]
            assert [{(end.resp, end.seq) for end in told} for told in ends] == [
                {("canceled", ends[0][0].seq)}, {("closed", ends[1][0].seq)}
            ]  # fmt: skip
            oids -= {dropped, traded}
            for ems in every:
                while ems.dialogs[edited].req.price != low + 1:  # type: ignore[union-attr]
                    await ems.changed()
                assert set(shown(ems)) == oids
            assert shown(one) == shown(two) == shown(late)
            assert shown(one, [dropped, traded]) == shown(late, [dropped, traded])
    canceled, changed = await happened("cancel_asked"), await happened("edit_asked")
    canceled += await happened("cancel", dropped)
    assert [record.actor.partition(" ")[0] for record, _ in canceled] == ["late"]
    assert {record.oid: record.actor.partition(" ")[0] for record, _ in changed} == {
        edited: "second", traded: "test"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["emsd", "paperboi.binance", "datad.binance"])
async def test_orders_stand_when_a_process_is_killed(
    venue: object, pikerd: Pikerd, name: str
) -> None:
    """The client is attached again by itself and told; orders go on where they were."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        order = ems.order(FQME, "buy", "0.01", price=low)
        await ems.send(order)
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
        while (await ems.send(ems.order(FQME, "buy", "0.01"))).resp == "denied":
            await trio.sleep(0.1)  # datad is on its way: no price is known yet
        edited = await ems.update(order.oid, price=low + 3000)
        done = await ems.ended(edited.oid)
        assert (done.resp, done.filled) == ("closed", D("0.01"))
        assert sum((await fills_of(order.oid)).values()) == done.filled


async def test_dark_order_fires_once_with_no_client_after_everything_was_killed(
    venue: object, pikerd: Pikerd
) -> None:
    """pikerd comes back, and with it emsd: the order waits on, and trades when its price comes."""
    async with trading(pikerd) as ems:
        low = await bid() - 5000
        stop = ems.order(FQME, "sell", "0.01", trigger=low)
        far = await ems.send(stop)
        assert (far.resp, far.src) == ("dark_open", "dark")
        near = ems.order(FQME, "sell", "0.01", trigger=low + 10_000)
        alert = ems.order(FQME, "alert", trigger=low + 4990)
        await ems.send(alert)
    with trio.fail_after(SOON_S):
        assert pikerd.end(signal.SIGKILL) == -signal.SIGKILL
        while service.read_pikerd() is not None:
            await trio.sleep(0.05)
        pikerd.start()
        await pikerd.ready()
        while not any(one.name == "emsd" for one in await service.list_services()):
            await trio.sleep(0.05)  # nobody asks for it
        async with open_ems(account=PAPER, name="looker") as ems:
            assert ems.dialogs[stop.oid].resp == "dark_open"
            await synced(ems)
            await ems.send(near)
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
            status = await ems.send(ems.order(FQME, "buy", **terms))  # type: ignore[arg-type]
            assert (status.resp, status.code) == ("denied", code), status
            assert status.reason.endswith(".")
        status = await ems.cancel("nobody")
        assert (status.resp, status.code) == ("error", "unknown-order")
        status = await ems.send(ems.order("nope.spot.binance", "buy", "1", price="1"))
        assert (status.resp, status.code) == ("denied", "wrong-symbol")
        assert "has no market" in status.reason
        nobody = ems.order(FQME, "buy", "0.01", price=low, account="binance.nobody")
        status = await ems.send(nobody)
        assert (status.resp, status.code) == ("denied", "unknown-account")
        assert "piker keys add binance nobody" in status.reason or "no orders" in status.reason
    for account, error in (("paper", ConfigError), ("nowhere.paper", ProviderError)):
        with pytest.raises(error):
            async with open_ems(account=account):
                pass
    with pytest.raises(SymbolNotFound):
        async with open_ems("btcusd.spot.binance", mode="paper"):
            pass


async def test_halt_stops_everything_until_it_is_armed(venue: object, pikerd: Pikerd) -> None:
    """By a call, by a file; across a restart; for one account and for all."""
    async with trading(pikerd) as ems:
        low = await bid() - 500
        order = ems.order(FQME, "buy", "0.01", price=low)
        await ems.send(order)
        await client.halt(reason="a test")
        assert (await ems.ended(order.oid)).resp == "canceled"
        await kill("emsd")
        while not isinstance(await ems.__anext__(), Resync):
            pass
        status = await ems.send(ems.order(FQME, "buy", "0.01", price=low))
        assert status.code == "halted"
        await client.arm()
        await synced(ems)
        assert (await ems.send(ems.order(FQME, "buy", "0.01", price=low))).code == ""
        halt_file().write_text("")
        while ems.accounts[PAPER].state != "halted":
            await ems.changed()
        with pytest.raises(Refused, match="rm "):
            await client.arm()
        halt_file().unlink()
        await client.arm()
        await client.halt(PAPER)
        assert (await ems.send(ems.order(FQME, "buy", "0.02", price=low))).code == "halted"
        assert {one.account: one.state for one in await client.list_accounts()} == {PAPER: "halted"}
        assert all(isinstance(one, Status) for one in ems.dialogs.values())
