"""Binance's user streams by themselves: what whoever hears them is told, and in which order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from account_client import ALICE, loopback
from binance_broker_client import ACCOUNT, credentials_of, point_at

from piker.brokers.binance.broker_rest import open_signed
from piker.brokers.binance.broker_stream import listen_usdm
from piker.brokers.signing import binance_signer


class Slow:
    """Who hears a user stream, and is busy with its first event until told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.free = trio.Event()

    def subscribed(self) -> None:
        """Note it."""
        self.calls.append("subscribed")

    def lost(self, reason: str) -> None:
        """Note it."""
        self.calls.append("lost")

    def doubted(self, reason: str) -> None:
        """Note it."""
        self.calls.append("doubted")

    async def event(self, kind: str, raw: bytes) -> None:
        """Be busy."""
        self.calls.append("event")
        await self.free.wait()


@pytest.mark.slow
async def test_a_loss_is_told_before_the_next_connection_when_the_hearer_is_slow(
    piker_dirs: Path,
) -> None:
    """USD-M's address alone subscribes: it may be there again before the loss was heard of."""
    async with loopback() as (venue, alice, _, _), trio.open_nursery() as nursery:
        point_at(alice.port)
        keys = credentials_of(ALICE)
        sign = binance_signer(keys.secret)
        signing = open_signed("usdm", ACCOUNT, sign, keys.key, window_ms=5000)
        async with signing as signed:
            hears = Slow()
            nursery.start_soon(listen_usdm, signed, hears)
            await _until(lambda: hears.calls == ["subscribed"])
            said = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.001"}
            await alice.ask("POST", "/fapi/v1/order", **said)
            await _until(lambda: hears.calls[-1] == "event")
            for _ in range(2):  # what is lost again was there
                before = venue.gate.counters.upgraded
                venue.cut()
                await _until(partial(_more_than, venue.gate.counters, before))
            hears.free.set()
            await _until(lambda: hears.calls.count("subscribed") == 2)
            await _until(lambda: "lost" in hears.calls)
            assert [one for one in hears.calls if one != "event"] == [
                "subscribed", "lost", "subscribed",
            ]  # fmt: skip
            nursery.cancel_scope.cancel()


def _more_than(counters: Any, before: int) -> bool:
    return bool(counters.upgraded > before)


async def _until(what: Any) -> None:
    with trio.fail_after(20):
        while not what():
            await trio.sleep(0.005)
