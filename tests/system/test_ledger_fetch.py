"""``piker ledger fetch``: live trades at a loopback venue, through brokerd and into the books."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import signal
import subprocess
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from commands import blocking, command, good, piker
from daemons import Pikerd
from ordering import pid_of

from piker import service
from piker.clearing import client
from piker.clearing.client import OrderClient, open_ems
from piker.orders import SyncState
from piker.testing.accounts import account_of
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow
SOON_S = 120  # nothing here takes longer unless it is broken
SECRET = base64.b64encode(b"s" * 64).decode()
FQMES = {"binance": "btcusdt.spot.binance", "kraken": "xbtusd.spot.kraken"}
HAS = {"binance": "USDT=100000,BTC=1", "kraken": "USD=100000,BTC=1"}
PERP = "btcusdt.usdtm.perp.binance"


@asynccontextmanager
async def venue_of(provider: str, dirs: Path, pikerd: Pikerd) -> AsyncIterator[Any]:
    """Serve a venue with an account, whose key is known as ``main``; its pikerd runs."""
    keys = dirs / "config" / "keys.toml"
    keys.write_text(f'[{provider}.main]\nkey = "livekey"\nsecret = "{SECRET}"\n')
    keys.chmod(0o600)
    owner = account_of(f"alice:livekey:{SECRET}:{HAS[provider]}")
    async with open_loopback(provider, symbols=1, rate=5, limits=False, accounts=[owner]) as (
        venue,
        port,
    ):
        point_backend_at(provider, port)
        with trio.fail_after(SOON_S):
            await pikerd.ready()
            yield venue


@asynccontextmanager
async def trading(provider: str, *fqmes: str) -> AsyncIterator[OrderClient]:
    """Open the account live, synced."""
    account = f"{provider}.main"
    await client.arm(account)
    async with open_ems(*fqmes, account=account, name="test") as ems:
        while ems.accounts[account].sync is not SyncState.SYNCED:
            await ems.changed()
        yield ems


async def trade(ems: OrderClient, fqme: str, *orders: tuple[str, str]) -> int:
    """Trade at the market; return how many fills that were."""
    count = 0
    for side, size in orders:
        order = ems.order(fqme, side, size)
        await ems.send(order)
        assert (await ems.ended(order.oid)).resp == "closed"
        count += 1
    return count


async def fills_of(account: str, **where: str) -> dict[str, dict[str, Any]]:
    """Return what the books have of an account, by market and trade: each is there once."""
    done = await piker("ledger", "show", account, "--last", "0", "--json", **where)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    fills = [row for row in found if row["what"] == "fill"]
    named = {f"{row['market']} {row['tid']}": row for row in fills}
    assert len(named) == len(fills)
    return named


async def positions_of(account: str, **where: str) -> list[tuple[str, ...]]:
    """Return what the books come to, market by market."""
    done = await piker("ledger", "export", account, **where)
    assert done.returncode == 0, done.stderr
    told = tomllib.loads(done.stdout)
    names = ("symbol", "size", "avg_price", "realised")
    return [tuple(str(one.get(name)) for name in names) for one in told["position"]]


async def fetched(*words: str, **where: str) -> dict[str, Any]:
    """Return what a fetch says that succeeds."""
    done = await piker("ledger", "fetch", *words, "--json", **where)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize("provider", ["binance", "kraken"])
async def test_trades_are_in_the_books_once_when_they_are_fetched(
    piker_dirs: Path, pikerd: Pikerd, provider: str
) -> None:
    """Beside the live account, again and again; the same without a journal: equal positions."""
    account, fqme = f"{provider}.main", FQMES[provider]
    async with venue_of(provider, piker_dirs, pikerd), trading(provider, fqme) as ems:
        await trade(ems, fqme, ("buy", "0.03"), ("sell", "0.01"), ("buy", "0.02"))
        live = await fills_of(account)
        count = len(live)
        assert count >= 3
        dry = await good("ledger", "fetch", account, "--dry-run")
        assert f"{count} transactions: 0 new, {count} known before; nothing was kept" in dry
        assert not (piker_dirs / "data" / "ledger").exists()
        first = await fetched(account)
        assert (first["read"], first["new"], first["known"]) == (count, 0, count)
        assert Path(first["file"]).is_file()
        assert first["markets"] == ([fqme] if provider == "binance" else [])
        assert await fills_of(account) == live
        await trade(ems, fqme, ("sell", "0.005"))
        began = datetime.fromtimestamp(min(row["time_ns"] for row in live.values()) // 10**9, UTC)
        again = await fetched(account, "--since", f"{began:%Y-%m-%d}")
        later = await fills_of(account)
        assert (again["read"], again["new"]) == (len(later), 0)
        assert "sound" in await good("ledger", "verify")

        elsewhere = {"PIKER_DATA_DIR": str(piker_dirs / "other")}
        Path(elsewhere["PIKER_DATA_DIR"]).mkdir(mode=0o700)
        said = await piker("ledger", "fetch", account, fqme, **elsewhere)
        assert said.returncode == 0, said.stderr
        count = len(later)
        assert f"{count} transactions: {count} new, 0 known before; kept in" in said.stdout
        alone = await fills_of(account, **elsewhere)
        for name, row in later.items():
            same = ("cost_asset", "market", "time_ns", "kind", "leg")
            assert [alone[name][field] for field in same] == [row[field] for field in same]
            for field in ("size", "price", "cost"):
                assert Decimal(alone[name][field]) == Decimal(row[field])
            assert alone[name]["source"] == "import"
        assert await positions_of(account, **elsewhere) == await positions_of(account)
        assert (await fetched(account, fqme, **elsewhere))["new"] == 0
        assert ems.accounts[account].sync is SyncState.SYNCED


async def test_markets_are_those_of_the_books_when_a_venue_must_be_asked_for_each(
    piker_dirs: Path, pikerd: Pikerd
) -> None:
    """Spot and USD-M by their books; with empty books a sentence, and no file."""
    account, spot = "binance.main", FQMES["binance"]
    async with venue_of("binance", piker_dirs, pikerd):
        refused = await piker("ledger", "fetch", account)
        assert refused.returncode == 2
        assert "must be asked for each market, and the books have none" in refused.stderr
        assert f"piker ledger fetch {account} FQME" in refused.stderr
        assert "no trade there" in await good("ledger", "fetch", account, spot)
        assert not (piker_dirs / "data" / "ledger").exists()
        async with trading("binance", spot, PERP) as ems:
            await trade(ems, spot, ("buy", "0.02"))
            await trade(ems, PERP, ("sell", "0.02"), ("buy", "0.01"))
            never = await piker("buy", "btcusd.coinm.perp.binance", "1", "--account", account)
            assert never.stderr.splitlines()[-1].startswith("denied (not-offered)")
            done = await piker("ledger", "fetch", account)
            assert done.returncode == 0, done.stderr
            assert f"note: asked for {spot}, {PERP}: the markets that the books have" in done.stderr
            live = await fills_of(account)
            assert f"0 new, {len(live)} known" in done.stdout
        only = await fetched(account, PERP.upper(), "--dry-run")
        assert only["markets"] == [PERP]
        assert only["read"] == sum(row["market"] == PERP for row in live.values())


async def test_a_line_of_a_file_is_known_again_when_its_trade_is_fetched(
    piker_dirs: Path, pikerd: Pikerd
) -> None:
    """The venue's export names no trade: whichever comes first, it counts once."""
    account, spot = "binance.main", FQMES["binance"]
    async with venue_of("binance", piker_dirs, pikerd):
        async with trading("binance", spot) as ems:
            await trade(ems, spot, ("buy", "0.02"), ("sell", "0.01"))
        live = await fills_of(account)
        lines = ["Date(UTC),Pair,Side,Price,Executed,Amount,Fee"]
        for row in live.values():
            moment = datetime.fromtimestamp(row["time_ns"] // 10**9, UTC)
            side, size = (
                ("SELL", row["size"][1:]) if row["size"][0] == "-" else ("BUY", row["size"])
            )
            fee = f"{Decimal(row['cost']):f}{row['cost_asset'].upper()}"
            lines.append(
                f"{moment:%Y-%m-%d %H:%M:%S},BTCUSDT,{side},{row['price']},{size}BTC,1USDT,{fee}"
            )
        file = piker_dirs / "history.csv"
        file.write_text("\n".join(lines) + "\n")
        take = ("ledger", "import", str(file), "--account", account)
        for order in ("file first", "venue first"):
            elsewhere = {"PIKER_DATA_DIR": str(piker_dirs / order[:4])}
            Path(elsewhere["PIKER_DATA_DIR"]).mkdir(mode=0o700)
            assert (await piker("symbols", "populate", "binance", **elsewhere)).returncode == 0
            if order == "file first":
                assert (await piker(*take, **elsewhere)).returncode == 0
                assert len(await fills_of(account, **elsewhere)) == len(live)
            found = await fetched(account, spot, **elsewhere)
            if order == "file first":
                assert (found["new"], found["known"]) == (0, len(live))
            assert (await piker(*take, **elsewhere)).returncode == 0
            assert set(await fills_of(account, **elsewhere)) == set(live)
            assert await positions_of(account, **elsewhere) == await positions_of(account)


async def test_nothing_is_kept_when_the_venue_brokerd_or_the_caller_ends_it(
    piker_dirs: Path, pikerd: Pikerd
) -> None:
    """A venue that fails, a broker that dies, a person who is tired of it: no half of it."""
    account, spot = "binance.main", FQMES["binance"]
    path = "/fapi/v1/userTrades"
    async with (
        venue_of("binance", piker_dirs, pikerd) as venue,
        trading("binance", spot, PERP) as ems,
    ):
        await trade(ems, spot, ("buy", "0.02"))
        await trade(ems, PERP, ("buy", "0.02"))
        asked = venue.gate.counters.requests
        (slow,) = venue.gate.add_faults(
            [Fault(what="delay", on="http", delay_s=1, match="userTrades.*startTime")]
        )

        async def begun(screen: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
            before = asked[path]
            process = subprocess.Popen(  # noqa: ASYNC220  # it is killed as a shell would
                command("ledger", "fetch", account, spot, PERP),
                stdout=subprocess.PIPE, stderr=screen, env={**os.environ, "TERM": "xterm"},
            )  # fmt: skip
            while asked[path] < before + 2:
                await trio.sleep(0.02)
            return process

        async def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
            _, text = await trio.to_thread.run_sync(process.communicate)
            return process.returncode, (text or b"").decode()

        pid = await pid_of("brokerd.binance")
        person, screen = pty.openpty()
        tired = await begun(screen)
        await trio.sleep(0.3)  # what is shown is drawn some times a second
        tired.send_signal(signal.SIGINT)
        assert (await ended(tired))[0] == 130
        shown = os.read(person, 1 << 20).decode()
        os.close(person)
        os.close(screen)
        assert re.search(r"Asking binance what binance\.main traded \.\.\. trade \d+", shown)
        assert "nothing was kept" in shown
        await _is_still(asked, path)
        killed = await begun()
        killed.kill()
        await ended(killed)
        await _is_still(asked, path)
        assert await pid_of("brokerd.binance") == pid
        assert ems.accounts[account].sync is SyncState.SYNCED

        lost = await begun()
        os.kill(pid, signal.SIGKILL)
        code, text = await ended(lost)
        assert code == 8, text
        assert "Traceback" not in text
        slow.cleared = True
        venue.gate.add_faults([Fault(what="status", on="http", status=503, match="userTrades")])
        failed = await piker("ledger", "fetch", account, spot, PERP)
        assert failed.returncode == 7, failed.stderr
        assert "503" in failed.stderr
        assert not (piker_dirs / "data" / "ledger").exists()


async def _is_still(asked: Any, path: str) -> None:
    """Wait until no more is asked for: what was under way may still come."""
    await trio.sleep(1.5)
    before = asked[path]
    await trio.sleep(2.5)
    assert asked[path] == before


async def test_a_key_that_is_not_there_or_not_taken_is_said(
    piker_dirs: Path, pikerd: Pikerd
) -> None:
    """An account nobody has a key of; a key that the venue refuses; a market that is none."""
    async with venue_of("kraken", piker_dirs, pikerd):
        none = await piker("ledger", "fetch", "kraken.other")
        assert none.returncode == 2
        assert "there is no key of the account 'other' at kraken" in none.stderr
        assert "piker keys add kraken other" in none.stderr
        nowhere = await piker("ledger", "fetch", "kraken.main", "nope.spot.kraken")
        assert nowhere.returncode == 3
        assert "kraken has no market 'nope.spot.kraken'" in nowhere.stderr
        keys = piker_dirs / "config" / "keys.toml"
        keys.write_text(f'[kraken.main]\nkey = "stolen"\nsecret = "{SECRET}"\n')
        bad = await piker("ledger", "fetch", "kraken.main")
        assert bad.returncode == 5, bad.stderr
        assert "Invalid key" in bad.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("binance.paper", 2, "binance.paper trades on paper"),
        ("binance", 2, "'binance' is no account"),
        ("binanse.main", 4, "Did you mean 'binance'"),
        ("binance.main btcusdt", 2, "is not a market address"),
        ("binance.main xbtusd.spot.kraken", 2, "binance.main does not trade xbtusd.spot.kraken"),
        ("kraken.main --since yesterday", 2, "is no date. Write it as 2026-05-01"),
        ("kraken.main --since 2999-01-01", 2, "is to come: it is UTC"),
        ("xyz.main", 4, "does not tell what an account traded. Import the venue's own file"),
    ],
)
def test_mistake_is_a_sentence_and_starts_nothing(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, said: str
) -> None:
    """No traceback, the documented exit code, the remedy, and no daemon."""
    if line.startswith("xyz"):
        line = line.replace("xyz", "stranger_backend")
        (piker_dirs / "config" / "conf.toml").write_text(
            '[brokers]\nmodules = ["stranger_backend"]\n'
        )
        known = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), known]))
    done = blocking("ledger", "fetch", *line.split())
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert service.read_pikerd() is None
