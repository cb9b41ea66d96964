"""Files of a venue's bulk archive: fetched with their checksum, believed, unzipped.

::

    fetched = await fetch_verified(client, file, policy="strict")
    for piece in text_of(fetched.body, "BTCUSDT-1m-2024-05.csv", max_bytes=MAX_CSV):
        ...

No backend writes its own: retries are :mod:`piker.brokers.rest`'s, the zip is inflated in pieces by
:mod:`piker.brokers._zip`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from piker.brokers._zip import lines_of, sole_member, unzip
from piker.brokers.archive import ArchiveFile, ChecksumPolicy, Defect, quarantine_path
from piker.brokers.rest import Response, RestClient
from piker.errors import DataQuality, NoData
from piker.log import get_logger

__all__ = [
    "FILE_S",
    "MAX_LINE",
    "STALL_S",
    "Fetched",
    "Text",
    "fetch_verified",
    "has_changed",
    "parse_checksum",
    "text_of",
]

log = get_logger("archive")

MAX_CHECKSUM = 1024  # bytes of a CHECKSUM file; they have some 100
MAX_LINE = 4096  # bytes of a line of CSV; they have some 150
FILE_S = 900.0  # for one attempt at a file: 256 MB at 300 kB/s
STALL_S = 20.0  # without a byte, then it is tried again
_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?([!-~]+)\n?", re.ASCII)


# -- fetching ------------------------------------------------------------------------------------
class Fetched(msgspec.Struct, frozen=True):
    """A file's bytes as they came, and what its checksum said of them.

    ``defects`` is empty, or the one reason why it is not ``verified``.
    """

    body: bytes
    sha256: str
    etag: str
    modified: str
    defects: tuple[Defect, ...] = ()

    @property
    def verified(self) -> bool:
        """Tell whether the checksum agreed."""
        return not self.defects


def parse_checksum(text: bytes, name: str) -> str:
    """Return the SHA-256 that a CHECKSUM file gives for ``name``, in lower case.

    It is one line: 64 hexadecimal digits, blanks, the name. Anything else is a ``DataQuality``
    (``bad-checksum``), the checksum of another file above all.
    """
    found = _CHECKSUM.fullmatch(text.decode("ascii", "replace"))
    if found is None:
        raise DataQuality(f"the CHECKSUM of {name} is none: {text[:80]!r}", kind="bad-checksum")
    if found[2] != name:
        said = f"the CHECKSUM of {name} is that of {found[2][:80]}"
        raise DataQuality(said, kind="bad-checksum")
    return found[1].lower()


async def fetch_verified(
    client: RestClient,
    file: ArchiveFile,
    *,
    policy: ChecksumPolicy,
    quarantine: Path | None = None,
    suffix: str = ".CHECKSUM",
) -> Fetched:
    """Fetch a file and its checksum, and compare; a mismatch is looked at twice.

    Raises ``NoData`` where there is no file, ``DataQuality`` (``bad-checksum``) where the policy
    refuses it, and what :meth:`RestClient.request` raises. ``quarantine`` is the folder for
    refused files. Cancellation leaves nothing behind.
    """
    answer = await _get(client, file)
    digest = await _digest(answer.body)
    defect = await _compare(client, file, digest, suffix)
    if defect is not None and defect.kind == "bad-checksum":  # it may be replaced just now
        again = await _get(client, file, etag=answer.headers.get("etag", ""))
        if again.status != 304:
            answer, digest = again, await _digest(again.body)
        defect = await _compare(client, file, digest, suffix)
    if defect is not None:
        await _refuse(answer.body, file, defect, policy, quarantine)
    return Fetched(
        answer.body,
        digest,
        answer.headers.get("etag", ""),
        answer.headers.get("last-modified", ""),
        () if defect is None else (defect,),
    )


async def has_changed(client: RestClient, file: ArchiveFile, etag: str) -> bool:
    """Ask, without its bytes, whether a file is another one than that of ``etag``.

    Raises ``NoData`` when it is gone.
    """
    headers = {"If-None-Match": etag} if etag else {}
    answer = await client.request("HEAD", "/" + file.path, headers=headers, accept=(304, 404))
    if answer.status == 404:
        raise NoData(f"{client.venue} has no {file.name} any more.")
    return answer.status != 304 and answer.headers.get("etag", "") != etag


async def _get(client: RestClient, file: ArchiveFile, *, etag: str = "") -> Response:
    answer = await client.request(
        "GET",
        "/" + file.path,
        headers={"If-None-Match": etag} if etag else {},
        accept=(304, 404) if etag else (404,),
        deadline_s=FILE_S,
        stall_s=STALL_S,
    )
    if answer.status == 404:
        raise NoData(f"{client.venue} has no {file.name}.")
    return answer


async def _digest(body: bytes) -> str:
    """Return the SHA-256; hashing a large file takes a while, so a thread does it."""
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(body).hexdigest())


async def _compare(
    client: RestClient, file: ArchiveFile, digest: str, suffix: str
) -> Defect | None:
    """Return what is wrong with the file's checksum, None where it agrees."""
    answer = await client.request("GET", f"/{file.path}{suffix}", accept=(404,))
    if answer.status == 404:
        return Defect("no-checksum", 1, f"there is no {file.name}{suffix}")
    try:
        wanted = parse_checksum(answer.body[:MAX_CHECKSUM], file.name)
    except DataQuality as error:
        return Defect("bad-checksum", 1, error.message)
    if wanted == digest:
        return None
    return Defect(
        "bad-checksum", 1, f"{file.name}: {digest[:16]}..., its CHECKSUM {wanted[:16]}..."
    )


async def _refuse(
    body: bytes, file: ArchiveFile, defect: Defect, policy: ChecksumPolicy, folder: Path | None
) -> None:
    """Do with an unverified file what the policy says; raise ``DataQuality`` but for ``warn``."""
    log.warning("archive.unverified", file=file.path, why=defect.example, policy=policy)
    if policy == "warn":
        return
    kept = ""
    if policy == "quarantine" and folder is not None:
        place = quarantine_path(folder, file)
        try:
            await trio.to_thread.run_sync(_keep, body, place)
            kept = f"It is kept as {place}."
        except OSError as error:
            kept = f"It could not be kept: {error}."
    raise DataQuality(f"{defect.example}; it is refused.", kind="bad-checksum", remedy=kept)


def _keep(body: bytes, place: Path) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    part.write_bytes(body)
    part.replace(place)


# -- reading -------------------------------------------------------------------------------------
class Text(NamedTuple):
    """The text of a file in a zip: how many bytes it says it has, and its pieces."""

    size: int
    pieces: Iterator[bytes]


def text_of(body: bytes, name: str, *, max_bytes: int) -> Text:
    """Return the text of the one file in a zip, in pieces that end with a line.

    ``name`` is what the file must be called. Raises ``DataQuality``, also while it is iterated:
    ``bad-zip`` for what is no sound zip of one file, ``wrong-symbol`` for another file, ``bad-csv``
    for one that is empty or no text of lines. Damage may show at the end only: what was yielded is
    to be trusted when it has ended.
    """
    member = sole_member(body, max_bytes=max_bytes)
    if member.orig_filename != name:
        other = re.fullmatch(r"[\w.-]+\.csv", member.orig_filename, re.ASCII)
        said = f"it holds {member.orig_filename[:80]!r} where {name!r} was expected"
        raise DataQuality(said, kind="wrong-symbol" if other else "bad-zip")
    if not member.file_size:
        raise DataQuality(f"{name} is empty", kind="bad-csv")
    return Text(member.file_size, lines_of(unzip(body, member), max_line=MAX_LINE))
