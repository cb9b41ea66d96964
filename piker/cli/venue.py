"""``piker venue``: a loopback venue in the foreground."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import trio

from piker.errors import ConfigError
from piker.testing.faults import load_faults
from piker.testing.loopback import Venue, make_venue

__all__ = ["run"]


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
) -> None:
    """Serve until a signal; print one JSON line with the URLs when ready."""
    plan = load_faults(Path(faults)) if faults is not None else ()
    venue = make_venue(name, symbols=symbols, rate=rate, seed=seed, faults=plan, limits=limits)
    if not host.startswith("127.") and host != "localhost":
        raise ConfigError(f"{host!r} is not this machine alone.", remedy="Use --host 127.0.0.1.")
    try:
        trio.run(_serve, venue, name, host, port)
    except OSError as err:
        raise ConfigError(
            f"can not listen at {host}:{port}: {err.strerror}.", remedy="Use --port 0."
        ) from err


async def _serve(venue: Venue, name: str, host: str, port: int) -> None:
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
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return
