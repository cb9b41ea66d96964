"""Options and help of ``piker keys``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["keys_app"]

keys_app = typer.Typer(
    help="Keep the keys of your accounts at venues.",
    no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Venue = Annotated[str, typer.Argument(metavar="VENUE", help="A provider: binance, kraken.")]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Your name for the account.")]
Store = Annotated[
    str | None, typer.Option(metavar="STORE", help="keyring, sealed or plain; see the guide.")
]


@keys_app.command()
def add(
    venue: Venue,
    account: Account = "main",
    store: Store = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change a key that is there.")] = False,
) -> None:
    """Keep a key.

    It is asked for, and not shown; without a terminal it is read from stdin, as TOML: key, secret.
    It goes to the desktop's keyring where there is one, else to a file that a passphrase seals.

    Example: piker keys add kraken
    """
    from piker.cli import keys as command

    command.add(venue, account, store=store, replace=replace)


@keys_app.command("list")
def list_keys(json: Json = False) -> None:
    """List whose keys there are, and where they are kept.

    Nothing of a key is shown, and no passphrase is needed.

    Example: piker keys list --json
    """
    from piker.cli import keys as command

    command.ls(as_json=json)


@keys_app.command()
def remove(venue: Venue, account: Account = "main", store: Store = None) -> None:
    """Drop a key.

    From every store that has it, or from the one that is named. Take its rights at the venue, too.

    Example: piker keys remove kraken
    """
    from piker.cli import keys as command

    command.remove(venue, account, store=store)


@keys_app.command()
def check(
    venue: Annotated[
        str | None, typer.Argument(metavar="[VENUE]", help="Only this one's; default: all.")
    ] = None,
    json: Json = False,
) -> None:
    """Open every key, and look whether it can sign.

    No venue is asked. Exit code 1 when a key can not be used, or a file could be read by others.

    Example: piker keys check
    """
    from piker.cli import keys as command

    command.check(venue, as_json=json)
