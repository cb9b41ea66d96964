"""The index of the loopback archive's files, as the venue's bucket gives it: S3's first listing.

``GET /?delimiter=/&prefix=data/spot/monthly/klines/BTCUSDT/1d/[&marker=KEY]``. Files of bars alone
are listed. A page has ``PAGE`` keys, and says where the next one begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from xml.sax.saxutils import escape

from piker.testing.binance_market import Listing
from piker.testing.requests import Reply

__all__ = ["PAGE", "index"]

PAGE = 1000  # keys of an answer, as S3 has it
DAY = timedelta(days=1)
_ROOTS = {"spot": "spot", "usdm": "futures/um", "coinm": "futures/cm"}
_PREFIX = re.compile(
    r"data/(spot|futures/um|futures/cm)/(daily|monthly)/klines/([A-Z0-9_]+)/(\w+)/", re.ASCII
)


def index(
    params: Mapping[str, str], listings: Mapping[tuple[str, str], Listing], now_s: float
) -> Reply:
    """Return the files whose names begin with ``prefix``, after ``marker``; none is no error.

    ``now_s`` is what is there: a file counts when its period was over by then.
    """
    prefix, marker = params.get("prefix", ""), params.get("marker", "")
    keys: list[str] = []
    found = _PREFIX.fullmatch(prefix)
    if found is not None:
        root, period, symbol, interval = found.groups()
        kind = next(kind for kind, word in _ROOTS.items() if word == root)
        listing = listings.get((kind, symbol))
        stamps = [] if listing is None else _stamps(listing, period == "monthly", now_s)
        names = (f"{prefix}{symbol}-{interval}-{stamp}.zip" for stamp in stamps)
        keys = [key for name in names for key in (name, f"{name}.CHECKSUM") if key > marker]
    page, more = keys[:PAGE], len(keys) > PAGE
    body = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in page)
    after = f"<NextMarker>{escape(page[-1])}</NextMarker>" if more else ""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>loopback</Name>'
        f"<Prefix>{escape(prefix)}</Prefix><Delimiter>/</Delimiter>{after}"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{body}</ListBucketResult>"
    )
    return Reply(200, text.encode(), {"Content-Type": "application/xml"})


def _stamps(listing: Listing, monthly: bool, now_s: float) -> Iterator[str]:
    """Yield the days or months of a market's life that are over, ascending."""
    end_s = min(now_s, listing.ended_s or now_s)
    at = datetime.fromtimestamp(listing.listed_s, UTC).replace(hour=0, minute=0, second=0)
    at = at.replace(day=1) if monthly else at
    while at.timestamp() < end_s:
        after = (at + 32 * DAY).replace(day=1) if monthly else at + DAY
        if after.timestamp() <= now_s:
            yield f"{at:%Y-%m}" if monthly else f"{at:%Y-%m-%d}"
        at = after
