"""The commands, their options and their help; what each does is in the module of its name.

Nothing but typer is imported here, and each command imports its module when it runs, so that
``piker --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

__all__ = ["app", "pikerd_app", "run_app"]

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells do

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
app = typer.Typer(
    name="piker",
    help="Live market data and orders on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
pikerd_app = typer.Typer(
    name="pikerd",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Seconds = Annotated[
    float | None, typer.Option("--seconds", "-n", min=0.1, help="Stop after this many seconds.")
]
Fqmes = Annotated[
    list[str], typer.Argument(metavar="FQME", help="Markets, as in btcusdt.spot.binance.")
]


def _level(text: str | None) -> str | None:
    """Refuse a level that does not exist before anything is started."""
    from piker.config import nearest
    from piker.errors import ConfigError
    from piker.log import LEVELS

    valid = [level.lower() for level in LEVELS]
    if text is not None and text.lower() not in valid:
        raise ConfigError(f"there is no log level {text!r}.", remedy=nearest(text, valid))
    return text


Level = Annotated[
    str | None,
    typer.Option(
        "--log-level", "-l", callback=_level,
        help="TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL; default: conf.toml's.",
    ),
]  # fmt: skip


def run_app(cli: typer.Typer, argv: list[str] | None) -> int:
    """Run a typer app; return the exit code. A PikerError prints as one sentence."""
    from piker import handover
    from piker.errors import PikerError, Transient

    handover.begin()
    _die_with_parent()
    try:
        result = cli(args=argv, standalone_mode=False)
    except PikerError as err:
        if isinstance(err, Transient) and not err.remedy:
            err.remedy = "Try again; `piker doctor` tells whether it is the network."
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except typer.Abort:
        return EXIT_INTERRUPTED
    except typer.Exit as leave:
        return leave.exit_code
    except Exception as err:
        return _usage_error(err)
    return result if isinstance(result, int) else 0


def _die_with_parent() -> None:
    """End with the process that started us for itself (`piker demo`), however that ends."""
    parent = os.environ.pop("PIKER_DIE_WITH", "")
    if parent.isdigit():
        from piker.service.liveness import die_with

        die_with(int(parent))


def _usage_error(err: Exception) -> int:
    """Print what click refused, as a sentence; anything else is a bug and raises."""
    show, code = getattr(err, "show", None), getattr(err, "exit_code", None)
    if show is None or code is None:
        raise err
    show()
    return int(code)


@pikerd_app.command()
def pikerd(
    registry: Annotated[
        str | None, typer.Option(help="Where to listen, host:port; default: conf.toml's.")
    ] = None,
    log_level: Level = None,
) -> None:
    """Run the daemon that starts and watches all others.

    It stays in the foreground; Ctrl-C ends it, and what it started with it. Any command that
    needs data starts one in the background by itself.

    Example: pikerd --log-level info
    """
    from piker.cli import daemon

    daemon.run(registry=registry, log_level=log_level)


app.command("pikerd")(pikerd)


@app.command()
def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="No screen: wait, then print counts.")
    ] = False,
    seconds: Seconds = None,
    json: Json = False,
    symbols: Annotated[int, typer.Option(min=1, max=7, help="How many markets.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic market.")] = 1,
) -> None:
    """Watch live candles now, from a venue on this machine.

    Starts a loopback venue, points the real binance backend at it, and shows the monitor. Needs
    no network, no key, no config, and leaves nothing behind.

    Example: piker demo --headless --seconds 20 --json
    """
    from piker.cli import demo as command

    command.run(headless=headless, seconds=seconds, as_json=json, symbols=symbols, seed=seed)


@app.command()
def monitor(fqmes: Fqmes, seconds: Seconds = None, log_level: Level = None) -> None:
    """Show live candles and quotes in the terminal.

    With rates, lag and the state of the feed, until Ctrl-C.

    Example: piker monitor btcusdt.spot.binance ethusdt.spot.binance
    """
    from piker.cli import monitor as command

    command.run(fqmes, seconds=seconds, log_level=log_level)


@app.command()
def feed(
    fqmes: Fqmes,
    seconds: Seconds = None,
    json: Json = False,
    throttle: Annotated[
        float | None, typer.Option(min=0.01, help="Quotes per second and market at most.")
    ] = None,
    log_level: Level = None,
) -> None:
    """Print quotes as they come, one line each.

    Until Ctrl-C. Outages and what follows them are lines too.

    Example: piker feed btcusdt.spot.binance --seconds 10 --json
    """
    from piker.cli import feed as command

    command.run(fqmes, seconds=seconds, as_json=json, throttle=throttle, log_level=log_level)


@app.command()
def search(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a market's name.")],
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", "-p", help="Only this provider; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Markets shown at most.")] = 20,
    json: Json = False,
) -> None:
    """Find markets by name.

    In the symbol database (piker symbols populate), offline; providers that it does not hold are
    asked. One that can not be asked is named on stderr; the others still answer.

    Example: piker search btcusd
    """
    from piker.cli import search as command

    command.run(pattern, providers=provider or [], limit=limit, as_json=json)


@app.command()
def services(
    stop: Annotated[bool, typer.Option("--stop", help="Stop pikerd and all its services.")] = False,
    json: Json = False,
) -> None:
    """List the running daemons, or stop them.

    State, pid, uptime, restarts and memory of each. One that ran and can not start again is
    in the list as failed, with its error, and is tried again every 10 s.

    Example: piker services --json
    """
    from piker.cli import services as command

    command.run(stop=stop, as_json=json)


@app.command()
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the venues.")] = False,
    json: Json = False,
) -> None:
    """Tell what is wrong with this set-up, and what to do.

    Looks at Python, the machine, the configuration, directories, disk and shared memory,
    leftovers, daemons, the venues and the clock. Exit code 0 when nothing has failed ("look" is
    advice), 1 when something needs you before piker works.

    Example: piker doctor --offline
    """
    from piker.cli import doctor as command

    command.run(offline=offline, as_json=json)


@app.command()
def record(
    fqmes: Fqmes,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Where to write the wire; .gz compresses."
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep every tick in the store, instead.")
    ] = False,
    seconds: Seconds = None,
    json: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    book: Annotated[
        bool, typer.Option("--book/--no-book", help="Follow order books, too, where there are any.")
    ] = True,
    flush: Annotated[
        float, typer.Option(min=0.05, max=3600, help="Seconds between two files of --store.")
    ] = 5.0,
    log_level: Level = None,
) -> None:
    """Record what a venue sends, until Ctrl-C.

    With --out, for `piker venue --replay`: every frame and answer byte for byte, secrets masked
    (docs/reference/capture-format.md); needs no pikerd.

    With --store, every tick of the feed in day files, durably: docs/internals/store.md. What
    --json counts as stored is on the disk; killed and started again, it goes on where it was.

    Example: piker record btcusdt.spot.binance --out btc.jsonl.gz --seconds 60
    """
    from pathlib import Path

    from piker.cli import record as command
    from piker.errors import ConfigError

    if (out is not None) == store:
        raise ConfigError(
            "where to is not clear.", remedy="Say one of --out FILE (the wire) and --store (ticks)."
        )
    if out is None:
        command.run_store(fqmes, seconds=seconds, flush_s=flush, as_json=json, log_level=log_level)
        return
    command.run(
        fqmes, out=Path(out), seconds=seconds, as_json=json, force=force, book=book,
        log_level=log_level,
    )  # fmt: skip


@app.command("check-provider")
def check_provider(
    name: Annotated[
        str,
        typer.Argument(metavar="PROVIDER", help="A provider's name, or a dotted module path."),
    ],
    symbol: Annotated[
        str | None, typer.Option(help="A market of it, without the provider's name.")
    ] = None,
    loopback: Annotated[
        bool, typer.Option("--loopback", help="Against its loopback venue, not the real one.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a backend against the provider contract.

    Runs the conformance kit against the real venue and prints a table of its rules.

    Exit code 0 when every rule holds, 1 when one is broken.

    Example: piker check-provider my_pkg.my_backend --symbol xyz
    """
    from piker.cli import check_provider as command

    command.run(name, symbol=symbol, loopback=loopback, as_json=json)


@app.command()
def init() -> None:
    """Write commented configuration templates.

    Never overwrites a file.

    Example: piker init
    """
    from piker.cli import init as command

    command.run()


def _mount() -> None:
    from piker.cli.history_app import history, store_app
    from piker.cli.keys_app import keys_app
    from piker.cli.ledger_app import ledger_app
    from piker.cli.orders_app import mount
    from piker.cli.run_app import run
    from piker.cli.symbols_app import symbols_app
    from piker.cli.venue_app import venue

    app.command()(run)
    app.command()(history)
    app.command()(venue)
    mount(app)
    app.add_typer(store_app, name="store")
    app.add_typer(symbols_app, name="symbols")
    app.add_typer(keys_app, name="keys")
    app.add_typer(ledger_app, name="ledger")


_mount()
