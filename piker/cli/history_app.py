"""Options and help of ``piker history`` and ``piker store``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["history", "store_app"]

store_app = typer.Typer(
    help="List, check and mend stored history.",
    no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip

Fqme = Annotated[str, typer.Argument(metavar="FQME", help="A market, as in btcusdt.spot.binance.")]
Interval = Annotated[
    str, typer.Option("--interval", "-i", help="1s, 1m, 5m, 1h, 1d, 1w or 1M, and others.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Start = Annotated[
    str | None, typer.Option(metavar="TIME", help="The first open time; UTC without a zone.")
]
End = Annotated[str | None, typer.Option(metavar="TIME", help="The end, which is not part of it.")]


def history(
    fqme: Fqme,
    interval: Interval = "1m",
    start: Start = None,
    end: End = None,
    days: Annotated[
        float, typer.Option("--days", "-d", min=0, help="How far back where no start is given.")
    ] = 1.0,
    source: Annotated[
        str,
        typer.Option(
            help="auto, store (offline), archive or rest; the last two pass the store by."
        ),
    ] = "auto",
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write to .csv, .parquet or .arrow."),
    ] = None,
    json: Json = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Look for archive files that were replaced.")
    ] = False,
    log_level: Annotated[
        str | None, typer.Option("--log-level", "-l", help="As in conf.toml.")
    ] = None,
) -> None:
    """Get any range of a market's bars.

    From the store, the venue's archive and its REST interface, in this order; what is fetched is
    stored. Needs no pikerd. A report says what is missing, and why.

    Example: piker history btcusdt.spot.binance --interval 1h --days 30 --out btc.parquet
    """
    from piker.cli import history as command

    command.run(
        fqme, interval=interval, start=start, end=end, days=days, source=source, out=out,
        as_json=json, recheck=recheck, log_level=log_level,
    )  # fmt: skip


@store_app.command()
def ls(json: Json = False) -> None:
    """List what is stored.

    Example: piker store ls
    """
    from piker.cli import store as command

    command.ls(as_json=json)


@store_app.command()
def gaps(
    fqme: Annotated[str | None, typer.Argument(metavar="FQME", help="One market only.")] = None,
    interval: Interval = "1m",
    json: Json = False,
) -> None:
    """List what is missing within the stored ranges, and why.

    Example: piker store gaps btcusdt.spot.binance
    """
    from piker.cli import store as command

    command.gaps(fqme, interval, as_json=json)


@store_app.command()
def verify(json: Json = False) -> None:
    """Read every byte and compare it with what was written.

    Exit code 9 when something is damaged.

    Example: piker store verify
    """
    from piker.cli import store as command

    command.verify(as_json=json)


@store_app.command()
def repair(json: Json = False) -> None:
    """Set damaged files aside; they are fetched again when they are asked for.

    Example: piker store repair
    """
    from piker.cli import store as command

    command.repair(as_json=json)


@store_app.command()
def compact(json: Json = False) -> None:
    """Make few large files of many small ones.

    Example: piker store compact
    """
    from piker.cli import store as command

    command.compact(as_json=json)


@store_app.command()
def export(
    fqme: Fqme,
    out: Annotated[str, typer.Argument(metavar="FILE", help="A .csv, .parquet or .arrow file.")],
    interval: Interval = "1m",
    start: Start = None,
    end: End = None,
    ticks: Annotated[
        bool, typer.Option("--ticks", help="The ticks that `piker record --store` kept.")
    ] = False,
    json: Json = False,
) -> None:
    """Write stored bars, or ticks, to a file.

    Example: piker store export btcusdt.spot.binance btc.csv --interval 1h
    """
    from piker.cli import store as command

    command.export(fqme, out, interval=interval, start=start, end=end, ticks=ticks, as_json=json)


@store_app.command("import")
def import_(
    fqme: Fqme,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .csv, .parquet or .arrow file.")],
    interval: Interval = "1m",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="A column that has an unusual name."),
    ] = None,
    json: Json = False,
) -> None:
    """Take a file's bars into the store, and say which rows were rejected and why.

    Columns are found by their usual names; times may be numbers of any unit or text (UTC).

    Example: piker store import btcusdt.spot.binance old.csv --column open_time=Date
    """
    from piker.cli import store as command

    command.import_(fqme, file, interval=interval, columns=column or [], as_json=json)
