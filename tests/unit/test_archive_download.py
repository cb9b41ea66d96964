"""Files fetched with their checksum from a real server that does what it is told."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from archive_zips import day_file, klines, ms, zipped
from test_rest import Request, Server, reply, serving

from piker.brokers import download
from piker.brokers import rest as rest_module
from piker.brokers.archive import quarantine_path
from piker.brokers.download import Fetched, fetch_verified, has_changed
from piker.brokers.limits import Budget
from piker.brokers.rest import RestClient, open_rest
from piker.errors import DataQuality, NoData, Transient

FILE = day_file()
BODY = zipped("\n".join(klines(ms("2024-05-17"), 100)), FILE.name.replace(".zip", ".csv"))
OTHER = zipped("\n".join(klines(ms("2024-05-17"), 99)), FILE.name.replace(".zip", ".csv"))
Script = Callable[[str, int], bytes | None]


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "RETRY_BASE_S", 0.001)


def told(body: bytes, name: str = FILE.name) -> bytes:
    """Return the answer to a request for a checksum."""
    return reply(body=f"{hashlib.sha256(body).hexdigest()}  {name}\n".encode())


def sent(body: bytes, etag: str = '"1"') -> bytes:
    """Return the answer to a request for a file."""
    return reply(body=body, ETag=etag, Last_Modified="Sat, 18 May 2024 02:00:00 GMT")


@asynccontextmanager
async def archive(script: Script) -> AsyncIterator[tuple[RestClient, Server]]:
    """Serve: ``script`` gets "zip" or "sum" and how often that was asked for before."""
    counts = {"zip": 0, "sum": 0}

    async def handler(request: Request, stream: trio.abc.Stream) -> bytes | None:
        what = "sum" if ".CHECKSUM " in request.line else "zip"
        counts[what] += 1
        return script(what, counts[what] - 1)

    async with serving(handler) as server:
        budget = Budget("archive")
        async with open_rest("archive", server.url, budget=budget) as client:
            yield client, server


def sound(what: str, nth: int) -> bytes:
    """Answer as an archive without faults."""
    return sent(BODY) if what == "zip" else told(BODY)


async def fetch(script: Script, **options: object) -> tuple[Fetched, list[str]]:
    """Return what was fetched, and the lines of the requests."""
    async with archive(script) as (client, server):
        fetched = await fetch_verified(client, FILE, **{"policy": "strict", **options})  # type: ignore[arg-type]
        return fetched, [request.line.split(" ")[1] for request in server.requests]


async def refusal(script: Script, **options: object) -> DataQuality:
    """Return the error of a file that is refused."""
    with pytest.raises(DataQuality) as caught:
        await fetch(script, **options)
    assert caught.value.kind == "bad-checksum"
    return caught.value


async def test_a_file_is_verified_when_its_checksum_agrees() -> None:
    """Two requests; bytes, digest and the server's words are kept."""
    fetched, lines = await fetch(sound)
    assert lines == [f"/{FILE.path}", f"/{FILE.path}.CHECKSUM"]
    assert fetched.body == BODY
    assert fetched.sha256 == hashlib.sha256(BODY).hexdigest()
    assert (fetched.etag, fetched.modified) == ('"1"', "Sat, 18 May 2024 02:00:00 GMT")
    assert fetched.verified
    assert fetched.defects == ()


async def test_there_is_no_data_when_there_is_no_file() -> None:
    """A 404 is not asked for again."""
    async with archive(lambda what, nth: reply(404, b"<Error/>")) as (client, server):
        with pytest.raises(NoData, match=FILE.name):
            await fetch_verified(client, FILE, policy="strict")
        assert len(server.requests) == 1


@pytest.mark.parametrize("policy", ["strict", "quarantine"])
async def test_a_file_is_refused_when_its_checksum_does_not_agree(
    policy: str, tmp_path: Path
) -> None:
    """Looked at twice; kept aside where that is the policy, and nowhere otherwise."""
    folder = tmp_path / "aside"
    error = await refusal(
        lambda what, nth: sent(BODY) if what == "zip" else told(OTHER),
        policy=policy,
        quarantine=folder,
    )
    kept = quarantine_path(folder, FILE)
    assert kept.exists() == (policy == "quarantine")
    if policy == "quarantine":
        assert kept.read_bytes() == BODY
        assert str(kept) in str(error)
        assert [path.name for path in folder.iterdir()] == [kept.name]


async def test_a_file_is_read_and_told_of_when_the_policy_is_to_warn() -> None:
    """The bytes come, not verified, with the reason."""
    fetched, _ = await fetch(
        lambda what, nth: sent(BODY) if what == "zip" else told(OTHER), policy="warn"
    )
    assert fetched.body == BODY
    assert not fetched.verified
    assert [defect.kind for defect in fetched.defects] == ["bad-checksum"]


async def test_a_checksum_is_none_when_it_is_missing_or_garbled_or_anothers() -> None:
    """Each refuses the file; who is to warn is told which it was."""
    answers = {
        "no-checksum": reply(404, b""),
        "bad-checksum": reply(body=b"<html>"),
    }
    for kind, answer in answers.items():
        script: Script = lambda what, nth, a=answer: sent(BODY) if what == "zip" else a  # type: ignore[misc]  # noqa: E731
        await refusal(script)
        fetched, _ = await fetch(script, policy="warn")
        assert [defect.kind for defect in fetched.defects] == [kind]
    await refusal(lambda what, nth: sent(BODY) if what == "zip" else told(BODY, "b.zip"))


async def test_a_file_is_right_when_it_is_replaced_between_the_two_requests() -> None:
    """The old bytes, then the new checksum: the new bytes are fetched and agree."""

    def script(what: str, nth: int) -> bytes:
        if what == "sum":
            return told(OTHER)
        return sent(BODY) if nth == 0 else sent(OTHER, '"2"')

    fetched, _ = await fetch(script)
    assert (fetched.body, fetched.etag, fetched.verified) == (OTHER, '"2"', True)


async def test_a_file_is_not_sent_twice_when_only_its_checksum_is_wrong() -> None:
    """The second look asks with the ETag: a 304 has no body."""

    def script(what: str, nth: int) -> bytes:
        if what == "sum":
            return told(OTHER)
        return sent(BODY) if nth == 0 else b'HTTP/1.1 304 x\r\nETag: "1"\r\n\r\n'

    await refusal(script)


async def test_a_file_is_whole_when_the_first_attempts_break_off() -> None:
    """A connection cut in the body, one reset at once, a 503: the file is the third's, whole."""
    answers = [sent(BODY)[:-1000], b"", reply(503, b"SlowDown"), sent(BODY)]

    async def handler(request: Request, stream: trio.abc.Stream) -> bytes | None:
        if ".CHECKSUM " in request.line:
            return told(BODY)
        answer = answers.pop(0)
        if len(answers) >= 2:
            await stream.send_all(answer)
            return None
        return answer

    async with (
        serving(handler) as server,
        open_rest("archive", server.url, budget=Budget("archive")) as client,
    ):
        fetched = await fetch_verified(client, FILE, policy="strict")
    assert fetched.body == BODY
    assert fetched.verified
    assert answers == []


async def test_a_stalled_download_is_given_up_when_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half a file and silence: tried as often as the toolkit does, and then ``Transient``."""
    monkeypatch.setattr(download, "STALL_S", 0.02)
    done = trio.Event()

    async def handler(request: Request, stream: trio.abc.Stream) -> bytes | None:
        await stream.send_all(sent(BODY)[:-100])
        await done.wait()
        return None

    async with (
        serving(handler) as server,
        open_rest("archive", server.url, budget=Budget("archive")) as client,
    ):
        with pytest.raises(Transient, match=r"nothing came for 0\.02 s"):
            await fetch_verified(client, FILE, policy="strict")
        assert len(server.requests) == rest_module.MAX_ATTEMPTS
        done.set()


async def test_a_slow_download_is_finished_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock of the stall begins anew with each part: many small waits are no stall."""
    monkeypatch.setattr(download, "STALL_S", 0.5)

    async def handler(request: Request, stream: trio.abc.Stream) -> bytes | None:
        answer = told(BODY) if ".CHECKSUM " in request.line else sent(BODY)
        for at in range(0, len(answer), 500):
            await stream.send_all(answer[at : at + 500])
            await trio.sleep(0.02)  # the server's slowness, not the test's
        return b""

    async with (
        serving(handler) as server,
        open_rest("archive", server.url, budget=Budget("archive")) as client,
    ):
        assert (await fetch_verified(client, FILE, policy="strict")).body == BODY
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "etag", "changed"),
    [
        (b'HTTP/1.1 304 x\r\nETag: "1"\r\n\r\n', '"1"', False),
        (b'HTTP/1.1 200 x\r\nETag: "1"\r\nContent-Length: 5000\r\n\r\n', '"1"', False),
        (b'HTTP/1.1 200 x\r\nETag: "2"\r\nContent-Length: 5000\r\n\r\n', '"1"', True),
        (b'HTTP/1.1 200 x\r\nETag: "2"\r\nContent-Length: 5000\r\n\r\n', "", True),
    ],
)
async def test_a_change_is_seen_when_only_the_head_is_asked_for(
    answer: bytes, etag: str, changed: bool
) -> None:
    """HEAD with the ETag; the connection serves on, twice."""
    async with archive(lambda what, nth: answer) as (client, server):
        for _ in range(2):
            assert await has_changed(client, FILE, etag) is changed
        first = server.requests[0]
        assert first.line.startswith("HEAD ")
        assert first.headers.get("if-none-match", "") == etag
        assert server.accepted == 1


async def test_there_is_no_data_when_a_file_is_gone() -> None:
    """A 404 of a HEAD."""
    async with archive(lambda what, nth: b"HTTP/1.1 404 x\r\nContent-Length: 9\r\n\r\n") as (c, _):
        with pytest.raises(NoData):
            await has_changed(c, FILE, '"1"')
