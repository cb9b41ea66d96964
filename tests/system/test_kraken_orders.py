"""Live orders at the loopback Kraken through pikerd, emsd and brokerd.kraken as processes."""

from __future__ import annotations

import base64
import os
import signal
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from daemons import Pikerd

from piker import service
from piker.clearing import client
from piker.clearing.client import OrderClient, open_ems
from piker.orders import SyncState
from piker.testing.accounts import account_of
from piker.testing.engine import BUY
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow
FQME, ACCOUNT = "xbtusd.spot.kraken", "kraken.main"
SECRET = base64.b64encode(b"s" * 64).decode()
SOON_S = 60  # nothing here takes longer unless it is broken


async def _sync(ems: OrderClient, *, synced: bool) -> None:
    while (ems.accounts[ACCOUNT].sync is SyncState.SYNCED) != synced:
        await ems.changed()


async def test_an_order_lives_on_when_brokerd_is_killed(piker_dirs: Path, pikerd: Pikerd) -> None:
    """Placed, edited, found again by a new brokerd, canceled; then a market order is filled."""
    keys = piker_dirs / "config" / "keys.toml"
    keys.write_text(f'[kraken.main]\nkey = "livekey"\nsecret = "{SECRET}"\n')
    keys.chmod(0o600)
    owner = account_of(f"alice:livekey:{SECRET}:USD=100000,BTC=1")
    async with open_loopback("kraken", symbols=1, rate=5, accounts=[owner]) as (venue, port):
        point_backend_at("kraken", port)
        with trio.fail_after(SOON_S):
            await pikerd.ready()
            await client.arm(ACCOUNT)
            async with open_ems(FQME, account=ACCOUNT, name="test") as ems:
                await _sync(ems, synced=True)
                (price, _), *_ = venue.listings[0].depth(BUY, 1)
                low = price * Decimal("0.1") - 300
                order = ems.order(FQME, "buy", "0.01", price=low)
                await ems.send(order)
                await ems.until(order.oid, ["open"])
                edited = await ems.update(order.oid, price=low - 1, size="0.02")
                assert edited.req is not None
                pid = next(
                    s.pid for s in await service.list_services() if s.name == "brokerd.kraken"
                )
                os.kill(pid, signal.SIGKILL)
                await service.wait_exit(pid)
                await _sync(ems, synced=False)
                await _sync(ems, synced=True)
                found = ems.dialogs[order.oid]
                assert found.resp == "open"
                assert found.req is not None
                assert (found.req.price, found.req.size) == (low - 1, Decimal("0.02"))
                await ems.cancel(order.oid)
                assert (await ems.ended(order.oid)).resp == "canceled"
                sold = await ems.send(ems.order(FQME, "sell", "0.01"))
                done = await ems.ended(sold.oid)
                assert (done.resp, done.filled) == ("closed", Decimal("0.01"))
                assert done.fees["usd"] > 0
            assert venue.gate.stats()["refusals"] == {}
            assert venue.gate.counters.errors == 0
