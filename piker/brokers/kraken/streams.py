"""Kraken's public websocket v2 as a source of the shared hub: channels and their requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from piker.brokers.kraken.api import PROVIDER, Listing, url
from piker.brokers.kraken.decode import Decoder
from piker.brokers.quality import venue_quality
from piker.log import get_logger
from piker.ticks import TickRow

__all__ = ["StreamSource", "source"]

SYMBOLS_PER_MESSAGE = 100  # a request with this many names stays well under 4 KB
SYMBOLS_PER_CONNECTION = 200  # three channels each; the venue states no limit
SENDS_PER_S = 4.0  # the venue states no figure ("Exceeded msg rate"); three messages a hundred
_PREFIXES = (b'{"channel":"ticker"', b'{"channel":"trade"', b'{"channel":"ohlc"')
# The snapshots of trades and bars fill what a short outage took.
_CHANNELS: tuple[dict[str, object], ...] = (
    {"channel": "trade", "snapshot": True},
    {"channel": "ticker", "event_trigger": "bbo", "snapshot": True},
    {"channel": "ohlc", "interval": 1, "snapshot": True},
)

# Which markets are halted. The snapshot is half a megabyte, and REST has told the same.
_INSTRUMENTS = {"channel": "instrument", "snapshot": False}

log = get_logger("kraken")


class StreamSource:
    """The public endpoint, for :func:`piker.brokers.hub.open_hub_feed`.

    The symbols are market ids; :attr:`listings` must know each before it is subscribed.
    """

    venue = PROVIDER
    max_symbols = SYMBOLS_PER_CONNECTION
    sends_per_s = SENDS_PER_S
    greetings = (msgspec.json.encode({"method": "subscribe", "params": _INSTRUMENTS}).decode(),)

    def __init__(self, base_url: str) -> None:
        self.url = f"{base_url}/v2"
        self.key = f"{PROVIDER} {self.url}"
        self.listings: dict[str, Listing] = {}

    def subscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        """Return subscribe requests for trades, top of book and one-minute bars."""
        return self._requests("subscribe", symbols)

    def unsubscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        """Return unsubscribe requests."""
        return self._requests("unsubscribe", symbols)

    def _requests(self, method: str, symbols: Sequence[str]) -> list[str]:
        wires = [self.listings[symbol].wire for symbol in symbols]
        return [
            msgspec.json.encode(
                {
                    "method": method,
                    "params": {**channel, "symbol": wires[at : at + SYMBOLS_PER_MESSAGE]},
                }
            ).decode()
            for at in range(0, len(wires), SYMBOLS_PER_MESSAGE)
            for channel in _CHANNELS
        ]

    def is_live(self, frame: bytes) -> bool:
        """Tell data from answers and heartbeats."""
        return frame.startswith(_PREFIXES)

    def decoder(self) -> StreamDecoder:
        """Return a decoder for a new connection."""
        return StreamDecoder(self.listings)


class StreamDecoder:
    """A :class:`Decoder` that is told market ids, as the hub knows them."""

    def __init__(self, listings: dict[str, Listing]) -> None:
        self._listings = listings
        self._system = "online"
        self.inner = Decoder({}, venue_quality(PROVIDER))

    def add(self, symbols: Iterable[str]) -> None:
        """Expect frames of these markets."""
        self.inner.markets.update({self._listings[symbol].wire: symbol for symbol in symbols})

    def remove(self, symbols: Iterable[str]) -> None:
        """Expect no more of these."""
        self.inner.remove([self._listings[symbol].wire for symbol in symbols])

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        """Return the rows of frames."""
        return self.inner.decode(frames, recv_ns)

    def take_outband(self) -> Sequence[Any]:
        """Return and forget closed bars and gaps."""
        return self.inner.take_outband() if self.inner.outband else ()

    def take_wish(self) -> tuple[str, str]:
        """Ask for another connection when requests were too fast; log what the venue says."""
        inner = self.inner
        if inner.system and inner.system != self._system:
            self._system = inner.system
            log.warning("venue-state", provider=PROVIDER, state=self._system)
        if not inner.refusals:
            return "", ""
        said = "; ".join(inner.refusals)
        inner.refusals.clear()
        log.error("subscription-refused", provider=PROVIDER, said=said)
        return ("reset", said[:200]) if "msg rate" in said else ("", "")


_known: dict[str, StreamSource] = {}


def source() -> StreamSource:
    """Return the process's source at the URL that is configured now."""
    base_url = url("spot_ws")
    if base_url not in _known:
        _known[base_url] = StreamSource(base_url)
    return _known[base_url]
