"""What the commands say of an order and of a run: sentences that are true to the last number."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from piker.cli.__main__ import main
from piker.cli.ledger import FillLine, _fill_table, console
from piker.cli.orders import OrderRow, outcome, price_words, row_of
from piker.cli.run_report import Tally, holdings_of
from piker.market import Asset, MktPair
from piker.orders import Action, BrokerdFill, Order, OrderKind, Status, TriggerBy
from piker.ticks import Quote

D = Decimal
BTC = "btcusdt.spot.binance"
FILLED = OrderRow(
    oid="1a2b3c-1", account="binance.main", live=True, market=BTC, side="buy", kind="market",
    size=D("0.02"), filled=D("0.01"), state="closed", where="binance", avg_price=D(57000),
    fees={"usdt": D("0.285")},
)  # fmt: skip


def test_order_that_was_cut_to_what_there_was_says_so() -> None:
    """It lacks no fills, and what it traded is told as of any other."""
    said = outcome(msgspec.structs.replace(FILLED, reduce_only=True))
    assert "; 0.01 of it filled at 57000, fee 0.285 usdt; its venue cut it to what there" in said
    assert "ledger verify" not in said
    assert "only 0.01 were heard of: piker ledger verify" in outcome(FILLED)


def test_what_wakes_an_order_is_said_where_it_is_not_trades() -> None:
    """In a sentence, in the table, and in --json."""
    order = Order(
        oid="a-1", symbol=BTC, account="binance.paper", action=Action.SELL, size=D(1),
        kind=OrderKind.STOP, trigger=D(55000), trigger_by=TriggerBy.SIDE,
    )  # fmt: skip
    row = row_of(Status(oid="a-1", resp="dark_open", time_ns=1, req=order))
    assert (row.by, price_words(row)) == ("side", "trigger 55000, by side")
    assert "stop trigger 55000, by side;" in outcome(row)
    assert "by" not in price_words(msgspec.structs.replace(row, by="last"))


@pytest.mark.parametrize(
    ("asset", "net", "uncounted"), [("usdt", "8", ()), ("btc", "-110", ()), ("bnb", "10", ("bnb",))]
)
def test_result_of_a_run_is_less_its_fees_in_the_markets_own_coin(
    asset: str, net: str, uncounted: tuple[str, ...]
) -> None:
    """At a spot venue a buy pays in what it buys; what can not be valued is named."""
    mkt = MktPair(
        fqme=BTC, bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"), price_tick=D(1),
        size_tick=D("0.01"),
    )  # fmt: skip
    order = Order(
        oid="a-1", symbol=BTC, account="binance.paper", action=Action.BUY, size=D(1),
        kind=OrderKind.MARKET,
    )  # fmt: skip
    fill = BrokerdFill(
        oid="a-1", account="binance.paper", symbol="btcusdt.spot", tid="1", size=D(1),
        price=D(50), fee=D(2), fee_asset=asset, time_ns=1, reqid="r", action=Action.BUY,
    )  # fmt: skip
    quote = Quote(symbol=BTC, time_ns=1, bid=60.0, ask=60.0)
    tally = Tally("a")
    tally.take(Status(oid="a-1", resp="fill", time_ns=1, req=order, brokerd_msg=fill))
    (held,) = holdings_of(tally, {BTC: mkt}, "binance.paper", {BTC: quote})
    assert (held.net, held.uncounted) == (D(net), uncounted)


@pytest.mark.parametrize("width", ["80", "120"])
def test_books_are_read_in_whole_words_when_the_terminal_is_narrow(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No number and no address is broken in two: rows take two lines where one has no room."""
    monkeypatch.setenv("COLUMNS", width)
    fill = FillLine(
        tid="t31730", account="binance.main", market="btcusdt.usdtm.perp.binance", kind="fill",
        size=D("0.00055"), price=D("57054.11"), cost=D("0.00000055"), cost_asset="btc",
        oid="1a2b3c-1", leg="", source="journal", time_ns=1,
    )  # fmt: skip
    console().print(_fill_table("binance.main", [fill], {}))
    said = capsys.readouterr().out
    for word in ("t31730", "btcusdt.usdtm.perp", "0.00055", "57054.11", "0.00000055 btc"):
        assert word in said
    assert max(len(line) for line in said.splitlines()) <= int(width)


def test_ctrl_c_is_no_traceback_while_the_command_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quarter of a second of every command is that."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("piker.cli.app.run_app", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["orders"])
    assert left.value.code == 130
