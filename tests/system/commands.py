"""Running piker's commands against a pikerd and a loopback venue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from daemons import Pikerd

from piker.testing.accounts import AccountSpec
from piker.testing.loopback import open_loopback, point_backend_at

BTC = "btcusdt.spot.binance"
KEY, SECRET = "k" * 16, "s" * 16
Done = subprocess.CompletedProcess[str]


def command(*words: str) -> list[str]:
    """Return a command line of piker."""
    return [sys.executable, "-m", "piker.cli", *words]


def blocking(*words: str, width: int = 200, stdin: str = "", **more: str) -> Done:
    """Run a command to its end, here and now."""
    return subprocess.run(
        command(*words), input=stdin, capture_output=True, text=True, timeout=60,
        env={**os.environ, "COLUMNS": str(width), **more},
    )  # fmt: skip


async def piker(*words: str, width: int = 200, stdin: str = "", **more: str) -> Done:
    """Run a command to its end, while the venue of this process goes on."""
    return await trio.to_thread.run_sync(
        lambda: blocking(*words, width=width, stdin=stdin, **more)
    )  # fmt: skip


async def good(*words: str, **more: int) -> str:
    """Run a command that must do well; return what it printed: never a colour, as it is piped."""
    done = await piker(*words, **more)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done.stdout


async def rows(*words: str) -> list[dict[str, object]]:
    """Return the lines of a command's --json."""
    done = await piker(*words, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@asynccontextmanager
async def trading(pikerd: Pikerd, *accounts: AccountSpec) -> AsyncIterator[None]:
    """Have a pikerd and a venue; nothing is open yet."""
    await pikerd.ready()
    async with open_loopback("binance", symbols=2, rate=50, limits=False, accounts=accounts) as (
        _,
        port,
    ):
        point_backend_at("binance", port)
        with trio.fail_after(240):
            yield
