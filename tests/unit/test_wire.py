"""A dialog's own connection: whole messages, in order, whoever is cancelled, and no other bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
import trio
import trio.testing

from piker.errors import Transient
from piker.service.wire import MAX_FRAME, Expected, Wire, hand_over

BIG = 4_000_000  # bytes; more than the kernel holds for a reader who does not read


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Yield both ends of a loopback TCP connection."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        far = await listener.accept()
    async with near, far:
        yield near, far


async def test_messages_arrive_whole_and_in_order_however_they_are_cut() -> None:
    """A thousand messages of any size, their bytes cut anywhere: the same come out."""
    rng = random.Random(3)
    messages = [rng.randbytes(rng.choice([0, 1, 300, 70_000])) for _ in range(1000)]
    stream = b"".join(
        struct.pack("<I", len(body)) + body for body in map(msgspec.msgpack.encode, messages)
    )
    async with open_pair() as (near, far), trio.open_nursery() as nursery:

        async def dribble() -> None:
            at = 0
            while at < len(stream):
                step = rng.choice([1, 3, 900, 200_000])
                await near.send_all(stream[at : at + step])
                at += step
            await near.aclose()

        nursery.start_soon(dribble)
        assert [message async for message in Wire(far, bytes)] == messages


async def test_a_sender_that_is_cancelled_leaves_no_half_message() -> None:
    """Senders who are cancelled while nobody reads: what arrives later is whole messages."""
    async with open_pair() as (near, far):
        sender, reader = Wire(near), Wire(far, tuple[int, bytes])
        for number in range(5):
            with trio.move_on_after(0.02):
                await sender.send((number, bytes(BIG)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, (99, b"last"))
            found = []
            async for number, body in reader:
                assert body in (bytes(BIG), b"last")
                found.append(number)
                if number == 99:
                    break
        assert found == sorted(found)
        assert found[0] == 0
        sender.close()
        reader.close()


async def test_many_senders_do_not_mix_their_bytes() -> None:
    """Twenty tasks send at once, more than the socket takes: each message is its sender's."""
    async with open_pair() as (near, far), trio.open_nursery() as nursery:
        sender, reader = Wire(near), Wire(far, tuple[int, bytes])

        async def talk(number: int) -> None:
            for _ in range(10):
                await sender.send((number, bytes([number]) * 50_000))

        for number in range(20):
            nursery.start_soon(talk, number)
        counts = [0] * 20
        for _ in range(200):
            number, body = await reader.receive()
            assert body == bytes([number]) * 50_000
            counts[number] += 1
        assert counts == [10] * 20
        sender.close()
        reader.close()


async def test_what_waits_together_is_relayed_together_until_its_channel_ends() -> None:
    """A thousand messages by a channel arrive in order; the relay ends with it."""
    async with open_pair() as (near, far), trio.open_nursery() as nursery:
        sender, reader = Wire(near), Wire(far, int)
        put, get = trio.open_memory_channel[int](1000)
        nursery.start_soon(sender.relay, get, abs)
        for number in range(1000):
            put.send_nowait(-number)
        put.close()
        assert [await reader.receive() for _ in range(1000)] == list(range(1000))
        sender.close()
        reader.close()


async def test_the_end_is_told_after_the_last_message() -> None:
    """What was sent before the end is read before it; then iteration ends."""
    async with open_pair() as (near, far), trio.open_nursery() as nursery:
        sender, reader = Wire(near), Wire(far, int)
        for number in range(3):
            await sender.send(number)
        nursery.start_soon(sender.end)
        assert [await reader.receive() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(trio.EndOfChannel):
            await reader.receive()
        reader.close()
    assert sender.closed.is_set()


async def test_who_waits_is_told_when_a_wire_is_closed() -> None:
    """A receiver and a sender that wait wake with ClosedResourceError."""
    async with open_pair() as (near, _), trio.open_nursery() as nursery:
        wire = Wire(near)

        async def refused(send: bool) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await (wire.send(bytes(BIG)) if send else wire.receive())

        nursery.start_soon(refused, False)
        nursery.start_soon(refused, True)
        await trio.testing.wait_all_tasks_blocked()
        wire.close()
    with pytest.raises(trio.ClosedResourceError):
        await wire.send(1)


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<I", MAX_FRAME + 1),
        struct.pack("<I", 3) + b"\xc1\xc1\xc1",
        struct.pack("<I", 2) + msgspec.msgpack.encode("x"),
        struct.pack("<I", 100) + b"cut",
    ],
    ids=["too long", "no msgpack", "another type", "cut"],
)
async def test_bad_bytes_end_the_wire_and_nothing_else(bad: bytes) -> None:
    """What no piker sends is never a message."""
    async with open_pair() as (near, far):
        wire = Wire(far, int)
        await near.send_all(struct.pack("<I", 1) + b"\x07" + bad)
        await near.send_eof()
        assert await wire.receive() == 7
        with pytest.raises(trio.BrokenResourceError):
            await wire.receive()
        assert wire.is_gone
        wire.close()


async def test_a_connection_is_given_to_the_dialog_that_expects_it_once() -> None:
    """The right id is handed over; a wrong one, or the same a second time, is let go."""
    async with open_pair() as (near, far), open_pair() as (_, other):
        async with trio.open_nursery() as nursery:
            with Expected(int) as expected:
                await hand_over(bytes(15) + b"x", other)  # returns at once: nobody expects it
                nursery.start_soon(hand_over, expected.id, far)
                wire = await expected.come()
                await hand_over(expected.id, other)
            caller = Wire(near)
            await caller.send(5)
            assert await wire.receive() == 5
            wire.close()
            caller.close()


async def test_a_connection_that_came_in_vain_is_closed() -> None:
    """A handler that fails before it has its connection leaves none open."""
    async with open_pair() as (near, far), trio.open_nursery() as nursery:
        with suppress(ValueError), Expected() as expected:
            nursery.start_soon(hand_over, expected.id, far)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("the handler failed")
        assert await near.receive_some(1) == b""


async def test_a_caller_who_does_not_come_is_not_waited_for(autojump_clock: object) -> None:
    """The handler is told, and its id is worth nothing afterwards."""
    with pytest.raises(Transient, match="did not connect"), Expected() as expected:
        await expected.come()
    async with open_pair() as (_, far):
        await hand_over(expected.id, far)
