"""Zips of the loopback archive: sound ones, and those that no reader may trust.

The same content gives the same bytes each time, so that checksum and ETag hold.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Collection
from datetime import UTC, datetime

from piker.testing.faults import Fault

__all__ = ["BOMB_SIZE", "ZipMaker", "zip_bomb"]

BOMB_SIZE = 2 << 30  # bytes that a bomb inflates to
LEVEL = 1  # of compression: five times as fast as the default, a fifth larger
_BLOCK = 1 << 20


class ZipMaker:
    """One zip with one member; ``flaws`` make more of it."""

    def __init__(self, name: str, made_s: int, flaws: Collection[str] = ()) -> None:
        self._buffer = io.BytesIO()
        self._made = datetime.fromtimestamp(made_s, UTC).timetuple()[:6]
        self._zip = zipfile.ZipFile(self._buffer, "w")
        self._flaws = flaws
        self._member = self._open(f"../../{name}" if "zip-path" in flaws else name)

    def _open(self, name: str) -> io.BufferedIOBase:
        info = zipfile.ZipInfo(name, self._made)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        info._compresslevel = LEVEL  # type: ignore[attr-defined]  # it has no public name in 3.11
        return self._zip.open(info, "w")  # type: ignore[return-value]  # IO[bytes], of old

    def write(self, data: bytes) -> None:
        """Add to the member."""
        if "empty-csv" not in self._flaws:
            self._member.write(data)

    def close(self) -> bytes:
        """Return the zip."""
        self._member.close()
        if "two-members" in self._flaws:
            with self._open("second.csv") as second:
                second.write(b"1\n")
        self._zip.close()
        return self._buffer.getvalue()


def zip_bomb(name: str, fault: Fault, *, honest_size: int) -> bytes:
    """Return a zip of 2 MB whose member inflates to 2 GiB of zeros.

    Its header tells that size, or with ``hidden`` the ``honest_size`` of the CSV. The CRC is 0: who
    has read so far has been taken in already.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush the stream stands at a byte and knows nothing of before, so it repeats.
    block = packer.compress(b"0" * _BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    data = block * (BOMB_SIZE // _BLOCK) + b"\x03\x00"
    size = honest_size if fault.part == "hidden" else BOMB_SIZE
    raw = name.encode("ascii")
    # APPNOTE.TXT 4.3: version, flags, deflate, time, date, CRC, sizes, lengths of name and extra.
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0x21, 0, len(data), size, len(raw), 0)
    local = b"PK\x03\x04" + common + raw
    central = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0)
    central += raw
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(data), 0)
    return local + data + central + b"PK\x05\x06" + end
