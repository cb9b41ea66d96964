"""What a call cost and brought, as the small dict that travels in ``frame.attrs["report"]``.

pandas copies attributes with every operation, so the dict is kept small: of many missing ranges
the largest are told. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from piker.data.history.quality import Missing, Report, iso
from piker.dsm.frames import SERVED

__all__ = ["MAX_TOLD", "report_of", "sentence"]

MAX_TOLD = 16  # missing ranges and kinds of defects in one dict

Codes = np.ndarray[Any, np.dtype[Any]]


def report_of(report: Report, codes: Codes, *, elapsed_s: float) -> dict[str, Any]:
    """Return the report of bars whose places in ``SERVED`` are ``codes``."""
    counts = [int(np.count_nonzero(codes == at)) for at in range(1, len(SERVED))]
    counts = [len(codes) - sum(counts), *counts]
    told = sorted(report.missing, key=lambda one: (one.final, -one.bars))[:MAX_TOLD]
    return {
        "series": str(report.series),
        "start": iso(report.start_s),
        "end": iso(report.end_s),
        "rows": report.rows,
        "expected": report.expected,
        "complete": report.complete,
        "elapsed_s": round(elapsed_s, 6),
        "served": dict(zip(SERVED, counts, strict=True)),
        "requests": sum(one.requests for one in report.sources.values()),
        "bytes": sum(one.bytes for one in report.sources.values()),
        "busy_s": {name: round(one.busy_s, 6) for name, one in report.sources.items()},
        "missing": [_told(one) for one in sorted(told, key=lambda one: one.start_s)],
        "missing_ranges": len(report.missing),
        "missing_bars": sum(one.bars for one in report.missing),
        "defects": _defects(report),
        "corrections": report.corrections,
        "damaged": report.damaged,
        "replaced": report.replaced,
    }


def _told(one: Missing) -> dict[str, Any]:
    return {
        "start": iso(one.start_s), "end": iso(one.end_s), "bars": one.bars, "why": one.why,
        "detail": one.detail[:200],
    }  # fmt: skip


def _defects(report: Report) -> dict[str, int]:
    counts: dict[str, int] = {}
    for found in report.defects:
        counts[found.defect.kind] = counts.get(found.defect.kind, 0) + found.defect.count
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:MAX_TOLD])


def sentence(report: Report, served: Sequence[tuple[str, int]]) -> str:
    """Say in a line what was got."""
    parts = ", ".join(f"{name} {count}" for name, count in served if count)
    return f"{report.series}: {report.rows} of {report.expected} bars ({parts or 'none'})"
