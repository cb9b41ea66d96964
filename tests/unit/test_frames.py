"""The frame splitter reads what wsproto reads, however the bytes arrive, and survives anything."""

from __future__ import annotations

import gc
import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong
from wsproto.utilities import RemoteProtocolError
from wsserver import frame

from piker.brokers._frames import MAX_FRAGMENTS, Splitter

CAP = 1 << 20


def split(data: bytes, cuts: list[int], cap: int = CAP) -> tuple[list[bytes], bytes, Splitter]:
    """Feed ``data`` cut at the given places; return messages, control bytes and the splitter."""
    splitter, messages, controls = Splitter(cap), [], b""
    places = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(places):
        found, control = splitter.feed(data[start:end])
        messages += found
        controls += control
    return messages, controls, splitter


def reference(data: bytes) -> tuple[list[bytes], list[bytes], bool]:
    """Return (messages, control payloads, ok) as wsproto sees the same bytes."""
    connection = Connection(ConnectionType.CLIENT)
    messages: list[bytes] = []
    controls: list[bytes] = []
    parts: list[bytes] = []
    try:
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, Message):
                piece = event.data if isinstance(event, BytesMessage) else event.data.encode()
                parts.append(bytes(piece))
                if event.message_finished:
                    messages.append(b"".join(parts))
                    parts = []
            elif isinstance(event, (Ping, Pong)):
                controls.append(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                return messages, controls, False  # how wsproto reports bad UTF-8, among others
    except RemoteProtocolError:
        return messages, controls, False
    return messages, controls, True


def payloads(controls: bytes) -> list[bytes]:
    """Return the payloads of raw control frames, close frames apart."""
    found = []
    while controls:
        size = controls[1]
        if controls[0] != 0x88:
            found.append(controls[2 : 2 + size])
        controls = controls[2 + size :]
    return found


SIZES = st.sampled_from([0, 1, 125, 126, 127, 200, 65535, 65536, 70000])
TEXTS = st.binary(max_size=40).map(lambda b: b.hex().encode())


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw a legal sequence of frames: whole, fragmented, with control frames between."""
    out = b""
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["small", "sized", "fragments", "control"]))
        if kind == "small":
            out += frame(draw(TEXTS), first=draw(st.sampled_from([0x81, 0x82])))
        elif kind == "sized":
            out += frame(b"x" * draw(SIZES))
        elif kind == "control":
            out += frame(draw(TEXTS)[:125], first=draw(st.sampled_from([0x89, 0x8A])))
        else:
            parts = draw(st.lists(TEXTS, min_size=2, max_size=5))
            for number, part in enumerate(parts):
                opcode = 0x01 if number == 0 else 0x00
                final = 0x80 if number == len(parts) - 1 else 0
                out += frame(part, first=opcode | final)
                if draw(st.booleans()):
                    out += frame(draw(TEXTS)[:125], first=0x89)
    return out


@settings(deadline=None)
@given(streams(), st.data())
def test_splitter_reads_what_wsproto_reads_however_it_is_cut(
    data: bytes, cuts: st.DataObject
) -> None:
    """Messages and control payloads, in order, for any cut of the bytes."""
    places = cuts.draw(st.lists(st.integers(0, len(data)), max_size=20))
    messages, controls, splitter = split(data, places)
    expected, expected_controls, ok = reference(data)
    assert ok
    assert splitter.error is None
    assert messages == expected
    assert payloads(controls) == expected_controls


def test_every_single_cut_and_byte_by_byte_give_the_same() -> None:
    """All cuts of a stream that holds every kind of head."""
    data = b"".join(
        [
            frame(b"a"),
            frame(b"b" * 126),
            frame(b"ping", first=0x89),
            frame(b"one", first=0x01),
            frame(b"pong", first=0x8A),
            frame(b"two", first=0x80),
            frame(b"c" * 300, first=0x82),
            frame(b"", first=0x81),
            frame(b"\x03\xe8done", first=0x88),
        ]
    )
    whole = split(data, [])[:2]
    assert whole[0] == [b"a", b"b" * 126, b"onetwo", b"c" * 300, b""]
    for cut in range(len(data) + 1):
        assert split(data, [cut])[:2] == whole
    messages, controls, splitter = split(data, list(range(len(data))))
    assert (messages, controls) == whole
    assert splitter.closed == (1000, "done")
    large = frame(b"d" * 70_000) + frame(b"e")
    for cut in (1, 2, 5, 9, 10, 11, 70_009, 70_010, 70_011):
        assert split(large, [cut])[0] == [b"d" * 70_000, b"e"]


def test_large_message_in_small_reads_takes_linear_time_and_memory() -> None:
    """Eight megabytes in 4 KiB reads: each byte is joined once, not once per read."""
    data = frame(b"x" * (8 << 20))
    splitter = Splitter()
    tracemalloc.start()
    found: list[bytes] = []
    for start in range(0, len(data), 4096):
        found += splitter.feed(data[start : start + 4096])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(message) for message in found] == [8 << 20]
    assert peak < 4 * len(data)


BAD = {
    "masked": b"\x81\x81abcda",
    "masked-long": b"\x81\xfe\x00\x80" + b"a" * 200,
    "rsv1": frame(b"a", first=0xC1),
    "rsv3-control": frame(b"a", first=0x99),
    "opcode-3": frame(b"a", first=0x83),
    "opcode-b": frame(b"a", first=0x8B),
    "fragmented-ping": frame(b"a", first=0x09),
    "long-ping": frame(b"a" * 126, first=0x89),
    "padded-16": b"\x81\x7e\x00\x05hello",
    "padded-64": b"\x81\x7f" + (5).to_bytes(8, "big") + b"hello",
    "negative-64": b"\x81\x7f\xff" + bytes(7),
    "lone-continuation": frame(b"a", first=0x80),
    "text-inside-message": frame(b"a", first=0x01) + frame(b"b"),
    "half-a-close-code": frame(b"\x03", first=0x88),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_broken_protocol_is_noticed_and_what_came_before_is_kept(bad: bytes) -> None:
    """1002, in whatever pieces it arrives; nothing after it is believed."""
    data = frame(b"good") + bad + frame(b"after")
    for cuts in ([], list(range(len(data)))):
        messages, _, splitter = split(data, cuts)
        assert messages == [b"good"]
        assert splitter.error is not None
        assert splitter.error.code == 1002
        assert splitter.feed(frame(b"x")) == ([], b"")


def test_messages_and_fragments_are_bounded() -> None:
    """1009: an announced size, a sum of fragments, and too many of them."""
    announced = split(bytes((0x81, 127)) + (CAP + 1).to_bytes(8, "big"), [])[2]
    half = frame(b"x" * (CAP // 2 + 1), first=0x01)
    summed = split(half + frame(b"x" * (CAP // 2 + 1), first=0x80), [])[2]
    many = split(frame(b"", first=0x01) + frame(b"", first=0x00) * MAX_FRAGMENTS, [])[2]
    for splitter in (announced, summed, many):
        assert splitter.error is not None
        assert splitter.error.code == 1009


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return ``data`` with a few bytes flipped, cut out, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.randint(1, 9)]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randint(1, 9)]
        else:
            out[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(out)


@pytest.mark.slow
def test_twenty_thousand_mutated_streams_crash_nothing_and_keep_memory_flat() -> None:
    """And whatever wsproto still accepts is read in the same way."""
    rng = random.Random(6455)
    tracemalloc.start()
    agreed = refused = 0
    start = 0
    for number in range(20_000):
        parts = [
            frame(rng.randbytes(rng.choice([0, 3, 130])).hex().encode()),
            frame(b"p" * rng.randint(0, 125), first=0x89),
            frame(b"frag", first=0x01) + frame(b"ment", first=0x80),
        ]
        rng.shuffle(parts)
        data = mutated(rng, b"".join(parts))
        cuts = [rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 3))]
        messages, controls, splitter = split(data, cuts, 4096)
        assert sum(map(len, messages)) + len(controls) <= len(data)
        if splitter.error is not None:
            refused += 1
        elif number % 10 == 0 and splitter.closed is None:
            expected, expected_controls, ok = reference(data)
            if ok:
                assert messages == expected
                assert payloads(controls) == expected_controls
                agreed += 1
        if number == 2000:
            gc.collect()
            start = tracemalloc.get_traced_memory()[0]
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert grown < 18_000 * 12  # less than a pointer and a half for each stream since
    assert refused > 1000
    assert agreed > 50
