"""``piker halt`` and ``arm`` as a person in a hurry meets them, whatever else is broken."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from commands import BTC, KEY, SECRET, blocking, good, piker, rows, trading
from daemons import Pikerd

from piker import service

pytestmark = pytest.mark.slow


async def test_halt_cancels_and_denies_until_armed(pikerd: Pikerd, piker_dirs: Path) -> None:
    """All of them, then one account alone; who looks is told why."""
    async with trading(pikerd):
        await good("buy", BTC, "0.01", "--price", "58000")
        said = await good("halt", "--reason", "fat finger")
        assert said.splitlines() == [
            "HALTED: all accounts. Nothing new passes.",
            "no order is open any more.",
            "To trade again: piker arm",
        ]
        denied = await piker("buy", BTC, "0.01")
        assert (denied.returncode, denied.stderr[:16]) == (1, "denied (halted):")
        looked = await piker("accounts")
        assert "no: HALTED" in looked.stdout
        assert "ALL ACCOUNTS ARE HALTED: fat finger. Lift it with: piker arm" in looked.stderr
        one = await good("arm", "binance.paper")
        assert "but all accounts are halted; to lift that: piker arm" in one
        assert "the halt of all accounts is lifted." in await good("arm")
        assert "the halt of all accounts was not on." in await good("arm")
        await good("buy", BTC, "0.01")
        await good("halt", "binance.paper")
        (row,) = await rows("accounts")
        assert (row["state"], row["armed"], row["reason"]) == ("halted", False, "by hand")
        denied = await piker("buy", BTC, "0.01")
        assert "To let it trade: piker arm binance.paper" in denied.stderr
        assert "binance.paper is active" in await good("arm", "binance.paper")
        (row,) = await rows("accounts", "binance.paper")
        assert (row["state"], row["armed"], row["sync"]) == ("active", True, "synced")
        assert await rows("arm", "binance.paper") == [row]


async def test_account_that_nobody_knows_is_a_mistake_wherever_it_is_named(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Called halted, or empty, it would hide that the one that was meant trades on."""
    async with trading(pikerd):
        keys = await piker("keys", "add", "binance", "main", "--store", "plain",
                           stdin=f'key = "{KEY}"\nsecret = "{SECRET}"\n')  # fmt: skip
        assert keys.returncode == 0, keys.stderr
        nope = ("--account", "binance.mian")
        for words in (
            ("halt", "binance.mian"), ("cancel", "--all", *nope), ("orders", *nope),
            ("positions", *nope),
        ):  # fmt: skip
            done = await piker(*words)
            assert (done.returncode, done.stdout) == (2, ""), words
            assert "no account 'binance.mian'" in done.stderr
            assert "Did you mean 'binance.main'" in done.stderr
        assert "NOTHING WAS HALTED." in (await piker("halt", "binance.mian")).stderr
        assert [row["account"] for row in await rows("accounts")] == ["binance.main"]
        assert await good("orders", "--account", "binance.main") == (
            "no open orders of binance.main.\n"
        )
        none = await good("cancel", "--all", "--market", BTC, "--account", "binance.paper")
        assert none == f"no open orders of binance.paper in {BTC}.\n"


def test_halt_is_a_file_when_emsd_can_not_be_started(piker_dirs: Path) -> None:
    """It says so, what that means, and how to undo it; nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = blocking("halt", PIKER_REGISTRY=f"127.0.0.1:{taken.getsockname()[1]}")
    file = piker_dirs / "config" / "HALT"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"HALTED by the file {file}: all accounts.\nemsd was not reached: "
    )
    assert f"To trade again: rm {file}, then: piker arm" in done.stdout
    assert "by piker halt" in file.read_text()
    assert "ALL ACCOUNTS ARE HALTED" in blocking("accounts").stderr
    assert service.read_pikerd() is None


async def test_halt_works_when_the_configuration_is_broken(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Nobody mends a file before pulling the plug: it is a warning; all else refuses to start."""
    async with trading(pikerd):
        await good("buy", BTC, "0.01", "--price", "58000")
        (piker_dirs / "config" / "conf.toml").write_text("[risk\n")
        gone = await piker("cancel", "--all", "--account", "binance.paper", "--market", BTC)
        assert (gone.returncode, gone.stdout[:9]) == (0, "canceled:")
        assert re.match(r"warning: .*conf.toml: not TOML", gone.stderr)
        done = await piker("halt")
        assert done.returncode == 0
        assert re.match(r"warning: .*conf.toml: not TOML", done.stderr)
        assert done.stdout.startswith("HALTED: all accounts.")
        assert "no order is open any more." in done.stdout
        assert (await piker("buy", BTC, "0.01")).returncode == 2
        (piker_dirs / "config" / "conf.toml").unlink()
        assert (await piker("buy", BTC, "0.01")).stderr.startswith("denied (halted)")


async def test_halt_is_a_file_when_emsd_is_frozen_and_holds_once_it_goes_on(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Neither waits for it for long; afterwards everything is canceled, and denied."""
    async with trading(pikerd):
        await good("buy", BTC, "0.01", "--price", "58000")
        (emsd,) = [one for one in await service.list_services() if one.name == "emsd"]
        os.kill(emsd.pid, signal.SIGSTOP)
        try:
            halted = await rows("halt")
        finally:
            with suppress(ProcessLookupError):  # pikerd has seen it, and started another one
                os.kill(emsd.pid, signal.SIGCONT)
        file = piker_dirs / "config" / "HALT"
        assert (halted[0]["halted"], halted[0]["by"]) == ("", str(file))
        with trio.fail_after(30):
            while await good("orders") != "no open orders.\n":
                await trio.sleep(0.1)
        denied = await piker("buy", BTC, "0.01")
        assert denied.stderr.startswith("denied (halted):")
        refused = await piker("arm")
        assert refused.returncode == 5
        assert f"Remove it first: rm {file}" in refused.stderr
        file.unlink()
        await good("arm")
        await good("buy", BTC, "0.01")


async def test_account_is_halted_at_once_when_its_venue_is_away(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """The kill switch waits for nobody; the account is halted when it is opened."""
    await pikerd.ready()
    (piker_dirs / "config" / "brokers.toml").write_text(
        '[binance.urls]\nspot_http = "http://127.0.0.1:9"\nusdm_http = "http://127.0.0.1:9"\n'
    )
    keys = await piker("keys", "add", "binance", "main", "--store", "plain",
                       stdin=f'key = "{KEY}"\nsecret = "{SECRET}"\n')  # fmt: skip
    assert keys.returncode == 0, keys.stderr
    (done,) = await rows("halt", "binance.main")
    assert (done["halted"], done["by"]) == ("binance.main", "emsd")
    (row,) = await rows("accounts")
    assert (row["account"], row["state"], row["sync"]) == ("binance.main", "halted", "not open")
