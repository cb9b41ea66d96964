"""How many recorded Binance messages a second become tick rows, against the bare decoding.

The trades and tops of book of a recorded session are decoded over and over, in wakes of a given
number of frames: by msgspec alone into typed structs (the floor: nothing in Python can do it with
less), by piker's decoder into checked rows in order, and by cryptofeed where ``--cryptofeed`` names
a Python that has it installed. Prints one JSON line; the ratios count, the rates are of this
machine under whatever load it had.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from piker.brokers.binance import schema
from piker.brokers.binance.decode import Decoder
from piker.brokers.quality import QualityLog

HERE = Path(__file__).resolve().parent
SESSIONS = HERE.parent.parent / "shared" / "venues" / "binance" / "cryptofeed"
WAKES = (1, 8, 64)  # frames that one read brings: a quiet, a busy and a rushing venue
PEER = r"""
import asyncio, json, logging, sys, time
from cryptofeed.defines import TICKER, TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols
path, seconds = sys.argv[1], float(sys.argv[2])
frames = open(path).read().splitlines()
names = {json.loads(frame)["data"]["s"] for frame in frames}
Symbols.set("BINANCE", {name: name for name in names}, {"instrument_type": {}})
async def callback(event, received): pass
feed = Binance(symbols=sorted(names), channels=[TRADES, TICKER],
               callbacks={TRADES: callback, TICKER: callback})
async def main():
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for frame in frames:
            await feed.message_handler(frame, None, 1.0)
        count += len(frames)
    print(json.dumps(count / (time.perf_counter() - began)))
asyncio.run(main())
"""


def recorded(name: str) -> list[bytes]:
    """Return the session's trades and tops of book, in order."""
    frames = []
    for line in (SESSIONS / f"{name}.ws.1.0").read_bytes().splitlines():
        body = line.partition(b": ")[2]
        if body.startswith(b"{") and (b"@bookTicker" in body[:60] or b"@aggTrade" in body[:60]):
            frames.append(body)
    return frames


def rate(work: Callable[[], None], messages: int, seconds: float) -> float:
    """Return messages a second, the best of three: the others had company on this machine."""
    best = 0.0
    for _ in range(3):
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / 3:
            work()
            count += messages
        best = max(best, count / (time.perf_counter() - began))
    return best


def floor(wakes: list[list[bytes]]) -> Callable[[], None]:
    """Return the bare work: each wake's frames of a kind, typed, in one call."""
    quotes = msgspec.json.Decoder(list[schema.Frame[schema.BookTicker]], strict=False)
    trades = msgspec.json.Decoder(list[schema.Frame[schema.AggTrade]], strict=False)
    joined = []
    for wake in wakes:
        for decoder, mark in ((quotes, b"@bookTicker"), (trades, b"@aggTrade")):
            part = [frame for frame in wake if mark in frame[:60]]
            if part:
                joined.append((decoder, b"[" + b",".join(part) + b"]"))

    def work() -> None:
        for decoder, text in joined:
            decoder.decode(text)

    return work


def ours(wakes: list[list[bytes]], markets: dict[str, str]) -> Callable[[], None]:
    """Return our work: rows, checked and in order. Every replay is a new session."""
    quality = QualityLog("benchmark")

    def work() -> None:
        decoder = Decoder(markets, quality)
        for wake in wakes:
            decoder.decode(wake, 1)

    return work


def peer(python: str, frames: list[bytes], seconds: float) -> float | None:
    """Return cryptofeed's rate, or None where it is not installed."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(frames))
        file.flush()
        done = subprocess.run(
            [python, "-c", PEER, file.name, str(seconds)], capture_output=True, text=True
        )
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--session", default="BINANCE_DELIVERY")
    parser.add_argument("--cryptofeed", metavar="PYTHON", help="a Python that has cryptofeed 2.4.1")
    asked = parser.parse_args()
    if not SESSIONS.is_dir():
        sys.exit("recorded venue data (../shared/venues) is not on this machine")
    frames = recorded(asked.session)
    markets = {name: name.lower() for name in {json.loads(f)["data"]["s"] for f in frames}}
    result: dict[str, object] = {"benchmark": "parse_binance", "messages": len(frames)}
    for size in WAKES:
        wakes = [frames[at : at + size] for at in range(0, len(frames), size)]
        least = rate(floor(wakes), len(frames), asked.seconds)
        mine = rate(ours(wakes, markets), len(frames), asked.seconds)
        result[f"wake_{size}"] = {
            "floor_per_s": round(least), "piker_per_s": round(mine),
            "piker_of_floor": round(mine / least, 3),
        }  # fmt: skip
    theirs = peer(asked.cryptofeed, frames, asked.seconds) if asked.cryptofeed else None
    if theirs is not None:
        mine = result["wake_1"]["piker_per_s"]  # type: ignore[index]
        result["cryptofeed_per_s"] = round(theirs)
        result["piker_wake_1_to_cryptofeed"] = round(mine / theirs, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
