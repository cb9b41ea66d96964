"""Binance's rate limits, as the venue keeps them: weights, bans, handshakes, messages.

Facts: docs/brokers/binance.md; weights that are not there are those that ccxt 4.5.90
uses. After how many refused requests an address is banned the venue does not say.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from piker.clock import monotonic_ns
from piker.testing.binance_account_limits import account_weight
from piker.testing.gate import Connected
from piker.testing.rates import NS, Rolling, Window
from piker.testing.requests import Reply, Request

__all__ = [
    "KIND_PATHS",
    "MAX_STREAMS",
    "WEIGHT_LIMITS",
    "BinanceLimits",
    "kind_of",
    "refusal",
    "weight_of",
    "ws_kind_of",
]

_LATER = frozenset(
    f"/fapi/v{version}/{name}" for version in (2, 3)
    for name in ("account", "balance", "positionRisk")
)  # fmt: skip
KIND_PATHS = {"/api/v3/": "spot", "/fapi/v1/": "usdm", "/dapi/v1/": "coinm"}
WEIGHT_LIMITS = {"spot": 6000, "usdm": 2400, "coinm": 2400}  # a minute and address
MESSAGES_PER_S = {"spot": 5, "usdm": 10, "coinm": 10}  # of one connection
MAX_STREAMS = {"spot": 1024, "usdm": 1024, "coinm": 200}  # of one connection
HANDSHAKES, HANDSHAKES_S = 300, 300.0  # of one address and market
PATIENCE = 20  # refused requests in a row until an address is banned (our choice)
BAN_S, BAN_MAX_S = 120.0, 3 * 86_400.0  # the first ban, doubled by each one after it

_STEPS: dict[str, dict[str, tuple[tuple[int, int, int], ...]]] = {
    # path -> (default limit, up to this limit, weight); beyond the last one: the last one
    "spot": {"depth": ((100, 100, 5), (100, 500, 25), (100, 1000, 50), (100, 5000, 250))},
    "futures": {
        "depth": ((500, 50, 2), (500, 100, 5), (500, 500, 10), (500, 1000, 20)),
        "klines": ((500, 99, 1), (500, 499, 2), (500, 1000, 5), (500, 1500, 10)),
    },
}
_FIXED: dict[str, dict[str, int]] = {
    "spot": {
        "exchangeInfo": 20, "trades": 25, "historicalTrades": 25, "aggTrades": 4, "klines": 2,
        "uiKlines": 2, "avgPrice": 2,
    },
    "futures": {"trades": 5, "historicalTrades": 200, "aggTrades": 20},
}  # fmt: skip
_BY_SYMBOL: dict[str, dict[str, tuple[int, int]]] = {  # path -> (one symbol, more or all)
    "spot": {"ticker/price": (2, 4), "ticker/bookTicker": (2, 4)},
    "usdm": {"ticker/24hr": (1, 40), "ticker/price": (1, 2), "ticker/bookTicker": (2, 5)},
    "coinm": {
        "ticker/24hr": (1, 40), "ticker/price": (1, 2), "ticker/bookTicker": (2, 5),
        "premiumIndex": (10, 10),
    },
}  # fmt: skip


def kind_of(path: str) -> tuple[str, str]:
    """Return (market kind, rest of the path) of a REST path; two empties for another one."""
    if path == "/fapi/v2/ticker/price" or path in _LATER:  # the same in a later version
        return "usdm", path.split("/", 3)[3]
    for prefix, kind in KIND_PATHS.items():
        if path.startswith(prefix):
            return kind, path.removeprefix(prefix)
    return "", ""


def weight_of(kind: str, path: str, params: dict[str, str]) -> int:
    """Return what a request counts. ``path`` is without its prefix."""
    group = "spot" if kind == "spot" else "futures"
    name = "klines" if group == "futures" and path.endswith("Klines") else path
    if name in _STEPS[group]:
        steps = _STEPS[group][name]
        limit = _whole(params.get("limit", ""), steps[0][0])
        return next((weight for _, upto, weight in steps if limit <= upto), steps[-1][2])
    if path in _BY_SYMBOL[kind]:
        return _BY_SYMBOL[kind][path]["symbol" not in params]
    if kind == "spot" and path == "ticker/24hr":
        return _day_weight(params)
    return _FIXED[group].get(path, 1)


def _day_weight(params: dict[str, str]) -> int:
    if "symbol" in params:
        return 2
    count = params.get("symbols", "").count(",") + 1 if "symbols" in params else 10_000
    return 2 if count <= 20 else 40 if count <= 100 else 80


def _whole(text: str, default: int) -> int:
    return int(text) if text.isdecimal() else default


class BinanceLimits:
    """The counters of one loopback Binance: both futures have one weight, all else is by market."""

    def __init__(self) -> None:
        self.violations: Counter[str] = Counter()
        spot, futures = Window(60), Window(60)  # one for USD-M and COIN-M since 2026-06-30
        self._minutes = {"spot": spot, "usdm": futures, "coinm": futures}
        self._handshakes = {kind: Rolling(HANDSHAKES, HANDSHAKES_S) for kind in WEIGHT_LIMITS}
        self._messages: dict[Connected, list[float]] = {}
        self._refused: Counter[str] = Counter()  # in a row, by market and address
        self._bans: dict[str, tuple[float, int]] = {}  # -> (until, how many so far)

    # -- REST ----------------------------------------------------------------------------------
    def request(self, request: Request) -> Reply | None:
        """Count a request's weight; over the limit 429, and 418 where that was not heeded."""
        kind, path = kind_of(request.path)
        if not kind:
            return None
        weight = account_weight(kind, request.method, path, request.params)
        if weight is None:
            weight = weight_of(kind, path, request.params)
        return self.spend(kind, request.peer, weight)

    def spend(self, kind: str, peer: str, weight: int) -> Reply | None:
        """Count so much weight; return the refusal where there is no room for it."""
        key = f"{'spot' if kind == 'spot' else 'futures'} {peer}"
        now = monotonic_ns() / NS
        until, bans = self._bans.get(key, (0.0, 0))
        if now < until:
            self.violations["banned"] += 1
            return _refusal(418, until - now)
        used = self._minutes[kind].add(peer, weight)
        if used <= WEIGHT_LIMITS[kind]:
            self._refused.pop(key, None)
            return None
        self.violations["REQUEST_WEIGHT"] += 1
        self._refused[key] += 1
        if self._refused[key] < PATIENCE:
            return _refusal(429, self._minutes[kind].left_s())
        del self._refused[key]
        ban_s = min(BAN_S * 2**bans, BAN_MAX_S)
        self._bans[key] = (now + ban_s, bans + 1)
        return _refusal(418, ban_s)

    def headers(self, request: Request) -> dict[str, str]:
        """Return the weight used in this minute."""
        kind, _ = kind_of(request.path)
        if not kind:
            return {}
        return {"X-MBX-USED-WEIGHT-1M": f"{self._minutes[kind].count(request.peer):.0f}"}

    # -- websockets ----------------------------------------------------------------------------
    def handshake(self, request: Request) -> Reply | None:
        """Count a connection attempt."""
        wait_s = self._handshakes[ws_kind_of(request.path)].take(request.peer)
        if not wait_s:
            return None
        self.violations["handshakes"] += 1
        return _refusal(429, wait_s)

    def message(self, connection: Connected, late_s: float) -> bool:
        """Count a message; so many in any second, and as many more as came while we were late."""
        if connection.request.path.startswith(("/ws-api/", "/ws-fapi/")):
            return True  # requests there weigh, as those of REST do
        now = monotonic_ns() / NS
        times = self._messages.setdefault(connection, [])
        times[:] = [time for time in times if time > now - 1]
        times.append(now)
        allowed = MESSAGES_PER_S[ws_kind_of(connection.request.path)] * (1 + late_s)
        if len(times) <= allowed:
            return True
        self.violations["messages"] += 1
        return False

    def left(self, connection: Connected) -> None:
        """Forget a connection."""
        self._messages.pop(connection, None)

    def used(self) -> dict[str, float]:
        """Return this minute's weights."""
        return {
            f"{kind} weight {peer}": count
            for kind, window in self._minutes.items()
            for peer, count in window.counts().items()
        }


def ws_kind_of(path: str) -> str:
    """Return the market of a websocket path on the venue's one port."""
    if path.startswith(("/public/", "/market/", "/private/", "/usdm/", "/ws-fapi/")):
        return "usdm"
    return "coinm" if path.startswith("/coinm/") else "spot"


def _refusal(status: int, wait_s: float) -> Reply:
    return Reply(status, refusal(status), {"Retry-After": f"{max(1, -(-wait_s // 1)):.0f}"})


def refusal(status: int) -> bytes:
    """Return the body that comes with a status: the venue's own, or its gateway's."""
    if status in (502, 504):
        return b"<html><head><title>Bad gateway</title></head><body></body></html>"
    if status == 418:
        body = {"code": -1003, "msg": "Way too much request weight used; IP banned."}
    elif status == 408:
        text = "Timeout waiting for response from backend server."
        body = {"code": -1007, "msg": f"{text} Send status unknown; execution status unknown."}
    elif status == 429:
        body = {"code": -1003, "msg": "Too much request weight used; please use the websocket."}
    elif status == 503:
        body = {"code": -1008, "msg": "Server is currently overloaded."}
    elif status >= 500:
        body = {"code": -1000, "msg": "An unknown error occurred while processing the request."}
    else:
        body = {"code": -1, "msg": f"HTTP {status}"}
    return msgspec.json.encode(body)
