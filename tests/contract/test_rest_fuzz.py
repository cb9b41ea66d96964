"""REST answers that were changed on the way: an error with a name, or values that are possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piker.brokers import binance, kraken
from piker.brokers.quality import MAX_VALUE
from piker.errors import PikerError
from piker.ohlcv import KLINE_DTYPE
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow

REQUESTS = {"binance": 60, "kraken": 12}  # kraken's own limit is one a second
CASES = [
    (binance, "btcusdt.spot"),
    (binance, "btcusdt.usdtm.perp"),
    (binance, "btcusd.coinm.perp"),
    (kraken, "xbtusd.spot"),
]


def impossible(rows: np.ndarray[Any, Any]) -> list[Any]:
    """Return rows that no market could have."""
    good = (
        (rows["low"] > 0) & (rows["high"] < MAX_VALUE) & (rows["volume"] >= 0) & (rows["time"] > 0)
    )
    for name in ("open", "close"):
        good &= (rows["low"] <= rows[name]) & (rows[name] <= rows["high"])
    good[1:] &= np.diff(rows["time"]) > 0
    return rows[~good].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("backend", "symbol"), CASES, ids=[case[1] for case in CASES])
async def test_bars_are_possible_when_answers_are_garbled(
    piker_dirs: Path, backend: Any, symbol: str
) -> None:
    """History: every answer broken in its text or one of its numbers."""
    async with open_loopback(backend.api.PROVIDER, symbols=1, limits=False) as (venue, port):
        point_backend_at(backend.api.PROVIDER, port)
        await backend.get_mkt_info(symbol)
        told, kept, count = 0, 0, REQUESTS[backend.api.PROVIDER]
        async with backend.open_history_client(symbol) as (get_ohlc, _):
            for part in ("json", "number"):
                venue.gate.add_faults([Fault(what="garble", on="http", part=part)])  # type: ignore[arg-type]
                for _ in range(count // 2):
                    try:
                        rows, *_ = await get_ohlc(60.0)
                    except PikerError:
                        told += 1
                    else:
                        kept += 1
                        assert rows.dtype == KLINE_DTYPE
                        assert impossible(rows) == []
        assert told + kept == count
        assert told >= count // 2  # broken text can not be read
