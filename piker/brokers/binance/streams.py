"""Binance's websocket endpoints as sources of the shared hub: paths, stream names, commands.

USD-M serves its streams on two paths, by kind: top of book on ``/public``, all else on ``/market``
(its documents say so); a stream asked for on the wrong one never comes. Spot and COIN-M have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import msgspec

from piker.brokers.binance.api import PROVIDER, Kind, url
from piker.brokers.binance.decode import Decoder
from piker.brokers.quality import venue_quality
from piker.market import MktPair
from piker.ticks import TickRow

__all__ = ["StreamSource", "sources"]

STREAMS_PER_MESSAGE = 150  # a SUBSCRIBE of this many names stays well under 8 KB
STREAMS_PER_CONNECTION = {"spot": 1000, "usdm": 1000, "coinm": 200}  # by its documents
SENDS_PER_S = {"spot": 4.0, "usdm": 8.0, "coinm": 8.0}  # of 5 and 10 a second, pings among them

_MARKET = ("aggTrade", "kline_1m")
_PATHS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "spot": (("/stream", ("bookTicker", *_MARKET, "kline_1s")),),
    "usdm": (("/public/stream", ("bookTicker",)), ("/market/stream", (*_MARKET, "markPrice@1s"))),
    "coinm": (("/stream", ("bookTicker", *_MARKET, "markPrice@1s")),),
}


class StreamSource:
    """One path of one kind of market, for :func:`piker.brokers.hub.open_hub_feed`.

    The symbols are market ids; :attr:`markets` must know each before it is subscribed.
    """

    greetings: tuple[str, ...] = ()

    def __init__(self, kind: Kind, path: str, streams: Sequence[str]) -> None:
        self.url = url(kind, "ws") + path
        self.key = f"{kind.name} {self.url}"
        self.venue = f"{PROVIDER}.{kind.name}"
        self.streams = tuple(streams)
        self.max_symbols = STREAMS_PER_CONNECTION[kind.name] // len(self.streams)
        self.sends_per_s = SENDS_PER_S[kind.name]
        self.markets: dict[str, MktPair] = {}
        self._numbers = count(1)

    def subscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        """Return SUBSCRIBE commands."""
        return self._commands("SUBSCRIBE", symbols)

    def unsubscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        """Return UNSUBSCRIBE commands."""
        return self._commands("UNSUBSCRIBE", symbols)

    def _commands(self, method: str, symbols: Sequence[str]) -> list[str]:
        wires = [self.markets[symbol].bs_mktid.lower() for symbol in symbols]
        names = [f"{wire}@{stream}" for wire in wires for stream in self.streams]
        return [
            msgspec.json.encode(
                {
                    "method": method,
                    "params": names[at : at + STREAMS_PER_MESSAGE],
                    "id": next(self._numbers),
                }
            ).decode()
            for at in range(0, len(names), STREAMS_PER_MESSAGE)
        ]

    def is_live(self, frame: bytes) -> bool:
        """Tell data from answers."""
        return frame.startswith(b'{"stream"')

    def decoder(self) -> StreamDecoder:
        """Return a decoder for a new connection."""
        return StreamDecoder(self.markets)


class StreamDecoder:
    """A :class:`Decoder` that is told market ids, as the hub knows them."""

    def __init__(self, markets: dict[str, MktPair]) -> None:
        self._markets = markets
        self.inner = Decoder({}, venue_quality(PROVIDER))

    def add(self, symbols: Iterable[str]) -> None:
        """Expect frames of these markets."""
        for symbol in symbols:
            market = self._markets[symbol]
            self.inner.add({market.bs_mktid: symbol})
            if market.inverse:
                self.inner.contract_sizes[symbol] = float(market.contract_size)

    def remove(self, symbols: Iterable[str]) -> None:
        """Expect no more of these."""
        self.inner.remove([self._markets[symbol].bs_mktid for symbol in symbols])

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        """Return the rows of frames."""
        return self.inner.decode(frames, recv_ns)

    def take_outband(self) -> Sequence[Any]:
        """Return and forget closed bars and gaps."""
        return self.inner.take_outband() if self.inner.outband else ()

    def take_wish(self) -> tuple[str, str]:
        """Ask for another connection when the venue says that it will hang up."""
        if not self.inner.shutdown:
            return "", ""
        self.inner.shutdown = False
        return "rotate", "serverShutdown"


_known: dict[str, StreamSource] = {}


def sources(kind: Kind) -> list[StreamSource]:
    """Return the process's sources of a kind, at the URLs that are configured now."""
    found = []
    for path, streams in _PATHS[kind.name]:
        made = StreamSource(kind, path, streams)
        found.append(_known.setdefault(made.key, made))
    return found
