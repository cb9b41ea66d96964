"""REST calls end in an answer or in the error that says what is known of their outcome."""

from __future__ import annotations

import gc
import gzip
import os
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from piker import log
from piker.brokers import rest as rest_module
from piker.brokers.limits import Budget, Limit, Priority
from piker.brokers.rest import RestClient, encode_params, open_rest
from piker.errors import (
    Bug,
    ConfigError,
    DataQuality,
    PikerError,
    Rejected,
    Transient,
    Unknown,
)

Handler = Callable[["Request", trio.abc.Stream], Awaitable[bytes | None]]


class Request(msgspec.Struct):
    """What the server read: its first line, headers in lower case, and body."""

    line: str
    headers: dict[str, str]
    body: bytes


class Server:
    """A real HTTP server on loopback whose answers are scripted byte for byte."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self.open = 0
        self.accepted = 0
        self.url = ""

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer requests of one connection until it ends."""
        self.open += 1
        self.accepted += 1
        try:
            while (request := await read_request(stream)) is not None:
                self.requests.append(request)
                answer = await self.handler(request, stream)
                if answer is None:
                    return
                await stream.send_all(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)


async def read_request(stream: trio.abc.Stream) -> Request | None:
    """Read one request, or None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive_some(65536)
    return Request(first, headers, body)


def reply(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """Return an HTTP answer."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(
    handler: Handler, *, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve ``handler`` on loopback until the block ends."""
    server = Server(handler)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        if ssl_context is not None:
            listeners = [trio.SSLListener(one, ssl_context) for one in listeners]
        server.url = f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    handler: Handler, **options: object
) -> AsyncIterator[tuple[RestClient, Server]]:
    """Open a client and the server it talks to; see that no socket is left."""
    async with serving(handler) as server:
        options.setdefault("budget", Budget("test"))
        async with open_rest("test", server.url, **options) as client:  # type: ignore[arg-type]
            yield client, server
        with trio.fail_after(5):
            while server.open:
                await trio.lowlevel.checkpoint()


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "RETRY_BASE_S", 0.001)


async def ok(request: Request, stream: trio.abc.Stream) -> bytes | None:
    """Answer with what was asked."""
    return reply(body=msgspec.json.encode({"line": request.line, "body": request.body.decode()}))


async def lose(request: Request, stream: trio.abc.Stream) -> bytes | None:
    """Hear the request and hang up."""
    return None


async def hang(request: Request, stream: trio.abc.Stream) -> bytes | None:
    """Hear the request and say nothing until the other side goes."""
    assert not await stream.receive_some(1)
    return None


def answering(*answers: bytes) -> Handler:
    """Return a handler that gives these answers in turn, the last one for ever."""
    left = list(answers)

    async def handler(request: Request, stream: trio.abc.Stream) -> bytes | None:
        return left.pop(0) if len(left) > 1 else left[0]

    return handler


# -- calls ------------------------------------------------------------------------------------
async def test_connection_is_reused_and_closed_with_the_block() -> None:
    """Ten calls in a row need one socket; afterwards there is none."""
    async with client_of(ok) as (client, server):
        for _ in range(10):
            assert (await client.get("/x")).status == 200
        assert server.accepted == 1
        assert "piker/" in server.requests[0].headers["user-agent"]


async def test_sockets_are_bounded_under_parallel_calls() -> None:
    """Fifty calls at once open no more sockets than allowed."""
    async with client_of(ok, connections=3) as (client, server):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(client.get, "/x")
        assert len(server.requests) == 50
        assert server.accepted <= 3


async def test_wait_for_a_socket_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all are busy for too long the call fails, and nothing of it was sent."""
    monkeypatch.setattr(rest_module, "SLOT_S", 0.01)
    async with client_of(hang, connections=1) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/x")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Transient, match="no socket"):
                await client.request("POST", "/order")
            nursery.cancel_scope.cancel()
        assert len(server.requests) == 1


async def test_post_sends_body_and_headers_as_given() -> None:
    """The body and its type arrive byte for byte."""
    async with client_of(ok) as (client, server):
        await client.request(
            "POST", "/o", body=b"a=1&b=%2F", headers={"Content-Type": "application/x-test"}
        )
        assert server.requests[0].body == b"a=1&b=%2F"
        assert server.requests[0].headers["content-type"] == "application/x-test"


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans()))
def test_params_survive_encoding_and_what_asks_does_to_a_url(params: dict[str, str]) -> None:
    """What is signed is what is sent: asks' own quoting leaves our query alone."""
    from asks.utils import requote_uri

    query = encode_params(params)
    assert requote_uri("/p?" + query) == "/p?" + query
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in params.items()}
    if query:
        assert dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) == texts


def test_params_keep_order_and_digits_and_refuse_floats() -> None:
    """Decimals are written out, None is left out, a float is our own mistake."""
    params = {"q": Decimal("1E-8"), "none": None, "a": "币安/+~", "ok": True}
    assert encode_params(params) == "q=0.00000001&a=%E5%B8%81%E5%AE%89%2F%2B~&ok=true"
    assert encode_params("a=%2F&signature=AB%3D") == "a=%2F&signature=AB%3D"
    with pytest.raises(Bug):
        encode_params({"price": 0.1})  # type: ignore[dict-item]


async def test_signed_query_arrives_as_signed_and_is_never_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A query may hold a signature: neither logs nor errors show it."""
    log.configure("TRACE")
    try:
        async with client_of(answering(reply(500))) as (client, server):
            with pytest.raises(Transient) as caught:
                await client.get("/o", "x=1&signature=SECRET%2F")
            assert server.requests[0].line == "GET /o?x=1&signature=SECRET%2F HTTP/1.1"
            with pytest.raises(Unknown) as unknown:
                await client.request("POST", "/o", params="signature=SECRET")
    finally:
        log.configure("WARNING")
    assert "SECRET" not in str(caught.value) + str(unknown.value) + "".join(capfd.readouterr())


class Answer(msgspec.Struct):
    """A typed answer."""

    price: float


async def test_json_is_decoded_as_its_type_or_data_quality() -> None:
    """Unknown fields pass; a missing one and garbage do not."""
    async with client_of(
        answering(reply(body=b'{"price":1,"new":2}'), reply(body=b'{"price":"1.5"}'), reply())
    ) as (client, _):
        assert (await client.get_json("/p", type=Answer)).price == 1
        assert (await client.get_json("/p", type=Answer, strict=False)).price == 1.5
        with pytest.raises(DataQuality, match="/p"):
            await client.get_json("/p", type=Answer)


async def test_gzip_is_inflated_and_bounded() -> None:
    """A compressed body is read; a bomb, an oversized body and a torn one are refused."""
    big = gzip.compress(b"0" * 100_000)
    async with client_of(
        answering(
            reply(body=gzip.compress(b'{"price":2}'), Content_Encoding="gzip"),
            reply(body=big, Content_Encoding="gzip"),
            reply(body=b"1" * 5000),
            reply(body=gzip.compress(b"1" * 500)[:-9], Content_Encoding="gzip"),
            reply(body=b"not gzip", Content_Encoding="gzip"),
        ),
        max_body=4096,
    ) as (client, _):
        assert (await client.get_json("/", type=Answer)).price == 2
        for kind in ("oversize", "oversize", "malformed", "malformed"):
            with pytest.raises(DataQuality) as caught:
                await client.get("/")
            assert caught.value.kind == kind


# -- failures ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "handler",
    [
        lose,
        answering(reply(503)),
        answering(b"HTTP/1.1 banana\r\n\r\n"),
        answering(b"\x00\xff" * 40),
        answering(b"HTTP/1.1 200 x\r\nContent-Length: 50\r\nConnection: close\r\n\r\nshort"),
        answering(b"HTTP/1.1 200 x\r\nX: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}"),
    ],
    ids=["lost", "5xx", "bad-status", "binary", "torn", "bad-header"],
)
async def test_failure_is_transient_when_idempotent_and_unknown_when_not(handler: Handler) -> None:
    """A call that changes something and got no clear answer is Unknown, and is not sent again."""

    async def then_lost(request: Request, stream: trio.abc.Stream) -> bytes | None:
        answer = await handler(request, stream)
        if answer is not None:
            await stream.send_all(answer)
        return None

    async with client_of(then_lost) as (client, server):
        with pytest.raises(Transient):
            await client.get("/x")
        assert client.calls == rest_module.MAX_ATTEMPTS
        with trio.fail_after(5):
            while server.open:
                await trio.lowlevel.checkpoint()
        server.requests.clear()
        with pytest.raises(Unknown):
            await client.request("POST", "/x", body=b"1")
        assert len(server.requests) == 1


async def test_socket_that_the_server_closed_is_not_given_an_order() -> None:
    """An end that waits unread in a pooled socket is noticed before the order is sent into it."""

    async def once(request: Request, stream: trio.abc.Stream) -> bytes | None:
        await stream.send_all(reply())
        return None

    async with client_of(once) as (client, server):
        for _ in range(20):
            with trio.fail_after(5):
                while server.open:
                    await trio.lowlevel.checkpoint()
            assert (await client.request("POST", "/order")).status == 200


async def test_silence_ends_at_the_deadline() -> None:
    """No answer: Transient or Unknown, and the socket is gone."""
    async with client_of(hang) as (client, server):
        with pytest.raises(Unknown):
            await client.request("DELETE", "/x", deadline_s=0.05)
        with pytest.raises(Transient):
            await client.request("POST", "/x", deadline_s=0.05, idempotent=True)
        assert len(server.requests) == 1 + rest_module.MAX_ATTEMPTS


async def test_no_connection_is_transient_even_for_an_order() -> None:
    """What never left this machine has a known outcome."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with open_rest("t", f"http://127.0.0.1:{port}", budget=Budget("t")) as client:
        with pytest.raises(Transient):
            await client.request("POST", "/order", body=b"x")


async def test_passing_failure_is_retried_until_it_passes() -> None:
    """Two bad answers and a good one are one good call."""
    async with client_of(answering(reply(502), reply(500), reply())) as (client, server):
        assert (await client.get("/x")).status == 200
        assert (len(server.requests), client.retries) == (3, 2)


async def test_stale_sockets_do_not_cost_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that idled too long is replaced before a call that must not be lost."""
    async with client_of(ok) as (client, server):
        await client.get("/x")
        monkeypatch.setattr("piker.brokers._http.IDLE_S", -1.0)
        await client.request("POST", "/order")
        assert server.accepted == 2


def venue_says(status: int, headers: Mapping[str, str], body: bytes) -> PikerError | None:
    """Classify as a venue would: by the code in its body."""
    if b"-2010" in body:
        return Rejected("insufficient balance", code="-2010")
    if b"EService:Busy" in body:
        return Transient("busy")
    return None


async def test_venue_classifies_its_answers_but_never_a_5xx_of_an_order_as_rejected() -> None:
    """4xx and 200-with-error are the venue's to name; after a 5xx nobody knows."""
    async with client_of(
        answering(reply(400, b"-2010"), reply(200, b"-2010"), reply(503, b"-2010"), reply(404)),
        classify=venue_says,
    ) as (client, _):
        for _ in range(2):
            with pytest.raises(Rejected) as caught:
                await client.request("POST", "/order")
            assert caught.value.code == "-2010"
        with pytest.raises(Unknown):
            await client.request("POST", "/order")
        with pytest.raises(Rejected) as plain:
            await client.get("/x")
        assert plain.value.code == "404"


async def test_busy_with_status_200_is_retried() -> None:
    """Kraken says so in the body."""
    answers = answering(reply(200, b"EService:Busy"), reply())
    async with client_of(answers, classify=venue_says) as (client, server):
        await client.get("/x")
        assert len(server.requests) == 2


async def test_redirects_are_not_followed() -> None:
    """A signed call goes to the venue that was configured, or nowhere."""
    async with client_of(answering(reply(302, Location="http://127.0.0.1:1/"))) as (client, server):
        with pytest.raises(Rejected):
            await client.get("/x")
        assert len(server.requests) == 1


# -- limits -----------------------------------------------------------------------------------
async def test_429_is_sat_out_and_418_is_told_to_the_caller() -> None:
    """Retry-After is obeyed by the whole budget; a long ban is not waited for in silence."""
    async with client_of(
        answering(reply(429, Retry_After="0"), reply(), reply(418, Retry_After="7200"))
    ) as (client, server):
        await client.get("/x")
        assert len(server.requests) == 2
        with pytest.raises(Transient) as caught:
            await client.get("/x")
        assert caught.value.retry_after == pytest.approx(7200, rel=0.01)
        with pytest.raises(Transient):
            await client.request("DELETE", "/o", priority=Priority.CANCEL, max_wait_s=0.01)
        assert len(server.requests) == 3


async def test_rate_limited_order_was_not_executed() -> None:
    """429 proves that nothing happened, so it is Transient and not Unknown."""
    async with client_of(answering(reply(429, Retry_After="1"))) as (client, server):
        with pytest.raises(Transient) as caught:
            await client.request("POST", "/order")
        assert caught.value.retry_after is not None
        assert len(server.requests) == 1


async def test_used_weight_of_the_venue_reaches_the_budget() -> None:
    """Its header counts for more than our own count."""
    budget = Budget("t", [Limit("w", 100, 60)])

    def usage(headers: Mapping[str, str]) -> dict[str, float]:
        return {"w": float(headers["x-mbx-used-weight-1m"])}

    async with client_of(
        answering(reply(X_MBX_USED_WEIGHT_1M="77")), budget=budget, usage=usage
    ) as (client, _):
        await client.get("/x", weight=2)
        assert budget.used("w") == 77


# -- closing ----------------------------------------------------------------------------------
async def test_cancelled_call_closes_its_socket() -> None:
    """Nothing is left of a call that was given up."""
    async with client_of(hang) as (client, server):
        with trio.move_on_after(0.05):
            await client.get("/x")
        with trio.fail_after(5):
            while server.open:
                await trio.lowlevel.checkpoint()


async def test_hundred_failing_calls_leave_no_descriptor() -> None:
    """Failures of every sort, and as many file descriptors after as before."""
    async with client_of(answering(reply(), b"\x00", reply(500), reply(404))) as (client, _):
        await client.get("/x")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            with pytest.raises(PikerError):
                await client.get("/x")
        with trio.fail_after(5):
            while len(os.listdir("/proc/self/fd")) > before + 2:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("url", ["ws://h", "example.org", "http://", "https://h/?q=1"])
async def test_bad_base_url_is_a_config_error(url: str) -> None:
    """It is said before anything is opened."""
    with pytest.raises(ConfigError):
        async with open_rest("t", url):
            pass


@pytest.mark.slow
async def test_https_is_spoken_and_a_stranger_s_certificate_is_refused(tmp_path: Path) -> None:
    """With the right authority it works; without, nothing is sent."""
    key, cert = tmp_path / "k.pem", tmp_path / "c.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    await trio.run_process(command.split(), stderr=subprocess.DEVNULL)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(cert, key)
    async with serving(ok, ssl_context=server_side) as server:
        trusting = ssl.create_default_context(cafile=str(cert))
        async with open_rest("t", server.url, budget=Budget("t"), ssl_context=trusting) as client:
            assert (await client.get("/x")).status == 200
        async with open_rest("t", server.url, budget=Budget("t")) as client:
            with pytest.raises(Transient, match=r"(?i)certificate"):
                await client.request("POST", "/x")
        assert len(server.requests) == 1


async def test_no_socket_is_left_when_a_request_is_cancelled_while_it_connects() -> None:
    """At whatever step: just after the connection stands is the moment to forget it."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        for steps in range(60):
            async with (
                open_rest("cancelled", f"http://127.0.0.1:{port}") as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(client.get, "/x")
                for _ in range(steps % 30):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            gc.collect()
    await listeners[0].aclose()
    assert [str(one.message) for one in seen] == []
