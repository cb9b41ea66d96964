"""Replay: events a second through the whole path, beside nautilus_trader and a plain loop.

Three strategies on the same quotes, a random walk: one that does nothing, one that places a limit
order every ten quotes and cancels it five later, one that sends a market order every ten. Each
measurement is a process of its own; ours and nautilus_trader's (compiled, its BacktestEngine in an
environment of its own under .peers/, where it is installed) take turns, and medians are printed.
Every measurement begins with the quotes in memory, as that engine wants them; ``frames`` is ours
from the venue's own frames, decoded as they come. The plain loop is the same decisions in Python,
with no clock, account, journal or venue. To have the peer there:

    python -m venv .peers/nautilus_trader
    uv pip install --python .peers/nautilus_trader nautilus_trader==1.221.0
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

PEER = Path(__file__).resolve().parents[1] / ".peers" / "nautilus_trader" / "bin" / "python"
STRATEGIES = ("idle", "limits", "markets")
EVERY, AFTER = 10, 5  # quotes between two orders; and until one is canceled
LATENCY_MS = 20
BEGAN_NS, STEP_NS = 1_700_000_000 * 10**9, 10_000_000
SIZE, AWAY = "0.01", 500  # cents below the bid, where limit orders stand


def walk(count: int) -> list[tuple[int, int]]:
    """Return (time, bid in cents) of each quote."""
    chance, cents, found = random.Random(5), 5_000_000, []
    for number in range(count):
        cents += chance.choice((-1, 0, 1))
        found.append((BEGAN_NS + number * STEP_NS, cents))
    return found


def timed(run: Any) -> float:
    """Return the CPU seconds of a call: of one thread, whoever else uses the machine.

    Nobody sweeps what was there before it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    began = time.process_time()
    run()
    return time.process_time() - began


# -- ours --------------------------------------------------------------------------------------
def market() -> Any:
    """Return the market."""
    from piker.market import Asset, AssetType, MktPair

    return MktPair(
        fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT", dst=Asset("btc", AssetType.CRYPTO),
        src=Asset("usdt", AssetType.CRYPTO), price_tick=Decimal("0.01"), size_tick=Decimal("0.001"),
    )  # fmt: skip


def moments(count: int) -> list[Any]:
    """Return the walk as a feed shows it."""
    from piker.ticks import Quote, Tick, TickType

    fqme, found = market().fqme, []
    for at, cents in walk(count):
        bid, ask = cents / 100, (cents + 2) / 100
        ticks = [Tick(TickType.BID, bid, 10.0, at), Tick(TickType.ASK, ask, 10.0, at)]
        found.append((at, {fqme: Quote(fqme, None, bid, 10.0, ask, 10.0, at, ticks)}))
    return found


def frames(count: int) -> Any:
    """Return an iterator over the walk, decoded from frames as it goes, one frame a read."""
    from piker.brokers.binance.decode import Decoder
    from piker.brokers.quality import QualityLog
    from piker.clearing import replay_feed
    from piker.ticks import TickBatch

    form = (
        b'{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"%.2f",'
        b'"B":"10.00000","a":"%.2f","A":"10.00000"}}'
    )
    wire = [
        (at, form % (at // STEP_NS, cents / 100, (cents + 2) / 100)) for at, cents in walk(count)
    ]
    decoder = Decoder({"BTCUSDT": "btcusdt.spot"}, QualityLog("binance"))
    told = (TickBatch(decoder.decode([frame], at), at) for at, frame in wire)
    return replay_feed.moments(told, {"btcusdt.spot": market().fqme})


async def idle(feed: Any, ems: Any) -> None:
    """Read."""
    async for _ in feed:
        pass


async def limits(feed: Any, ems: Any) -> None:
    """Place and cancel."""
    fqme, number, oid = market().fqme, 0, ""
    async for item in feed:
        number += 1
        if number % EVERY == 0:
            price = f"{item[fqme].bid - AWAY / 100:.2f}"
            oid = (await ems.send(ems.order(fqme, "buy", SIZE, price=price))).oid
        elif number % EVERY == AFTER and oid:
            await ems.cancel(oid)


async def markets(feed: Any, ems: Any) -> None:
    """Buy, and sell."""
    fqme, number = market().fqme, 0
    async for _ in feed:
        number += 1
        if number % EVERY == 0:
            await ems.send(ems.order(fqme, "buy" if number % (2 * EVERY) else "sell", SIZE))


def ours(what: str, count: int) -> dict[str, Any]:
    """Measure a replay."""
    from piker.clearing.replay import Replay
    from piker.clearing.risk import Limits

    wide = Limits(
        messages=10**9, order_notional=Decimal(10**9), gross_exposure=Decimal(10**12),
        daily_loss=Decimal(10**9), duplicate_s=0.0,
    )  # fmt: skip
    body = {"idle": idle, "frames": idle, "limits": limits, "markets": markets}[what]
    told = frames(count) if what == "frames" else moments(count)
    replay = Replay([market()], told, limits=wide, latency_ms=LATENCY_MS)
    results: list[Any] = []
    took = timed(lambda: results.append(replay.run(body)))
    ended: dict[str, int] = {}
    for status in results[0].client.dialogs.values():
        ended[str(status.resp)] = ended.get(str(status.resp), 0) + 1
    return {"s": took, "orders": ended, "journal": results[0].journal.chain.hex()}


# -- nautilus_trader ---------------------------------------------------------------------------
def peer(what: str, count: int) -> dict[str, Any]:
    """Measure nautilus_trader's BacktestEngine; runs in its own environment."""
    import nautilus_trader
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.backtest.models import LatencyModel
    from nautilus_trader.config import LoggingConfig, RiskEngineConfig
    from nautilus_trader.model.currencies import BTC, USDT
    from nautilus_trader.model.data import QuoteTick
    from nautilus_trader.model.enums import AccountType, OmsType
    from nautilus_trader.model.identifiers import TraderId, Venue
    from nautilus_trader.model.objects import Money
    from nautilus_trader.test_kit.providers import TestInstrumentProvider

    rate = "1000000/00:00:01"
    risk = RiskEngineConfig(max_order_submit_rate=rate, max_order_modify_rate=rate)
    engine = BacktestEngine(
        BacktestEngineConfig(
            trader_id=TraderId("T-001"),
            logging=LoggingConfig(bypass_logging=True),
            risk_engine=risk,
        )
    )
    pair = TestInstrumentProvider.btcusdt_binance()
    engine.add_venue(
        venue=Venue("BINANCE"), oms_type=OmsType.NETTING, account_type=AccountType.CASH,
        base_currency=None, starting_balances=[Money(1e9, USDT), Money(1e4, BTC)],
        latency_model=LatencyModel(base_latency_nanos=LATENCY_MS * 1_000_000),
    )  # fmt: skip
    engine.add_instrument(pair)
    engine.add_data([
        QuoteTick(pair.id, pair.make_price(cents / 100), pair.make_price((cents + 2) / 100),
                  pair.make_qty(10), pair.make_qty(10), at, at)
        for at, cents in walk(count)
    ])  # fmt: skip
    engine.add_strategy(peer_strategy(what, pair))
    took = timed(engine.run)
    ended: dict[str, int] = {}
    for order in engine.cache.orders():
        ended[order.status_string()] = ended.get(order.status_string(), 0) + 1
    return {"s": took, "orders": ended, "version": nautilus_trader.__version__}


def peer_strategy(what: str, pair: Any) -> Any:
    """Return the same strategy as one of nautilus_trader's."""
    from nautilus_trader.model.enums import OrderSide
    from nautilus_trader.trading.strategy import Strategy

    class Idle(Strategy):  # type: ignore[misc]
        def on_start(self) -> None:
            self.number, self.order = 0, None
            self.subscribe_quote_ticks(pair.id)

        def on_quote_tick(self, quote: Any) -> None:
            pass

    class Limits(Idle):
        def on_quote_tick(self, quote: Any) -> None:
            self.number += 1
            if self.number % EVERY == 0:
                price = pair.make_price(float(quote.bid_price) - AWAY / 100)
                size = pair.make_qty(float(SIZE))
                self.order = self.order_factory.limit(pair.id, OrderSide.BUY, size, price)
                self.submit_order(self.order)
            elif self.number % EVERY == AFTER and self.order is not None:
                self.cancel_order(self.order)

    class Markets(Idle):
        def on_quote_tick(self, quote: Any) -> None:
            self.number += 1
            if self.number % EVERY == 0:
                side = OrderSide.BUY if self.number % (2 * EVERY) else OrderSide.SELL
                size = pair.make_qty(float(SIZE))
                self.submit_order(self.order_factory.market(pair.id, side, size))

    return {"idle": Idle, "limits": Limits, "markets": Markets}[what]()


# -- the plain loop ----------------------------------------------------------------------------
def plain(what: str, count: int) -> dict[str, Any]:
    """Measure the decisions alone."""
    told, fqme = moments(count), market().fqme

    def run() -> None:
        number, standing = 0, {}
        for _, item in told:
            number += 1
            if what == "idle":
                continue
            if number % EVERY == 0:
                standing[number] = (SIZE, item[fqme].bid - AWAY / 100)
            elif number % EVERY == AFTER:
                standing.pop(number - AFTER, None)

    return {"s": timed(run)}


SIDES = {"ours": ours, "peer": peer, "plain": plain}


def measured(side: str, what: str, count: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    python = str(PEER) if side == "peer" else sys.executable
    command = [python, __file__, "--side", side, "--what", what, "--quotes", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(what: str, count: int, times: int) -> dict[str, Any]:
    """Let both take turns; return medians, of what is counted in a second."""
    per = count if what in ("idle", "frames") else count // EVERY
    sides = ["ours"] + (["peer"] if PEER.exists() and what != "frames" else [])
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(times):
        for side in sides:
            found[side].append(measured(side, what, count))
    rates = {
        side: per / statistics.median(one["s"] for one in runs) for side, runs in found.items()
    }
    said: dict[str, Any] = {f"{side}_per_s": round(rate) for side, rate in rates.items()}
    hashes = {one["journal"] for one in found["ours"]}
    assert len(hashes) == 1, hashes
    said["orders"] = found["ours"][0]["orders"]
    if "peer" in found:
        said["ratio"] = round(rates["ours"] / rates["peer"], 2)
        said["peer_orders"] = found["peer"][0]["orders"]
        said["peer"] = f"nautilus_trader {found['peer'][0]['version']}"
    if what != "frames":
        said["plain_loop_quotes_per_s"] = round(count / measured("plain", what, count)["s"])
    return said


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quotes", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--what", default="idle", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(SIDES[asked.side](asked.what, asked.quotes)))
        return
    found = {what: compare(what, asked.quotes, asked.times) for what in (*STRATEGIES, "frames")}
    print(json.dumps({"benchmark": "replay", "quotes": asked.quotes, **found}))


if __name__ == "__main__":
    main()
