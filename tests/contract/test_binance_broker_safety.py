"""Binance's order dialog: the dead man's switch, a venue that is away, and what is never shown."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from account_client import ALICE, account_of, loopback, top_of
from binance_broker_client import PERP, SPOT, dialog_of, order_of, point_at
from msgspec.structs import replace

from piker.brokers.binance import broker_spot, broker_usdm, broker_weeks
from piker.clock import wall_ns
from piker.config import config_dir
from piker.errors import ConfigError
from piker.log import configure
from piker.orders import BrokerdBelief
from piker.testing.binance_account_algo import AlgoDesk
from piker.testing.binance_account_usdm import UsdmDesk
from piker.testing.engine import BUY, SELL
from piker.testing.faults import Fault

TICK = Decimal("0.01")
BOB = account_of("bob:bobkey:bobsecret:USDT=1000000,BTC=1000")


def perp_top(venue: Any) -> tuple[Decimal, Decimal]:
    """Return the best bid and ask of the perpetual."""
    engine = venue.listings["usdm", "BTCUSDT"].market.engine
    return engine.depth(BUY, 1)[0][0] * TICK, engine.depth(SELL, 1)[0][0] * TICK


async def until(what: Any) -> None:
    """Wait until something holds at the venue, which nobody tells of."""
    with trio.fail_after(20):
        while not what():
            await trio.sleep(0.01)


@pytest.mark.slow
async def test_the_dead_mans_switch_is_armed_while_orders_stand(piker_dirs: Path) -> None:
    """Armed with a market's first order, taken back with its last, and at the dialog's end."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port, cancel_after_s=5)
        counts = venue.accounts.usdm._countdowns
        bid, _ = perp_top(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            await until(lambda: counts)
            first = counts["alice", "BTCUSDT"]
            await until(lambda: counts["alice", "BTCUSDT"] > first)
            await ems.cancel(order)
            await ems.view.until_status(order.oid, "canceled")
            await until(lambda: not counts)
            again = await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
            await ems.view.until_status(again.oid, "open")
            await until(lambda: counts)
        assert not counts
        _, rows = await alice.ask("GET", "/fapi/v1/openOrders")
        assert len(rows) == 1


@pytest.mark.slow
async def test_orders_are_canceled_by_the_venue_when_nobody_is_heard(piker_dirs: Path) -> None:
    """The switch runs out where its requests do not come through; the cancel is told after."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port, cancel_after_s=5)
        bid, _ = perp_top(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            await until(lambda: venue.accounts.usdm._countdowns)
            venue.gate.add_faults([Fault(what="close", on="http", match="countdownCancelAll")])
            await ems.view.until_status(order.oid, "canceled")


@pytest.mark.slow
async def test_the_switch_is_left_to_run_when_a_dialog_ends_by_an_error(piker_dirs: Path) -> None:
    """Whoever watched the orders is gone; an end that was asked for, though, takes it back."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port, cancel_after_s=60)
        counts = venue.accounts.usdm._countdowns
        bid, _ = perp_top(venue)
        for fails in (True, False):
            with trio.CancelScope() as scope, suppress(ZeroDivisionError):
                async with dialog_of(ALICE) as ems:
                    await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
                    await until(lambda: counts)
                    if fails:
                        raise ZeroDivisionError
                    scope.cancel()
                    await trio.sleep_forever()
            assert bool(counts) is fails
            counts.clear()
        assert len((await alice.ask("GET", "/fapi/v1/openOrders"))[1]) == 2


@pytest.mark.slow
async def test_a_dialog_waits_for_the_venue_when_nobody_listens(piker_dirs: Path) -> None:
    """An absent venue is no error at the beginning; what can not reach it is refused as unsent."""
    async with loopback() as (venue, alice, _, _):
        bid, _ = top_of(venue)
        async with trio.open_nursery() as nursery:
            way = Relay(alice.port)
            port = await nursery.start(way.run)
            text = f'spot_http = "http://127.0.0.1:{port}"\nusdm_http = "http://127.0.0.1:{port}"\n'
            ws = f'spot_ws = "ws://127.0.0.1:{alice.port}"\nusdm_ws = "ws://127.0.0.1:{alice.port}"'
            (config_dir() / "brokers.toml").write_text(f"[binance.urls]\n{text}{ws}\n")
            way.open()
            async with dialog_of(ALICE) as ems:
                order = await ems.send(order_of("buy", "0.01", bid - 100))
                await ems.view.until_status(order.oid, "open")
                orders = ems.dialog.venues["spot"].desk.signed._clients["orders"]
                before = orders.calls
                way.close()
                gone = await ems.send(order_of("buy", "0.01", bid - 200))
                await until(lambda: orders.calls > before + 1)
                assert gone.oid not in ems.view.status  # nothing was sent: it is tried again
                way.open()
                await ems.view.until_status(gone.oid, "open")
                unsent = [e for e in ems.view.events if getattr(e, "oid", "") == gone.oid]
                assert "unknown" not in [getattr(e, "status", "") for e in unsent]
            nursery.cancel_scope.cancel()


async def test_spot_is_synced_when_futures_can_not_be_reached(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spot waits a while, then trades without; a belief of USD-M keeps the account syncing."""
    monkeypatch.setattr("piker.brokers.binance.broker.USDM_FIRST_S", 0.3)
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        file = config_dir() / "brokers.toml"
        there = f'usdm_http = "http://127.0.0.1:{alice.port}"'
        file.write_text(file.read_text().replace(there, 'usdm_http = "http://127.0.0.1:9"'))
        bid, _ = top_of(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100))
            await ems.view.until_status(order.oid, "open")
            perp = await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
            assert "not reached yet" in (await ems.view.until_error(perp.oid)).reason
            late = replace(order_of("buy", 1, bid - 100, symbol=PERP), reqid="usdm-BTCUSDT-7")
            beliefs = [ems.view.believe(order), BrokerdBelief(order=late)]
        async with dialog_of(ALICE, beliefs, synced=False) as ems:
            await ems.view.until_status(order.oid, "open")
            await ems.view.until(lambda: "usdt" in ems.view.balances)
            await ems.send(late)  # what is believed there is taken in before anything is sent
            assert "not reached yet" in (await ems.view.until_error(late.oid)).reason
            assert ems.view.sync == "syncing"


@pytest.mark.slow
async def test_an_order_that_is_late_is_not_absent_when_its_connection_was_cut(
    piker_dirs: Path,
) -> None:
    """The venue does not know it at first, and takes it within its window: unknown, then open."""
    async with loopback() as (venue, alice, _, _), trio.open_nursery() as nursery:
        way = Relay(alice.port)
        port = await nursery.start(way.run)
        way.open()
        point_at(alice.port, recv_window_ms=1500)
        file = config_dir() / "brokers.toml"
        there = f'spot_http = "http://127.0.0.1:{alice.port}"'
        file.write_text(file.read_text().replace(there, f'spot_http = "http://127.0.0.1:{port}"'))
        bid, _ = top_of(venue)
        async with dialog_of(ALICE) as ems:
            way.lag_s = 1.0
            order = await ems.send(order_of("buy", "0.01", bid - 100))
            await ems.view.until_status(order.oid, "open", "absent")
            told = [e.status for e in ems.view.events
                    if getattr(e, "oid", "") == order.oid and hasattr(e, "status")]  # fmt: skip
            assert told == ["unknown", "open"]
        nursery.cancel_scope.cancel()


class Relay:
    """A way to a port that can be closed: connections are refused then."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._port = 0
        self._wish = trio.Event()
        self._is_open = False
        self.lag_s = 0.0  # the next order's connection is cut, and the order sent so much later

    def open(self) -> None:
        """Take connections."""
        self._is_open = True
        self._wish.set()

    def close(self) -> None:
        """Refuse connections, and cut those there are."""
        self._is_open = False
        self._wish.set()

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the started value is the port."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._port = listeners[0].socket.getsockname()[1]
        task_status.started(self._port)
        while True:
            async with trio.open_nursery() as nursery:
                if self._is_open:
                    nursery.start_soon(trio.serve_listeners, self._pipe, listeners)
                else:
                    await listeners[0].aclose()
                await self._wish.wait()
                self._wish = trio.Event()
                nursery.cancel_scope.cancel()
            if self._is_open:
                await listeners[0].aclose()
                listeners = await trio.open_tcp_listeners(self._port, host="127.0.0.1")

    async def _pipe(self, one: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self._target) as other:
            first = bytes(await one.receive_some(65_536))
            if self.lag_s and first.startswith(b"POST /api/v3/order"):
                lag_s, self.lag_s = self.lag_s, 0.0
                await one.aclose()
                await trio.sleep(lag_s)
                await other.send_all(first)
                await other.receive_some(65_536)
                return
            await other.send_all(first)
            async with trio.open_nursery() as nursery:
                for source, sink in ((one, other), (other, one)):
                    nursery.start_soon(_copy, source, sink, nursery.cancel_scope)


async def _copy(source: Any, sink: Any, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


@pytest.mark.slow
async def test_a_cancel_does_not_wait_when_orders_wait_for_the_venues_limit(
    piker_dirs: Path,
) -> None:
    """100 orders in 10 s are allowed: more of them wait, a cancel goes at once, none is refused."""
    async with loopback() as (venue, alice, _, _):
        point_at(alice.port)
        bid, _ = top_of(venue)
        account = venue.accounts.spot.accounts["alice"]
        async with dialog_of(ALICE) as ems:
            first = await ems.send(order_of("buy", "0.001", bid - 100))
            await ems.view.until_status(first.oid, "open")
            for number in range(150):
                await ems.send(order_of("buy", "0.001", bid - 200 - number))
            await until(lambda: len(account.orders) > 80)
            await ems.cancel(first)
            await ems.view.until_status(first.oid, "canceled")
            assert len(account.orders) < 151
            assert not ems.view.errors
        assert not venue.limits.violations


async def test_events_that_were_dropped_are_found_when_the_minute_is_over(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event of an order is dropped while all looks healthy; the comparison finds its end."""
    monkeypatch.setattr("piker.brokers.binance.broker_sync.AUDIT_S", 0.2)
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, bob):
        point_at(alice.port)
        bid, ask = top_of(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            filled = await ems.send(order_of("buy", "0.2", price))
            canceled = await ems.send(order_of("buy", "0.2", price - 100))
            for order in (filled, canceled):
                await ems.view.until_status(order.oid, "open")
            venue.gate.add_faults([Fault(what="drop", match="executionReport")])
            await bob.order("SELL", price, "0.2")
            await alice.ask(
                "DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=canceled.client_id
            )
            await ems.view.until_status(filled.oid, "closed")
            await ems.view.until_status(canceled.oid, "canceled")
            assert ems.view.filled(filled.oid) == Decimal("0.2")
            assert ems.view.sync == "synced"


@pytest.mark.slow
async def test_no_secret_is_in_a_log_when_everything_is_logged(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key, secret, signatures and listen keys, with faults, losses and refusals in between."""
    spec = account_of("erin:KEYkeyKEYkey0123456789:SECRETsecretSECRET9876:USDT=100000,BTC=1")
    monkeypatch.setenv("PIKER_LOG", "TRACE")
    stream = io.StringIO()
    configure("TRACE", stream=stream)
    try:
        with redirect_stderr(stream):
            async with loopback(accounts=(spec, BOB)) as (venue, erin, _):
                point_at(erin.port, recv_window_ms=500)
                bid, _ = top_of(venue)
                async with dialog_of(spec) as ems:
                    for fault in (
                        {"what": "unanswered"}, {"what": "status", "status": 503},
                        {"what": "garble"}, {"what": "half-open"},
                    ):  # fmt: skip
                        order = order_of("buy", "0.01", bid - 100)
                        venue.gate.add_faults(
                            [Fault(on="http", match=f"POST .*{order.client_id}", count=1, **fault)]
                        )
                        await ems.send(order)
                        await ems.view.until_status(order.oid, "open", "absent")
                    venue.cut(refuse_s=0.2)
                    await ems.view.until(lambda: ems.view.sync == "lost")
                    await ems.view.until(lambda: ems.view.sync == "synced")
                    shown = repr(ems.dialog) + "".join(map(str, ems.view.events))
                    keys = list(venue.accounts.private._keys)
    finally:
        configure("WARNING", stream=sys.stderr)
    written = stream.getvalue() + shown
    assert "binance.unknown" in written
    assert spec.secret is not None
    for secret in (spec.key, spec.secret.reveal(), "signature=", *keys):
        assert secret not in written, "a secret was shown"


def test_wrong_options_are_refused_when_they_are_read(piker_dirs: Path) -> None:
    """An unknown option, one out of bounds, and REST moved without the websocket API."""
    from piker.brokers.binance.broker_key import load_options
    from piker.brokers.binance.broker_stream import spot_api_url

    file = config_dir() / "brokers.toml"
    for options in ("recv_window = 1", "recv_window_ms = 1", "cancel_after_s = 1"):
        file.write_text(f"[binance]\noptions = {{{options}}}\n")
        with pytest.raises(ConfigError):
            load_options()
    file.write_text('[binance.urls]\nspot_http = "https://testnet.binance.vision"\n')
    with pytest.raises(ConfigError, match="spot_ws_api"):
        spot_api_url()


@pytest.mark.slow
async def test_a_stop_that_was_triggered_while_away_is_followed_when_the_process_began_anew(
    piker_dirs: Path,
) -> None:
    """The belief is of a conditional order; the venue has the order that it became."""
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, bob):
        point_at(alice.port, recv_window_ms=500)
        _, ask = perp_top(venue)
        async with dialog_of(ALICE) as ems:
            stop = await ems.send(
                order_of("buy", "0.01", symbol=PERP, kind="stop", trigger=ask + TICK)
            )
            waits = await ems.send(
                order_of("buy", "0.01", symbol=PERP, kind="stop", trigger=ask + 5000)
            )
            for order in (stop, waits):
                await ems.view.until_status(order.oid, "open")
            beliefs = [ems.view.believe(order) for order in (stop, waits)]
        engine = venue.listings["usdm", "BTCUSDT"].market.engine
        size = sum(one for _, one in engine.takeable(BUY, int((ask + 1) / TICK))) + 200
        await bob.ask(
            "POST", "/fapi/v1/order", symbol="BTCUSDT", side="BUY", type="LIMIT",
            timeInForce="IOC", price=ask + 2,
            quantity=(size * Decimal("0.00001")).quantize(Decimal("0.001")),
        )  # fmt: skip
        async with dialog_of(ALICE, beliefs) as ems:
            assert ems.view.status[stop.oid].status == "closed"
            assert ems.view.status[waits.oid].status == "open"
            assert ems.view.filled(stop.oid) == Decimal("0.01")
            assert ems.view.positions[PERP].size == Decimal("0.01")


@pytest.mark.slow
async def test_fills_of_long_ago_are_told_when_the_venue_shows_a_week_unless_asked_for_more(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled while nobody heard, and found later than the trades that are shown unasked."""
    week_s = 2
    monkeypatch.setattr(UsdmDesk, "window_days", week_s / 86_400)
    for module in (broker_usdm, broker_weeks):
        monkeypatch.setattr(module, "WEEK_MS", week_s * 1000)
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, bob):
        point_at(alice.port, recv_window_ms=500)
        bid, ask = perp_top(venue)
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.03", price, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            beliefs = [ems.view.believe(order)]
        for size in ("0.01", "0.02"):
            await bob.ask(
                "POST", "/fapi/v1/order", symbol="BTCUSDT", side="SELL", type="LIMIT",
                timeInForce="IOC", price=price, quantity=size,
            )  # fmt: skip
            await trio.sleep(week_s + 0.5)
        async with dialog_of(ALICE, beliefs) as ems:
            assert ems.view.status[order.oid].status == "closed"
            assert ems.view.filled(order.oid) == Decimal("0.03")


@pytest.mark.parametrize("symbol", [SPOT, PERP])
async def test_every_fill_is_told_when_an_order_has_more_than_one_answer_holds(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, symbol: str
) -> None:
    """Asked for an order's trades from no number on, the venue tells the newest."""
    for module in (broker_spot, broker_usdm):
        monkeypatch.setattr(module, "MAX_TRADES", 2)
    path = "/api/v3/order" if symbol == SPOT else "/fapi/v1/order"
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, bob):
        point_at(alice.port, recv_window_ms=500)
        bid, ask = top_of(venue, "spot" if symbol == SPOT else "usdm")
        price = (bid + ask) / 2 // TICK * TICK
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.05", price, symbol=symbol))
            await ems.view.until_status(order.oid, "open")
            beliefs = [ems.view.believe(order)]
        for size in ("0.01", "0.02", "0.005", "0.005", "0.01"):
            await bob.ask(
                "POST", path, symbol="BTCUSDT", side="SELL", type="LIMIT", timeInForce="IOC",
                price=price, quantity=size,
            )  # fmt: skip
        async with dialog_of(ALICE, beliefs) as ems:
            assert ems.view.status[order.oid].status == "closed"
            assert len(ems.view.fills) == 5
            assert ems.view.filled(order.oid) == Decimal("0.05")


async def test_an_order_ends_when_the_venue_forgot_it_before_its_edit_arrived(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """USD-M knows no order that was made three days ago and canceled without a fill."""
    found, first_open = UsdmDesk.found, UsdmDesk._open

    def remembered(account: Any, symbol: str, name: tuple[int, str]) -> Any:
        order = found(account, symbol, name)
        return order if order is None or order.status != "CANCELED" else None

    def lost(desk: UsdmDesk, account: Any, p: Any) -> Any:
        if "quantity" in p:  # an edit: somebody cancels the order just before
            desk._end(first_open(desk, account, p), "CANCELED", wall_ns() // 1_000_000)
        return first_open(desk, account, p)

    monkeypatch.setattr(UsdmDesk, "found", staticmethod(remembered))
    monkeypatch.setattr(UsdmDesk, "_open", lost)
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500)
        bid, _ = perp_top(venue)
        async with dialog_of(ALICE) as ems:
            order = await ems.send(order_of("buy", "0.01", bid - 100, symbol=PERP))
            await ems.view.until_status(order.oid, "open")
            await ems.edit(order, price=bid - 99)
            await ems.view.until_error(order.oid)
            await ems.view.until_status(order.oid, "canceled")


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_stop_is_edited_when_the_venue_forgot_it_before_its_cancel_was_answered(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch, *, is_heard: bool
) -> None:
    """That was carried out, and is neither answered nor to be asked for; nor told, sometimes."""
    found = AlgoDesk._found_algo

    def remembered(*given: Any) -> Any:
        order = found(*given)
        return order if order is None or order.status != "CANCELED" else None

    monkeypatch.setattr(AlgoDesk, "_found_algo", remembered)
    async with loopback(accounts=(ALICE, BOB)) as (venue, alice, _):
        point_at(alice.port, recv_window_ms=500)
        bid, _ = perp_top(venue)
        lost = Fault(what="unanswered", match="^DELETE /fapi/v1/algoOrder", count=1)
        async with dialog_of(ALICE) as ems:
            stop = await ems.send(
                order_of("sell", "0.01", symbol=PERP, kind="stop", trigger=bid - 500)
            )
            await ems.view.until_status(stop.oid, "open")
            deaf = Fault(what="drop", match='ALGO_UPDATE.*"CANCELED"', count=1)
            venue.gate.add_faults([lost] if is_heard else [lost, deaf])
            assert await ems.edited(stop, trigger=bid - 400)
            await ems.view.until_status(stop.oid, "open")
            _, (row,) = await alice.ask("GET", "/fapi/v1/openAlgoOrders")
            assert Decimal(row["triggerPrice"]) == bid - 400
