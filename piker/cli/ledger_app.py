"""Options and help of ``piker ledger``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ledger_app"]

ledger_app = typer.Typer(
    help="Look at the books; check, export, import, fetch them.",
    no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line each, for programs.")]
Method = Annotated[
    str, typer.Option(metavar="METHOD", help="Which lots are sold first: fifo, lifo or average.")
]


@ledger_app.command()
def show(
    account: Annotated[
        str | None, typer.Argument(metavar="[ACCOUNT]", help="As in binance.main; without: a list.")
    ] = None,
    market: Annotated[str | None, typer.Option(metavar="FQME", help="Only in this market.")] = None,
    last: Annotated[
        int, typer.Option(min=0, metavar="N", help="So many of each, the newest; 0: all.")
    ] = 20,
    json: Json = False,
) -> int:
    """Show an account's orders and fills, the newest last.

    Without an account, list the accounts. Read from the journal, whether or not pikerd runs, and
    from what was imported; times are UTC.

    Example: piker ledger show binance.paper --last 5
    """
    from piker.cli import ledger as command

    return command.show(account, market=market, last=last, as_json=json)


@ledger_app.command()
def verify(json: Json = False) -> int:
    """Recompute everything, and name the first row that disagrees.

    The journal's files, each row's place in the chain, what the rows come to, the positions that
    its fills make, and the imported accounts. Changes nothing. Exit code 1 when anything
    disagrees.

    Example: piker ledger verify
    """
    from piker.cli import ledger_verify as command

    return command.verify(as_json=json)


@ledger_app.command()
def export(
    accounts: Annotated[
        list[str] | None, typer.Argument(metavar="[ACCOUNT]...", help="Only these; default: all.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write ACCOUNT.toml and ACCOUNT.csv here.")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print the closed lots, not the TOML.")
    ] = False,
    method: Method = "fifo",
    year: Annotated[
        int | None, typer.Option(metavar="YEAR", help="Of the CSV: lots closed in it, UTC.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> int:
    """Write accounts as files: TOML for people, CSV of closed lots for the tax.

    The TOML has every transaction and what they come to; a row of the CSV is a lot with the ids of
    the trades that opened and closed it. Without --to one account is printed. Both are copies: the
    journal is the truth.

    Example: piker ledger export binance.main --csv --year 2026
    """
    from piker.cli import ledger_files as command

    return command.export(accounts or [], to=to, csv=csv, method=method, year=year, force=force)


@ledger_app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV or an IB Flex XML.")],
    account: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a CSV: whose it is, as binance.main.")
    ] = None,
    zone: Annotated[
        str, typer.Option(metavar="ZONE", help="Of a Flex statement: the zone of its times.")
    ] = "America/New_York",
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Leave out lines that can not be read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would come.")] = False,
    json: Json = False,
) -> int:
    """Take in the trades of a venue's history file.

    Kraken's trades.csv, Binance's spot trade history, an IB Flex statement, or a CSV of your own
    with the columns time, symbol, side, size, price, fee, fee_asset, tid. All of a file or nothing,
    unless --lenient: then the exit code is 1 when lines were left out. A trade that is known
    already counts once, however often it is imported.

    Example: piker ledger import trades.csv --account kraken.main
    """
    from piker.cli import ledger_files as command

    return command.take(
        file, account=account, zone=zone, lenient=lenient, dry_run=dry_run, as_json=json
    )


@ledger_app.command()
def fetch(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="As in binance.main.")],
    markets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FQME]...", help="Only these; default: all, or the books'."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="From this UTC date on; default: all that is kept."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would come.")] = False,
    json: Json = False,
) -> int:
    """Take in an account's trades from its venue.

    All of them or nothing; a trade that is known already counts once, however often it is fetched
    and whoever told it. Kraken is asked for every market at once. Binance must be asked for each:
    without an FQME, for those that the books have of the account. It keeps trades of USD-M for
    three months. Starts pikerd where none runs: brokerd alone has the keys.

    Example: piker ledger fetch kraken.main --since 2026-01-01
    """
    from piker.cli import ledger_fetch as command

    return command.fetch(account, markets or [], since=since, dry_run=dry_run, as_json=json)
