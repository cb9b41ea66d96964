"""What the loopback Kraken writes: names, numbers with the market's digits, frames and rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from piker.brokers.sequence import book_crc32
from piker.clock import NS, wall_ns
from piker.testing.engine import BUY, SELL
from piker.testing.kraken_past import Fill, KrakenMarket, Tape
from piker.testing.synthetic import DAY_S, Day, MarketSpec

__all__ = [
    "Listing",
    "asset",
    "asset_pair",
    "assets",
    "instrument",
    "make_listings",
    "ohlc",
    "ohlc_row",
    "rest_ticker",
    "stamp",
    "ticker",
    "trade_row",
    "trades",
]

Kind = Literal["snapshot", "update"]
SIZE_DIGITS = 8  # of every market the venue lists
MAX_SPREADS = 200  # changes of a top that are kept, as the venue does
_BASES = (  # REST's old name, websocket v2's, price, decimals, lot
    ("XBT", "BTC", 60_000.0, 1, 0.0001),
    ("ETH", "ETH", 3_000.0, 2, 0.001),
    ("SOL", "SOL", 150.0, 2, 0.01),
    ("XDG", "DOGE", 0.12, 5, 1.0),
    ("ADA", "ADA", 0.4, 6, 1.0),
)
_PREFIXED = frozenset({"XBT", "ETH", "XDG"})  # whose asset ids have an X in front


class Listing:
    """One market with its names, its synthetic engine, and the books that were sent of it."""

    def __init__(
        self, base: str, new_base: str, market: KrakenMarket, digits: int, *, seed: int
    ) -> None:
        self.base = f"X{base}" if base in _PREFIXED else base
        self.altname, self.wsname = f"{base}USD", f"{base}/USD"
        self.pair_id = f"{self.base}ZUSD" if base in _PREFIXED else self.altname
        self.wire = f"{new_base}/USD"
        self.digits = digits
        self.status = "online"
        self.market = market
        self.tape = Tape(market, seed)
        self.owed = 0.0  # steps of order flow due
        self.traded = False  # since bars were last sent
        self.spreads: deque[tuple[int, str, str]] = deque(maxlen=MAX_SPREADS)  # (time s, bid, ask)
        self._day: Day | None = None
        self._day_s = 0  # the second of which it is
        self._sent: dict[int, dict[int, dict[int, int]]] = {}  # depth -> side -> price -> size

    # -- numbers -------------------------------------------------------------------------------
    def price(self, value: float) -> str:
        """Return a price with the market's digits."""
        return f"{value:.{self.digits}f}"

    def size(self, value: float) -> str:
        """Return a size with the market's digits."""
        return f"{value:.{SIZE_DIGITS}f}"

    def level(self, price: int, size: int) -> tuple[str, str]:
        """Return a level of the engine as the venue writes it."""
        spec = self.market.spec
        return self.price(price * spec.tick), self.size(size * spec.lot)

    def depth(self, side: int, limit: int) -> list[tuple[int, int]]:
        """Return the best levels, in ticks and lots."""
        return self.market.engine.depth(side, limit)

    def bars(self, minutes: int, begin_s: int, now_s: int) -> Any:
        """Return bars from ``begin_s`` to the one in progress."""
        return self.tape.bars(minutes, begin_s, now_s)

    def day(self) -> Day:
        """Return the last 24 hours, as of the second, up to the minute at their beginning."""
        now_s = wall_ns() // NS
        if self._day is None or now_s != self._day_s:
            self._day, self._day_s = self._day_of(now_s // 60 - DAY_S // 60, now_s // 60), now_s
        return self._day

    def _day_of(self, first: int, last: int) -> Day:
        """Return what traded in the minutes [first, last]."""
        spec, rows = self.market.spec, self.tape.minutes(first, last + 1)
        if not len(rows):
            price = self.market.last
            return Day(first * 60, price, price, price, 0.0, 0, 0.0)
        lots, trades, turnover = (int(rows[:, column].sum()) for column in (5, 6, 7))
        return Day(
            first * 60, float(rows[0, 1] * spec.tick), float(rows[:, 2].max() * spec.tick),
            float(rows[:, 3].min() * spec.tick), lots * spec.lot, trades,
            turnover / lots * spec.tick,
        )  # fmt: skip

    def note_top(self) -> None:
        """Keep the best bid and ask for Spread."""
        top = self.market.engine.top()
        bid, ask = self.level(top.bid, top.bid_size)[0], self.level(top.ask, top.ask_size)[0]
        self.spreads.append((wall_ns() // NS, bid, ask))

    def _written(self, level: tuple[int, int]) -> str:
        price, size = self.level(*level)
        return f'{{"price":{price},"qty":{size}}}'

    # -- the book ------------------------------------------------------------------------------
    def book_snapshot(self, depth: int) -> bytes:
        """Return a snapshot of what was last sent to those who follow this depth."""
        if depth not in self._sent:
            self._sent[depth] = self._view(depth)
        sent = self._sent[depth]
        return self._book_frame("snapshot", depth, sent)

    def book_changes(self, depth: int) -> bytes:
        """Return an update from what was last sent to what is now; empty where nothing changed.

        A level that better ones pushed out is not mentioned: clients truncate.
        """
        if depth not in self._sent:
            self._sent[depth] = self._view(depth)
            return b""
        before, now = self._sent[depth], self._view(depth)
        engine = self.market.engine
        # Removals first: some clients truncate after every level, and must not lose what enters.
        changes = {
            side: {p: 0 for p in before[side] if p not in now[side] and not engine.size_at(side, p)}
            | {p: size for p, size in now[side].items() if before[side].get(p) != size}
            for side in (BUY, SELL)
        }
        self._sent[depth] = now
        if not changes[BUY] and not changes[SELL]:
            return b""
        return self._book_frame("update", depth, changes)

    def forget_book(self, depth: int) -> None:
        """Begin anew: nobody follows this depth."""
        self._sent.pop(depth, None)

    def _view(self, depth: int) -> dict[int, dict[int, int]]:
        return {side: dict(self.depth(side, depth)) for side in (BUY, SELL)}

    def _book_frame(self, kind: Kind, depth: int, levels: dict[int, dict[int, int]]) -> bytes:
        view = self._sent[depth]
        asks, bids = (
            [self.level(*x) for x in list(view[side].items())[:10]] for side in (SELL, BUY)
        )
        parts = {side: ",".join(map(self._written, levels[side].items())) for side in (BUY, SELL)}
        return _frame(
            "book", kind,
            f'"symbol":"{self.wire}","bids":[{parts[BUY]}],"asks":[{parts[SELL]}],'
            f'"checksum":{book_crc32(asks, bids)},"timestamp":"{stamp(wall_ns())}"',
        )  # fmt: skip


def make_listings(count: int, seed: int, start_s: int) -> list[Listing]:
    """Return ``count`` markets: the well-known ones, then numbered ones."""
    rows = list(_BASES[:count])
    rows += [(f"C{n:03d}", f"C{n:03d}", 10.0 + n, 2, 0.001) for n in range(len(rows), count)]
    found = []
    for base, new, price, digits, lot in rows:
        spec = MarketSpec(f"{new}USD", base, "USD", price, 10.0**-digits, lot)
        found.append(Listing(base, new, KrakenMarket(spec, seed, start_s), digits, seed=seed))
    return found


def stamp(ns: int) -> str:
    """Return RFC 3339 with microseconds."""
    moment = datetime.fromtimestamp(ns // NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % NS // 1000:06d}Z"


# -- websocket v2 --------------------------------------------------------------------------------
def _frame(channel: str, kind: Kind, *rows: str) -> bytes:
    data = "},{".join(rows)
    listed = f"{{{data}}}" if rows else ""
    return f'{{"channel":"{channel}","type":"{kind}","data":[{listed}]}}'.encode()


def trades(listing: Listing, made: Iterable[Fill], kind: Kind) -> bytes:
    """Return a trade frame."""
    return _frame("trade", kind, *(_trade(listing, fill) for fill in made))


def _trade(listing: Listing, fill: Fill) -> str:
    price, size = listing.level(fill.price, fill.size)
    side = "buy" if fill.side == BUY else "sell"
    return (
        f'"symbol":"{listing.wire}","side":"{side}","price":{price},"qty":{size},'
        f'"ord_type":"market","trade_id":{fill.number},"timestamp":"{stamp(fill.ns)}"'
    )


def ticker(listing: Listing, kind: Kind) -> bytes:
    """Return a ticker frame."""
    top, last, day = listing.market.engine.top(), listing.market.last, listing.day()
    bid, bid_size = listing.level(top.bid, top.bid_size)
    ask, ask_size = listing.level(top.ask, top.ask_size)
    price = listing.price
    return _frame(
        "ticker", kind,
        f'"symbol":"{listing.wire}","bid":{bid},"bid_qty":{bid_size},"ask":{ask},'
        f'"ask_qty":{ask_size},"last":{price(last)},"volume":{listing.size(day.volume)},'
        f'"vwap":{price(day.wap)},"low":{price(min(day.low, last))},'
        f'"high":{price(max(day.high, last))},"change":{price(last - day.open)},'
        f'"change_pct":{(last / day.open - 1) * 100:.2f},"timestamp":"{stamp(wall_ns())}"',
    )  # fmt: skip


def ohlc(listing: Listing, minutes: int, rows: Any, kind: Kind) -> bytes:
    """Return an ohlc frame."""
    return _frame("ohlc", kind, *(_bar(listing, minutes, row) for row in rows))


def _bar(listing: Listing, minutes: int, row: Any) -> str:
    begin = int(row["time"])
    prices = ",".join(
        f'"{name}":{listing.price(row[name])}' for name in ("open", "high", "low", "close")
    )
    return (
        f'"symbol":"{listing.wire}",{prices},"trades":{int(row["count"])},'
        f'"volume":{listing.size(row["volume"])},"vwap":{_vwap(listing, row)},'
        f'"interval_begin":"{stamp(begin * NS)[:-1]}000Z","interval":{minutes},'
        f'"timestamp":"{stamp((begin + minutes * 60) * NS)}"'
    )


def _vwap(listing: Listing, row: Any) -> str:
    """Return the average, which is cut to whole ticks; 0.0 without trades."""
    return listing.price(row["bar_wap"]) if row["count"] else "0.0"


def instrument(listing: Listing) -> dict[str, Any]:
    """Return a market of the instrument channel."""
    base, _, quote = listing.wire.partition("/")
    spec = listing.market.spec
    return {
        "symbol": listing.wire, "base": base, "quote": quote, "status": listing.status,
        "qty_precision": SIZE_DIGITS, "qty_increment": 10.0**-SIZE_DIGITS, "qty_min": spec.lot,
        "price_precision": listing.digits, "price_increment": spec.tick, "cost_precision": 5,
        "cost_min": 0.5, "marginable": False, "has_index": True,
    }  # fmt: skip


def asset(name: str) -> dict[str, Any]:
    """Return an asset of the instrument channel."""
    return {
        "id": name, "status": "enabled", "precision": 4 if name == "USD" else 10,
        "precision_display": 2 if name == "USD" else 5, "borrowable": False,
        "collateral_value": 0.0, "margin_rate": 0.0, "multiplier": 1.0, "class": "currency",
    }  # fmt: skip


# -- REST ----------------------------------------------------------------------------------------
def asset_pair(listing: Listing) -> dict[str, Any]:
    """Return a row of AssetPairs."""
    return {
        "altname": listing.altname, "wsname": listing.wsname, "aclass_base": "currency",
        "base": listing.base, "aclass_quote": "currency", "quote": "ZUSD", "lot": "unit",
        "cost_decimals": 5, "pair_decimals": listing.digits, "lot_decimals": SIZE_DIGITS,
        "lot_multiplier": 1, "leverage_buy": [], "leverage_sell": [], "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]], "fee_volume_currency": "ZUSD", "margin_call": 80,
        "margin_stop": 40, "ordermin": listing.size(listing.market.spec.lot), "costmin": "0.5",
        "tick_size": listing.price(listing.market.spec.tick), "status": listing.status,
        "execution_venue": "international",
    }  # fmt: skip


def assets(listing: Listing) -> dict[str, Any]:
    """Return the two assets of a market."""
    common = {"aclass": "currency", "display_decimals": 5, "status": "enabled"}
    return {
        listing.base: {**common, "altname": listing.wsname.partition("/")[0], "decimals": 10},
        "ZUSD": {**common, "altname": "USD", "decimals": 4},
    }


def rest_ticker(listing: Listing) -> dict[str, Any]:
    """Return a market of Ticker; its today is the last 24 hours, too."""
    top, last, day = listing.market.engine.top(), listing.market.last, listing.day()
    bid, bid_size = listing.level(top.bid, top.bid_size)
    ask, ask_size = listing.level(top.ask, top.ask_size)
    price, size = listing.price, listing.size
    newest = listing.tape.newest(1)[0]
    return {
        "a": [ask, "1", ask_size], "b": [bid, "1", bid_size],
        "c": list(listing.level(newest.price, newest.size)),
        "v": [size(day.volume)] * 2, "p": [price(day.wap)] * 2, "t": [day.trades] * 2,
        "l": [price(min(day.low, last))] * 2, "h": [price(max(day.high, last))] * 2,
        "o": price(day.open),
    }  # fmt: skip


def ohlc_row(listing: Listing, row: Any) -> list[Any]:
    """Return a row of OHLC."""
    prices = [listing.price(row[name]) for name in ("open", "high", "low", "close")]
    volume = listing.size(row["volume"])
    return [int(row["time"]), *prices, _vwap(listing, row), volume, int(row["count"])]


def trade_row(listing: Listing, fill: Fill) -> list[Any]:
    """Return a row of Trades."""
    side = "b" if fill.side == BUY else "s"
    return [*listing.level(fill.price, fill.size), fill.ns / NS, side, "m", "", fill.number]
