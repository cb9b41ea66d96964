"""One fill of the store: what a range lacks, from the sources that may have it.

A source that could not give a range is not asked for it again in that call: the next one is. What
was brought is stored as it comes, files of an archive a few at a time (:mod:`.gather`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from piker import clock
from piker.brokers.archive import ChecksumPolicy
from piker.brokers.spec import Backend
from piker.data.history.gather import Answer, gather, joined, neighbours
from piker.data.history.plan import Step, Unit, needed, plan
from piker.data.history.quality import FileDefect, Report
from piker.data.history.sources import ArchiveSource, Fetched, Source, open_sources
from piker.data.ranges import Range, intersect
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.errors import (
    BrokerError,
    DataQuality,
    DataUnavailable,
    NoData,
    NotOffered,
    StoreError,
    Transient,
)
from piker.log import get_logger

__all__ = ["Fill", "Progress"]

log = get_logger("history")

GIVE_UP = 4  # units that a source could not give in a row: it is not asked for more in that call
MAX_PASSES = 12  # plans of one call: each failure of a source makes another one


class Progress(NamedTuple):
    """How far a call is: bars that are settled (there, or known to be missing) of all."""

    done: int
    total: int
    source: str


class Fill:
    """What one call has learnt of the sources so far. ``excuses``: (range, why, detail)."""

    def __init__(
        self, backend: Backend, store: Store, series: Series, request: Range, now_s: int,
        report: Report, progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        self.series = series
        self.excuses: list[tuple[Range, str, str]] = []
        self._backend = backend
        self._store = store
        self._request = request
        self._now_s = now_s
        self._report = report
        self._progress = progress
        self._failed: dict[str, list[Range]] = {}
        self._in_a_row: Counter[str] = Counter()  # failures, by source
        self._out: dict[str, str] = {}  # sources that do not have the series at all, and their word
        self._broken: StoreError | None = None  # what ends the call: the store can not be written

    async def ask(
        self, sources: tuple[str, ...], *, recheck: bool, checksum: ChecksumPolicy,
        quarantine: Path | None,
    ) -> None:  # fmt: skip
        """Ask the sources, in their order, for what is missing, and store what they bring.

        What could not be had is in ``excuses`` afterwards. Raises ``StoreError`` when nothing can
        be stored. Cancellation keeps what was stored, and what waited for it.
        """
        try:
            async with open_sources(
                self._backend, self.series, sources, checksum=checksum, quarantine=quarantine
            ) as opened:
                await self._skip_known_files(opened, recheck)
                await self._fetch_all(opened)
        except BrokerError as err:  # the venue can not even be asked what it lists
            self.excuses.append((self._request, "failed", err.message))
        if self._broken is not None:
            raise self._broken

    async def _skip_known_files(self, opened: dict[str, Source], recheck: bool) -> None:
        """Do not ask the archive again for files that are stored, unless they were replaced."""
        archive = opened.get("archive")
        number = self._store.manifest.find(self.series)
        if not isinstance(archive, ArchiveSource) or number is None:
            return
        known = self._failed.setdefault("archive", [])
        for origin in self._store.manifest.origins(number, *self._request):
            covered = self._store.coverage(self.series, origin.start_s, origin.end_s).covered
            span = Range(origin.start_s, origin.end_s)
            try:
                changed = recheck and await archive.changed(origin)
            except BrokerError as err:
                self.excuses.append((span, "failed", err.message))
                continue
            if changed:
                self._report.replaced += 1
                unit = Unit(*span, archive.file_of(origin))
                await self._one(archive, Step("archive", unit, (span,)))
            known += intersect(covered, [span])

    async def _fetch_all(self, opened: dict[str, Source]) -> None:
        limits = {name: trio.CapacityLimiter(source.parallel) for name, source in opened.items()}
        for _ in range(MAX_PASSES):
            coverage = await trio.to_thread.run_sync(
                self._store.coverage, self.series, *self._request
            )
            wanted = needed(self._request, coverage)
            offers = {
                name: partial(source.units, now_s=self._now_s) for name, source in opened.items()
            }
            steps = plan(wanted, offers, self._failed).steps
            if not steps:
                return
            send, receive = trio.open_memory_channel[Answer](0)
            async with trio.open_nursery() as writing:
                writing.start_soon(gather, receive, self._keep_all)
                async with send, trio.open_nursery() as fetching:
                    for step in steps:
                        fetching.start_soon(self._limited, opened, limits, step, send)
            if self._broken is not None:
                return

    async def _limited(
        self, opened: dict[str, Source],
        limits: dict[str, trio.CapacityLimiter], step: Step,
        answers: trio.MemorySendChannel[Answer],
    ) -> None:  # fmt: skip
        async with limits[step.source]:
            if self._broken is not None:
                return
            if step.source in self._out:
                self._failed.setdefault(step.source, []).extend(step.wanted)
                self._excuse(step, "not-offered", self._out[step.source])
                return
            if self._in_a_row[step.source] >= GIVE_UP:
                self._failed.setdefault(step.source, []).extend(step.wanted)
                why = f"{step.source}: given up after {GIVE_UP} failures in a row"
                self.excuses[:0] = [(part, "failed", why) for part in step.wanted]
                return
            await self._one(opened[step.source], step, answers)

    async def _one(
        self, source: Source, step: Step,
        answers: trio.MemorySendChannel[Answer] | None = None,
    ) -> None:  # fmt: skip
        """Fetch one unit; what fails is kept as an excuse and goes to the next source.

        What it brings is stored: files of an archive by who takes ``answers``, all else here.
        """
        entry = self._report.source(source.name)
        failed = self._failed.setdefault(source.name, [])
        begun_ns = clock.monotonic_ns()
        entry.requests += 1

        async def keep(fetched: Fetched) -> None:
            place = fetched.place
            defects = [FileDefect(source.name, place, defect) for defect in fetched.defects]
            self._report.defects += defects
            if answers is not None and fetched.origin is not None:
                await answers.send(Answer(step, fetched))
            else:
                await trio.to_thread.run_sync(self._keep, [Answer(step, fetched)])

        try:
            await source.fetch(step.unit, self._now_s, keep)
            self._in_a_row[source.name] = 0
        except Exception as err:  # a backend's own fault ends its unit, not the call
            self._blame(step, err)
        failed += step.wanted  # once is enough, whatever it brought: what is left is not there
        entry.busy_s += (clock.monotonic_ns() - begun_ns) / clock.NS
        self._tell(source.name)

    async def _keep_all(self, answers: list[Answer]) -> None:
        """Store answers, those that follow each other as one; they fail one by one."""
        groups = neighbours(answers)
        while groups and self._broken is None:
            group = groups.pop(0)
            try:
                await trio.to_thread.run_sync(self._keep, group)
            except Exception as err:
                if len(group) > 1 and not isinstance(err, StoreError):
                    groups[:0] = [[answer] for answer in group]
                else:
                    self._blame(group[0].step, err)
            else:
                self._tell(group[0].step.source)

    def _keep(self, group: list[Answer]) -> None:
        """Store answers of one source that follow each other. Blocks."""
        name, fetched = group[0].step.source, joined(group)
        report = self._report
        if fetched.start_s < fetched.end_s:
            self._keep_origins([answer.fetched for answer in group[:-1]])
            report.corrections += self._store.write(
                self.series, fetched.rows, fetched.start_s, fetched.end_s, source=name,
                confirmed=fetched.final, why=fetched.why, origin=fetched.origin,
            )  # fmt: skip
            report.fetched.append((fetched.start_s, fetched.end_s, name))
        entry = report.source(name)
        entry.rows += len(fetched.rows)
        entry.bytes += fetched.bytes

    def _keep_origins(self, parts: list[Fetched]) -> None:
        """Say where bars come from that are about to be stored: the last part says it with them.

        Killed in between it has said too much, which costs a question: what is not stored is
        fetched, whatever files are known.
        """
        if not parts:
            return
        manifest = self._store.manifest
        with manifest.commit():
            number = manifest.add(self.series)
            for part in parts:
                if part.origin is not None:
                    manifest.put_origin(number, part.origin)

    def _tell(self, source: str) -> None:
        """Tell the caller how far it is; one who raises ends the call, and is told no more."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress(self._how_far(source))
            self._progress = progress

    def _how_far(self, source: str) -> Progress:
        coverage = self._store.coverage(self.series, *self._request)
        timeframe = self.series.timeframe
        left = needed(self._request, coverage)
        total = timeframe.count_between(*self._request)
        return Progress(total - sum(timeframe.count_between(*span) for span in left), total, source)

    def _blame(self, step: Step, err: Exception) -> None:
        """Keep why a step brought nothing; without the store the call itself ends."""
        if isinstance(err, NoData):
            return  # the next source may have it
        if isinstance(err, StoreError):
            self._broken = err
            return
        source, entry = step.source, self._report.source(step.source)
        if isinstance(err, NotOffered):  # of the whole series: it is not asked again
            if source not in self._out:
                log.info("history.not_offered", series=self.series, source=source, why=err.message)
            self._out[source] = f"{source}: {err.message}"
            self._excuse(step, "not-offered", self._out[source])
            return
        entry.failures += 1
        if isinstance(err, BrokerError):
            self._in_a_row[source] += isinstance(err, Transient)
            log.info("history.failed", series=self.series, source=source, why=err.message)
            refused, final = isinstance(err, DataQuality), isinstance(err, DataUnavailable)
            why = "not-offered" if final else "refused" if refused else "failed"
            said = f"{source}: {err.message}"
        else:
            why, said = "failed", f"{source}: the backend failed: {type(err).__name__}: {err}"
            log.error("history.backend", series=self.series, error=said)
        self._excuse(step, why, said)

    def _excuse(self, step: Step, why: str, said: str) -> None:
        self.excuses += [(part, why, said) for part in step.wanted]
