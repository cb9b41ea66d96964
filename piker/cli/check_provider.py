"""``piker check-provider``: run the conformance kit, print a table of its rules."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from piker import config
from piker.brokers.spec import find_backends
from piker.cli.demo import own_directories
from piker.config import nearest
from piker.errors import ConfigError, ProviderError
from piker.testing.conformance import BreakHook, RuleResult, check_provider
from piker.testing.loopback import open_loopback, point_backend_at

__all__ = ["run"]

#: A market that every day has trades, for the venues we ship.
DEFAULT_SYMBOLS = {"binance": "btcusdt.spot", "kraken": "xbtusd.spot"}


def run(name: str, *, symbol: str | None, loopback: bool, as_json: bool) -> None:
    """Check a provider by name, or a module by dotted path; exit 1 when a rule is broken."""
    modules = list(config.load_conf().brokers.modules)
    if "." in name:
        modules.append(name)
        name = name.rpartition(".")[2]
        sys.path.insert(0, ".")
    known = find_backends(modules)
    if name not in known:
        raise ProviderError(f"there is no provider {name!r}.", remedy=nearest(name, known))
    chosen = symbol or DEFAULT_SYMBOLS.get(name)
    if chosen is None:
        raise ConfigError(
            f"which market of {name!r} is to be checked?", remedy="Say it with --symbol."
        )
    if loopback:
        with own_directories():
            results = trio.run(_check_on_loopback, name, chosen, as_json)
    else:
        results = trio.run(_check, name, chosen, modules, as_json, None)
    if as_json:
        print(msgspec.json.encode(results).decode())
    else:
        _print(name, chosen, results)
    if any(result.status == "fail" for result in results):
        sys.exit(1)


async def _check_on_loopback(name: str, symbol: str, quiet: bool) -> list[RuleResult]:
    """Check a shipped backend against its loopback venue, whose connections we may break."""
    async with open_loopback(name) as (venue, port):
        point_backend_at(name, port)

        async def break_connections() -> None:
            venue.cut(refuse_s=0.5)

        return await _check(name, symbol, (), quiet, break_connections)


async def _check(
    name: str, symbol: str, modules: Sequence[str], quiet: bool, break_hook: BreakHook | None
) -> list[RuleResult]:
    results: list[RuleResult] = []
    checks = check_provider(name, symbol=symbol, modules=tuple(modules), break_hook=break_hook)
    async for result in checks:
        results.append(result)
        if not quiet:
            print(f"... {result.rule}", file=sys.stderr)
    return results


def _print(name: str, symbol: str, results: Sequence[RuleResult]) -> None:
    table = Table("rule", "", "what was seen", title=f"{name}, {symbol}", title_justify="left")
    marks = {"pass": "[green]pass[/]", "fail": "[red]FAIL[/]", "skip": "[yellow]skip[/]"}
    for result in results:
        table.add_row(result.rule, marks[result.status], escape(result.detail))
    Console().print(table)
