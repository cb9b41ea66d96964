"""Recorded frames to validated ticks in the ring and both bars updated: messages a second.

Against the bare floor of a clear implementation (each message decoded by msgspec into a typed
struct, then one ``struct.pack_into`` ring write) and, where ``--cryptofeed`` names a Python that
has it, against cryptofeed on the same frames and channels, without bars or shared memory. Prints
one JSON line; the ratios count, the rates are of this machine under whatever load it had.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from parse_binance import SESSIONS, WAKES, peer, rate, recorded

from piker.brokers.binance import schema
from piker.brokers.binance.decode import Decoder
from piker.brokers.quality import QualityLog
from piker.data.shm import ShmArray, TickRing
from piker.data.tape import Tape, Tapes
from piker.ticks import TICK_FORMAT, TickBatch

RING = 65_536


def floor(frames: list[bytes]) -> Callable[[], None]:
    """Return the floor: one typed decode and one ring write a message."""
    quotes = msgspec.json.Decoder(schema.Frame[schema.BookTicker], strict=False).decode
    trades = msgspec.json.Decoder(schema.Frame[schema.AggTrade], strict=False).decode
    ring, row = bytearray(RING * 64), struct.Struct(TICK_FORMAT)
    kinds = [(b"@bookTicker" in frame[:60], frame) for frame in frames]

    def work() -> None:
        for number, (is_quote, frame) in enumerate(kinds):
            if is_quote:
                data = quotes(frame).data
                values = (number, data.T, data.b, data.B, data.a, data.A, data.u, 0, 3, 0, 0)
            else:
                data = trades(frame).data
                values = (number, data.T, data.p, data.q, 0.0, 0.0, data.a, 0, 1, 1, 0)
            row.pack_into(ring, (number % RING) * 64, *values)

    return work


def ours(wakes: list[list[bytes]], markets: dict[str, str], folder: Path) -> Callable[[], None]:
    """Return the whole of datad's path but the socket: decode, validate, ring, both bars."""
    quality = QualityLog("benchmark")
    tapes = Tapes(quality.count)
    for symbol in markets.values():
        ring, _ = TickRing.open_writer("bench", symbol, rows=RING, path=folder / f"{symbol}.r")
        bars = tuple(
            ShmArray.open_writer(
                "bench", symbol, period_s=p, rows=4096, path=folder / f"{symbol}.{p}"
            )[0]
            for p in (1, 60)
        )
        tapes.add(Tape(symbol, ring, bars))
    times = [json.loads(wake[-1])["data"].get("E", 0) for wake in wakes]

    def work() -> None:
        decoder = Decoder(markets, quality)
        for wake, time_ms in zip(wakes, times, strict=True):
            recv_ns = (time_ms or 1_633_998_512_000) * 1_000_000
            tapes.apply(TickBatch(decoder.decode(wake, recv_ns), recv_ns))
        if quality.counts:
            sys.exit(f"frames were refused: {quality.counts}")

    return work


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--session", default="BINANCE_DELIVERY")
    parser.add_argument("--cryptofeed", metavar="PYTHON", help="a Python that has cryptofeed 2.4.1")
    asked = parser.parse_args()
    if not SESSIONS.is_dir():
        sys.exit("recorded venue data (../shared/venues) is not on this machine")
    frames = recorded(asked.session)
    markets = {name: name.lower() for name in {json.loads(f)["data"]["s"] for f in frames}}
    least = rate(floor(frames), len(frames), asked.seconds)
    result: dict[str, object] = {
        "benchmark": "ingest", "messages": len(frames), "floor_per_s": round(least),
    }  # fmt: skip
    mine = 0.0
    for size in (*WAKES, 256):
        wakes = [frames[at : at + size] for at in range(0, len(frames), size)]
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            mine = rate(ours(wakes, markets, Path(folder)), len(frames), asked.seconds)
        result[f"wake_{size}"] = {
            "piker_per_s": round(mine),
            "piker_of_floor": round(mine / least, 2),
        }
    theirs = peer(asked.cryptofeed, frames, asked.seconds) if asked.cryptofeed else None
    if theirs is not None:
        result["cryptofeed_per_s"] = round(theirs)
        for size in (*WAKES, 256):
            wake = result[f"wake_{size}"]
            wake["to_cryptofeed"] = round(wake["piker_per_s"] / theirs, 2)  # type: ignore[index]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
