"""A backend that sends a flood of ticks when it is told to: for benchmarks/cancels.py.

Quiet it shows ten quotes a second. When the file of ``PIKER_FLOOD`` is there it sends as many
trades as that file says, as fast as datad takes them, and removes it.
"""

import os
from contextlib import asynccontextmanager

import trio

from piker.clock import wall_ns
from piker.errors import DataUnavailable
from piker.ohlcv import ohlc_dtype
from piker.ticks import QUOTE, TickBatch, TickType

__all__ = ["ohlc_dtype", "open_history_client", "stream_quotes"]

AT_ONCE = 200  # ticks of one message: what a busy connection's wake-up brings
TRADE = int(TickType.TRADE)


async def stream_quotes(
    send_chan, symbols, shm, feed_is_live, loglevel=None, task_status=trio.TASK_STATUS_IGNORED
):
    """Show a market that stands still, and flood it."""
    symbol, flood = symbols[0], trio.Path(os.environ["PIKER_FLOOD"])
    task_status.started(({symbol: {}}, {symbol: {"symbol": symbol, "last": 100.0, "ticks": []}}))
    feed_is_live.set()
    number = 0

    def rows(count, kind):
        now = wall_ns()
        return [
            (
                symbol,
                kind,
                now,
                99.0 if kind == QUOTE else 100.0,
                1.0,
                101.0 if kind == QUOTE else 0.0,
                1.0 if kind == QUOTE else 0.0,
                0,
                at,
            )
            for at in range(number, number + count)
        ]

    while True:
        await send_chan.send(TickBatch(rows(1, QUOTE), wall_ns()))
        if await flood.exists():
            left = int(await flood.read_text())
            while left > 0:
                await send_chan.send(TickBatch(rows(min(AT_ONCE, left), TRADE), wall_ns()))
                number, left = number + AT_ONCE, left - AT_ONCE
            await flood.unlink()
        await trio.sleep(0.1)


@asynccontextmanager
async def open_history_client(symbol):
    """Have no history."""

    async def get_ohlc(timeframe, end_dt=None, start_dt=None):
        raise DataUnavailable("there is no history here")

    yield get_ohlc, {"erlangs": 1, "rate": 1}
