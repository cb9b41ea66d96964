"""A capture as a replay takes it: its markets, and what they showed, without any connection.

Frames go through the venue's own decoders, as they did when they were recorded; which markets there
are, with ticks and lots, is read from the recorded answers. Here and not in clearing, because
captures are of piker.testing, which clearing may not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from piker.brokers.quality import QualityLog
from piker.config import nearest
from piker.errors import ConfigError
from piker.market import MktPair, parse_fqme
from piker.testing.capture import Capture, Close, In, Open, Rest, payload, read_capture
from piker.ticks import Outage, Resync, TickBatch, TickRow

__all__ = ["Told", "markets_of", "open_capture", "told"]

Told = TickBatch | Resync | Outage


class _Decoder(Protocol):
    """What a venue's decoder is asked for."""

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]: ...

    def take_outband(self) -> Sequence[object]: ...


# -- markets -----------------------------------------------------------------------------------
class _Listed(msgspec.Struct, frozen=True):
    """A market with the name that frames have for it."""

    market: MktPair
    wire: str


def _of_binance(capture: Capture) -> list[_Listed]:
    from piker.brokers.binance import schema
    from piker.brokers.binance.api import KINDS, listings, market_of

    kinds = {f"binance.{kind.name}": kind for kind in KINDS.values()}
    found = []
    for answer in _answers(capture, "/exchangeInfo"):
        kind = kinds.get(answer.venue)
        if kind is not None:
            info = msgspec.json.decode(payload(answer), type=schema.ExchangeInfo, strict=False)
            markets = [market_of(kind, symbol) for symbol in listings(info)]
            found += [_Listed(one, one.bs_mktid) for one in markets if one is not None]
    return found


def _of_kraken(capture: Capture) -> list[_Listed]:
    from piker.brokers.kraken import schema
    from piker.brokers.kraken.api import listings_of

    found = []
    for answer in _answers(capture, "/0/public/AssetPairs"):
        said = msgspec.json.decode(
            payload(answer), type=schema.Reply[dict[str, schema.Pair]], strict=False
        )
        found += [_Listed(one.market, one.wire) for one in listings_of(said.result).values()]
    return found


def _answers(capture: Capture, path: str) -> Iterator[Rest]:
    for record in capture.records:
        if isinstance(record, Rest) and record.path.endswith(path) and record.status == 200:
            yield record


def _binance_decoder(listed: Sequence[_Listed], quality: QualityLog) -> _Decoder:
    from piker.brokers.binance.decode import Decoder

    names = {one.wire: one.market.mktid for one in listed}
    sizes = {
        one.market.mktid: float(one.market.contract_size) for one in listed if one.market.inverse
    }
    return Decoder(names, quality, sizes)


def _kraken_decoder(listed: Sequence[_Listed], quality: QualityLog) -> _Decoder:
    from piker.brokers.kraken.decode import Decoder

    return Decoder({one.wire: one.market.mktid for one in listed}, quality)


_LISTINGS: dict[str, Callable[[Capture], list[_Listed]]] = {
    "binance": _of_binance, "kraken": _of_kraken,
}  # fmt: skip
_DECODERS: dict[str, Callable[[Sequence[_Listed], QualityLog], _Decoder]] = {
    "binance": _binance_decoder, "kraken": _kraken_decoder,
}  # fmt: skip


def open_capture(path: Path) -> Capture:
    """Read a capture that can be replayed; raise ``ConfigError`` for another."""
    capture = read_capture(path)
    provider = capture.header.provider
    if provider not in _LISTINGS:
        raise ConfigError(
            f"{path} is a capture of {provider!r}; strategies can be replayed on captures of "
            f"{' and '.join(_LISTINGS)}."
        )
    return capture


def markets_of(capture: Capture, wanted: Sequence[str]) -> list[MktPair]:
    """Return the wanted markets of a capture, all that it recorded where none is.

    Raises ``ConfigError`` with the nearest name for one that was not recorded, or of which the
    capture does not tell ticks and lots.
    """
    provider = capture.header.provider
    recorded = [f"{symbol}.{provider}" for symbol in capture.header.symbols]
    known = {one.market.fqme: one.market for one in _LISTINGS[provider](capture)}
    found = []
    for fqme in dict.fromkeys(str(parse_fqme(one)) for one in wanted or recorded):
        if fqme not in recorded:
            raise ConfigError(
                f"{capture.source} has no {fqme}; it has {', '.join(recorded)}.",
                remedy=nearest(fqme, recorded),
            )
        if fqme not in known:
            raise ConfigError(
                f"{capture.source} does not tell the ticks and lots of {fqme}: it has no answer "
                "of the venue that lists it.",
                remedy="Record it again, from its beginning: piker record",
            )
        found.append(known[fqme])
    return found


# -- what they showed --------------------------------------------------------------------------
def told(capture: Capture) -> Iterator[Told]:
    """Yield what a feed of all its markets was told, in order, with the times of receipt.

    A connection that brought ticks and was lost is an outage, and what the next one brings first
    comes after a resync; so does what follows a hole in the venue's trade ids.
    """
    provider = capture.header.provider
    recorded = frozenset(capture.header.symbols)
    listed = [one for one in _LISTINGS[provider](capture) if one.market.mktid in recorded]
    quality = QualityLog(provider)
    places = _Places(lambda: _DECODERS[provider](listed, quality))
    now = 0
    heard = [at for at, one in enumerate(capture.records) if isinstance(one, In)]
    # What is closed after the last frame was closed by the recorder's end, not by the venue.
    records = capture.records[: heard[-1] + 1] if heard else []
    for (kind, number, time_ns), group in groupby(records, key=_read_of):
        now = max(now, time_ns)
        if kind is In:
            yield from places.read(number, [payload(one) for one in group], now)  # type: ignore[arg-type]
            continue
        for one in group:
            if isinstance(one, Open):
                places.opened(one)
            elif isinstance(one, Close):
                yield from places.closed(one)


def _read_of(record: object) -> tuple[type, int, int]:
    """Return what records of one read of one socket have in common."""
    return type(record), getattr(record, "c", 0), getattr(record, "t", 0)


class _Places:
    """The connections of a capture. One decoder serves all that led to the same place."""

    def __init__(self, decoder: Callable[[], _Decoder]) -> None:
        self._decoder = decoder
        self._decoders: dict[tuple[str, str], _Decoder] = {}
        self._place: dict[int, tuple[str, str]] = {}
        self._live: set[int] = set()  # that have brought ticks
        self._lost: dict[tuple[str, str], str] = {}  # places without a connection, and why

    def opened(self, record: Open) -> None:
        """Take note of a connection."""
        self._place[record.c] = (record.venue, urlsplit(record.url).path)

    def closed(self, record: Close) -> Iterator[Told]:
        """Tell an outage when the last connection to a place is gone that had brought ticks."""
        place = self._place[record.c]
        if record.c not in self._live:
            return
        self._live.discard(record.c)
        if not any(self._place[one] == place for one in self._live):
            self._lost[place] = record.reason or "connection lost"
            if len(self._lost) == 1:
                yield Outage(self._lost[place])

    def read(self, number: int, frames: list[bytes], now: int) -> Iterator[Told]:
        """Tell what one read of a socket brought."""
        place = self._place[number]
        decoder = self._decoders.get(place)
        if decoder is None:
            decoder = self._decoders[place] = self._decoder()
        rows = decoder.decode(frames, now)
        if rows:
            self._live.add(number)
            if self._lost.pop(place, "") and not self._lost:
                yield Resync("reconnect")
            yield TickBatch(rows, now)
        for other in decoder.take_outband():
            first, count = getattr(other, "symbol", ""), getattr(other, "count", None)
            if type(other).__name__ == "MissedTrades":
                yield Resync("sequence-gap", first, count if isinstance(count, int) else -1)
