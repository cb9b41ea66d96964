"""``piker store``: what is stored, whether it is sound, and the way in and out of it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from piker.cli.history import market_of, moment
from piker.cli.markets import check_markets
from piker.clock import NS
from piker.config import data_dir, load_conf
from piker.data.history.quality import iso
from piker.data.ranges import subtract, union
from piker.data.store import maintenance, ticks_upkeep
from piker.data.store.database import DamagedManifest
from piker.data.store.exchange import import_file, write_frame
from piker.data.store.maintenance import Finding
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.data.store.ticks import TickStore
from piker.data.store.ticks_segment import TickSeries
from piker.errors import ConfigError, DataQuality, RangeError, StoreError
from piker.market import parse_fqme

__all__ = ["compact", "export", "gaps", "import_", "ls", "repair", "verify"]

_EVER = (-(1 << 62), 1 << 62)
T = TypeVar("T")


class Stored(msgspec.Struct, frozen=True):
    """One series, as ``piker store ls`` shows it. Of ticks: days for ranges, gaps for holes."""

    series: str
    rows: int
    first: str
    last: str
    files: int
    bytes: int
    ranges: int  # unbroken ones
    holes: int  # bars that are missing within them


def ls(*, as_json: bool) -> None:
    """List every series."""
    store = Store()
    found = [
        one for one in (_stored(store, *entry) for entry in store.manifest.all_series()) if one
    ]
    found += _stored_ticks(TickStore(store))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    if not found:
        print("The store is empty. Fill it with, for example: piker history btcusdt.spot.binance")
        return
    table = Table("series", "bars", "from", "to", "files", "MB", "ranges", "holes",
                  box=SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    for one in found:
        table.add_row(
            one.series, str(one.rows), one.first[:10], one.last[:10], str(one.files),
            f"{one.bytes / 1e6:.1f}", str(one.ranges), str(one.holes),
        )  # fmt: skip
    Console().print(table)


def _stored(store: Store, number: int, series: Series) -> Stored | None:
    files = store.manifest.segments(number, *_EVER)
    tail = store.manifest.tail(number, *_EVER)
    spans = union(
        [(one.start_s, one.end_s) for one in files]
        + [(time, series.timeframe.next(time)) for time, _, _ in tail]
    )
    if not spans:
        return None
    holes = store.manifest.holes(number, *_EVER)
    return Stored(
        str(series), sum(one.rows for one in files) + len(tail), iso(spans[0].start),
        iso(spans[-1].end), len(files), sum(one.size for one in files), len(spans),
        sum(series.timeframe.count_between(hole.start_s, hole.end_s) for hole in holes),
    )  # fmt: skip


def _stored_ticks(ticks: TickStore) -> Iterator[Stored]:
    manifest = ticks.manifest
    for number, series in manifest.all_series():
        files = manifest.all_files(number)
        if files:
            low, high = min(one.low_ns for one in files), max(one.high_ns for one in files)
            yield Stored(
                str(series), sum(one.rows for one in files), iso(low // NS), iso(high // NS),
                len(files), sum(one.size for one in files), len({one.day for one in files}),
                len(manifest.gaps(number, *_EVER)),
            )  # fmt: skip


def gaps(fqme: str | None, interval: str, *, as_json: bool) -> None:
    """List what is missing between the first and the last bar of each series, and why.

    Of recorded ticks, too: where a feed was lost, or a recorder was too slow.
    """
    store = Store()
    wanted = _series(fqme, interval) if fqme else None
    rows = []
    for number, series in store.manifest.all_series():
        if wanted is not None and series != wanted:
            continue
        files = store.manifest.segments(number, *_EVER)
        spans = union((one.start_s, one.end_s) for one in files)
        if not spans:
            continue
        count = series.timeframe.count_between
        for hole in store.manifest.holes(number, *_EVER):
            word = "confirmed" if hole.confirmed else "not confirmed"
            rows.append((str(series), hole.start_s, hole.end_s, count(hole.start_s, hole.end_s),
                         f"{word}: {hole.why}" if hole.why else word))  # fmt: skip
        for span in subtract([(spans[0].start, spans[-1].end)], spans):
            rows.append((str(series), *span, count(*span), "never asked for"))
    rows += _tick_gaps(TickStore(store), wanted.fqme if wanted else None)
    rows.sort()
    if as_json:
        names = ("series", "start_s", "end_s", "bars", "why")
        print(msgspec.json.encode([dict(zip(names, row, strict=True)) for row in rows]).decode())
        return
    if not rows:
        print("No gap.")
        return
    table = Table("series", "from", "to", "bars", "why")
    for name, start_s, end_s, bars, why in rows:
        table.add_row(name, iso(start_s), iso(end_s), str(bars), why)
    Console().print(table)


def _tick_gaps(ticks: TickStore, fqme: str | None) -> Iterator[tuple[str, int, int, int, str]]:
    """Give the gaps of recorded ticks; -1 ticks are missing where nobody knows how many."""
    for number, series in ticks.manifest.all_series():
        for gap in ticks.manifest.gaps(number, *_EVER) if fqme in (None, series.fqme) else ():
            lasts = gap.end_ns is None
            end_s = gap.start_ns // NS if gap.end_ns is None else -(-gap.end_ns // NS)
            why = f"{gap.kind}: {gap.why}" + (", and it lasts" if lasts else "")
            yield str(series), gap.start_ns // NS, end_s, gap.missed, why


# -- order ---------------------------------------------------------------------------------------
def verify(*, as_json: bool) -> None:
    """Read every byte; exit with an error when one is not as it was written."""
    store = Store()
    ticks = TickStore(store)
    total = ticks_upkeep.file_count(ticks) + sum(
        len(store.manifest.segments(number, *_EVER)) for number, _ in store.manifest.all_series()
    )
    findings = itertools.chain(maintenance.verify(store), ticks_upkeep.verify(ticks))
    bad = [one for one in _tracked(findings, total, as_json) if one.problem]
    _say(bad, as_json, f"{total} files are sound.")
    if bad:
        raise StoreError(
            f"{len(bad)} of {total} files are damaged.",
            remedy="Run: piker store repair, then ask for their history again; ticks are gone.",
        )


def repair(*, as_json: bool) -> None:
    """Set damaged files aside, remove left-overs; make a lost manifest anew."""
    try:
        store = Store()
        said = store.manifest.integrity()
    except DamagedManifest:  # any other error is no reason to make another one
        said = "unreadable"
    if said != "ok":
        kept = maintenance.rebuild_manifest(data_dir() / "store")
        print(f"The manifest was made anew; {kept} files are in it.", file=sys.stderr)
        store = Store()
    mended = itertools.chain(maintenance.repair(store), ticks_upkeep.repair(TickStore(store)))
    found = list(_tracked(mended, None, as_json))
    _say(found, as_json, "Nothing was to be repaired.")


def compact(*, as_json: bool) -> None:
    """Make few files of many."""
    store = Store()
    ticks, gone = TickStore(store), 0
    everything: list[tuple[int, Series]] = [
        *store.manifest.all_series(), *ticks.manifest.all_series()
    ]  # fmt: skip
    for _, series in _tracked(everything, None, as_json):
        if isinstance(series, TickSeries):
            gone += ticks_upkeep.compact(ticks, series)
        else:
            gone += maintenance.compact(store, series, always=True)
    print(f'{{"files_gone":{gone}}}' if as_json else f"{gone} files less.")


def _tracked(found: Iterable[T], total: int | None, quiet: bool) -> Iterator[T]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return iter(found)
    return iter(track(found, total=total, console=console, description="files", transient=True))


def _say(found: list[Finding], as_json: bool, nothing: str) -> None:
    if as_json:
        print(msgspec.json.encode([one._asdict() for one in found]).decode())
    elif not found:
        print(nothing)
    for one in [] if as_json else found:
        print(f"{one.series} {one.file}: {one.problem}".strip())


# -- in and out ----------------------------------------------------------------------------------
def export(
    fqme: str, out: str, *, interval: str, start: str | None, end: str | None, ticks: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write stored bars or ticks to a file, without asking any venue."""
    store = Store()
    begin = moment(start) if start else _EVER[0] // NS
    stop = moment(end) if end else _EVER[1] // NS
    if begin >= stop:
        raise RangeError("the range is empty: its start is not before its end.")
    if ticks:
        market = _series(fqme, interval).fqme
        table = TickStore(store).read(market, begin * NS, stop * NS).table
        word, what, remedy = "ticks", f"{market}/ticks", f"Record some: piker record {fqme} --store"
    else:
        series = _series(fqme, interval)
        table, word, what = store.read(series, begin, stop).table, "bars", str(series)
        remedy = f"Fetch them: piker history {fqme} --interval {interval}"
    if not table.num_rows:
        raise RangeError(f"the store has no {word} of {what} there.", remedy=remedy)
    write_frame(table, Path(out))
    found = f'{{"rows":{table.num_rows},"out":{msgspec.json.encode(out).decode()}}}'
    print(found if as_json else f"{table.num_rows} {word} of {what} written to {out}")


def import_(fqme: str, file: str, *, interval: str, columns: list[str], as_json: bool) -> None:
    """Take bars of a file into the store; say what was rejected, and why."""
    told = {}
    for one in columns:
        ours, equals, theirs = one.partition("=")
        if not equals:
            raise ConfigError(f"{one!r} names no column.", remedy="As in: --column open_time=Date")
        told[ours] = theirs
    series = _series(fqme, interval)
    found = import_file(Store(), series, Path(file), columns=told)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    print(f"{found.stored} of {found.rows} rows are bars of {series} now, "
          f"{iso(found.first_s)} to {iso(found.last_s)}.")  # fmt: skip
    print("columns: " + ", ".join(f"{ours} = {theirs}" for ours, theirs in found.columns.items()))
    for reason, count in found.rejected.items():
        rows = ", ".join(str(row) for row in found.examples[reason])
        print(f"rejected: {count} {reason} (rows {rows}{', ...' if count > 3 else ''})")


def _series(fqme: str, interval: str) -> Series:
    check_markets([fqme])
    provider = parse_fqme(fqme.lower()).provider
    from piker.brokers.spec import load_backend

    backend = load_backend(provider, load_conf().brokers.modules)
    try:
        return Series(provider, market_of(fqme, backend), interval)
    except DataQuality as err:
        raise ConfigError(err.message) from err
