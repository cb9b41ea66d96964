"""``dsm-demo-module``: two scripted calls of ``fetch_market_data``, backwards from a given end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

__all__ = ["app", "main", "showcase_backward_retrieval"]

#: (symbol, the end, interval, days back) of the two runs.
RUNS = (
    ("BTCUSDT", "2025-04-14T15:59:59", "1m", 10),
    ("ETHUSDT", "2025-04-14T15:59:59", "5m", 5),
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.command()
def demo(
    log_level: Annotated[
        str, typer.Option("--log-level", "-l", help="D, I, W, E or C, or the whole word.")
    ] = "E",
) -> None:
    """Fetch ten days of minutes and five days of five minutes, as a program would.

    Example: dsm-demo-module --log-level I
    """
    for symbol, end_time, interval, days in RUNS:
        showcase_backward_retrieval(symbol, end_time, interval, days, log_level)


def showcase_backward_retrieval(
    symbol: str, end_time: str, interval: str = "1m", days: float = 10, log_level: str = "ERROR"
) -> None:
    """Fetch ``days`` before ``end_time`` (ISO, UTC without a zone), and show what came."""
    from rich.console import Console

    from piker.cli import dsm_demo_view as view
    from piker.cli.dsm_demo_cli import show
    from piker.dsm import ChartType, DataProvider, MarketType, fetch_market_data, logger

    logger.configure_level(log_level)
    console = Console()
    call = {
        "provider": "DataProvider.BINANCE", "market_type": "MarketType.SPOT",
        "chart_type": "ChartType.KLINES", "symbol": symbol, "interval": interval,
        "end_time": end_time, "days": days,
    }  # fmt: skip
    console.print(view.pairs("fetch_market_data", call))
    frame, seconds, rows = fetch_market_data(
        DataProvider.BINANCE, MarketType.SPOT, ChartType.KLINES, symbol, interval,
        end_time=end_time, days=days,
    )  # fmt: skip
    show(console, frame, seconds, rows)


def main(argv: list[str] | None = None) -> None:
    """Run ``dsm-demo-module``; exit with the error's code."""
    from piker.cli.app import run_app

    sys.exit(run_app(app, argv))


if __name__ == "__main__":
    main()
