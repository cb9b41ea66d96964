"""Options and help of ``piker venue``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["venue"]

Name = Annotated[str, typer.Argument(help="binance or kraken.")]
Synthetic = Annotated[
    bool, typer.Option("--synthetic", help="A matching engine with order flow (the default).")
]
Seed = Annotated[int, typer.Option(help="Seed of the order flow.")]
Symbols = Annotated[int, typer.Option(min=1, max=500, help="Markets of each kind.")]
Rate = Annotated[float, typer.Option(min=0.01, help="Steps of order flow a second.")]
Host = Annotated[str, typer.Option(help="A loopback address.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")]
Faults = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A TOML file that says what goes wrong, and when."),
]
Limits = Annotated[bool, typer.Option("--limits/--no-limits", help="Keep the venue's rate limits.")]
Bars = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Recorded bars that are served; binance's.")
]
ArchiveLate = Annotated[
    float | None,
    typer.Option(min=0, metavar="S", help="When a day's file appears, after midnight (7200)."),
]
Owner = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:KEY:SECRET[:USDT=1000]", help="Who may trade; repeatable."),
]
Owners = Annotated[
    str | None, typer.Option(metavar="FILE", help="A TOML file of those who may trade.")
]
Replay = Annotated[
    str | None, typer.Option(metavar="CAPTURE", help="Play a recording, not a synthetic market.")
]
Speed = Annotated[float, typer.Option(min=0, help="Of a replay; 0 is as fast as its clients read.")]
At = Annotated[
    str, typer.Option(metavar="now|recorded", help="Whether a replay's times are moved to now.")
]
ExitAtEnd = Annotated[
    bool, typer.Option("--exit-at-end", help="End with the replay, not with Ctrl-C.")
]


def venue(
    name: Name,
    synthetic: Synthetic = True,
    seed: Seed = 1,
    symbols: Symbols = 6,
    rate: Rate = 20.0,
    host: Host = "127.0.0.1",
    port: Port = 0,
    faults: Faults = None,
    limits: Limits = True,
    bars: Bars = None,
    archive_late: ArchiveLate = None,
    account: Owner = None,
    accounts: Owners = None,
    replay: Replay = None,
    speed: Speed = 1.0,
    at: At = "now",
    exit_at_end: ExitAtEnd = False,
) -> None:
    """Run a venue on this machine, until Ctrl-C.

    It speaks the real one's wire protocol, and prints one JSON line with its URLs when it is
    ready. Under ``control``, faults can be added
    (POST /faults) and counts be read (GET /stats) while it runs: docs/internals/loopback.md, which
    has the layout of a folder of bars, too. What a replay answers and sends is in
    docs/reference/capture-format.md.

    With --account it takes orders: signatures are checked, what trades moves balances, and user
    streams tell of it. These are made-up keys of a made-up venue; give it no real ones.

    Example: piker venue binance --synthetic --seed 7 --faults plan.toml
    """
    from piker.cli import venue as command
    from piker.errors import ConfigError

    if replay is not None:
        if bars or account or accounts or archive_late is not None:
            raise ConfigError(
                "a replay has no archive, and takes no orders.",
                remedy="Leave out --bars, --archive-late, --account, --accounts.",
            )
        command.run_replay(
            name, replay, speed=speed, at=at, exit_at_end=exit_at_end, seed=seed, host=host,
            port=port, faults=faults,
        )  # fmt: skip
        return
    command.run(
        name, seed=seed, symbols=symbols, rate=rate, host=host, port=port, faults=faults,
        limits=limits, bars=bars, archive_late_s=archive_late, accounts=account or (),
        accounts_file=accounts,
    )  # fmt: skip
