"""How fast a file of the archive becomes bars, against the bare inflating and parsing of it.

A month of one-minute klines (and with ``--seconds`` a month of one-second ones) is made, zipped as
the archive does, and read over and over: inflated by isal and parsed by ``polars.read_csv`` alone
(the floor), and by piker's reader, which also checks lines, CRC, grid, order, duplicates and bars,
and fills ``KLINE_DTYPE``. A ticking task on the same event loop tells by how much a read delays it.
Prints one JSON line; the ratios count, the rates are of this machine under whatever load it had.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable

import numpy as np
import polars
import trio
from isal import isal_zlib

from piker.brokers.archive import ArchiveFile
from piker.brokers.binance.archive import MAX_CSV
from piker.brokers.binance.archive_csv import KlineReader
from piker.brokers.binance.archive_files import Shelf
from piker.brokers.download import text_of
from piker.market import Asset, AssetType, MktPair

MARCH = 1_709_251_200  # 2024-03-01
APRIL = MARCH + 31 * 86_400
TICK_S = 0.001
SPOT = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT", dst=Asset("btc", AssetType.CRYPTO),
    src=Asset("usdt", AssetType.CRYPTO), price_tick="0.01", size_tick="0.00001",  # type: ignore[arg-type]
)  # fmt: skip
SCHEMA = {
    f"column_{at + 1}": polars.Int64 if at in (0, 6, 8) else polars.Float64 for at in range(12)
}


def csv_of(file: ArchiveFile, step_s: int) -> bytes:
    """Return a month of a random walk in the archive's own columns."""
    noise = np.random.default_rng(1)
    times = np.arange(file.start_s, file.end_s, step_s) * 1000
    close = 60_000 + noise.normal(0, 8 * step_s**0.5, len(times)).cumsum()
    close = np.abs(close) + 100
    opens = np.concatenate((close[:1], close[:-1]))
    high = np.maximum(opens, close) + np.abs(noise.normal(0, 5, len(times)))
    low = np.minimum(opens, close) - np.minimum(np.abs(noise.normal(0, 5, len(times))), 50)
    volume = noise.gamma(0.5, 20, len(times))
    share = noise.random(len(times))
    frame = polars.DataFrame({
        "t": times, "o": opens, "h": high, "l": low, "c": close, "v": volume,
        "e": times + step_s * 1000 - 1, "q": volume * (high + low) / 2,
        "n": noise.integers(1, 3000, len(times)), "tv": volume * share,
        "tq": volume * share * (high + low) / 2, "i": np.zeros(len(times), int),
    })  # fmt: skip
    for name, digits in (("o", 2), ("h", 2), ("l", 2), ("c", 2), ("v", 5), ("tv", 5)):
        frame = frame.with_columns(polars.col(name).round(digits))
    return frame.write_csv(include_header=False, float_precision=8).encode()


def zip_of(text: bytes, name: str) -> bytes:
    """Return the text as the one file of a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


def best(work: Callable[[], int], seconds: float) -> float:
    """Return the shortest time that ``work`` took, in seconds."""
    shortest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - at)
    return shortest


def floor(body: bytes) -> Callable[[], int]:
    """Return the bare work: inflate it all, parse it all, believe it all."""
    name_size, extra = struct.unpack_from("<2H", body, 26)
    start = 30 + name_size + extra
    end = body.rindex(b"PK\x01\x02")

    def work() -> int:
        text = isal_zlib.decompressobj(-15).decompress(memoryview(body)[start:end])
        return len(polars.read_csv(text, has_header=False, schema=SCHEMA))

    return work


def ours(body: bytes, file: ArchiveFile) -> Callable[[], int]:
    """Return our work, in this thread."""

    def work() -> int:
        reader = steps_of(body, file)
        while reader.step():
            pass
        rows, defects = reader.finish(closed_s=2**40)
        assert not defects
        return len(rows)

    return work


def steps_of(body: bytes, file: ArchiveFile) -> KlineReader:
    """Return a reader of the zip."""
    name = file.name.replace(".zip", ".csv")
    return KlineReader(text_of(body, name, max_bytes=MAX_CSV), file, SPOT)


async def delay(body: bytes, file: ArchiveFile) -> float:
    """Return the longest that a task of the event loop waited while a file was read, in ms."""
    worst = 0.0
    async with trio.open_nursery() as nursery:

        async def tick() -> None:
            nonlocal worst
            while True:
                at = time.perf_counter()
                await trio.sleep(TICK_S)
                worst = max(worst, time.perf_counter() - at - TICK_S)

        nursery.start_soon(tick)
        reader = steps_of(body, file)
        while await trio.to_thread.run_sync(reader.step):
            pass
        await trio.to_thread.run_sync(lambda: reader.finish(closed_s=2**40))
        nursery.cancel_scope.cancel()
    return worst * 1000


def measure(interval: str, step_s: int, seconds: float) -> dict[str, object]:
    """Return the figures of one month."""
    (file,) = Shelf("spot", "BTCUSDT").klines(interval, MARCH, APRIL, now_s=2**31)
    text = csv_of(file, step_s)
    body = zip_of(text, file.name.replace(".zip", ".csv"))
    rows = ours(body, file)()
    assert floor(body)() == rows
    least, mine = best(floor(body), seconds), best(ours(body, file), seconds)
    return {
        "rows": rows, "csv_mb": round(len(text) / 1e6, 1), "zip_mb": round(len(body) / 1e6, 1),
        "floor_ms": round(least * 1000, 1), "piker_ms": round(mine * 1000, 1),
        "piker_rows_per_s": round(rows / mine), "piker_to_floor": round(mine / least, 2),
        "loop_delay_ms": round(min(trio.run(delay, body, file) for _ in range(3)), 1),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--for", dest="span", type=float, default=3.0, help="seconds a measurement")
    parser.add_argument("--seconds", action="store_true", help="a month of 1 s, too (1 GB)")
    asked = parser.parse_args()
    result: dict[str, object] = {"benchmark": "archive_parse"}
    result["month_1m"] = measure("1m", 60, asked.span)
    if asked.seconds:
        result["month_1s"] = measure("1s", 1, asked.span)
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
