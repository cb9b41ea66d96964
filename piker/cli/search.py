"""``piker search``: find markets by name at every provider."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from piker import config, service
from piker.brokers.spec import find_backends
from piker.config import nearest
from piker.data.daemon import search_markets
from piker.errors import PikerError, ProviderError, Transient
from piker.market import MktPair

__all__ = ["run"]


def run(pattern: str, *, providers: Sequence[str], limit: int, as_json: bool) -> None:
    """Ask every provider at once; a provider that fails is named and the others still answer.

    Raises ``Transient`` when none of them answered: nothing found would be a wrong answer.
    """
    known = find_backends(config.load_conf().brokers.modules)
    for name in providers:
        if name not in known:
            raise ProviderError(f"there is no provider {name!r}.", remedy=nearest(name, known))
    asked = list(dict.fromkeys(providers)) or list(known)
    found, failed = trio.run(_search, pattern, asked, limit)
    if as_json:
        print(msgspec.json.encode({"markets": found[:limit], "failed": failed}).decode())
    for name, why in failed.items():
        print(f"warning: {why if why.startswith(name) else f'{name}: {why}'}", file=sys.stderr)
    if failed and len(failed) == len(asked):
        raise Transient("no provider could be asked.")
    if as_json:
        return
    if found:
        _print(found[:limit])
    else:
        print(f"nothing matches {pattern!r}. Part of a name is enough, as in: piker search btc")


def _print(found: Sequence[MktPair]) -> None:
    table = Table("market", "symbol", "tick", "lot", "status")
    for mkt in found:
        table.add_row(
            mkt.fqme, mkt.bs_mktid, f"{mkt.price_tick:f}", f"{mkt.size_tick:f}", mkt.status
        )
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
