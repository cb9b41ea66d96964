"""Open a loopback venue inside this process, and point its backend at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from piker.config import config_dir, nearest
from piker.errors import ConfigError
from piker.testing.accounts import AccountSpec
from piker.testing.bar_table import load_bars
from piker.testing.binance import BinanceVenue
from piker.testing.binance_archive import LATE_S
from piker.testing.faults import Fault
from piker.testing.kraken import KrakenVenue

__all__ = ["LOOPBACKS", "Venue", "brokers_toml", "make_venue", "open_loopback", "point_backend_at"]

#: What a loopback venue is: something that serves itself and can be cut off.
Venue = BinanceVenue | KrakenVenue
LOOPBACKS: dict[str, type[BinanceVenue] | type[KrakenVenue]] = {
    "binance": BinanceVenue,
    "kraken": KrakenVenue,
}
#: The URL keys of each backend, and the path that leads to that market on the shared port.
_PATHS = {"binance": {"spot": "", "usdm": "", "coinm": "/coinm"}, "kraken": {"spot": ""}}


def make_venue(
    name: str,
    *,
    symbols: int,
    rate: float,
    seed: int,
    faults: Iterable[Fault] = (),
    limits: bool = True,
    bars: Path | None = None,
    archive_late_s: float | None = None,
    accounts: Iterable[AccountSpec] = (),
) -> Venue:
    """Return the venue of that name, not yet serving; raise ``ConfigError`` if there is none.

    ``limits=False`` lets everybody ask as often as they like. ``bars`` is a folder of recorded
    ones (piker/testing/bar_table.py), ``archive_late_s`` how long after a period its file appears
    in the archive: Binance alone has these two. ``accounts`` are those that may trade there.
    """
    if name not in LOOPBACKS:
        raise ConfigError(f"there is no loopback venue {name!r}.", remedy=nearest(name, LOOPBACKS))
    if name == "binance":
        return BinanceVenue(
            symbols=symbols, rate=rate, seed=seed, faults=faults, limits=limits,
            bars=None if bars is None else load_bars(bars),
            archive_late_s=LATE_S if archive_late_s is None else archive_late_s,
            accounts=accounts,
        )  # fmt: skip
    if bars is not None or archive_late_s is not None:
        raise ConfigError(f"{name} has no archive, and takes no bars.", remedy="Use binance.")
    return LOOPBACKS[name](
        symbols=symbols, rate=rate, seed=seed, faults=faults, limits=limits, accounts=accounts
    )


@asynccontextmanager
async def open_loopback(
    name: str,
    *,
    symbols: int = 3,
    rate: float = 50.0,
    seed: int = 1,
    port: int = 0,
    faults: Iterable[Fault] = (),
    limits: bool = True,
    bars: Path | None = None,
    archive_late_s: float | None = None,
    accounts: Iterable[AccountSpec] = (),
) -> AsyncIterator[tuple[Venue, int]]:
    """Serve a venue on 127.0.0.1 for the block; yield (venue, port). See :func:`make_venue`."""
    venue = make_venue(
        name, symbols=symbols, rate=rate, seed=seed, faults=faults, limits=limits, bars=bars,
        archive_late_s=archive_late_s, accounts=accounts,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        bound: int = await nursery.start(venue.run, "127.0.0.1", port)
        yield venue, bound
        nursery.cancel_scope.cancel()


def brokers_toml(name: str, port: int) -> str:
    """Return the ``brokers.toml`` that points the backend at a loopback venue."""
    http, ws = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
    lines = [f"[{name}.urls]"]
    for kind, path in _PATHS[name].items():
        lines += [f'{kind}_http = "{http}"', f'{kind}_ws = "{ws}{path}"']
    if name == "binance":
        lines.append(f'archive_http = "{http}"')
    if name == "kraken":
        lines.append(f'spot_ws_auth = "{ws}"')
    return "\n".join(lines) + "\n"


def point_backend_at(name: str, port: int) -> None:
    """Write ``brokers.toml`` into the configuration directory in use; meant for a private one."""
    (config_dir() / "brokers.toml").write_text(brokers_toml(name, port))
