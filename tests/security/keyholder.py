"""A service that holds every key there is, and is as careless with them as it can be."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import trio

from piker import log, service
from piker.brokers.credentials import Credentials
from piker.brokers.keystores import open_stores
from piker.brokers.signing import kraken_headers, kraken_signer
from piker.errors import ConfigError

_log = log.get_logger("keyholder")
_held: list[Credentials] = []
_crash = trio.Event()


def digest(secrets: list[str]) -> str:
    """Return one digest of many secrets, whatever their order."""
    return hashlib.sha256("\n".join(sorted(secrets)).encode()).hexdigest()


async def main(name: str, task_status: trio.TaskStatus[None]) -> None:
    """Load every key of the venue; serve until ``misuse("crash")``."""
    venue = name.partition(".")[2]
    for store in open_stores():
        for kind, account in store.names():
            found = store.get(kind, account) if kind == venue else None
            if found is not None:
                _held.append(found)
    task_status.started()
    await _crash.wait()
    raise RuntimeError("the service crashes with its keys in hand", _held, _held[0].secret)


@service.request
async def held() -> str:
    """Return a digest of what is held: that it is all there is to prove."""
    return digest([one.secret.reveal() for one in _held])


@service.request
async def misuse(how: str) -> int:
    """Do what must not leak, though it is careless."""
    if how == "log":
        for one in _held:
            _log.debug("key", whole=one, key=one.key, secret=one.secret, text=f"{one} {one!r}")
            _log.critical("keys", all=_held, deep={one.account: (one.secret, [one])})
    elif how == "sign":
        for one in _held:
            headers = kraken_headers(
                one.key, kraken_signer(one.secret), path="/0/private/Balance", nonce=1, body=b""
            )
            _log.info("signed", signature=headers["API-Sign"])
    elif how == "typed":
        raise ConfigError(f"refused: {_held} {_held[0].secret}")
    elif how == "bug":
        secret = _held[0].secret
        assert not secret, (secret, _held)
    elif how == "child":
        return _start_child()
    elif how == "abort":
        os.abort()
    elif how == "crash":
        _crash.set()
    return 0


def _start_child() -> int:
    """Start a program that shows its environment; return its pid. The test ends it."""
    code = "import time; print(open('/proc/self/environ').read(), flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child.pid
