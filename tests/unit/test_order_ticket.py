"""What is typed becomes the order that is meant, or a sentence; all of it without anybody else."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker import clock
from piker.clearing.client import OrderClient, choose_account
from piker.clearing.dark import Trigger
from piker.cli.orders_place import Desk
from piker.cli.orders_ticket import Ticket, build, checked
from piker.errors import ConfigError, RangeError
from piker.orders import Action, Cancel, Order, OrderKind, Status, TimeInForce

BTC = "btcusdt.spot.binance"
ACCOUNT = "binance.paper"
D = Decimal
PRICES = st.integers(1, 20).map(D)
STOPS = st.sampled_from(["stop", "take_profit"])


def client() -> OrderClient:
    """Return a client that sends nowhere."""

    async def send(_: Order | Cancel) -> None:
        raise AssertionError

    return OrderClient(ACCOUNT, send, "session")


def typed(action: str = "buy", **more: object) -> Ticket:
    """Return a ticket whose names are whole."""
    fields = {"fqme": BTC, "size": "0.01", "account": ACCOUNT, **more}
    return Ticket(action=action, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fqmes", "mode", "account", "meant"),
    [
        ([BTC], "", None, "binance.paper"),
        ([BTC], "paper", None, "binance.paper"),
        ([BTC, "xbtusd.spot.kraken"], "live", "kraken.second", "kraken.second"),
        (["xbtusd.spot.kraken"], "live", None, "kraken.main"),
        ([], "", "binance.paper", "binance.paper"),
        ([], "", "", ""),
    ],
)
def test_mode_and_markets_say_which_account_is_meant(
    fqmes: list[str], mode: str, account: str | None, meant: str
) -> None:
    """Paper where nothing else is said; an account that is named is the one."""
    assert choose_account(fqmes, mode, account) == meant


@pytest.mark.parametrize(
    ("fqmes", "mode", "account", "said"),
    [
        ([BTC], "dark", None, "no mode 'dark'"),
        ([], "paper", None, "does not follow from the markets: there is none"),
        ([BTC, "xbtusd.spot.kraken"], "live", None, "they are of binance and kraken"),
        ([BTC], "paper", "binance.main", "binance.main is no paper account"),
        ([BTC], "live", "binance.paper", "binance.paper is no live account"),
    ],
)
def test_account_that_is_not_clear_is_asked_for(
    fqmes: list[str], mode: str, account: str | None, said: str
) -> None:
    """Never guessed: one of the two might be real money."""
    with pytest.raises(ConfigError, match=said):
        choose_account(fqmes, mode, account)


@given(st.sampled_from(["buy", "sell"]), STOPS, PRICES, PRICES)
def test_trigger_is_refused_exactly_when_the_dark_book_would_meet_it_at_once(
    action: str, kind: str, trigger: Decimal, market: Decimal
) -> None:
    """Two readings of the same rule: the command's, and the one that wakes orders."""
    ticket = typed(action, trigger=str(trigger), kind=kind)
    order = Order(
        oid="x", symbol=BTC, account=ACCOUNT, action=Action(action), size=D(1),
        kind=OrderKind(kind), trigger=trigger,
    )  # fmt: skip
    if Trigger(order).see(market) is None:
        (built,) = build(client(), ticket, market)
        assert (built.kind, built.trigger) == (kind, trigger)
    else:
        with pytest.raises(RangeError, match="would be met at once"):
            build(client(), ticket, market)


@given(st.sampled_from(["buy", "sell"]), PRICES, PRICES, PRICES)
def test_bracket_has_its_exits_on_the_right_sides_or_is_refused(
    action: str, entry: Decimal, profit: Decimal, loss: Decimal
) -> None:
    """Children first, so that no fill of the parent is missed; in one group, the other way."""
    ticket = typed(action, price=str(entry), take_profit=str(profit), stop_loss=str(loss))
    right = loss < entry < profit if action == "buy" else profit < entry < loss
    if not right:
        with pytest.raises(RangeError, match=r"must be (above|below) its entry"):
            build(client(), ticket, None)
        return
    gain, stop, parent = build(client(), ticket, None)
    assert {gain.parent, stop.parent} == {parent.oid}
    assert parent.parent == parent.oco == ""
    assert gain.oco == stop.oco != ""
    assert (gain.side, stop.side) == (-parent.side, -parent.side)
    assert (gain.kind, gain.price, stop.kind, stop.trigger) == ("limit", profit, "stop", loss)


def test_bracket_with_one_exit_is_no_group() -> None:
    """There is nobody to cancel."""
    child, parent = build(client(), typed(stop_loss="5"), D(10))
    assert (child.oco, child.parent) == ("", parent.oid)


@pytest.mark.parametrize(
    ("given_", "kind"),
    [
        ({}, "market"),
        ({"price": "9"}, "limit"),
        ({"trigger": "11"}, "stop"),
        ({"trigger": "11", "price": "12"}, "stop_limit"),
        ({"trail": "1"}, "trailing_stop"),
        ({"trigger": "9", "kind": "take-profit"}, "take_profit"),
    ],
)
def test_kind_follows_from_what_is_given(given_: dict[str, str], kind: str) -> None:
    """As the guide says."""
    (order,) = build(client(), typed(**given_), D(10))
    assert order.kind == kind


def test_what_wakes_it_is_told_and_known(piker_dirs: Path) -> None:
    """Trades unless it is said; another word, or one without a trigger, is refused."""
    for by, meant in (("last", "last"), ("SIDE", "side"), ("mark", "mark")):
        ticket = checked(typed(trigger="11", by=by))
        (order,) = build(client(), ticket, D(10))
        assert order.trigger_by == meant
    with pytest.raises(ConfigError, match="Did you mean 'mark'"):
        checked(typed(trigger="11", by="marc"))
    with pytest.raises(ConfigError, match="--by is for what waits"):
        checked(typed(by="side"))


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e-30"])
def test_what_is_a_number_but_no_size_is_left_to_be_denied(piker_dirs: Path, text: str) -> None:
    """With a code, by who denies everything else."""
    ticket = checked(typed(size=text))
    (order,) = build(client(), ticket, None)
    assert str(order.size) == str(D(text))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86_400), ("1W", 604_800)]
)
def test_until_is_a_span_from_now(piker_dirs: Path, text: str, seconds: int) -> None:
    """And makes it good till then."""
    held = clock.VirtualClock(10**18)
    with clock.use_clock(held):
        ticket = checked(typed(price="9", until=text))
        (order,) = build(client(), ticket, None)
    assert (order.tif, order.expire_ns) == (TimeInForce.GTD, 10**18 + seconds * clock.NS)


@pytest.mark.parametrize(
    "text", ["2001-09-09T01:46:41", "2001-09-09T01:46:41Z", "2001-09-09T03:46:41+02:00"]
)
def test_until_is_utc_where_it_has_no_zone(text: str) -> None:
    """A second after the billionth."""
    with clock.use_clock(clock.VirtualClock(10**18)):
        (order,) = build(client(), typed(price="9", tif="gtd", until=text), None)
    assert order.expire_ns == 10**18 + clock.NS


@pytest.mark.parametrize("text", ["999999w", "9999-12-31", "2262-05-01T00:00Z"])
def test_until_is_refused_when_no_message_can_carry_it(text: str) -> None:
    """A sentence, before anything is sent."""
    with pytest.raises(RangeError, match="after the year 2261"):
        build(client(), typed(price="9", tif="gtd", until=text), None)


def test_names_are_made_whole_and_belong_together(piker_dirs: Path) -> None:
    """Case does not matter; the account is the provider's paper where none is named."""
    ticket = checked(typed(fqme="BTCUSDT.spot.Binance", account=None))
    assert (ticket.fqme, ticket.account) == (BTC, ACCOUNT)
    with pytest.raises(ConfigError, match="does not trade"):
        checked(typed(account="kraken.paper"))


@pytest.mark.parametrize(("code", "exit_code"), [("failed", 7), ("duplicate-id", 1)])
async def test_refused_request_is_said_and_is_no_success(
    code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether an order that emsd failed at stands is not known: nothing is sent or undone."""
    sent = []

    async def send(message: Order | Cancel) -> None:
        sent.append(message)
        ems.take(Status(oid=message.oid, resp="error", time_ns=1, code=code, reason="a reason"))

    ems = OrderClient(ACCOUNT, send, "session")
    desk = Desk(typed(), wait=False, as_json=False)
    desk.orders = build(ems, typed(price="9", stop_loss="8"), None)
    await desk.send(ems)
    assert desk.code == exit_code
    assert len(sent) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"refused ({code}): a reason. ")
    assert f"Order {sent[0].oid}." in said
