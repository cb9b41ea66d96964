"""The markets of the loopback Binance: spot, perpetuals, and quarterly futures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from piker.ohlcv import Timeframe
from piker.testing.bar_table import BarTable, GivenBars, digits_of
from piker.testing.synthetic import MarketSpec, SyntheticMarket

__all__ = [
    "KINDS",
    "Listing",
    "expired_listing",
    "given_listings",
    "make_listings",
    "quarter_ends",
]

KINDS = ("spot", "usdm", "coinm")
QUARTERLY = 2  # so many of the first markets have quarterly futures, as BTC and ETH do
BASIS = 0.004  # a quarterly future stands so much above spot for each quarter until delivery
DELIVERY_HOUR = 8  # UTC
#: The first trades of the oldest markets there (BTCUSDT); ours all began then.
LISTED_S = {"spot": 1_502_942_400, "usdm": 1_569_398_400, "coinm": 1_569_398_400}
DAY_S = 86_400
DATED_S = 182 * 86_400  # a quarterly future is listed so long before its delivery
_QUOTES = ("USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USD", "EUR", "TRY", "BRL", "BTC", "ETH", "BNB")
_BASES = (
    ("BTC", 60_000.0, 0.01, 0.00001), ("ETH", 3_000.0, 0.01, 0.0001), ("SOL", 150.0, 0.01, 0.001),
    ("BNB", 600.0, 0.1, 0.001), ("XRP", 0.6, 0.0001, 1.0), ("ADA", 0.4, 0.0001, 1.0),
    ("DOGE", 0.12, 0.00001, 1.0),
)  # fmt: skip


class Listing:
    """One market of one kind, with its synthetic engine."""

    def __init__(
        self,
        kind: str,
        wire: str,
        market: SyntheticMarket,
        *,
        contract: str = "",
        delivery_ms: int = 0,
        listed_s: int = 0,
        given: Mapping[str, BarTable] | None = None,
    ) -> None:
        self.kind = kind  # one of KINDS
        self.wire = wire  # the venue's symbol
        self.name = wire.lower()  # in names of streams
        self.pair = wire.partition("_")[0]
        self.spec = market.spec
        self.market = market
        self.contract = contract  # contractType; empty for spot
        self.delivery_ms = delivery_ms  # 0 where there is none
        self.listed_s = listed_s or LISTED_S[kind]  # there are no bars before
        self.status = "TRADING"  # what exchangeInfo says; another one once it has ended
        self.ended_s = 0  # no bar opens from then on; 0 while it is traded
        self.given = given  # its bars by interval, where they are given and not made
        self.contract_size = 0  # of an inverse market, in its quote asset
        if kind == "coinm":
            self.contract_size = 100 if self.spec.base == "BTC" else 10

    def grid(self, interval: str) -> Timeframe:
        """Return the bars of an interval: three-day ones are counted from the day of listing."""
        origin_s = self.listed_s // DAY_S * DAY_S if interval == "3d" else None
        return Timeframe(interval, origin_s=origin_s)

    def turnover(self, size: Any, price: Any) -> Any:  # Any: floats, or arrays of them
        """Return what ``size`` is worth: in quote, or in base where sizes are contracts."""
        return size * self.contract_size / price if self.contract_size else size * price


def make_listings(count: int, seed: int, start_s: int) -> dict[tuple[str, str], Listing]:
    """Return ``count`` markets of each kind by (kind, symbol), and some quarterly futures."""
    found: dict[tuple[str, str], Listing] = {}
    for number, spec in enumerate(_specs(count)):
        inverse = spec._replace(quote="USD", lot=1.0)
        rows = [("spot", spec.symbol, spec, "", 0), ("usdm", spec.symbol, spec, "PERPETUAL", 0),
                ("coinm", f"{spec.base}USD_PERP", inverse, "PERPETUAL", 0)]  # fmt: skip
        for ahead, end in enumerate(quarter_ends(start_s) if number < QUARTERLY else ()):
            contract = ("CURRENT_QUARTER", "NEXT_QUARTER")[ahead]
            above = 1 + BASIS * (ahead + 1)
            for kind, pair, of in (
                ("usdm", spec.symbol, spec), ("coinm", f"{spec.base}USD", inverse)
            ):  # fmt: skip
                dated = of._replace(price=of.price * above)
                wire = f"{pair}_{end:%y%m%d}"
                rows.append((kind, wire, dated, contract, int(end.timestamp() * 1000)))
        for kind, wire, of, contract, delivery_ms in rows:
            market = SyntheticMarket(of, seed, start_s)
            found[kind, wire] = Listing(
                kind, wire, market, contract=contract, delivery_ms=delivery_ms,
                listed_s=delivery_ms // 1000 - DATED_S if delivery_ms else 0,
            )  # fmt: skip
    return found


def expired_listing(perpetual: Listing, wire: str, seed: int, start_s: int) -> Listing:
    """Return a quarterly future of a perpetual's pair that was delivered on the day in its name.

    It has had bars up to the delivery, and trades no more.
    """
    day = datetime.strptime(wire.rpartition("_")[2], "%y%m%d").replace(tzinfo=UTC)
    end_s = int(day.timestamp()) + DELIVERY_HOUR * 3600
    spec = perpetual.spec._replace(price=perpetual.spec.price * (1 + BASIS))
    found = Listing(
        perpetual.kind, wire, SyntheticMarket(spec, seed, start_s), contract="CURRENT_QUARTER",
        delivery_ms=end_s * 1000, listed_s=end_s - DATED_S,
    )  # fmt: skip
    found.ended_s = end_s
    return found


def given_listings(given: GivenBars, seed: int, start_s: int) -> dict[tuple[str, str], Listing]:
    """Return the markets of given bars; their steps are read off the numbers.

    Their book and trades are synthetic, around the last close.
    """
    found: dict[tuple[str, str], Listing] = {}
    for (kind, wire), tables in given.items():
        rows = [row for table in tables.values() for row in table.numbers()]
        tick = 10.0 ** -digits_of(text for prices, _ in rows for text in prices)
        lot = 1.0 if kind == "coinm" else 10.0 ** -digits_of(volume for _, volume in rows)
        base, quote = _assets(wire.partition("_")[0])
        spec = MarketSpec(wire, base, quote, float(rows[-1][0][3]), tick, lot)
        found[kind, wire] = Listing(
            kind, wire, SyntheticMarket(spec, seed, start_s),
            contract="" if kind == "spot" else "PERPETUAL",
            listed_s=min(table.first_s for table in tables.values()), given=tables,
        )  # fmt: skip
    return found


def _assets(pair: str) -> tuple[str, str]:
    """Return (base, quote) of a symbol: it ends in a known quote, or in three letters."""
    match = re.fullmatch(rf"(.+?)({'|'.join(_QUOTES)})", pair)
    return (match[1], match[2]) if match else (pair[:-3] or pair, pair[-3:])


def quarter_ends(now_s: int) -> tuple[datetime, datetime]:
    """Return the deliveries of this and the next quarterly future: last Fridays, 08:00 UTC."""
    now = datetime.fromtimestamp(now_s, UTC)
    ends = []
    for quarter in range(now.year * 4 + (now.month - 1) // 3, now.year * 4 + 8):
        after = date(quarter // 4, quarter % 4 * 3 + 3, 1) + timedelta(days=31)
        last = after.replace(day=1) - timedelta(days=1)  # of the quarter's last month
        friday = last - timedelta(days=(last.weekday() - 4) % 7)
        end = datetime(friday.year, friday.month, friday.day, DELIVERY_HOUR, tzinfo=UTC)
        if end > now:
            ends.append(end)
    return ends[0], ends[1]


def _specs(count: int) -> list[MarketSpec]:
    """Return ``count`` markets: the well-known ones, then numbered ones."""
    specs = [
        MarketSpec(f"{base}USDT", base, "USDT", price, tick, lot)
        for base, price, tick, lot in _BASES[:count]
    ]
    for number in range(len(specs), count):
        base = f"C{number:03d}"
        specs.append(MarketSpec(f"{base}USDT", base, "USDT", 10.0 + number, 0.01, 0.001))
    return specs
