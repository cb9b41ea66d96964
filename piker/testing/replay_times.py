"""Move recorded times to now: one rule for a whole replay, digits replaced in place.

A time t becomes t + ``const``, a whole number of minutes, so that bars stay on their boundaries.
A replay at another speed compresses what comes after its begin as well: there a time t becomes
``origin + const + (t - origin) / speed``, and bars, which can not be compressed, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from piker.clock import NS

__all__ = ["MINUTE_NS", "STILL", "Shift", "move_ints", "move_stamps"]

MINUTE_NS = 60 * NS
_RFC3339 = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_LAST_S = 253_402_300_799  # 9999-12-31T23:59:59Z: the end of four-digit years


class Shift(msgspec.Struct, frozen=True):
    """How recorded times become times of the replay. ``ns`` and ``back`` are inverse."""

    const_ns: int = 0
    origin_ns: int = 0
    speed: float = 1.0

    @property
    def still(self) -> bool:
        """Tell whether nothing is moved."""
        return self.const_ns == 0 and self.speed == 1.0

    @property
    def compresses(self) -> bool:
        """Tell whether time runs at another pace than it was recorded at."""
        return self.speed != 1.0

    def ns(self, t: int) -> int:
        """Return when a recorded moment is in the replay."""
        past = t - self.origin_ns
        if self.compresses and past > 0:
            return self.origin_ns + self.const_ns + int(past / self.speed)
        return t + self.const_ns

    def back(self, t: int) -> int:
        """Return when a moment of the replay was recorded."""
        past = t - self.const_ns - self.origin_ns
        if self.compresses and past > 0:
            return self.origin_ns + int(past * self.speed)
        return t - self.const_ns


STILL = Shift()


def move_ints(pattern: re.Pattern[bytes], text: bytes, shift: Shift, unit_ns: int) -> bytes:
    """Return the text with every integer that is the pattern's last group moved.

    An integer that would not keep its number of digits is left as it is.
    """
    group = pattern.groups

    def moved(found: re.Match[bytes]) -> bytes:
        old = found[group]
        new = b"%d" % (shift.ns(int(old) * unit_ns) // unit_ns)
        if len(new) != len(old):
            return found[0]
        start = found.start(group) - found.start()
        return found[0][:start] + new + found[0][start + len(old) :]

    return pattern.sub(moved, text)


def move_stamps(text: bytes, shift: Shift) -> bytes:
    """Return the text with every RFC 3339 moment moved; the number of its digits stays."""
    return _RFC3339.sub(_stamp_mover(shift), text)


def _stamp_mover(shift: Shift) -> Callable[[re.Match[bytes]], bytes]:
    def moved(found: re.Match[bytes]) -> bytes:
        try:
            whole = datetime.fromisoformat(found[1].decode()).replace(tzinfo=UTC)
        except ValueError:
            return found[0]
        digits = found[2] or b""
        fraction_ns = int(digits.ljust(9, b"0")) if digits else 0
        seconds, rest = divmod(shift.ns(int(whole.timestamp()) * NS + fraction_ns), NS)
        if not 0 <= seconds <= _LAST_S:
            return found[0]
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        tail = b"." + (b"%09d" % rest)[: len(digits)] if digits else b""
        return text.rjust(19, b"0") + tail + b"Z"

    return moved
