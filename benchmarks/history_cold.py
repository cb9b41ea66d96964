"""How fast a year of minutes comes from the archive into an empty store and a frame.

A loopback venue in a process of its own serves twelve monthly files. Each is asked for once, so
that it is made; another market's year is filled while its files are being made. Then, in one run:
all of them are downloaded by bare GETs, as many at once as piker takes, which is the archive's own
rate from its memory; piker.dsm fills an empty store with them and returns the frame; and polars
parses the same CSVs. Rows a second of each, and the CPU that a row costs our process against
polars' parsing alone (it is unzipped, checked, hashed, stored and synced besides). Then the same
download and fill through a line of ``--mbit``: a venue that answers from its memory is faster than
any parser, a home's line is not. Prints one JSON line; the ratios count. The venue shares the
machine: its CPU is not ours, its time is.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from piker.brokers.binance.archive import MAX_FETCHES

YEAR = 2023
BEGIN, END = datetime(YEAR, 1, 1, tzinfo=UTC), datetime(YEAR + 1, 1, 1, tzinfo=UTC)
PATH = "/data/spot/monthly/klines/{0}/1m/{0}-1m-{1}-{2:02}.zip"
COLUMNS = 12


def paths(symbol: str) -> list[str]:
    """Return the year's files."""
    return [PATH.format(symbol, YEAR, month) for month in range(1, 13)]


def get(port: int, path: str) -> bytes:
    """Download a file."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        return body
    finally:
        connection.close()


def download(port: int, symbol: str) -> tuple[float, list[bytes]]:
    """Download all files and their checksums, as many at once as piker; return (s, zips)."""
    began = time.perf_counter()
    with ThreadPoolExecutor(MAX_FETCHES) as pool:
        sums = pool.map(lambda path: get(port, f"{path}.CHECKSUM"), paths(symbol))
        zips = list(pool.map(lambda path: get(port, path), paths(symbol)))
        list(sums)
    return time.perf_counter() - began, zips


def parse(zips: list[bytes]) -> tuple[float, float, int]:
    """Parse with polars alone; return (s, CPU s, rows). Unzipping is not counted."""
    import polars

    texts = []
    for body in zips:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            texts.append(archive.read(archive.namelist()[0]))
    names = [f"column_{at + 1}" for at in range(COLUMNS)]
    whole = ("column_1", "column_7", "column_9")
    schema: dict[str, Any] = {n: polars.Int64 if n in whole else polars.Float64 for n in names}
    rows, began, cpu = 0, time.perf_counter(), time.process_time()
    for text in texts:
        rows += len(polars.read_csv(text, has_header=False, schema=schema))
    return time.perf_counter() - began, time.process_time() - cpu, rows


def fill(root: Path, symbol: str) -> tuple[float, float, int]:
    """Fill an empty store by piker.dsm; return (s, CPU s, rows)."""
    from piker.dsm import DataProvider, DataSourceManager, Interval, MarketType

    with DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT, cache_dir=root) as manager:
        # Listings and imports are not counted: another market's day comes first.
        manager.get_data("ETHUSDT", END, END + timedelta(days=1), Interval.HOUR_1)
        began, cpu = time.perf_counter(), time.process_time()
        frame = manager.get_data(symbol, BEGIN, END, Interval.MINUTE_1, return_polars=True)
        took = time.perf_counter() - began, time.process_time() - cpu
        assert manager.last_report is not None
        assert manager.last_report["served"]["VISION"] == len(frame) == manager.last_report["rows"]
    return *took, len(frame)


@contextmanager
def serving(folder: Path, mbit: float | None = None) -> Iterator[int]:
    """Run a venue, its zips through a line of so many Mbit/s, with our backend pointed at it."""
    from piker.testing.loopback import brokers_toml

    command = [sys.executable, "-m", "piker.cli", "venue", "binance", "--no-limits"]
    if mbit is not None:
        (folder / "slow.toml").write_text(
            f"[[fault]]\nwhat = 'slow'\non = 'http'\nmatch = '\\.zip$'\n"
            f"bytes_per_s = {mbit * 125_000 / MAX_FETCHES:.0f}\n"
        )
        command += ["--faults", str(folder / "slow.toml")]
    venue = subprocess.Popen(
        command,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert venue.stdout is not None
    port = int(json.loads(venue.stdout.readline())["port"])
    for name in ("config", "data", "run"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        key = {"config": "PIKER_CONFIG_DIR", "data": "PIKER_DATA_DIR", "run": "PIKER_RUNTIME_DIR"}
        os.environ[key[name]] = str(folder / name)
    (folder / "config" / "brokers.toml").write_text(brokers_toml("binance", port))
    try:
        yield port
    finally:
        venue.terminate()
        venue.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--fresh", default="ETHUSDT", help="whose files are not made yet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mbit", type=float, default=250.0, help="of the slow line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piker-bench-") as name:
        served, parsed, filled, line = [], [], [], []
        with serving(Path(name)) as port:
            made, zips = download(port, asked.symbol)  # they are made now
            fresh = fill(Path(name) / "fresh", asked.fresh)[0]  # and these while we ask
            for at in range(asked.rounds):
                served.append(download(port, asked.symbol)[0])
                parsed.append(parse(zips))
                filled.append(fill(Path(name) / f"store{at}", asked.symbol))
        with serving(Path(name), asked.mbit) as port:
            download(port, asked.symbol)
            for at in range(asked.rounds):
                paced = download(port, asked.symbol)[0]
                line.append((paced, fill(Path(name) / f"line{at}", asked.symbol)[0]))
    bare, (parse_s, parse_cpu, rows), (fill_s, fill_cpu, count) = (
        min(served),
        min(parsed),
        min(filled),
    )
    assert rows == count
    print(json.dumps({
        "benchmark": "history_cold",
        "rows": rows,
        "zip_bytes": sum(map(len, zips)),
        "made_rows_per_s": round(rows / made),
        "filled_as_made_rows_per_s": round(rows / fresh),
        "filled_as_made_to_made": round(made / fresh, 2),
        "served_rows_per_s": round(rows / bare),
        "filled_rows_per_s": round(rows / fill_s),
        "filled_to_served": round(bare / fill_s, 3),
        "fill_s": round(fill_s, 2),
        "cpu_us_per_row": round(fill_cpu / rows * 1e6, 3),
        "polars_cpu_us_per_row": round(parse_cpu / rows * 1e6, 3),
        "polars_rows_per_s": round(rows / parse_s),
        "cpu_to_polars": round(fill_cpu / parse_cpu, 1),
        "line_mbit": asked.mbit,
        "line_served_s": round(median(paced for paced, _ in line), 2),
        "line_fill_s": round(median(took for _, took in line), 2),
        "line_fill_to_served": round(median(took / paced for paced, took in line), 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
