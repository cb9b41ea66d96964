"""The dead man's switch of USD-M: orders are canceled by the venue when nobody is heard any more.

``countdownCancelAll`` is said for each market where orders of the account stand, and again in a
quarter of its time; 0 takes it back where none is left, and at the dialog's end. It concerns every
order of the account in that market, but for conditional ones. Spot has no such thing.
"""

from __future__ import annotations

import trio

from piker.brokers.binance.broker_sync import Venue
from piker.brokers.binance.broker_usdm import UsdmDesk
from piker.errors import BrokerError
from piker.log import get_logger

__all__ = ["DISARM_S", "DeadMan"]

log = get_logger("binance.broker")

LOOK_S = 0.5  # how soon a market's first order is guarded
PARTS = 4  # of its time after which the switch is set again: three may fail
DISARM_S = 2.0  # the dialog's end waits for it no longer


class DeadMan:
    """Keeps the switch of every market where orders stand."""

    def __init__(self, venue: Venue, desk: UsdmDesk, *, after_s: int) -> None:
        self._venue = venue
        self._desk = desk
        self._after_s = after_s
        self._armed: dict[str, float] = {}  # market -> when it was said last, by trio's clock

    async def run(self) -> None:
        """Arm, arm again and disarm, for ever."""
        while True:
            standing = self._venue.open_symbols
            now = trio.current_time()
            for symbol in standing:
                if now - self._armed.get(symbol, -1e9) >= self._after_s / PARTS:
                    await self._say(symbol, self._after_s)
            for symbol in set(self._armed) - standing:
                await self._say(symbol, 0)
            await trio.sleep(LOOK_S)

    async def disarm(self) -> None:
        """Take every switch back: in ``DISARM_S``, or not at all. Not ended by cancellation."""
        with trio.move_on_after(DISARM_S) as scope:
            scope.shield = True
            async with trio.open_nursery() as nursery:
                for symbol in list(self._armed):
                    nursery.start_soon(self._say, symbol, 0)
        if self._armed:
            log.error("binance.still_armed", symbols=sorted(self._armed), after_s=self._after_s)

    async def _say(self, symbol: str, after_s: int) -> None:
        now = trio.current_time()
        if after_s:
            self._armed.setdefault(symbol, -1e9)  # it may be set though no answer comes
        try:
            await self._desk.count_down(symbol, after_s * 1000)
        except BrokerError as error:
            log.warning("binance.dead_man", symbol=symbol, after_s=after_s, why=error)
            return
        if after_s:
            self._armed[symbol] = now
        else:
            self._armed.pop(symbol, None)
