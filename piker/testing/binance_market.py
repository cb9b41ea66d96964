"""The markets of the loopback Binance: spot, perpetuals, and quarterly futures."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from piker.testing.synthetic import MarketSpec, SyntheticMarket

__all__ = ["KINDS", "Listing", "make_listings", "quarter_ends"]

KINDS = ("spot", "usdm", "coinm")
QUARTERLY = 2  # so many of the first markets have quarterly futures, as BTC and ETH do
BASIS = 0.004  # a quarterly future stands so much above spot for each quarter until delivery
DELIVERY_HOUR = 8  # UTC
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
    ) -> None:
        self.kind = kind  # one of KINDS
        self.wire = wire  # the venue's symbol
        self.name = wire.lower()  # in names of streams
        self.pair = wire.partition("_")[0]
        self.spec = market.spec
        self.market = market
        self.contract = contract  # contractType; empty for spot
        self.delivery_ms = delivery_ms  # 0 where there is none
        self.contract_size = 0  # of an inverse market, in its quote asset
        if kind == "coinm":
            self.contract_size = 100 if self.spec.base == "BTC" else 10

    def turnover(self, size: float, price: float) -> float:
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
                kind, wire, market, contract=contract, delivery_ms=delivery_ms
            )
    return found


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
