"""The recorded Binance sessions, read line by line as their SOURCE.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from piker.brokers.binance import api, schema
from piker.brokers.binance.decode import Decoder
from piker.brokers.quality import QualityLog
from piker.market import MktPair

SESSIONS = {"spot": "BINANCE", "coinm": "BINANCE_DELIVERY"}


def frames(shared: Path, venue: str) -> list[tuple[float, bytes]]:
    """Return (time of receipt in s, frame) of a session's websocket."""
    found = []
    for line in _file(shared, venue, "ws.1.0").read_bytes().splitlines():
        moment, _, body = line.partition(b": ")
        if body.startswith(b"{"):
            found.append((float(moment), body))
    return found


def market_frames(shared: Path, venue: str) -> list[bytes]:
    """Return the frames that are no depth."""
    return [frame for _, frame in frames(shared, venue) if b"@depth" not in frame[:60]]


def bodies(shared: Path, venue: str, part: str) -> dict[str, bytes]:
    """Return the REST bodies of ``NAME.part`` by URL."""
    found = {}
    for line in _file(shared, venue, part).read_text().splitlines():
        head, _, body = line.partition(": ")
        if " -> " in head:
            found[head.partition(" -> ")[0]] = body.encode()
    return found


def exchange_info(shared: Path, venue: str) -> bytes:
    """Return the recorded exchangeInfo."""
    (body,) = bodies(shared, venue, "0").values()
    return body


def markets(shared: Path, venue: str) -> dict[str, MktPair]:
    """Return every recorded listing by its wire symbol."""
    info = msgspec.json.decode(exchange_info(shared, venue), type=schema.ExchangeInfo)
    made = (api.market_of(api.KINDS[venue], symbol) for symbol in api.listings(info))
    return {market.bs_mktid: market for market in made if market is not None}


def decoder(shared: Path, venue: str) -> Decoder:
    """Return a decoder of all the listings, with a quality log of its own."""
    found = markets(shared, venue)
    return Decoder(
        {name: market.mktid for name, market in found.items()},
        QualityLog(venue),
        {m.mktid: float(m.contract_size) for m in found.values() if m.inverse},
    )


def data_of(frame: bytes) -> dict[str, Any]:
    """Return a frame's payload, by Python's own means."""
    import json

    payload: dict[str, Any] = json.loads(frame)["data"]
    return payload


def _file(shared: Path, venue: str, part: str) -> Path:
    return shared / "venues" / "binance" / "cryptofeed" / f"{SESSIONS[venue]}.{part}"
