"""``piker venue``: a loopback venue in the foreground."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from piker.config import nearest
from piker.errors import ConfigError
from piker.testing.accounts import account_of, load_accounts
from piker.testing.captures_foreign import read_any
from piker.testing.faults import load_faults
from piker.testing.loopback import Venue, make_venue
from piker.testing.replay import ReplayVenue, Times, make_replay

__all__ = ["run", "run_replay"]

TIMES: dict[str, Times] = {"now": "now", "recorded": "recorded"}


def run(
    name: str,
    *,
    seed: int,
    symbols: int,
    rate: float,
    host: str,
    port: int,
    faults: str | None = None,
    limits: bool = True,
    bars: str | None = None,
    archive_late_s: float | None = None,
    accounts: Sequence[str] = (),
    accounts_file: str | None = None,
) -> None:
    """Serve until a signal; print one JSON line with the URLs when ready."""
    plan = load_faults(Path(faults)) if faults is not None else ()
    owners = [account_of(text) for text in accounts]
    if accounts_file is not None:
        owners += load_accounts(Path(accounts_file))
    venue = make_venue(
        name, symbols=symbols, rate=rate, seed=seed, faults=plan, limits=limits,
        bars=Path(bars) if bars is not None else None, archive_late_s=archive_late_s,
        accounts=owners,
    )  # fmt: skip
    _run(venue, name, host, port)


def run_replay(
    name: str,
    capture: str,
    *,
    speed: float,
    at: str,
    exit_at_end: bool,
    seed: int,
    host: str,
    port: int,
    faults: str | None = None,
) -> None:
    """Serve a capture until a signal, or its end; the first line is that of ``run``."""
    if at not in TIMES:
        raise ConfigError(f"--at {at}: there is no such time.", remedy=nearest(at, TIMES))
    plan = load_faults(Path(faults)) if faults is not None else ()
    found = read_any(Path(capture))
    venue = make_replay(name, found, speed=speed, at=TIMES[at], seed=seed, faults=plan)
    if found.torn:
        print(f"{capture}: {found.torn}.", file=sys.stderr)
    _run(venue, name, host, port, exit_at_end=exit_at_end)


def _run(
    venue: Venue | ReplayVenue, name: str, host: str, port: int, *, exit_at_end: bool = False
) -> None:
    if not host.startswith("127.") and host != "localhost":
        raise ConfigError(f"{host!r} is not this machine alone.", remedy="Use --host 127.0.0.1.")
    try:
        trio.run(_serve, venue, name, host, port, exit_at_end)
    except OSError as err:
        raise ConfigError(
            f"can not listen at {host}:{port}: {err.strerror}.", remedy="Use --port 0."
        ) from err


async def _serve(
    venue: Venue | ReplayVenue, name: str, host: str, port: int, exit_at_end: bool
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(venue.run, host, port)
            base = f"{host}:{bound}"
            line = {
                "venue": name, "port": bound, "http": f"http://{base}", "ws": f"ws://{base}",
                "control": f"http://{base}/_piker",
            }  # fmt: skip
            print(json.dumps(line))
            sys.stdout.flush()
            if exit_at_end and isinstance(venue, ReplayVenue):
                nursery.start_soon(_end_with, venue, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


async def _end_with(venue: ReplayVenue, scope: trio.CancelScope) -> None:
    await venue.ended.wait()
    scope.cancel()
