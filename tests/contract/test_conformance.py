"""The conformance kit passes a sound backend and fails one that breaks a rule, for every rule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from piker.brokers.binance import api
from piker.testing import conformance
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow

SOUND = """
from contextlib import asynccontextmanager
import numpy as np, pendulum, socket, trio
from piker.brokers import DataUnavailable, SymbolNotFound
from piker.ticks import Outage, Resync
ohlc_dtype = np.dtype([(n, int if n in ('index', 'time', 'count') else float) for n in (
    'index', 'time', 'open', 'high', 'low', 'close', 'volume', 'count', 'bar_wap')])
broken = trio.Event() if False else None
state = {'cut': False}

async def stream_quotes(send_chan, symbols, shm, feed_is_live, loglevel=None,
                        task_status=trio.TASK_STATUS_IGNORED):
    first = {s: {'symbol': s, 'last': 100.0, 'ticks': []} for s in symbols}
    task_status.started(({s: {} for s in symbols}, first))
    feed_is_live.set()
    while True:
        if state.pop('cut', False):
            await send_chan.send(Outage('cut'))
            await send_chan.send(Resync('reconnect'))
        for symbol in symbols:
            await send_chan.send({'symbol': symbol, 'last': 100.0,
                                  'ticks': [{'type': 'trade', 'price': 100.0, 'size': 1.0}]})
        await trio.sleep(0.01)

@asynccontextmanager
async def open_history_client(symbol):
    async def get_ohlc(timeframe, end_dt=None, start_dt=None):
        if timeframe != 60:
            raise DataUnavailable('Only 1m bars are supported')
        last = int((end_dt or pendulum.now('UTC')).timestamp()) // 60 * 60 - 60 * bool(end_dt)
        array = np.zeros(10, ohlc_dtype)
        array['time'] = last - 60 * np.arange(9, -1, -1)
        for name in ('open', 'high', 'low', 'close'):
            array[name] = 100.0
        times = array['time']
        return array, pendulum.from_timestamp(times[0]), pendulum.from_timestamp(times[-1])
    yield get_ohlc, {}

async def search_symbols(pattern, limit=20):
    return []
"""
SOUND = SOUND.replace("async def search_symbols(pattern, limit=20):\n    return []\n", "")
SOUND = SOUND.replace("broken = trio.Event() if False else None\n", "")

# (rule, what is replaced, by what, what the kit must say)
BROKEN = [
    ("contract", "async def stream_quotes", "async def stream", "stream_quotes is missing"),
    ("start-up", "    task_status.started((", "    await trio.sleep(99)\n    ((", "not called"),
    ("start-up", "'last': 100.0, 'ticks': []", "'last': 'x', 'ticks': []", "not a positive number"),
    ("start-up", "symbols}, first)", "symbols}, {'y': {'last': 1}})", "no first quote"),
    ("live", "    feed_is_live.set()\n", "", "feed_is_live was not set"),
    ("live", "    while True:\n", "    await trio.sleep_forever()\n    while True:\n", "no tick"),
    ("quote schema", "'price': 100.0, 'size'", "'price': float('nan'), 'size'", "nan"),
    ("quote schema", "'size': 1.0", "'size': -1.0", "negative-size"),
    ("quote schema", "{'symbol': symbol, 'last'", "{'symbol': 'other', 'last'", "of 'other'"),
    ("quote schema", "'type': 'trade'", "'type': 'tarde'", "unknown tick type"),
    ("quote schema", "send_chan.send({'symbol'", "send_chan.send(5 or {'symbol'", "sent a int"),
    ("history", "- 60 * bool(end_dt)", "", "the end is exclusive"),
    ("history", "np.arange(9, -1, -1)", "np.arange(0, 10)", "ascend"),
    ("history", "array[name] = 100.0", "array[name] = float('inf')", "positive number"),
    ("history", "raise DataUnavailable('O", "raise ValueError('O", "raised ValueError"),
    ("history", "raise DataUnavailable('Only 1m bars are supported')", "pass", "DataUnavailable"),
    ("history", "pendulum.from_timestamp(times[0])", "pendulum.now('UTC')", "first datetime"),
    ("reconnect", "await send_chan.send(Outage('cut'))", "return", "no tick|neither|ended"),
    ("reconnect", "state.pop('cut', False)", "False", "neither Outage nor Resync"),
    ("slow consumer", "await send_chan.send({", "send_chan.send_nowait({", "WouldBlock"),
    ("cancellation", "    feed_is_live.set()\n",
     "    feed_is_live.set()\n    state['leak'] = [socket.socket()] + state.get('leak', [])\n",
     "stayed open"),
    ("cancellation", "        await trio.sleep(0.01)\n",
     "        try:\n            await trio.sleep(0.01)\n        except trio.Cancelled:\n"
     "            with trio.CancelScope(shield=True):\n                await trio.sleep(1)\n"
     "            raise\n",
     "to end after"),
]  # fmt: skip
SEARCHABLE = """
async def search_symbols(pattern, limit=20):
    return ['xyz']
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the kit's patience: these backends answer at once or never."""
    for name, seconds in (
        ("START_S", 0.6), ("LIVE_S", 0.6), ("WATCH_S", 0.2), ("STALL_S", 0.2), ("CANCEL_S", 0.5),
    ):  # fmt: skip
        monkeypatch.setattr(conformance, name, seconds)


async def results_of(
    folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, conformance.RuleResult]:
    """Run the kit on a module written for the test."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))

    async def cut() -> None:
        sys.modules[name].state["cut"] = True

    found: dict[str, conformance.RuleResult] = {}
    with trio.fail_after(60):
        async for result in conformance.check_provider(
            name, symbol="xyz", modules=(name,), break_hook=cut
        ):
            found[result.rule] = result
    for leaked in getattr(sys.modules.get(name), "state", {}).pop("leak", []):
        leaked.close()
    return found


@pytest.mark.usefixtures("quick")
async def test_sound_backend_passes_every_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails, and only search is skipped: it has a default."""
    found = await results_of(tmp_path, "sound", SOUND, monkeypatch)
    assert {rule: result.status for rule, result in found.items()} == {
        "contract": "pass",
        **dict.fromkeys(conformance.RULES, "pass"),
        "search": "skip",
    }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", range(len(BROKEN)))
async def test_broken_backend_fails_the_rule_it_breaks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each planted fault fails its rule with a sentence that names it."""
    rule, old, new, said = BROKEN[number]
    assert SOUND.count(old) >= 1
    found = await results_of(tmp_path, f"broken{number}", SOUND.replace(old, new), monkeypatch)
    assert found[rule].status == "fail", found
    assert any(part in found[rule].detail for part in said.split("|")), found[rule].detail


@pytest.mark.usefixtures("quick")
async def test_search_that_returns_no_markets_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optional endpoint that is there must keep its contract."""
    found = await results_of(tmp_path, "searchable", SOUND + SEARCHABLE, monkeypatch)
    assert found["search"].status == "fail"
    assert "MktPair" in found["search"].detail


async def test_binance_passes_every_rule_on_its_loopback_venue(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped backend streams, reconnects and is cancelled against real sockets."""
    monkeypatch.setattr(api, "_cache", {})
    monkeypatch.setattr(conformance, "WATCH_S", 0.5)
    monkeypatch.setattr(conformance, "STALL_S", 0.5)
    async with open_loopback("binance", rate=100) as (venue, port):
        point_backend_at("binance", port)

        async def cut() -> None:
            venue.cut(refuse_s=0.3)

        found = [
            result
            async for result in conformance.check_provider(
                "binance", symbol="btcusdt.spot", break_hook=cut
            )
        ]
    assert [result for result in found if result.status != "pass"] == []
