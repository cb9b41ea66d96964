"""Market data: shared memory, sampling, and feeds.

from piker.data import attach
flume = attach("btcusdt.spot.binance")     # next to a running feed; no daemon is asked
flume.bars_1m.read()
"""

from piker.data.attach import AttachedFlume, attach

__all__ = ["AttachedFlume", "attach"]
