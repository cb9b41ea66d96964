"""Zips of strangers: one sound file comes out whole, anything else is refused with its reason."""

from __future__ import annotations

import io
import zipfile

import pytest
from archive_zips import declare, klines, ms, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.brokers import _zip
from piker.brokers.download import Text, parse_checksum, text_of
from piker.errors import DataQuality

NAME = "BTCUSDT-1m-2024-05-17.csv"
TEXT = ("\n".join(klines(ms("2024-05-17"), 1440)) + "\n").encode()
BODY = zipped(TEXT, NAME)
MAX = 10**7
DIGEST = "0123456789abcdef" * 4


def whole(text: Text) -> bytes:
    """Return a text in one piece."""
    return b"".join(text.pieces)


def refusal(body: bytes, name: str = NAME) -> DataQuality:
    """Return what is said of a zip that is refused, at whatever byte."""
    with pytest.raises(DataQuality) as caught:
        whole(text_of(body, name, max_bytes=MAX))
    return caught.value


@pytest.mark.parametrize("stored", [False, True])
def test_the_text_is_whole_when_the_zip_is_sound(stored: bool) -> None:
    """Deflated or not; the size is told beforehand."""
    text = text_of(zipped(TEXT, NAME, stored=stored), NAME, max_bytes=MAX)
    assert text.size == len(TEXT)
    assert whole(text) == TEXT


def test_pieces_end_with_a_line_when_the_text_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece but the last ends with a newline, and they make the text again."""
    monkeypatch.setattr(_zip, "PIECE", 1000)
    monkeypatch.setattr(_zip, "FEED", 100)
    pieces = list(text_of(BODY, NAME, max_bytes=MAX).pieces)
    assert len(pieces) > 50
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert b"".join(pieces) == TEXT


def test_a_zip_is_refused_when_it_is_none() -> None:
    """Bytes of another kind, an answer of a proxy, nothing at all."""
    for body in (b"", b"<html>not found</html>", b"PK\x03\x04", bytes(10_000)):
        assert refusal(body).kind == "bad-zip"


def test_a_zip_is_refused_when_it_is_cut_anywhere() -> None:
    """Truncated downloads: whatever is missing at the end."""
    for length in range(0, len(BODY), 997):
        assert refusal(BODY[:length]).kind == "bad-zip"


def test_a_zip_is_refused_when_a_byte_of_its_data_is_another() -> None:
    """The CRC tells, or the inflating fails."""
    for at in range(60, len(BODY) - 200, 1501):
        changed = bytearray(BODY)
        changed[at] ^= 0x55
        assert refusal(bytes(changed)).kind == "bad-zip"


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "a/../" + NAME, "C:\\x", NAME + "/", "x\0" + NAME, "é" + NAME],
)
def test_a_zip_is_refused_when_its_file_is_called_otherwise(name: str) -> None:
    """Tricks with paths come to nothing: the name is compared, never used."""
    assert refusal(zipped(TEXT, name)).kind == "bad-zip"


def test_a_zip_is_of_another_market_when_its_file_says_so() -> None:
    """ETHUSDT's file under BTCUSDT's name."""
    error = refusal(zipped(TEXT, "ETHUSDT-1m-2024-05-17.csv"))
    assert error.kind == "wrong-symbol"
    assert "ETHUSDT-1m-2024-05-17.csv" in str(error)


def test_a_zip_is_refused_when_its_two_headers_disagree() -> None:
    """The directory has the right name, the file itself another."""
    assert refusal(BODY.replace(b"BTCUSDT-1m", b"ETHUSDT-1m", 1)).kind == "bad-zip"


def test_a_zip_is_refused_when_it_holds_more_or_less_than_one_file() -> None:
    """Two members, none, ten thousand."""
    for count in (0, 2, 10_000):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number in range(count):
                archive.writestr(NAME if not number else f"{number}.csv", b"1")
        assert refusal(buffer.getvalue()).kind == "bad-zip"


def test_a_bomb_is_refused_when_it_says_what_it_is() -> None:
    """Larger than the bound, or squeezed beyond what CSV can be: before a byte is inflated."""
    assert "refused" in str(refusal(declare(BODY, MAX + 1)))
    bomb = zipped(b"0" * (MAX - 1), NAME)
    assert "would become" in str(refusal(bomb))


def test_a_bomb_is_refused_when_it_lies() -> None:
    """It declares less than it holds: not more than that and one piece is inflated."""
    error = refusal(declare(zipped(b"0,1\n" * 10**6, NAME), 100_000))
    assert "beyond the 100000 bytes" in str(error)


def test_a_file_is_refused_when_it_is_empty_or_has_no_lines() -> None:
    """Nothing inside, or megabytes without a newline."""
    assert refusal(zipped(b"", NAME)).kind == "bad-csv"
    noise = bytes(range(48, 122)) * 200_000
    assert refusal(zipped(noise[: MAX - 1], NAME, stored=True)).kind == "bad-csv"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_but_quality_errors_comes_when_bytes_are_changed(data: st.DataObject) -> None:
    """Whatever is done to the bytes: the text as it was, or a refusal."""
    small = zipped(TEXT[:2000], NAME)
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(small)))
    body = bytes(changed[cut:] if data.draw(st.booleans()) else changed)
    kind, text = "", b""
    try:
        text = whole(text_of(body, NAME, max_bytes=MAX))
    except DataQuality as error:
        kind = error.kind
    assert text == TEXT[:2000] or kind in ("bad-zip", "bad-csv", "wrong-symbol")


# -- checksums -----------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["{}  {}\n", "{} {}", "{}\t{}\n", "{} *{}\n"])
def test_a_checksum_is_read_when_it_is_one(form: str) -> None:
    """As sha256sum writes it; digits in either case."""
    assert parse_checksum(form.format(DIGEST.upper(), "a.zip").encode(), "a.zip") == DIGEST


@pytest.mark.parametrize(
    "text",
    [b"", DIGEST.encode(), f"{DIGEST[:-1]}  a.zip\n".encode(), f"{DIGEST}0  a.zip".encode(),
     f"{DIGEST}  b.zip\n".encode(), f"{DIGEST}  ../a.zip\n".encode(), b"\xff" * 80,
     f"{DIGEST}  a.zip\n{DIGEST}  b.zip\n".encode(), b"<html></html>"],
)  # fmt: skip
def test_a_checksum_is_refused_when_it_is_none_or_anothers(text: bytes) -> None:
    """Too short, too long, of another file, two lines, rubbish."""
    with pytest.raises(DataQuality) as caught:
        parse_checksum(text, "a.zip")
    assert caught.value.kind == "bad-checksum"
