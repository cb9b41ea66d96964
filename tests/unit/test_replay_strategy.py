"""Strategy files, their options, and what a recording's rows become for them."""

from __future__ import annotations

import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.clearing.replay_feed import moments
from piker.clearing.strategy import Strategy, load_strategy
from piker.data.quotes import QuoteMaker
from piker.errors import ConfigError
from piker.ticks import TICK_FORMAT, Outage, Quote, Resync, TickBatch, TickRow, TickType

FQME = "btcusdt.spot.binance"
GOOD = """
from __future__ import annotations
from decimal import Decimal
MARKETS = ("BTCUSDT.spot.binance",)
async def strategy(feed, ems, size=Decimal("0.1"), *, levels: int = 3, quiet=False, word="", x=1.5):
    return size, levels, quiet, word, x
"""


def written(folder: Path, text: str) -> Strategy:
    """Return the strategy of a file with that text."""
    path = folder / f"s{abs(hash(text))}.py"
    path.write_text(text)
    return load_strategy(path)


# -- files -------------------------------------------------------------------------------------
def test_strategy_is_loaded_when_its_file_is_good(tmp_path: Path) -> None:
    """With its markets as they are addressed, and its options by name."""
    found = written(tmp_path, GOOD)
    assert found.markets == (FQME,)
    assert list(found.params) == ["size", "levels", "quiet", "word", "x"]


async def test_options_have_the_types_of_their_defaults_when_read(tmp_path: Path) -> None:
    """Decimal stays exact; an annotation counts before a default."""
    found = written(tmp_path, GOOD)
    given_ = ["size=0.300", "levels=5", "quiet=yes", "word=a=b", "x=2"]
    run: Any = found.bind(given_)
    assert await run(None, None) == (Decimal("0.300"), 5, True, "a=b", 2.0)
    assert await found.bind(())(None, None) == (Decimal("0.1"), 3, False, "", 1.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("levels=2.5", "a whole number"),
        ("size=NaN", "not a number"),
        ("size=much", "not a number"),
        ("quiet=perhaps", "true or false"),
        ("level=2", "has no option 'level'"),
        ("levels", "is no option"),
        ("two words=2", "is no option"),
    ],
)
def test_option_is_refused_in_words_when_it_can_not_be(
    tmp_path: Path, text: str, said: str
) -> None:
    """Before anything is started."""
    with pytest.raises(ConfigError, match=said):
        written(tmp_path, GOOD).bind([text])


async def test_any_option_is_handed_on_when_the_strategy_takes_any(tmp_path: Path) -> None:
    """As the text that was given; one without a default is asked for."""
    found = written(tmp_path, "async def strategy(feed, ems, *, size, **rest): return size, rest")
    assert await found.bind(["size=1", "odd=2"])(None, None) == ("1", {"odd": "2"})
    with pytest.raises(ConfigError, match="needs the option 'size'"):
        found.bind(["odd=2"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "no function `strategy`"),
        ("def strategy(feed, ems): pass", "no async function"),
        ("async def strategy(feed): pass", r"does not take \(feed, ems\)"),
        ("async def strategy(feed, ems, *more): pass", "have no names"),
        ("async def strategy(feed, ems:", r":1: '\(' was never closed"),
        ("x = 1\n1 / 0\nasync def strategy(feed, ems): pass", r":2: ZeroDivisionError"),
        ("MARKETS = 5\nasync def strategy(feed, ems): pass", "no tuple of market addresses"),
        ("MARKETS = ['x']\nasync def strategy(feed, ems): pass", "not a market address"),
    ],
)
def test_file_is_refused_with_its_line_when_it_is_no_strategy(
    tmp_path: Path, text: str, said: str
) -> None:
    """A sentence that says what to mend."""
    with pytest.raises(ConfigError, match=said):
        written(tmp_path, text)


def test_missing_file_is_refused_with_the_nearest_name_when_there_is_one(tmp_path: Path) -> None:
    """A typing mistake is told as one."""
    (tmp_path / "grid.py").write_text("")
    with pytest.raises(ConfigError) as told:
        load_strategy(tmp_path / "gird.py")
    assert "grid.py" in told.value.remedy


# -- moments -----------------------------------------------------------------------------------
KINDS = st.sampled_from([int(kind) for kind in TickType])
NUMBERS = st.floats(0, 1e6, allow_nan=False).map(lambda number: round(number, 2))
ROWS = st.tuples(
    st.just("btcusdt.spot"), KINDS, st.integers(1, 10**18), NUMBERS, NUMBERS, NUMBERS, NUMBERS,
    st.sampled_from([-1, 0, 1]), st.integers(-1, 10**9),
)  # fmt: skip


@given(st.lists(st.lists(ROWS, min_size=1, max_size=5), max_size=8))
def test_moments_are_a_live_clients_quotes_when_folded(batches: list[list[TickRow]]) -> None:
    """To the last field: of the same rows as a client finds them in the ring."""
    told = [TickBatch(rows, 1000 + number) for number, rows in enumerate(batches)]
    found = [item for _, item in moments(told, {"btcusdt.spot": FQME})]
    maker = QuoteMaker(Quote(FQME))
    packed = [
        b"".join(
            struct.pack(
                TICK_FORMAT, 0, time_ns, price, size, price2, size2, number, 0, kind, side, 0
            )
            for _, kind, time_ns, price, size, price2, size2, side, number in rows
        )
        for rows in batches
    ]
    assert found == [{FQME: maker.fold(one)} for one in packed]


def test_rows_that_no_market_can_have_are_left_out_when_recorded() -> None:
    """NaN, infinities, other markets; time never goes back; events keep their place."""
    good: TickRow = ("btcusdt.spot", int(TickType.TRADE), 5, 1.0, 1.0, 0.0, 0.0, 1, 1)
    bad = [(*good[:3], value, *good[4:]) for value in (float("nan"), float("inf"), 1e300)]
    other: TickRow = ("ethusdt.spot", *good[1:])
    told: list[TickBatch | Resync | Outage] = [
        TickBatch([*bad, other], 10),  # type: ignore[list-item]
        TickBatch([good], 20),
        Outage("gone"),
        Resync("reconnect", "ethusdt.spot"),
        TickBatch([good], 15),
    ]
    found = list(moments(told, {"btcusdt.spot": FQME}))
    assert [time_ns for time_ns, _ in found] == [20, 20, 20]
    assert [type(item) for _, item in found] == [dict, Outage, dict]
