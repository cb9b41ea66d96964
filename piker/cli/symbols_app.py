"""Options and help of ``piker symbols``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["symbols_app"]

symbols_app = typer.Typer(
    help="Fill and look at the symbol database.",
    no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@symbols_app.command()
def populate(
    providers: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROVIDER]...", help="Only these; default: all there are."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Take a list for whole that looks like half of one.")
    ] = False,
    json: Json = False,
) -> None:
    """Fill the symbol database with what the venues list.

    Markets that are listed no more are retired: kept, and found no more. A venue that does not
    answer, or gives half a list, changes nothing; the exit code says so.

    Example: piker symbols populate binance kraken
    """
    from piker.cli import symbols as command

    command.populate(providers or [], force=force, as_json=json)


@symbols_app.command("ls")
def list_providers(json: Json = False) -> None:
    """List the providers that the symbol database holds.

    With the number of their markets, and how old the list is.

    Example: piker symbols ls --json
    """
    from piker.cli import symbols as command

    command.list_providers(as_json=json)


@symbols_app.command()
def info(
    fqme: Annotated[str, typer.Argument(metavar="FQME", help="As in btcusdt.spot.binance.")],
    json: Json = False,
) -> None:
    """Show what is known of one market, retired ones too.

    Example: piker symbols info xbtusd.spot.kraken
    """
    from piker.cli import symbols as command

    command.info(fqme, as_json=json)
