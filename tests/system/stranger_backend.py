"""A backend written from seed 002's text alone, as a stranger would: no piker import but errors."""

from contextlib import asynccontextmanager

import numpy as np
import pendulum
import trio

_ohlc_dtype = [
    ("index", int),
    ("time", int),
    ("open", float),
    ("high", float),
    ("low", float),
    ("close", float),
    ("volume", float),
    ("count", int),
    ("bar_wap", float),
]
ohlc_dtype = np.dtype(_ohlc_dtype)


async def stream_quotes(
    send_chan,
    symbols,
    shm,
    feed_is_live,
    loglevel=None,
    task_status=trio.TASK_STATUS_IGNORED,
):
    first = {symbol: {"symbol": symbol, "last": 100.0, "ticks": []} for symbol in symbols}
    task_status.started(({symbol: {} for symbol in symbols}, first))
    feed_is_live.set()
    number = 0
    while True:
        number += 1
        for symbol in symbols:
            price = 100.0 + number % 7
            await send_chan.send(
                {
                    "symbol": symbol,
                    "last": price,
                    "ticks": [{"type": "trade", "price": price, "size": 1.0}],
                }
            )
        await trio.sleep(0.02)


@asynccontextmanager
async def open_history_client(symbol):
    async def get_ohlc(timeframe, end_dt=None, start_dt=None):
        if timeframe != 60:
            from piker.brokers import DataUnavailable

            raise DataUnavailable("Only 1m bars are supported")
        last = int((end_dt or pendulum.now("UTC")).timestamp()) // 60 * 60 - 60 * bool(end_dt)
        array = np.zeros(100, ohlc_dtype)
        array["time"] = last - 60 * np.arange(99, -1, -1)
        for name in ("open", "high", "low", "close"):
            array[name] = 100.0
        array["volume"], array["count"] = 5.0, 5
        times = array["time"]
        return array, pendulum.from_timestamp(times[0]), pendulum.from_timestamp(times[-1])

    yield get_ohlc, {"erlangs": 3, "rate": 3}
