"""The recorded Binance sessions, as captures."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from piker.brokers.binance import api, schema
from piker.brokers.binance.decode import Decoder
from piker.brokers.quality import QualityLog
from piker.market import MktPair
from piker.testing.capture import Capture, In, Rest, payload
from piker.testing.captures_foreign import read_any

SESSIONS = {"spot": "BINANCE", "coinm": "BINANCE_DELIVERY"}


@lru_cache(maxsize=2)
def session(shared: Path, venue: str) -> Capture:
    """Return a recorded session."""
    return read_any(shared / "venues" / "binance" / "cryptofeed" / SESSIONS[venue])


def frames(shared: Path, venue: str) -> list[tuple[int, bytes]]:
    """Return (time of receipt in ns, frame) of a session's websocket."""
    records = session(shared, venue).records
    return [(record.t, payload(record)) for record in records if isinstance(record, In)]


def market_frames(shared: Path, venue: str) -> list[bytes]:
    """Return the frames that are no depth."""
    return [frame for _, frame in frames(shared, venue) if b"@depth" not in frame[:60]]


def answers(shared: Path, venue: str, path: str) -> list[Rest]:
    """Return the REST answers whose path ends with ``path``."""
    records = session(shared, venue).records
    return [r for r in records if isinstance(r, Rest) and r.path.endswith(path)]


def exchange_info(shared: Path, venue: str) -> bytes:
    """Return the recorded exchangeInfo."""
    (answer,) = answers(shared, venue, "/exchangeInfo")
    return payload(answer)


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
