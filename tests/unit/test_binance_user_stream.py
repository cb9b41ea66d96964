"""What Binance's user stream makes of answers that make no sense."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from piker.brokers.binance.broker_stream import ANSWER_S, _SpotStream


@pytest.mark.parametrize(
    "said", [{"status": 400, "error": None}, {"status": 400, "error": {"code": "-1021"}}]
)
async def test_connection_is_given_up_when_the_answer_to_a_subscription_can_not_be_read(
    said: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """Nothing is subscribed then, and nothing would ever come: the account would wait for ever."""
    resets, sent = list[str](), list[str]()

    async def ready() -> None: ...

    async def send(text: str) -> None:
        sent.append(text)

    signed: Any = SimpleNamespace(clock=SimpleNamespace(ready=ready), ws_params=lambda _: {})
    ws: Any = SimpleNamespace(reset=resets.append)
    hears: Any = None
    stream = _SpotStream(signed, hears)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.watch, ws)
        link: Any = SimpleNamespace(send=send)
        await stream.subscribe(link)
        with pytest.raises(msgspec.DecodeError):
            await stream.frame(ws, msgspec.json.encode({"id": "subscribe-1", **said}))
        await trio.sleep(ANSWER_S + 1)
        assert resets == ["the subscription was not answered"]
        nursery.cancel_scope.cancel()
