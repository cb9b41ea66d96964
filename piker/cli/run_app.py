"""Options and help of ``piker run``."""

from __future__ import annotations

from typing import Annotated

import typer

from piker.cli.app import Json, Level, Seconds

__all__ = ["run"]

File = Annotated[str, typer.Argument(metavar="STRATEGY.PY", help="The strategy's file.")]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[OPTION=VALUE]", help="The strategy's own options.")
]
Paper = Annotated[bool, typer.Option("--paper", help="On live quotes, with paper orders.")]
Live = Annotated[
    str | None, typer.Option("--live", metavar="ACCOUNT", help="With real money, as binance.main.")
]
Replay = Annotated[
    str | None, typer.Option("--replay", metavar="CAPTURE", help="On what `piker record` wrote.")
]
Markets = Annotated[
    list[str] | None,
    typer.Option("--market", "-m", metavar="FQME", help="Not the file's own; may be repeated."),
]
Seed = Annotated[int | None, typer.Option(help="Of a replay: of order ids and of chance (1).")]


def run(
    strategy: File,
    options: Options = None,
    paper: Paper = False,
    live: Live = None,
    replay: Replay = None,
    market: Markets = None,
    seed: Seed = None,
    seconds: Seconds = None,
    json: Json = False,
    log_level: Level = None,
) -> None:
    """Run a strategy: on paper, live, or on a recording.

    The file has `async def strategy(feed, ems, **options)` and may name its MARKETS. It is the
    same in all three; docs/guides/strategies.md shows how one is written.

    Ctrl-C (or --seconds) ends it in order: the strategy's own `finally` runs, then what it did and
    which orders still stand are told. On a recording time is virtual: it runs as fast as it goes,
    and the same capture, seed and settings give the same journal hash every time.

    Example: piker run examples/grid.py --replay btc.jsonl.gz --seed 7 levels=5
    """
    from piker.cli import run as command
    from piker.errors import ConfigError

    if paper + (live is not None) + (replay is not None) != 1:
        raise ConfigError(
            "where it is to run is not clear.",
            remedy="Say one of --paper, --live ACCOUNT, --replay CAPTURE.",
        )
    if replay is not None:
        if seconds is not None:
            raise ConfigError("a replay ends with its capture.", remedy="Leave out --seconds.")
        command.run_replay(
            strategy, capture=replay, markets=market or (), options=options or (),
            seed=1 if seed is None else seed, as_json=json, log_level=log_level,
        )  # fmt: skip
        return
    if seed is not None:
        raise ConfigError("chance has a seed on a recording alone.", remedy="Leave out --seed.")
    command.run_live(
        strategy, account=live, markets=market or (), options=options or (), seconds=seconds,
        as_json=json, log_level=log_level,
    )  # fmt: skip
