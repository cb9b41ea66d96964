"""One file out of a zip that a stranger made, inflated in pieces and believed only when whole.

The directory is read by :mod:`zipfile`; the inflating is isal's, several times as fast as zlib.
Nothing is ever written to a path that the zip names.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator

from isal import isal_zlib

from piker.errors import DataQuality

__all__ = ["FEED", "MAX_RATIO", "PIECE", "lines_of", "sole_member", "unzip"]

PIECE = 16 * 2**20  # bytes of text that are handed on at once: some 30 ms of work in a thread
FEED = 4 * 2**20  # packed bytes that are fed at once: what is left of them is copied each time
MAX_DIRECTORY = 2**16  # bytes; that of one file has some 100
#: Inflated to deflated. Deflate can do 1032; bars give 3, flat ones of a dead market 22 (measured).
MAX_RATIO = 200
_LOCAL = struct.Struct("<4s5H3I2H")  # a member's own header: APPNOTE.TXT 4.3.7
_END = struct.Struct("<4s4H2IH")  # the end of the directory: APPNOTE.TXT 4.3.16
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1


def sole_member(data: bytes, *, max_bytes: int) -> zipfile.ZipInfo:
    """Return the one file that a zip holds; raise ``DataQuality`` (``bad-zip``) if it is not so.

    Refuses what says that it is larger than ``max_bytes`` or squeezed beyond ``MAX_RATIO``.
    """
    _few_entries(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise _bad(f"it is no whole zip: {error}") from error
    if len(members) != 1:
        raise _bad(f"it holds {len(members)} files, not one")
    member = members[0]
    if member.flag_bits & _ENCRYPTED or member.compress_type not in (_STORED, _DEFLATED):
        raise _bad(f"{member.filename[:80]!r} is encrypted or packed in an unknown way")
    if member.file_size > max_bytes:
        raise _bad(f"it holds {member.file_size} bytes; more than {max_bytes} are refused")
    if member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise _bad(f"{member.compress_size} bytes would become {member.file_size}")
    return member


def _few_entries(data: bytes) -> None:
    """Refuse a directory that would take long to read, before it is read."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - 2**16))
    if at < 0 or at + _END.size > len(data):
        raise _bad("it is no whole zip: its directory is missing")
    _, _, _, _, count, size, _, _ = _END.unpack_from(data, at)
    if count != 1 or size > MAX_DIRECTORY:
        raise _bad(f"it holds {count} files, not one, in a directory of {size} bytes")


def unzip(data: bytes, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield a member's bytes in pieces; raise ``DataQuality`` where they are not what it says.

    Length and CRC are known only at the end: what was yielded is to be trusted when the iterator
    has ended without an error. Not more than the length it declares is ever inflated.
    """
    packed = _packed(data, member)
    size = crc = 0
    for piece in _inflated(packed, member):
        size += len(piece)
        crc = isal_zlib.crc32(piece, crc)
        if size > member.file_size:
            raise _bad(f"it goes on beyond the {member.file_size} bytes that it declares")
        yield piece
    if size != member.file_size:
        raise _bad(f"it ends after {size} of {member.file_size} bytes")
    if crc != member.CRC:
        raise _bad("its CRC does not agree")


def _packed(data: bytes, member: zipfile.ZipInfo) -> memoryview:
    """Return the packed bytes; the member's own header must say what the directory says."""
    at = member.header_offset
    head = data[at : at + _LOCAL.size]
    if len(head) < _LOCAL.size:
        raise _bad("a member's header lies outside of it")
    magic, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack(head)
    at += _LOCAL.size
    name = data[at : at + name_size]
    at += name_size + extra_size
    if magic != b"PK\x03\x04" or method != member.compress_type or flags & _ENCRYPTED:
        raise _bad("a member's header is not what the directory says")
    if name.decode("utf-8", "replace") != member.orig_filename:
        raise _bad("a member's header has another name than the directory")
    if at + member.compress_size > len(data):
        raise _bad("a member goes on beyond its end")
    return memoryview(data)[at : at + member.compress_size]


def _inflated(packed: memoryview, member: zipfile.ZipInfo) -> Iterator[bytes]:
    if member.compress_type == _STORED:
        yield from (bytes(packed[at : at + PIECE]) for at in range(0, len(packed), PIECE))
        return
    inflate = isal_zlib.decompressobj(-isal_zlib.MAX_WBITS)
    try:
        for at in range(0, len(packed), FEED):
            rest: bytes | memoryview = packed[at : at + FEED]
            while not inflate.eof:
                piece = inflate.decompress(rest, PIECE)
                rest = inflate.unconsumed_tail
                if piece:
                    yield piece
                if not rest and len(piece) < PIECE:
                    break  # all of this part is out; at the end the length tells
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub calls it a variable
        raise _bad(f"it does not inflate: {error}") from error


def lines_of(pieces: Iterator[bytes], *, max_line: int) -> Iterator[bytes]:
    """Yield the same text in pieces that end with a line; the last one as it is.

    Raises ``DataQuality`` (``bad-csv``) for a line of more than ``max_line`` bytes.
    """
    rest = b""
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if not cut:
            rest += piece
            if len(rest) > max_line:
                raise DataQuality(f"a line of more than {max_line} bytes", kind="bad-csv")
            continue
        yield rest + piece[:cut]
        rest = piece[cut:]
    if rest:
        yield rest


def _bad(what: str) -> DataQuality:
    return DataQuality(what, kind="bad-zip")
