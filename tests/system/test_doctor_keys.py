"""`piker doctor` says what each key may do, and warns of those that can move money away."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from daemons import Pikerd

from piker.brokers.credentials import Credentials, ErasableSecret
from piker.brokers.keystores import PlainStore
from piker.testing.accounts import account_of
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow


def doctor() -> dict[str, dict[str, str]]:
    """Run it; return its lines by what they are about."""
    command = [sys.executable, "-m", "piker.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return {one["what"]: one for one in json.loads(done.stdout)}


async def test_doctor_warns_of_a_key_when_it_may_withdraw(piker_dirs: Path, pikerd: Pikerd) -> None:
    """One may, one only trades, one the venue does not know."""
    rights = {"rich": ":read,spot,withdraw", "plain": "", "gone": ""}
    owners = {name: (secrets.token_hex(16), secrets.token_hex(16)) for name in rights}
    specs = [
        account_of(f"{name}:{key}:{secret}:USDT=10{rights[name]}")
        for name, (key, secret) in owners.items() if name != "gone"
    ]  # fmt: skip
    PlainStore(piker_dirs / "config").put(*(
        Credentials(venue="binance", account=name, key=ErasableSecret(key),
                    secret=ErasableSecret(secret))
        for name, (key, secret) in owners.items()
    ))  # fmt: skip
    async with open_loopback("binance", symbols=1, limits=False, accounts=specs) as (_, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        found = await trio.to_thread.run_sync(doctor)
    assert found["key binance.rich"]["level"] == "warn"
    assert "withdraw" in found["key binance.rich"]["detail"]
    assert found["key binance.plain"]["level"] == "ok"
    assert "may: read" in found["key binance.plain"]["detail"]
    assert found["key binance.gone"]["level"] == "warn"
    text = json.dumps(found)
    assert not any(part in text for pair in owners.values() for part in pair)
