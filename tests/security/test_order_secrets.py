"""The key of an account that really trades is nowhere but where it was put, whoever crashes.

pikerd, emsd, brokerd, paperboi and datad run with the noisiest logs against a loopback venue that
checks every signature. Orders are placed, refused, filled and canceled, the venue fails, and then
each process is aborted in turn.
"""

from __future__ import annotations

import os
import secrets as dice
import signal
from pathlib import Path

import pytest
import trio
from leaks import files_under, hunt, pikerd_of, proc_of, ready

from piker import service
from piker.clearing.client import OrderClient, arm, open_ems
from piker.errors import PeerLost, Refused
from piker.orders import SyncState
from piker.testing.accounts import account_of
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow
FQME = "btcusdt.spot.binance"
LIVE, PAPER = "binance.main", "binance.paper"
SOON_S = 120  # nothing here takes longer unless it is broken


async def synced(ems: OrderClient, account: str) -> None:
    """Wait until an account is heard."""
    while account not in ems.accounts or ems.accounts[account].sync is not SyncState.SYNCED:
        await ems.changed()


async def trade(account: str) -> None:
    """Have an order refused, one filled, one canceled."""
    async with open_ems(FQME, account=account, name="spender") as ems:
        await synced(ems, account)
        await ems.send(ems.order(FQME, "buy", "0"))
        filled = await ems.send(ems.order(FQME, "buy", "0.01"))
        assert (await ems.ended(filled.oid)).resp == "closed", ems.dialogs[filled.oid]
        stands = await ems.send(ems.order(FQME, "sell", "0.01", price="62000"))
        await ems.cancel(stands.oid)
        await ems.ended(stands.oid)


async def test_trading_keys_are_found_nowhere_when_every_process_was_aborted(
    piker_dirs: Path,
) -> None:
    """Not in logs, cores, segments, the journal, /proc, or what clients are told."""
    key, secret = dice.token_hex(32), dice.token_hex(32)
    owner = account_of(f"alice:{key}:{secret}:USDT=1000000,BTC=10")
    wrong = dice.token_hex(32)
    keys = {
        "PIKER_API_KEY__BINANCE__MAIN": key, "PIKER_API_SECRET__BINANCE__MAIN": secret,
        "PIKER_API_KEY__BINANCE__WRONG": key, "PIKER_API_SECRET__BINANCE__WRONG": wrong,
    }  # fmt: skip
    said: list[tuple[str, bytes]] = []
    async with open_loopback("binance", symbols=1, limits=False, accounts=[owner]) as (venue, port):
        point_backend_at("binance", port)
        with pikerd_of(piker_dirs, keys) as process, trio.fail_after(SOON_S):
            await ready(process)
            async with open_ems(account=LIVE, name="boss"):
                await arm(LIVE)
            await trade(LIVE)
            await trade(PAPER)
            with pytest.raises(Refused) as refused:
                async with open_ems(account="binance.wrong"):
                    pass
            said.append(("the refusal", f"{refused.value!r} {refused.value}".encode()))
            venue.gate.add_faults([Fault(what="status", on="http", status=500, count=3)])
            for name in ("brokerd.binance", "paperboi.binance", "datad.binance", "emsd"):
                pids = {one.name: one.pid for one in await service.list_services()}
                said.extend(proc_of(pids.values()))
                os.kill(pids[name], signal.SIGABRT)
                await service.wait_exit(pids[name])
                try:
                    await trade(LIVE)
                except (PeerLost, AssertionError) as err:  # it was on its way when all went down
                    said.append(("a loss", f"{err!r}".encode()))
            said.extend(proc_of([process.pid]))
            process.send_signal(signal.SIGABRT)
            await trio.to_thread.run_sync(process.wait)
    texts = [*said, *files_under(piker_dirs, but=[])]
    found = hunt(texts, [key, secret, wrong])
    size = sum(len(text) for _, text in texts)
    print(f"{len(texts)} places, {size:,} bytes: {len(found)} of 3 keys found")
    assert found == []
    log = (piker_dirs / "left" / "pikerd.out").read_bytes()
    assert log.count(b"Fatal Python error: Aborted") == 5
    assert b"brokerd.dialog" in log
