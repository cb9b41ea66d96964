"""Binance's bars and funding rates over REST.

What the venue does, market by market, is docs/brokers/binance.md; the rules that shape a request
are in :func:`plan_request`, which is pure.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import numpy as np
import pendulum

from piker.brokers.binance import schema
from piker.brokers.binance.api import FUNDING, KINDS, Kind, get_mkt_info, open_client
from piker.brokers.binance.bars import FUNDING_DTYPE, INTERVALS, Rows, set_mean_price, sift
from piker.brokers.binance.retired import expect_retired, fetch_first_file
from piker.brokers.quality import venue_quality
from piker.brokers.rest import Response, RestClient
from piker.clock import wall_ns
from piker.errors import DataQuality, DataUnavailable, NoData, NotOffered, SymbolNotFound
from piker.market import MktPair
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = [
    "COINM_WINDOW_MS",
    "Request",
    "bars_of",
    "fetch_first_open",
    "fetch_funding_rates",
    "open_history_client",
    "plan_request",
]

COINM_WINDOW_MS = 200 * 86_400_000  # from startTime to endTime, by its documents
FUNDING_PAGE = 1000  # the venue's most per call
MAX_FUNDING_PAGES = 200  # 200,000 fundings: 180 years of three a day
MAX_MS = 2**53  # later than any time that is asked for
#: Before the first bar of each venue, whatever its length: a month before its first day.
_LAUNCH_MS = {"spot": 0, "usdtm": 0, "coinm": 1_593_561_600_000}
_FOREVER_S = 2**40  # every bar has closed by then
#: (limits up to, weight), by its documents.
WEIGHTS = {
    "spot": ((1000, 2),),
    "usdm": ((99, 1), (499, 2), (1000, 5), (1500, 10)),
    "coinm": ((99, 1), (499, 2), (1000, 5), (1500, 10)),
}

quality = venue_quality("binance")
_klines = msgspec.json.Decoder(list[schema.KlineRow], strict=False)


class Request(msgspec.Struct, frozen=True):
    """One request for klines: times in milliseconds, inclusive, on open time; None: left out."""

    limit: int
    weight: int
    start_ms: int | None = None
    end_ms: int | None = None

    @property
    def params(self) -> dict[str, int]:
        """Return it as the venue's parameters."""
        found = {"limit": self.limit}
        if self.start_ms is not None:
            found["startTime"] = self.start_ms
        if self.end_ms is not None:
            found["endTime"] = self.end_ms
        return found


@asynccontextmanager
async def open_history_client(symbol: str) -> AsyncIterator[tuple[Any, dict[str, int]]]:
    """Yield ``(get_ohlc, config)`` as seed 002 says. One request a call."""
    market = await get_mkt_info(symbol)
    kind = KINDS[market.address.venue]
    async with open_client(kind) as client:

        async def get_ohlc(
            timeframe: float | str | Timeframe,
            end_dt: datetime | None = None,
            start_dt: datetime | None = None,
        ) -> tuple[Rows, pendulum.DateTime, pendulum.DateTime]:
            """Return bars (``KLINE_DTYPE``) with open time in [start_dt, end_dt), ascending.

            ``timeframe`` is in seconds (2,592,000 are a calendar month) or the venue's word. None
            stands for the oldest and the newest. A range of more bars than one request brings
            gives its newest part.

            With ``end_dt`` the bar that is still open is left out, and the others are as the venue
            gave them: who asks for a range must see a bar that can not be, lest he take it for a
            hole of the venue's. Without it the bar that is still open is the last row, and what
            can not be is left out and counted: those are for arrays and screens.

            Raises ``NotOffered`` for a timeframe that the market has not, ``NoData`` for a range
            without bars, ``DataQuality`` for an answer that is no bars.
            """
            frame = _timeframe(kind, timeframe)
            rows = await _fetch(client, kind, market, frame, _us(start_dt), _us(end_dt))
            return rows, _moment(rows["time"].min()), _moment(rows["time"].max())

        yield get_ohlc, {"erlangs": 3, "rate": 3}


async def _fetch(
    client: RestClient,
    kind: Kind,
    market: MktPair,
    frame: Timeframe,
    start_us: int | None,
    end_us: int | None,
) -> Rows:
    ask = plan_request(kind, frame, start_us, end_us, now_ms=wall_ns() // 1_000_000)
    if ask is None:
        raise NoData(f"{market.fqme}: the range is empty.", frame_size=kind.max_klines)
    path = f"{kind.prefix}/klines"
    params: dict[str, Any] = {"symbol": market.bs_mktid, "interval": str(frame)} | ask.params
    answer = await client.get(path, params, weight=ask.weight)
    try:
        found = _klines.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataQuality(f"binance: GET {path}: {error}") from error
    now_ms = venue_now_ms(answer)
    if end_us is not None:
        found = [row for row in found if row.close_ms < now_ms]  # closed ones only
    if not found:
        raise NoData(f"{market.fqme}: no bars there.", frame_size=kind.max_klines)
    rows = bars_of(found, market)
    if end_us is not None:
        return rows
    times_us = np.array([row.open_ms for row in found], np.int64) * 1000
    rows, defects = sift(
        rows, times_us, frame, start_s=0, end_s=_FOREVER_S, closed_s=_FOREVER_S + frame.seconds
    )
    for defect in defects:
        quality.count(defect.kind, f"{market.fqme} {frame}: {defect.count} x {defect.example}")
    if not len(rows):
        raise DataQuality(f"{market.fqme}: no bar of the answer is sound.", kind="bad-answer")
    return rows


def plan_request(
    kind: Kind, frame: Timeframe, start_us: int | None, end_us: int | None, *, now_ms: int
) -> Request | None:
    """Return the request that brings the newest part of [start, end), None for no bars. Pure.

    With a startTime spot and USD-M count from the oldest bar on, COIN-M from the newest; so that
    it does not matter the range is cut at its beginning to what one answer holds. COIN-M takes no
    more than ``COINM_WINDOW_MS``. The smallest limit is asked for that holds the range, and one
    more where it ends now: the venue's clock may be ahead of ours.
    """
    end_ms = None if end_us is None else -(-end_us // 1000) - 1  # the last millisecond inside
    if end_ms is not None and end_ms > now_ms:
        end_ms = None
    last_ms = now_ms if end_ms is None else end_ms
    most = kind.max_klines
    if start_us is None:
        return None if last_ms < 0 else Request(most, _weight(kind, most), None, end_ms)
    spare = 1 if end_ms is None else 0
    earliest_ms = _earliest_ms(kind, frame, last_ms, most - spare)
    start_ms = max(0, -(-start_us // 1000), earliest_ms)
    if start_ms > last_ms:
        return None
    limit = min(_most_bars(frame, start_ms, last_ms) + spare, most)
    return Request(limit, _weight(kind, limit), start_ms, end_ms)


def _earliest_ms(kind: Kind, frame: Timeframe, last_ms: int, most: int) -> int:
    """Return the beginning of the longest range up to ``last_ms`` with at most ``most`` bars."""
    span_ms = most * _shortest_s(frame) * 1000
    if kind.venue == "coinm":
        span_ms = min(span_ms, COINM_WINDOW_MS)
    return last_ms + 1 - span_ms


def _most_bars(frame: Timeframe, start_ms: int, last_ms: int) -> int:
    """Return how many bars may open in [start_ms, last_ms], whatever the phase of their grid."""
    return (last_ms - start_ms) // (_shortest_s(frame) * 1000) + 1


def _shortest_s(frame: Timeframe) -> int:
    return 28 * 86_400 * frame.count if frame.unit == "M" else frame.seconds


def _weight(kind: Kind, limit: int) -> int:
    """Return what a request with that limit costs."""
    return next(weight for most, weight in WEIGHTS[kind.name] if limit <= most)


def venue_now_ms(answer: Response) -> int:
    """Return a time that the venue's clock has passed: by its Date header, and by ours.

    A clock of ours that is ahead must not make an open bar a closed one.
    """
    now_ms = wall_ns() // 1_000_000
    try:
        said = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        return now_ms
    return min(now_ms, int(said.replace(tzinfo=said.tzinfo or UTC).timestamp()) * 1000)


def bars_of(found: list[schema.KlineRow], market: MktPair) -> Rows:
    """Return kline rows as ``KLINE_DTYPE``. COIN-M's volume is in contracts, its turnover coins."""
    rows = np.zeros(len(found), KLINE_DTYPE)
    rows["time"] = [row.open_ms // 1000 for row in found]
    rows["count"] = [row.trades for row in found]
    for name in ("open", "high", "low", "close", "volume", "turnover", "taker_volume",
                 "taker_turnover"):  # fmt: skip
        rows[name] = [getattr(row, name) for row in found]
    set_mean_price(rows, market)
    return rows


async def fetch_first_open(symbol: str, interval: str = "1d") -> int:
    """Return the open time (seconds) of the oldest bar that the venue has of a market.

    It is when the market's history begins; of ``3d`` it also gives the phase of the market's grid.
    ``interval`` is 1d or longer. Raises ``DataUnavailable`` for another, ``NoData`` where there is
    no bar yet, ``SymbolNotFound``. A market that is listed no more has that of its archive. COIN-M,
    which can not be asked for its oldest, is asked window by window.
    """
    if interval not in ("1d", "3d", "1w", "1M"):
        raise DataUnavailable("the first bar is looked for in bars of 1d or more.")
    try:
        return await _first_of_rest(symbol, interval)
    except SymbolNotFound as error:
        return await fetch_first_file(await expect_retired(symbol, error), interval)


async def _first_of_rest(symbol: str, interval: str) -> int:
    market = await get_mkt_info(symbol)
    kind = KINDS[market.address.venue]
    step_ms = COINM_WINDOW_MS if kind.venue == "coinm" else MAX_MS
    limit = COINM_WINDOW_MS // 86_400_000 if kind.venue == "coinm" else 1
    async with open_client(kind) as client:
        at_ms = _LAUNCH_MS[kind.venue]
        while at_ms <= wall_ns() // 1_000_000:
            params: dict[str, Any] = {
                "symbol": market.bs_mktid, "interval": interval, "startTime": at_ms,
                "endTime": at_ms + step_ms - 1, "limit": limit,
            }  # fmt: skip
            found = await client.get_json(
                f"{kind.prefix}/klines", params, type=list[schema.KlineRow],
                weight=_weight(kind, limit), strict=False,
            )  # fmt: skip
            if found:
                return found[0].open_ms // 1000
            at_ms += step_ms
    raise NoData(f"{symbol}: it has no bars yet.", frame_size=1)


# -- funding -------------------------------------------------------------------------------------
async def fetch_funding_rates(symbol: str, start: datetime, end: datetime) -> Rows:
    """Return the fundings in [start, end) as ``FUNDING_DTYPE``, ascending and unique.

    Asks as often as it takes, ``FUNDING_PAGE`` at once. ``interval_h`` is 0: the venue does not say
    it here. Raises ``DataUnavailable`` for a market without funding, ``DataQuality`` for answers
    that do not go on. Cancellation loses what was fetched.
    """
    market = await get_mkt_info(symbol)
    kind = KINDS[market.address.venue]
    if kind.venue == "spot":
        raise DataUnavailable(f"{symbol}: spot markets have no funding.")
    at_ms, last_ms = _ms_range(start, end)
    parts: list[Rows] = []
    async with open_client(kind) as client:
        for _ in range(MAX_FUNDING_PAGES):
            if at_ms > last_ms:
                break
            page = await _funding_page(client, kind, market, at_ms, last_ms)
            if not page:
                break
            parts.append(_fundings(page))
            if page[-1].time_ms < at_ms:
                said = f"{symbol}: fundings before the time that was asked for"
                raise DataQuality(said, kind="bad-answer")
            at_ms = page[-1].time_ms + 1
            if len(page) < FUNDING_PAGE:
                break
    rows = np.concatenate(parts) if parts else np.zeros(0, FUNDING_DTYPE)
    return _sound_fundings(rows, market)


async def _funding_page(
    client: RestClient, kind: Kind, market: MktPair, start_ms: int, last_ms: int
) -> list[schema.FundingRow]:
    found = await client.request(
        "GET",
        f"{kind.prefix}/fundingRate",
        params={
            "symbol": market.bs_mktid, "startTime": start_ms, "endTime": last_ms,
            "limit": FUNDING_PAGE,
        },
        kind=FUNDING,
    )  # fmt: skip
    try:
        return msgspec.json.decode(found.body, type=list[schema.FundingRow], strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataQuality(f"binance: GET {kind.prefix}/fundingRate: {error}") from error


def _fundings(page: list[schema.FundingRow]) -> Rows:
    rows = np.zeros(len(page), FUNDING_DTYPE)
    rows["time_ms"] = [row.time_ms for row in page]
    rows["rate"] = [row.rate for row in page]
    rows["mark_price"] = [float(row.mark_price or "nan") for row in page]
    return rows


def _sound_fundings(rows: Rows, market: MktPair) -> Rows:
    order = np.argsort(rows["time_ms"], kind="stable")
    rows = rows[order]
    good = np.abs(rows["rate"]) < 1
    good[1:] &= rows["time_ms"][1:] != rows["time_ms"][:-1]
    for row in rows[~good]:
        quality.count("bad-funding", f"{market.fqme}: {row}")
    sound: Rows = rows[good]
    return sound


# -- times ---------------------------------------------------------------------------------------
def _timeframe(kind: Kind, asked: float | str | Timeframe) -> Timeframe:
    named = isinstance(asked, str | Timeframe)
    frame = _NAMED.get(str(asked)) if named else _FRAMES.get(asked)
    if frame is None or (frame.seconds == 1 and kind.venue != "spot"):
        words = str(asked) if named else f"{asked:g} s"
        raise NotOffered(f"binance {kind.venue} has no bars of {words}.")
    return frame


_NAMED = {name: Timeframe(name) for name in INTERVALS}
_FRAMES: Mapping[Any, Timeframe] = {frame.seconds: frame for frame in _NAMED.values()}


def _us(moment: datetime | None) -> int | None:
    """Return microseconds UTC, exactly; a time without a zone is UTC."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return timegm(moment.utctimetuple()) * 1_000_000 + moment.microsecond


def _ms_range(start: datetime, end: datetime) -> tuple[int, int]:
    """Return [start, end) as first and last millisecond."""
    first, last = _us(start) or 0, _us(end) or 0
    return max(0, -(-first // 1000)), -(-last // 1000) - 1


def _moment(time_s: Any) -> pendulum.DateTime:
    return pendulum.from_timestamp(int(time_s))
