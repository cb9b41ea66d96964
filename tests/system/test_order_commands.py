"""The orders' commands as a newcomer and as a script meet them, against a loopback venue."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from commands import BTC, KEY, SECRET, blocking, command, good, piker, rows, trading
from daemons import Pikerd

from piker import service
from piker.clearing.denials import DenialCode
from piker.cli.orders import REMEDIES, endings
from piker.cli.orders_list import age
from piker.clock import NS
from piker.log import Secret
from piker.testing.accounts import AccountSpec

pytestmark = pytest.mark.slow


# -- words -------------------------------------------------------------------------------------
def test_every_denial_has_its_remedy() -> None:
    """What emsd can deny, a person can do something about."""
    assert set(REMEDIES) == set(DenialCode)
    assert all(said.strip() for said in REMEDIES.values())


def test_ends_of_ids_are_unique_and_no_longer_than_that() -> None:
    """Of one id, of near ones, and of one that is the end of another."""
    assert endings(["1a1fed73d22b0c5ad-1"]) == {"1a1fed73d22b0c5ad-1": "0c5ad-1"[1:]}
    near = endings(["aaaaaaaa-1", "baaaaaaa-1"])
    assert near == {"aaaaaaaa-1": "aaaaaaaa-1", "baaaaaaa-1": "baaaaaaa-1"}
    assert endings([]) == {}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7300, "2 h"), (10**6, "1 w")]
)
def test_age_has_one_unit_when_shown(seconds: int, words: str) -> None:
    """The largest that fits."""
    assert age(10 * NS, 10 * NS + seconds * NS) == words
    assert age(None, 1) == "?"


# -- mistakes, with nothing running ------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("buy btcusdt 1", 2, r"'btcusdt' is not a market address"),
        ("buy btcusdt.binance 1", 2, r"names no venue. As in btcusdt.spot.binance"),
        ("buy btcusdt.spot.binanse 1", 4, r"no provider 'binanse'. Did you mean 'binance'"),
        (f"buy 0.01 {BTC}", 2, rf"The market comes first: piker buy {BTC} 0.01"),
        (f"sell 0.01 {BTC} --price 5", 2, rf"The market comes first: piker sell {BTC} 0.01"),
        (f"alert 58000 {BTC}", 2, rf"The market comes first: piker alert {BTC} 58000"),
        (f"buy {BTC}", 2, r"Missing argument 'SIZE'"),
        (f"buy {BTC} much", 2, r"the size 'much' is no number. As in 0.01"),
        (f"buy {BTC} 1 --price 1,5", 2, r"the price '1,5' is no number"),
        (f"buy {BTC} 1 --prise 5", 2, r"No such option: --prise .*--price"),
        (f"buy {BTC} 1 --tif gdt", 2, r"no time in force 'gdt'. Did you mean 'gt"),
        (f"buy {BTC} 1 --tif gtd", 2, r"gtd needs an end. Say when, as in: --until 2h"),
        (f"buy {BTC} 1 --until soon", 2, r"'soon' is not a time. Write it as 2h"),
        (f"buy {BTC} 1 --until 2020-01-01", 2, r"is over: it is UTC"),
        (f"buy {BTC} 1 --tif ioc --until 2h", 2, r"--until is for gtd, not for ioc"),
        (f"buy {BTC} 1 --kind stopp", 2, r"no kind of order 'stopp'. Did you mean 'stop'"),
        (f"buy {BTC} 1 --trail 5 --stop-loss 3", 2, r"a bracket's entry is a market or limit"),
        (f"buy {BTC} 1 --account main", 2, r"'main' is no account. .*binance.paper"),
        (f"buy {BTC} 1 --account kraken.paper", 2, r"kraken.paper does not trade .*binance.paper"),
        (f"buy {BTC} 1 --account krakn.paper", 4, r"Did you mean 'kraken'"),
        (f"alert {BTC} high", 2, r"the trigger 'high' is no number"),
        ("edit x", 2, r"what is to change is not said. Say --size"),
        ("edit x --price dear", 2, r"the price 'dear' is no number"),
        ("edit x --price 1", 1, r"refused \(unknown-order\): 'x': nothing was ordered"),
        ("cancel", 2, r"which orders is not clear. Name their ids"),
        ("cancel x --all", 2, r"which orders is not clear"),
        ("cancel x --account binance.paper", 2, r"--account and --market go with --all"),
        ("cancel x", 1, r"refused \(unknown-order\): 'x': nothing was ordered. See: piker orders"),
        ("orders --account binance", 2, r"'binance' is no account"),
        ("halt main", 2, r"'main' is no account"),
        (
            "arm binance.main",
            2,
            r"binance.main trades REAL MONEY. Nobody .* In a script, say --yes",
        ),
    ],
)
def test_mistake_is_a_sentence_and_starts_nothing(
    piker_dirs: Path, line: str, code: int, said: str
) -> None:
    """No traceback, the documented exit code, the remedy, and no daemon."""
    done = blocking(*line.split())
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert service.read_pikerd() is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("orders", "no open orders."),
        ("orders --all", "no orders."),
        ("positions", "no positions."),
        ("accounts", "no account is open. Paper needs none: piker accounts binance.paper"),
        ("cancel --all", "no open orders."),
    ],
)
def test_looking_starts_nothing_when_there_is_nothing(
    piker_dirs: Path, line: str, said: str
) -> None:
    """Nothing there is an answer, and leaves no daemon and no journal."""
    done = blocking(*line.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)
    assert service.read_pikerd() is None
    assert not (piker_dirs / "data" / "journal").exists()


# -- orders ------------------------------------------------------------------------------------
async def test_market_order_is_filled_by_the_named_model_and_is_a_position(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Price, fee and model in the sentence; the same in JSON as text; then the position."""
    async with trading(pikerd):
        said = await good("buy", BTC, "0.01")
        assert re.match(
            rf"filled: buy 0.01 {BTC}, market, at [\d.]+, fee [\d.]+ usdt; binance.paper, "
            r"model paper.queue; order [0-9a-f]{17}-1$",
            said,
        )
        (sold,) = await rows("sell", BTC, "0.004")
        assert (sold["state"], Decimal(sold["filled"]), sold["live"]) == (
            "closed",
            Decimal("0.004"),
            False,
        )
        assert sold["where"] == "paper.queue"
        assert isinstance(sold["avg_price"], str)
        (held,) = await rows("positions")
        assert (held["account"], held["where"]) == ("binance.paper", "paper.queue")
        assert Decimal(str(held["size"])) == Decimal("0.006")
        assert held["currency"] == "usdt"
        assert held["unrealised"] is not None
        for width in (80, 200):
            shown = await good("positions", width=width)
            assert max(map(len, shown.splitlines())) <= width
            assert "paper.queue" in shown
        ended = await rows("orders", "--all")
        assert await rows("orders", "--last", "0") == ended
        assert len(await rows("orders", "--last", "1")) < len(ended)
        assert [row["state"] for row in ended] == ["closed", "closed"]
        assert all(isinstance(row["since_ns"], int) for row in ended)


async def test_limit_order_is_listed_whole_and_canceled_by_its_end(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """In 80 columns as in 200; once gone, it is over, and what never was is unknown."""
    async with trading(pikerd):
        said = await good("buy", BTC, "0.01", "--price", "58000", "--post-only", "--until", "2h")
        assert re.match(rf"open: buy 0.01 {BTC}, limit 58000, until 20.* UTC, post-only; ", said)
        await good("sell", BTC, "0.01", "--trigger", "57000")
        for width in (80, 200):
            shown = await good("orders", width=width)
            assert max(map(len, shown.splitlines())) <= width
            words = ("binance.paper", "btcusdt.spot", "buy", "limit", "0.01", "58000", "open",
                     "paper.queue", "sell", "stop", "trigger 57000", "waiting", "dark")  # fmt: skip
            for word in words:
                assert word in shown, (width, word)
        limit, stop = await rows("orders")
        assert (limit["price"], limit["state"], limit["where"]) == ("58000", "open", "paper.queue")
        assert (stop["trigger"], stop["state"], stop["where"]) == ("57000", "dark_open", "dark")
        many = await piker("cancel", "1")
        assert many.returncode == 2
        assert "2 open orders end in '1'" in many.stderr
        oid = str(limit["oid"])
        assert (await good("cancel", oid[-8:])).startswith(f"canceled: buy 0.01 {BTC}, limit 58000")
        again = await piker("cancel", oid[-8:])
        assert again.returncode == 1
        assert re.match(r"refused \(order-over\): .*has ended: canceled", again.stderr)
        never = await piker("cancel", "zzz")
        assert never.returncode == 1
        assert re.match(r"refused \(unknown-order\): .*'zzz'.*piker orders --all", never.stderr)
        gone = await good("cancel", "--all", "--market", BTC)
        assert gone.startswith(f"canceled: sell 0.01 {BTC}, stop trigger 57000")
        assert await good("orders") == "no open orders.\n"


async def test_open_order_has_other_terms_when_edited_by_its_end(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """At its venue and in piker; what can not be leaves it as it was, and says so."""
    async with trading(pikerd):
        await good("buy", BTC, "0.01", "--price", "58000")
        await good("sell", BTC, "0.01", "--trigger", "57000")
        limit, stop = (str(row["oid"]) for row in await rows("orders"))
        said = await good("edit", limit[-8:], "--price", "58001", "--size", "0.02")
        assert said.startswith(f"open: buy 0.02 {BTC}, limit 58001; ")
        said = await good("edit", stop, "--trigger", "57001.5")
        assert said.startswith(f"waiting: sell 0.01 {BTC}, stop trigger 57001.5; ")
        denied = await piker("edit", limit, "--price", "58000.001")
        assert denied.returncode == 1
        assert denied.stderr.startswith("refused (off-tick): ")
        met = await piker("edit", stop, "--trigger", "90000")
        assert (met.returncode, met.stdout) == (2, "")
        assert "a sell stop with its trigger at 90000 would be met at once: the" in met.stderr
        assert "It stands as it was." in met.stderr
        no_number = await piker("edit", limit, "--price", "nan")
        assert no_number.stderr.startswith("refused (bad-price): ")
        by_id = {row["oid"]: row for row in await rows("orders")}
        assert (by_id[limit]["price"], by_id[limit]["size"]) == ("58001", "0.02")
        assert by_id[stop]["trigger"] == "57001.5"
        await good("cancel", "--all")
        late = await piker("edit", limit, "--price", "58000")
        assert late.returncode == 1
        assert re.match(r"refused \(order-over\): .*has ended: canceled", late.stderr)
        for words in (("edit", limit, "--price", "58000"), ("cancel", limit), ("cancel", "zzz")):
            refused = await piker(*words, "--json")
            assert refused.returncode == 1
            told = json.loads(refused.stdout)
            assert (told["oid"], told["state"]) == (words[1], "refused")
            assert f"refused ({told['code']}): {told['reason']}" in refused.stderr
            assert told["remedy"] in refused.stderr
        never = await piker("edit", "zzz", "--price", "58000")
        assert re.match(r"refused \(unknown-order\): .*'zzz'", never.stderr)


async def test_what_can_not_be_is_denied_with_its_code_and_remedy(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Before anything is sent; the exit code is 1, and nothing stands."""
    async with trading(pikerd):
        for line, code in (
            ("0", "bad-size"),
            ("-1", "bad-size"),
            ("nan", "bad-size"),
            ("0.01 --price -5", "bad-price"),
            ("0.01 --price 58000.001", "off-tick"),
            ("0.000015", "off-lot"),
            ("0.00001 --price 58000", "too-small"),
            ("0.00001", "too-small"),
            ("5 --price 58000", "order-notional"),
            ("0.01 --price 90000", "price-collar"),
            ("0.01 --post-only", "senseless"),
        ):
            done = await piker("buy", BTC, *line.split())
            assert done.returncode == 1, (line, done)
            assert done.stderr.startswith(f"denied ({code}): "), (line, done.stderr)
            assert done.stderr.rstrip().endswith(REMEDIES[DenialCode(code)]), done.stderr
            assert done.stdout == ""
        told = await piker("buy", BTC, "0", "--json")
        assert told.returncode == 1
        assert json.loads(told.stdout)["code"] == "bad-size"
        venue = await piker("buy", "btcusdt.spt.binance", "1")
        assert "no venue 'spt'. Did you mean 'spot' or" in venue.stderr
        unknown = await piker("buy", "btcusdd.spot.binance", "1")
        assert unknown.returncode == 3
        assert f"no market 'btcusdd.spot.binance'. Did you mean '{BTC}'" in unknown.stderr
        account = await piker("buy", BTC, "1", "--account", "binance.nope")
        assert account.returncode == 2
        assert "no key of the account 'nope'" in account.stderr
        armed = await piker("arm", "binance.nope", "--yes")
        assert (armed.returncode, armed.stdout) == (2, "")
        assert {row["account"] for row in await rows("accounts")} == {"binance.paper"}
        met = await piker("sell", BTC, "0.01", "--trigger", "90000")
        assert met.returncode == 2
        assert "would be met at once: the market is at" in met.stderr
        assert "--kind take_profit" in met.stderr
        wrong = await piker("buy", BTC, "0.01", "--take-profit", "50000")
        assert wrong.returncode == 2
        assert "the take-profit of a buy must be above its entry" in wrong.stderr
        assert await good("orders") == "no open orders.\n"


async def test_bracket_is_a_parent_and_two_children_that_end_with_it(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """All three stand in one group; a child that is denied lets none of them stand."""
    exits = ("--take-profit", "62000", "--stop-loss", "56000")
    async with trading(pikerd):
        said = await good("buy", BTC, "0.01", "--price", "58000", *exits)
        assert [line.split(":")[0] for line in said.splitlines()] == ["held", "held", "open"]
        profit, loss, entry = await _bracket()
        assert profit["parent"] == loss["parent"] == entry["oid"]
        assert profit["oco"] == loss["oco"] != ""
        assert (profit["price"], loss["trigger"]) == ("62000", "56000")
        await good("cancel", str(entry["oid"]))
        assert await good("orders") == "no open orders.\n"
        bad = ("--take-profit", "62000.001", "--stop-loss", "56000")
        done = await piker("buy", BTC, "0.01", "--price", "58000", *bad)
        assert done.returncode == 1
        assert done.stderr.startswith("denied (off-tick): ")
        assert await good("orders") == "no open orders.\n"


async def _bracket() -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """Return the take-profit, the stop-loss and the entry that stand."""
    found = await rows("orders")
    (entry,) = [row for row in found if not row["parent"]]
    (profit,) = [row for row in found if row["parent"] and row["price"]]
    (loss,) = [row for row in found if row["parent"] and row["trigger"]]
    return profit, loss, entry


# -- looking on --------------------------------------------------------------------------------
class Running:
    """A command that goes on: its lines as they come, then Ctrl-C."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said = ""

    async def until(self, pattern: str) -> str:
        """Read on until a line has a pattern; return what matched."""
        while (found := re.search(pattern, self.said)) is None:
            assert self.process.stdout is not None
            part = await self.process.stdout.receive_some()
            assert part, f"it ended before {pattern!r}: {self.said}"
            self.said += part.decode()
        return found[0]

    async def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        code = await self.process.wait()
        assert self.process.stderr is not None
        said = b""
        while part := await self.process.stderr.receive_some():
            said += part
        return code, said.decode()


@asynccontextmanager
async def running(*words: str) -> AsyncIterator[Running]:
    """Run a command that does not end by itself."""
    process = await trio.lowlevel.open_process(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield Running(process)
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
            await process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                await pipe.aclose()


async def test_ctrl_c_ends_the_looking_and_says_that_the_order_lives_on(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Of --wait and of --watch; the shell's code, no traceback, and the order stands."""
    async with trading(pikerd):
        async with running("orders", "--watch") as watch:
            async with running("buy", BTC, "0.01", "--price", "58000", "--wait") as buy:
                await buy.until(r"open: buy 0.01")
                await watch.until(rf"open: buy 0.01 {BTC}, limit 58000; binance.paper")
                code, said = await buy.interrupt()
            assert code == 130
            oid = re.search(r"piker cancel (\S+)", said)
            assert oid is not None
            assert said.startswith("interrupted: the order lives on (buy 0.01")
            (standing,) = await rows("orders")
            assert (standing["oid"], standing["state"]) == (oid[1], "open")
            code, said = await watch.interrupt()
            assert (code, said) == (
                130,
                "1 order lives on; piker cancel takes back what you name.\n",
            )
        async with running("orders", "--watch", "--json") as lines:
            await lines.until(oid[1])
            await good("cancel", "--all")
            await lines.until(r'"state":"canceled"')
            code, said = await lines.interrupt()
            assert (code, said) == (130, "no orders are open.\n")


async def test_alert_is_told_when_its_price_comes(pikerd: Pikerd, piker_dirs: Path) -> None:
    """With --wait the command ends when it does; a wait for what never comes lives on."""
    async with trading(pikerd):
        async with running("alert", BTC, "90000", "--wait") as never:
            await never.until(rf"waiting: alert {BTC} at 90000; binance.paper, dark")
            quote = json.loads(
                (await good("feed", BTC, "--seconds", "1", "--json")).splitlines()[-1]
            )
            said: list[str] = []

            async def wait_for(price: str, nursery: trio.Nursery) -> None:
                plain = price.rstrip("0").rstrip(".")
                async with running("alert", BTC, price, "--wait") as one:
                    await one.until(
                        rf"triggered: alert {BTC} at {re.escape(plain)}; "
                        rf"[\d.]+ met {re.escape(plain)} at 20\S+ \S+ UTC; binance"
                    )
                    said.append(plain)
                    nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:  # it leaves the two by either
                for apart in (0.5, -0.5):
                    nursery.start_soon(wait_for, f"{quote['last'] + apart:.2f}", nursery)
            assert said
            code, left = await never.interrupt()
        assert code == 130
        assert f"lives on (alert {BTC} at 90000)" in left
        assert {row["kind"] for row in await rows("orders")} == {"alert"}


# -- when nothing runs ---------------------------------------------------------------------------
async def test_orders_and_positions_are_the_journals_when_nothing_runs(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """What stands is still shown, with a note; nothing is started for it."""
    async with trading(pikerd):
        await good("buy", BTC, "0.01")
        await good("buy", BTC, "0.01", "--price", "58000")
        await trio.to_thread.run_sync(pikerd.end)
        done = await piker("orders")
        assert done.returncode == 0
        assert "58000" in done.stdout
        assert done.stderr.startswith("note: pikerd does not run: this is what the journal has.")
        for words in ("positions", "accounts"):
            noted = await piker(words)
            assert noted.stderr.startswith("note: pikerd does not run: this is what the journal")
        (held,) = await rows("positions")
        assert (Decimal(str(held["size"])), held["price"]) == (Decimal("0.01"), None)
        (row,) = await rows("accounts")
        assert (row["account"], row["sync"]) == ("binance.paper", "not open")
        assert service.read_pikerd() is None


# -- real money --------------------------------------------------------------------------------
def typed(words: list[str], answer: str) -> tuple[int, str]:
    """Run a command on a terminal, type an answer; return the exit code and what was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*words), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown, answered = b"", False
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
        if b"to arm it:" in shown and not answered:
            answered = True
            os.write(ours, answer.encode() + b"\n")
    os.close(ours)
    return process.wait(60), shown.decode()


async def test_live_account_says_so_and_trades_only_once_armed_by_its_typed_name(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Not armed, it is denied; armed, every line of it is marked, on a terminal in red."""
    spec = AccountSpec(name="main", key=KEY, secret=Secret(SECRET))
    async with trading(pikerd, spec):
        keys = await piker("keys", "add", "binance", "main", "--store", "plain",
                           stdin=f'key = "{KEY}"\nsecret = "{SECRET}"\n')  # fmt: skip
        assert keys.returncode == 0, keys.stderr
        live = ("--account", "binance.main")
        denied = await piker("buy", BTC, "0.01", *live)
        assert denied.returncode == 1
        assert "LIVE: this is real money, on binance.main." in denied.stderr
        assert "denied (not-armed): LIVE binance.main:" in denied.stderr
        shown = await good("accounts")
        assert re.search(r"binance.main +LIVE +no: NOT ARMED +synced", shown)
        arm = ["arm", "binance.main"]
        code, said = await trio.to_thread.run_sync(typed, arm, "yes")
        assert code == 2
        assert "'yes' is not 'binance.main'; nothing was changed." in said
        code, said = await trio.to_thread.run_sync(typed, arm, "binance.main")
        assert code == 0, said
        assert "binance.main is ARMED: it trades real money." in said
        assert "\x1b[1;31m" in said
        done = await piker("buy", BTC, "0.01", "--price", "58000", *live)
        assert done.returncode == 0, done.stderr
        assert re.match(
            rf"LIVE open: buy 0.01 {BTC}, limit 58000; binance.main, binance;", done.stdout
        )
        assert "LIVE binance.main" in await good("orders", width=80)
        assert re.search(r"binance.main +LIVE +yes: ARMED +synced", await good("accounts"))
        script = await piker("arm")
        assert script.returncode == 2
        assert "In a script, say --yes." in script.stderr
        assert "LIVE canceled" in await good("cancel", "--all")
