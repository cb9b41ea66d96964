"""``piker search``: find markets by name, in the symbol database, else at the venue."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from piker import config, service
from piker.brokers.spec import find_backends
from piker.config import nearest
from piker.data.daemon import search_markets
from piker.data.symbols import SymbolDb
from piker.errors import PikerError, ProviderError, StoreError, Transient
from piker.market import MktPair

__all__ = ["run"]


def run(pattern: str, *, providers: Sequence[str], limit: int, as_json: bool) -> None:
    """Look a name up in the symbol database, and ask the providers that it does not hold.

    A provider that fails is named and the others still answer. Raises ``Transient`` when none of
    them answered: nothing found would be a wrong answer.
    """
    known = find_backends(config.load_conf().brokers.modules)
    for name in providers:
        if name not in known:
            raise ProviderError(f"there is no provider {name!r}.", remedy=nearest(name, known))
    asked = list(dict.fromkeys(providers)) or list(known)
    found, held, earliest = _look_up(pattern, asked, limit)
    rest = [name for name in asked if name not in held]
    failed: dict[str, str] = {}
    if rest:
        at_venues, failed = trio.run(_search, pattern, rest, limit)
        found += at_venues
    if as_json:
        sources = {name: "database" if name in held else "venue" for name in asked}
        said = {
            "markets": found[:limit], "failed": failed, "asked": sources, "earliest": earliest,
        }  # fmt: skip
        print(msgspec.json.encode(said).decode())
    for name, why in failed.items():
        print(f"warning: {why if why.startswith(name) else f'{name}: {why}'}", file=sys.stderr)
    if failed and len(failed) == len(asked):
        raise Transient("no provider could be asked.")
    if as_json:
        return
    if found:
        _print(found[:limit], earliest)
    else:
        print(f"nothing matches {pattern!r}. Part of a name is enough, as in: piker search btc")


def _look_up(
    pattern: str, asked: Sequence[str], limit: int
) -> tuple[list[MktPair], set[str], dict[str, dict[str, int]]]:
    """Return what the database finds, which providers it holds, and when histories begin."""
    path = config.data_dir() / "symbols.db"
    if not path.exists():
        return [], set(), {}
    try:
        with SymbolDb.open(path) as db:
            held = {name for name, state in db.providers().items() if state.listed} & set(asked)
            found = db.search(pattern, limit, providers=sorted(held)) if held else []
            return found, held, db.earliest([market.fqme for market in found])
    except StoreError as error:
        print(f"warning: {error}", file=sys.stderr)
        return [], set(), {}


def _print(found: Sequence[MktPair], earliest: Mapping[str, Mapping[str, int]]) -> None:
    table = Table("market", "symbol", "tick", "lot", "status")
    if earliest:
        table.add_column("history since")
    for mkt in found:
        begins = earliest.get(mkt.fqme, {}).values()
        since = datetime.fromtimestamp(min(begins), UTC).strftime("%Y-%m-%d") if begins else ""
        row = (mkt.fqme, mkt.bs_mktid, f"{mkt.price_tick:f}", f"{mkt.size_tick:f}", mkt.status)
        table.add_row(*row, *([since] if earliest else []))
    Console().print(table)


async def _search(
    pattern: str, providers: list[str], limit: int
) -> tuple[list[MktPair], dict[str, str]]:
    found: list[MktPair] = []
    failed: dict[str, str] = {}

    async def ask(name: str) -> None:
        try:
            async with service.open_service(f"datad.{name}", start_pikerd=True) as peer:
                answer: Any = await peer.run(
                    search_markets, pattern=pattern, limit=limit, type=list[MktPair]
                )
                found.extend(answer)
        except PikerError as err:
            failed[name] = str(err)

    async with service.open_client_runtime():
        await service.ensure_pikerd()
        async with trio.open_nursery() as nursery:
            for name in providers:
                nursery.start_soon(ask, name)
    return found, failed
