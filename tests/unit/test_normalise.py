"""Every form that seed 002 allows becomes the same rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.data.normalise import normalise, split_started
from piker.errors import DataQuality
from piker.ticks import Resync, TickBatch, TickType

NOW = 1_700_000_000 * 10**9


def rows_of(sent: object) -> list[tuple[object, ...]]:
    """Return the rows of one message."""
    (batch,) = normalise(sent, NOW)
    assert isinstance(batch, TickBatch)
    return list(batch.rows)


def test_plain_and_keyed_quotes_are_the_same() -> None:
    """A quote and ``{symbol: quote}`` give one trade row each."""
    quote = {"symbol": "XBTUSD", "last": 5.0, "ticks": [{"type": "trade", "price": 5, "size": 2}]}
    expected = [("xbtusd", TickType.TRADE, NOW, 5.0, 2.0, 0.0, 0.0, 0, -1)]
    assert rows_of(quote) == expected
    assert rows_of({"xbtusd": quote}) == expected


def test_l1_given_as_four_ticks_is_two_rows() -> None:
    """bid, bsize, ask, asize as the predecessor sent them: one bid, one ask."""
    ticks = [
        {"type": "bid", "price": 9, "size": 1},
        {"type": "bsize", "price": 9, "size": 1},
        {"type": "ask", "price": 11, "size": 2},
        {"type": "asize", "price": 11, "size": 2},
    ]
    rows = rows_of({"symbol": "x", "ticks": ticks})
    assert [row[1] for row in rows] == [TickType.BID, TickType.ASK]


def test_two_equal_trades_are_two_trades() -> None:
    """Repeated trades are not taken for repetitions."""
    ticks = [{"type": "trade", "price": 9, "size": 1}] * 2
    assert len(rows_of({"symbol": "x", "ticks": ticks})) == 2


def test_quote_without_ticks_is_its_last_price() -> None:
    """The minimum first quote of seed 002 carries its last price."""
    (row,) = rows_of({"symbol": "x", "last": 7})
    assert row[1:4] == (TickType.LAST, NOW, 7.0)


@pytest.mark.parametrize("value", [1.7e9, 1.7e12, 1.7e15, 1.7e18])
def test_time_unit_is_told_by_magnitude(value: float) -> None:
    """Seconds, milli-, micro- and nanoseconds are all the same moment."""
    ticks = [{"type": "trade", "price": 1, "size": 1, "time": value}]
    assert rows_of({"symbol": "x", "ticks": ticks})[0][2] == 1_700_000_000 * 10**9


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["symbol", "last", "ticks", "type", "price", "size", "time", "q"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_like)
def test_anything_is_rows_or_a_typed_error(sent: object) -> None:
    """Whatever a module sends, the answer is rows or DataQuality, nothing else."""
    try:
        normalise(sent, NOW)
    except DataQuality:
        return


def test_control_messages_pass_unchanged() -> None:
    """A Resync goes through as it is."""
    event = Resync("reconnect", "x")
    assert normalise(event, NOW) == [event]


@pytest.mark.parametrize(
    "started",
    [
        ({"x": {}}, {"x": {"symbol": "x", "last": 1}}),
        ({"X": {}}, {"symbol": "X", "last": 1}),
        ([{}], {"x": {"last": 1}}),
    ],
)
def test_started_values_are_taken_in_every_known_form(started: object) -> None:
    """The tuple of seed 002, and its predecessor's variants, give the quote by symbol."""
    _, quotes = split_started(started)
    assert quotes["x"]["last"] == 1


def test_started_value_of_no_known_form_is_refused() -> None:
    """A wrong start-up value names the call."""
    with pytest.raises(DataQuality, match="started"):
        split_started(5)
