"""``piker symbols``: fill and look at the symbol database."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from piker import config
from piker.brokers.spec import find_backends, load_backend
from piker.config import nearest
from piker.data.learnt import note_store
from piker.data.symbols import Populated, SymbolDb
from piker.errors import PikerError, ProviderError, StoreError, SymbolNotFound
from piker.market import MktPair

__all__ = ["info", "list_providers", "populate"]


class _NoList(ProviderError):
    """The backend does not list its markets: an optional part of the contract."""


LIST_S = 120.0  # for one provider's whole list; Binance's three take some seconds


def populate(providers: Sequence[str], *, force: bool, as_json: bool) -> None:
    """Ask every provider at once, and store what each lists. Needs no pikerd.

    A provider that fails is named and changes nothing; the first error is raised at the end.
    """
    modules = config.load_conf().brokers.modules
    known = find_backends(modules)
    for name in providers:
        if name not in known:
            raise ProviderError(f"there is no provider {name!r}.", remedy=nearest(name, known))
    asked = list(dict.fromkeys(providers)) or list(known)
    with SymbolDb.open() as db:
        status = Console(stderr=True).status(f"asking {', '.join(asked)} for markets ...")
        with status:
            done, failed = trio.run(_populate_all, db, asked, modules, force)
        learnt = _learnt(db)
    if as_json:
        said = {name: str(error) for name, error in failed.items()}
        told = {"populated": done, "failed": said, "earliest": learnt}
        print(msgspec.json.encode(told).decode())
    else:
        for one in done:
            print(_sentence(one))
        if learnt:
            print(f"{learnt:,} series of the history store: when they begin is known")
    errors = [(name, error) for name, error in failed.items() if not _unasked(error, providers)]
    for error in failed.values():
        if _unasked(error, providers):
            print(f"note: {error}", file=sys.stderr)
    for name, error in errors[:-1]:
        print(f"warning: {_named(name, error)}", file=sys.stderr)
    if errors:
        name, error = errors[-1]
        error.message = _named(name, error, remedy=False)
        raise error


def _learnt(db: SymbolDb) -> int:
    """Take over when the stored series begin; a store that can not be read is a warning."""
    try:
        return note_store(db)
    except StoreError as error:
        print(f"warning: {error}", file=sys.stderr)
        return 0


def _unasked(error: PikerError, named: Sequence[str]) -> bool:
    """Tell whether it is no failure: nobody asked for that provider by its name."""
    return isinstance(error, _NoList) and not named


def _named(name: str, error: PikerError, *, remedy: bool = True) -> str:
    text = str(error) if remedy else error.message
    return text if text.startswith(name) else f"{name}: {text}"


def _sentence(one: Populated) -> str:
    changes = [
        f"{count:,} {word}"
        for count, word in (
            (one.added, "added"), (one.changed, "changed"), (one.retired, "retired"),
            (one.revived, "back"),
        )
        if count
    ]  # fmt: skip
    return f"{one.provider}: {one.listed:,} markets, {', '.join(changes) or 'nothing new'}"


async def _populate_all(
    db: SymbolDb, names: Sequence[str], modules: Sequence[str], force: bool
) -> tuple[list[Populated], dict[str, PikerError]]:
    done: list[Populated] = []
    failed: dict[str, PikerError] = {}

    async def one(name: str) -> None:
        try:
            markets = await _list(name, modules)
            store = trio.to_thread.run_sync
            done.append(await store(lambda: db.populate(name, markets, force=force)))
        except PikerError as error:
            failed[name] = error

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    return sorted(done, key=lambda one: one.provider), failed


async def _list(name: str, modules: Sequence[str]) -> list[MktPair]:
    """Return a provider's markets, or raise what kept us from them."""
    backend = load_backend(name, modules)
    if backend.list_markets is None:
        raise _NoList(f"{name} has no list of its markets; `piker search` asks the venue.")
    try:
        with trio.fail_after(LIST_S):
            found: list[MktPair] = await backend.list_markets()
    except trio.TooSlowError as err:
        raise ProviderError(f"{name} did not list its markets within {LIST_S:g} s.") from err
    if not all(isinstance(market, MktPair) for market in found):
        raise ProviderError(f"list_markets of {name} returned something that is no MktPair.")
    return found


def list_providers(*, as_json: bool) -> None:
    """Print what is held of each provider."""
    with SymbolDb.open() as db:
        states = list(db.providers().values())
    if as_json:
        print(msgspec.json.encode({"providers": states}).decode())
        return
    if not states:
        print("the symbol database is empty. Run: piker symbols populate")
        return
    table = Table("provider", "markets", "retired", "as of")
    for one in states:
        table.add_row(one.provider, f"{one.listed:,}", f"{one.retired:,}", _utc(one.populated_s))
    Console().print(table)


def info(fqme: str, *, as_json: bool) -> None:
    """Print one market; ``SymbolNotFound`` with the nearest where it is not known."""
    with SymbolDb.open() as db:
        found = db.get(fqme)
        near = [] if found else [market.fqme for market in db.search(fqme, 3)]
    if found is None:
        raise SymbolNotFound(
            f"the symbol database knows no market {fqme[:60]!r}.",
            remedy=f"Did you mean {' or '.join(near)}?" if near else "Run: piker symbols populate",
        )
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    market = found.market
    table = Table(show_header=False)
    rows = {
        "market": market.fqme, "symbol": market.bs_mktid, "type": str(market.atype),
        "tick": f"{market.price_tick:f}", "lot": f"{market.size_tick:f}", "status": market.status,
        "first seen": _utc(found.first_s), "last seen": _utc(found.seen_s),
        "retired": _utc(found.retired_s) if found.retired_s else "",
        "history since": ", ".join(f"{k}: {_utc(v)}" for k, v in sorted(found.earliest.items())),
    }  # fmt: skip
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    Console().print(table)


def _utc(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
