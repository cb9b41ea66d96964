"""``dsm-demo-cli``: fetch bars or funding rates by piker.dsm, and show where they came from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from piker.dsm.enums import ChartType, Interval, MarketType

__all__ = ["app", "main"]

MARKETS = {"spot": "SPOT", "um": "FUTURES_USDT", "cm": "FUTURES_COIN"}
_HERE = "dsm-demo-cli"

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.command()
def demo(
    provider: Annotated[str, typer.Option("--provider", "-p", help="binance.")] = "binance",
    market: Annotated[str, typer.Option("--market", "-m", help="spot, um or cm.")] = "spot",
    chart_type: Annotated[
        str, typer.Option("--chart-type", "-ct", help="klines or fundingRate.")
    ] = "klines",
    symbol: Annotated[
        str, typer.Option("--symbol", "-s", help="As in BTCUSDT; BTCUSD_PERP for cm.")
    ] = "BTCUSDT",
    interval: Annotated[str, typer.Option("--interval", "-i", help="1s, 1m, 5m ... 1M.")] = "1m",
    start_time: Annotated[
        str | None, typer.Option("--start-time", "-st", help="ISO; UTC without a zone.")
    ] = None,
    end_time: Annotated[
        str | None, typer.Option("--end-time", "-et", help="ISO; not part of the range.")
    ] = None,
    days: Annotated[
        float, typer.Option("--days", "-d", help="How many, where start or end is left out.")
    ] = 3.0,
    enforce_source: Annotated[
        str, typer.Option("--enforce-source", "-es", help="AUTO, REST, VISION or CACHE.")
    ] = "AUTO",
    retries: Annotated[int, typer.Option("--retries", "-r", min=0, help="Of what failed.")] = 3,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", "-nc", help="Neither read nor fill the store.")
    ] = False,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", "-cc", help="First forget this market's bars.")
    ] = False,
    show_cache_info: Annotated[
        bool, typer.Option("--show-cache-info", "-sci", help="Tell what the store has of it.")
    ] = False,
    gen_doc: Annotated[
        bool, typer.Option("--gen-doc", "-gd", help="Write dsm-demo-cli.md here, and end.")
    ] = False,
    gen_lint_config: Annotated[
        bool, typer.Option("--gen-lint-config", "-glc", help="With it a .markdownlint.json.")
    ] = False,
    log_level: Annotated[
        str, typer.Option("--log-level", "-l", help="D, I, W, E or C, or the whole word.")
    ] = "E",
) -> None:
    """Fetch history and show where each bar came from.

    Cache first, then the venue's archive (VISION), then REST; what is fetched is stored.

    Example: dsm-demo-cli -s BTCUSDT -i 1m -d 10
    """
    if gen_doc or gen_lint_config:
        _write_documents(lint=gen_lint_config)
        return
    _run(
        provider=provider, market=market, chart_type=chart_type, symbol=symbol, interval=interval,
        start_time=start_time, end_time=end_time, days=days, enforce_source=enforce_source,
        retries=retries, no_cache=no_cache, clear_cache=clear_cache,
        show_cache_info=show_cache_info, log_level=log_level,
    )  # fmt: skip


def _run(**given: Any) -> None:
    from rich.console import Console

    from piker.cli import dsm_demo_view as view
    from piker.dsm import (
        ChartType,
        DataProvider,
        DataSource,
        DataSourceManager,
        Interval,
        fetch_market_data,
        logger,
    )
    from piker.dsm.errors import FetchFailed
    from piker.dsm.symbols import named

    logger.configure_level(given["log_level"])
    provider = DataProvider.from_string(given["provider"])
    market, chart = _market(given["market"]), ChartType.from_string(given["chart_type"])
    interval = Interval.from_string(given["interval"])
    source = DataSource.from_string(given["enforce_source"])
    DataSourceManager.create(provider, market, chart_type=chart)  # refuses what is not served
    named(given["symbol"], market)
    console = Console()
    console.print(view.introduction())
    console.print(view.pairs("What is asked for", _asked(given, market, chart, interval)))
    _before(console, given, market, chart, interval)
    problem: FetchFailed | None = None
    with _progress(given["symbol"]) as on_progress:
        try:
            frame, seconds, rows = fetch_market_data(
                provider, market, chart, given["symbol"], interval, given["start_time"],
                given["end_time"], given["days"], not given["no_cache"], source,
                given["retries"], on_progress=on_progress,
            )  # fmt: skip
        except FetchFailed as err:
            if err.partial is None or not len(err.partial):
                raise
            problem, frame = err, err.partial
            seconds, rows = frame.attrs["report"]["elapsed_s"], len(frame)
    show(console, frame, seconds, rows)
    _export(console, frame, given["symbol"], chart, interval)
    if problem is not None:
        raise problem


def _market(word: str) -> MarketType:
    from piker.config import nearest
    from piker.dsm import MarketType
    from piker.dsm.errors import Unsupported

    if word.lower() not in MARKETS:
        raise Unsupported(f"there is no market {word!r}.", remedy=nearest(word, MARKETS))
    return MarketType[MARKETS[word.lower()]]


def _asked(
    given: dict[str, Any], market: MarketType, chart: ChartType, interval: Interval
) -> dict[str, object]:
    import os

    from piker.dsm import DataSourceManager

    begin, end = DataSourceManager.calculate_time_range(
        given["start_time"], given["end_time"], given["days"], interval
    )
    return {
        "market": f"{given['symbol'].upper()}, {market.name}",
        "what": f"bars of {interval}" if chart.endpoint == "klines" else "funding rates",
        "from": begin.isoformat(),
        "to": f"{end.isoformat()} (not part of it)",
        "source": given["enforce_source"].upper(),
        "store": "not used" if given["no_cache"] else str(DataSourceManager().cache_dir),
        "log": os.environ.get("DSM_LOG_FILE") or "stderr (DSM_LOG_FILE: to a file, too)",
    }


def _before(
    console: Console, given: dict[str, Any], market: MarketType, chart: ChartType,
    interval: Interval,
) -> None:  # fmt: skip
    """Forget or describe what the store has of the market, if that is wanted."""
    from piker.cli import dsm_demo_view as view
    from piker.data.history.quality import iso
    from piker.data.store.series import Series
    from piker.dsm import ChartType as Charts
    from piker.dsm.calls import PROVIDER
    from piker.dsm.funding_store import FundingStore
    from piker.dsm.shelf import forget, holding_of, store_at
    from piker.dsm.symbols import named

    if not (given["clear_cache"] or given["show_cache_info"]):
        return
    market_id = named(given["symbol"], market).market
    store, series = store_at(None), Series(PROVIDER, market_id, str(interval))
    if given["show_cache_info"]:
        has = holding_of(store, series)
        values: dict[str, object] = {"series": series, "store": store.root}
        files = f"{has.files} file{'s' * (has.files != 1)}"
        values |= {"bars": f"{has.rows:,} in {files}, {has.bytes / 1e6:,.2f} MB"}
        if has.rows:
            values |= {"from": iso(has.start_s), "to": iso(has.end_s)}
        console.print(view.pairs("What the store has", values))
    if given["clear_cache"] and chart is Charts.FUNDING_RATE:
        count = FundingStore(store.root).forget(market_id)
        console.print(f"Forgotten: {count:,} fundings of {market_id}.")
    elif given["clear_cache"]:
        console.print(f"Forgotten: {forget(store, series).rows:,} bars of {series}.")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[Any], None]]:
    """Show on a terminal how many bars are settled, and the time left by the rate so far."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("bars"),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=None)

        def update(far: Any) -> None:
            bar.update(
                task, description=f"{what} ({far.source})", total=far.total, completed=far.done
            )

        yield update


def show(console: Console, frame: Any, seconds: float, rows: int) -> None:
    """Show a frame, where it came from, and what it cost."""
    from piker.cli import dsm_demo_view as view

    report = frame.attrs["report"]
    if "served" in report:
        console.print(view.breakdown(report))
        lacking = view.shortfall(report)
        if lacking is not None:
            console.print(lacking)
    console.print(view.sample(frame))
    console.print(view.performance(report, seconds, rows))


def _export(
    console: Console, frame: Any, symbol: str, chart: ChartType, interval: Interval
) -> None:
    """Write the frame as CSV into the data directory."""
    from piker.config import data_dir

    folder = data_dir() / "exports"
    folder.mkdir(mode=0o700, exist_ok=True)
    report = frame.attrs["report"]
    begin, end = (report[name].replace(":", "").replace("-", "") for name in ("start", "end"))
    what = str(interval).replace("M", "mo") if chart.endpoint == "klines" else chart.endpoint
    path = folder / f"{symbol.upper()}-{what}-{begin}-{end}.csv"
    frame.to_csv(path)
    console.print(f"CSV: {path} ({path.stat().st_size / 1e6:,.2f} MB)", soft_wrap=True)


# -- documents -----------------------------------------------------------------------------------
def _write_documents(*, lint: bool) -> None:
    """Write the page of this command into the current directory."""
    command: Any = typer.main.get_command(app)
    lines = [f"# {_HERE}", "", command.help.split("\n\n")[0], ""]
    lines += ["| option | default | meaning |", "|---|---|---|"]
    for option in command.params:
        default = "" if option.default in (None, False) else option.default
        lines.append(f"| `{' '.join(option.opts)}` | {default} | {option.help} |")
    page = Path(f"{_HERE}.md")
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(page.absolute())
    if lint:
        rules = Path(".markdownlint.json")
        rules.write_text('{\n  "default": true,\n  "MD013": false\n}\n', encoding="utf-8")
        print(rules.absolute())


def main(argv: list[str] | None = None) -> None:
    """Run ``dsm-demo-cli``; exit with the error's code."""
    from piker.cli.app import run_app

    sys.exit(run_app(app, argv))


if __name__ == "__main__":
    main()
