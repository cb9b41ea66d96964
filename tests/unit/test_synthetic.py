"""The synthetic market stays believable whatever those who trade in it do."""

from __future__ import annotations

import pytest

from piker.testing.engine import BUY, SELL
from piker.testing.synthetic import MarketSpec, SyntheticMarket

SPEC = MarketSpec("BTCUSDT", "BTC", "USDT", 61_000.0, 0.01, 0.00001)


@pytest.mark.parametrize("side", [BUY, SELL])
@pytest.mark.parametrize("seed", range(8))
def test_price_does_not_fall_to_orders_far_away_when_the_book_is_swept(
    side: int, seed: int
) -> None:
    """A dozen stand at half the price, or at twice; they are no part of the flow's book."""
    market = SyntheticMarket(SPEC, seed, 1_700_000_000)
    begun = market.last
    ticks = round(begun / SPEC.tick)
    far = ticks // 2 if side == BUY else ticks * 2
    kept = [market.place(side, far - side * at, 1000, 0)[0] for at in range(12)]
    for at in range(300):
        depth = market.engine.depth(side, 200)
        near = sum(size for price, size in depth if abs(price - ticks) < ticks // 10)
        market.place(-side, None, near, at)  # all there is
        for _ in range(20):
            market.step(at)
            assert abs(market.last / begun - 1) < 0.2
    assert set(kept) <= set(market.engine.orders())


@pytest.mark.parametrize("seed", range(4))
def test_price_is_within_three_percent_of_the_listed_one_on_every_day(seed: int) -> None:
    """Tests and examples have prices written into them: they mean the same whenever they run."""
    market = SyntheticMarket(SPEC, seed, 1_700_000_000)
    path = market.path(range(1_700_000_000, 1_700_000_000 + 400 * 86_400, 977))
    assert abs(path / SPEC.price - 1).max() < 0.03
    assert path.max() / path.min() > 1.02  # but it moves
