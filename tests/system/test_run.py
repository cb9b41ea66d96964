"""``piker run``: the same file on paper against a venue, live, and on a recording of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from daemons import Pikerd

from piker.brokers.spec import load_backend
from piker.clearing._ems import journal_path
from piker.clearing.client import open_ems
from piker.clearing.journal import open_journal
from piker.clearing.lifecycle import Phase
from piker.clearing.replay_feed import moments
from piker.clearing.requests import client_id_of
from piker.cli.run_capture import open_capture, told
from piker.errors import Refused
from piker.log import Secret
from piker.testing.accounts import Account, AccountSpec
from piker.testing.loopback import open_loopback, point_backend_at
from piker.testing.recorder import record
from piker.ticks import Outage, Resync

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "strategies.md"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECORD_S = 12.0
TIMES = 3  # that each example is replayed here; the counted test does it ten times
#: Each example, with options that make it trade within seconds.
RUNS = (
    ("grid.py", ("step=1", "levels=2")),
    ("market_maker.py", ("edge=0.00001",)),
    ("ma_cross.py", ("fast=1", "slow=2", "target=0.0001", "stop=0.0001")),
    ("rebalancer.py", ("band=0.0001",)),
    ("breakout.py", ("seconds=1", "target=0.0001", "stop=0.0001")),
)
pytestmark = pytest.mark.slow


def piker(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "piker.cli", *arguments],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the report of a run with ``--json``."""
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


async def recorded(out: Path, *, seconds: float, cut_after_s: float | None = None) -> None:
    """Record the loopback venue, as `piker record` does, and cut its lines once if asked to."""
    async with open_loopback("binance", symbols=2, rate=60.0, seed=11, limits=False) as (
        venue,
        port,
    ):
        point_backend_at("binance", port)
        async with trio.open_nursery() as nursery:

            def began(_: object) -> None:
                nursery.cancel_scope.deadline = trio.current_time() + seconds
                if cut_after_s is not None:
                    nursery.start_soon(cut, cut_after_s)

            async def cut(after_s: float) -> None:
                await trio.sleep(after_s)
                venue.gate.cut(for_s=0.5)

            await record(
                load_backend("binance"), ["btcusdt.spot", "ethusdt.spot"], out, book=False,
                on_start=began,
            )  # fmt: skip


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of the loopback venue."""
    folder = tmp_path_factory.mktemp("recorded")
    out = folder / "btc.jsonl.gz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKER_CONFIG_DIR", str(folder))
        trio.run(partial(recorded, out, seconds=RECORD_S))
    return out


# -- on a recording ----------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "options"), RUNS, ids=[name for name, _ in RUNS])
def test_example_gives_one_journal_when_replayed_again(
    capture: Path, piker_dirs: Path, name: str, options: Sequence[str]
) -> None:
    """In processes of their own, whatever order their sets have; another seed gives another."""
    command = ["run", str(EXAMPLES / name), "--replay", str(capture), "--json", *options]
    found = [report_of(piker(*command, hash_seed=str(number))) for number in range(TIMES)]
    first = found[0]
    assert first["orders"] > 0
    assert first["fills"] > 0
    assert first["rows"] > first["orders"]
    assert len({one["journal"] for one in found}) == 1
    timing = {"took_s", "events_per_s"}
    assert all(
        {key: one[key] for key in one if key not in timing}
        == {key: first[key] for key in first if key not in timing}
        for one in found
    )
    other = report_of(piker(*command, "--seed", "2"))
    assert other["journal"] != first["journal"]


@pytest.mark.full
@pytest.mark.parametrize(("name", "options"), RUNS, ids=[name for name, _ in RUNS])
def test_example_gives_one_journal_when_replayed_ten_times(
    capture: Path, piker_dirs: Path, name: str, options: Sequence[str]
) -> None:
    """The count that issue 4 asks for."""
    command = ["run", str(EXAMPLES / name), "--replay", str(capture), "--json", *options]
    found = [report_of(piker(*command, hash_seed=str(number))) for number in range(10)]
    assert len({one["journal"] for one in found}) == 1


def test_market_maker_holds_no_more_than_its_limit_when_replayed(
    capture: Path, piker_dirs: Path
) -> None:
    """It knows what its fills left it, to the last digit."""
    command = ["run", str(EXAMPLES / "market_maker.py"), "--replay", str(capture), "--json"]
    done = piker(*command, "edge=0", "limit=0.01")
    report = report_of(done)
    (held,) = report["holdings"]
    assert report["fills"] > 0
    said = done.stderr.splitlines()[-1]  # before it, a quote may have been denied as a duplicate
    assert Decimal(held["size"]) == Decimal(said.removeprefix("left in hand: "))
    assert abs(Decimal(held["size"])) <= Decimal("0.01")


def test_replay_prints_for_people_when_not_asked_for_json(capture: Path, piker_dirs: Path) -> None:
    """What it did, what it holds, and the journal's hash."""
    done = piker("run", str(EXAMPLES / "rebalancer.py"), "--replay", str(capture))
    assert done.returncode == 0, done.stderr
    assert "rebalancer.py on " in done.stdout
    assert "ethusdt.spot.binance" in done.stdout
    assert "after fees" in done.stdout
    assert "Journal " in done.stdout


def test_mistake_is_a_sentence_when_a_run_is_asked_for(capture: Path, piker_dirs: Path) -> None:
    """Nothing is started; each says what to do."""
    grid, maker = str(EXAMPLES / "grid.py"), str(EXAMPLES / "market_maker.py")
    replay = ["--replay", str(capture)]
    for arguments, said in (
        ([grid], "Say one of --paper, --live ACCOUNT, --replay CAPTURE"),
        ([grid, "--paper", *replay], "Say one of"),
        ([grid, *replay, "lvels=3"], "has no option 'lvels'"),
        ([maker, *replay, "limit=0"], "limit=0 is to be at least size=0.01"),
        ([grid, *replay, "-m", "btcusd.spot.binance"], "it has btcusdt.spot.binance"),
        ([grid, "--replay", "nowhere.jsonl"], "can not read nowhere.jsonl"),
        ([grid, "--paper", "--seed", "3"], "on a recording alone"),
        ([grid, "--live", "binance.paper"], "is a paper account"),
        ([grid, "--live", "kraken.main"], "can not trade"),
        ([str(EXAMPLES / "gird.py"), "--paper"], "there is no file"),
    ):
        done = piker("run", *arguments)
        assert done.returncode not in (0, 130), arguments
        assert said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_error_in_a_strategy_names_its_line_when_it_is_replayed(
    capture: Path, piker_dirs: Path, tmp_path: Path
) -> None:
    """With the lines that led to it, and exit code 1."""
    path = tmp_path / "broken.py"
    path.write_text(
        "async def strategy(feed, ems):\n    async for item in feed:\n        nothing.there\n"
    )
    done = piker("run", str(path), "--replay", str(capture))
    assert done.returncode == 1
    assert f"{path}:3: NameError: name 'nothing' is not defined." in done.stderr
    assert "nothing.there" in done.stderr


async def test_outage_is_in_the_feed_when_it_was_recorded(piker_dirs: Path) -> None:
    """In its place: an outage, a resync, and quotes again."""
    out = piker_dirs / "cut.jsonl"
    await recorded(out, seconds=8, cut_after_s=3)
    found = open_capture(out)
    names = {symbol: f"{symbol}.binance" for symbol in found.header.symbols}
    kinds = [type(item) for _, item in moments(told(found), names)]
    lost, back = kinds.index(Outage), kinds.index(Resync)
    assert dict in kinds[:lost]
    assert lost < back
    assert dict not in kinds[lost:back]
    assert kinds[back:].count(dict) > 10
    assert kinds.count(Outage) == 1


def test_guides_example_trades_when_it_is_replayed(
    capture: Path, piker_dirs: Path, tmp_path: Path
) -> None:
    """As it is printed."""
    found = re.search(
        r"<!-- example: dip -->\n```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S
    )
    assert found is not None
    (tmp_path / "dip.py").write_text(found.group(1))
    report = report_of(
        piker("run", str(tmp_path / "dip.py"), "--replay", str(capture), "--json", "fall=0.00001")
    )
    assert report["fills"] > 0


# -- on paper ----------------------------------------------------------------------------------
WAITING = """
from decimal import Decimal
MARKETS = ("btcusdt.spot.binance",)

async def strategy(feed, ems):
    (flume,) = feed.flumes.values()
    low = flume.mkt.round_price(repr(flume.first_quote.bid * 0.98))
    for price in (low, low - 1):
        status = await ems.send(ems.order(flume.fqme, "buy", "0.01", price=price))
        await ems.until(status.oid, ["open", "denied"])
        print(status.oid, flush=True)
    try:
        async for item in feed:
            pass
    finally:
        await ems.cancel(status.oid)
        print("tidied up", flush=True)
"""


@pytest.mark.xdist_group("daemons")
async def test_run_on_paper_ends_in_order_when_it_is_interrupted(
    pikerd: Pikerd, tmp_path: Path
) -> None:
    """Its ``finally`` runs, with orders; what it leaves is named, and stands at emsd."""
    path = tmp_path / "waiting.py"
    path.write_text(WAITING)
    async with open_loopback("binance", symbols=2, rate=20.0, limits=False) as (_, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "piker.cli", "run", str(path), "--paper"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        heard = b""
        with trio.fail_after(60):
            while heard.count(b"\n") < 2:
                heard += await process.stdout.receive_some()
            process.send_signal(signal.SIGINT)
            async for part in process.stdout:
                heard += part
            assert await process.wait() == 0
        stays, goes, *said = heard.decode().splitlines()
        text = "\n".join(said)
        assert said[0] == "tidied up"
        assert "waiting.py on paper (binance.paper)" in text
        assert "2 orders, 1 canceled" in text
        assert "1 order still stands" in text
        assert stays in text
        assert goes not in text
        async with open_ems(account="binance.paper") as ems:
            assert [status.oid for status in ems.open_orders()] == [stays]
            await ems.cancel(stays)


EXITING = """
import sys
import trio
MARKETS = ("btcusdt.spot.binance",)

async def give_up():
    sys.exit("no more")

async def strategy(feed, ems, *, nested=False):
    (flume,) = feed.flumes.values()
    low = flume.mkt.round_price(repr(flume.first_quote.bid * 0.98))
    status = await ems.send(ems.order(flume.fqme, "buy", "0.01", price=low))
    await ems.until(status.oid, ["open", "denied"])
    if not nested:
        await give_up()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await trio.sleep_forever()
"""


@pytest.mark.xdist_group("daemons")
async def test_orders_that_still_stand_are_named_when_a_strategy_exits(
    pikerd: Pikerd, tmp_path: Path
) -> None:
    """By ``sys.exit``, out of a nursery of its own too; its word and its code are kept."""
    path = tmp_path / "exiting.py"
    path.write_text(EXITING)
    async with open_loopback("binance", symbols=2, rate=20.0, limits=False) as (_, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        for option in ("nested=false", "nested=true"):
            done = await trio.run_process(
                [sys.executable, "-m", "piker.cli", "run", str(path), "--paper", option],
                capture_stdout=True, capture_stderr=True, check=False,
            )  # fmt: skip
            said = done.stderr.decode()
            assert (done.returncode, said.splitlines()[-1]) == (1, "no more")
            assert "Traceback" not in said
            assert "1 order still stands" in done.stdout.decode()


@pytest.mark.xdist_group("daemons")
async def test_examples_trade_on_paper_when_a_venue_is_there(pikerd: Pikerd) -> None:
    """Each for some seconds; each ends with its time, and says what it did."""
    async with open_loopback("binance", symbols=2, rate=60.0, limits=False) as (_, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        for name, options in RUNS:
            done = await trio.run_process(
                [sys.executable, "-m", "piker.cli", "run", str(EXAMPLES / name), "--paper",
                 "--seconds", "6", "--json", *options],
                capture_stdout=True,
            )  # fmt: skip
            report = json.loads(done.stdout)
            assert report["mode"] == "paper"
            waits = name in ("ma_cross.py", "breakout.py")  # what they look for comes when it comes
            assert report["orders"] > 0 or waits
            assert set(report["ended"]) <= {"closed", "canceled", "rejected", "denied"}


# -- live --------------------------------------------------------------------------------------
KEY, SECRET = "k" * 16, "s" * 16
LIVE = "binance.main"
OWNER = AccountSpec(name="main", key=KEY, secret=Secret(SECRET))


async def run_live(name: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run an example for some seconds on the live account, while the venue goes on."""
    return await trio.run_process(
        [sys.executable, "-m", "piker.cli", "run", str(EXAMPLES / name), "--live", LIVE,
         "--seconds", "6", "--json", *options],
        capture_stdout=True, capture_stderr=True, check=False,
    )  # fmt: skip


async def command(*words: str, stdin: str = "") -> str:
    """Run another command, which must do well."""
    done = await trio.run_process(
        [sys.executable, "-m", "piker.cli", *words], stdin=stdin.encode(), capture_stdout=True,
    )  # fmt: skip
    return done.stdout.decode()


async def hold_against(account: Account) -> int:
    """Hold the journal against what the venue has of an account; return how many trades it has."""
    async with open_journal(journal_path(), read_only=True) as journal:
        folded = (await journal.fold()).values()
    states = [one for one in folded if one.phase not in (Phase.DENIED, Phase.REJECTED)]
    ours = {client_id_of(one.order.oid): (one.filled, not one.is_over) for one in states}
    assert ours == {one.client_id: (one.filled, one.is_open) for one in account.orders.values()}
    tids = Counter(tid for one in states for tid in one.tids)
    assert tids == Counter(f"t{row['id']}" for row in account.fills)
    for asset in ("btc", "eth"):
        net = -sum(one.fees.get(asset, 0) for one in states)
        net += sum(
            one.order.side * one.filled for one in states if one.order.symbol.startswith(asset)
        )
        held = account.purse.of(asset.upper())
        assert held.free + held.locked == OWNER.balances[asset.upper()] + net
    return len(account.fills)


@pytest.mark.xdist_group("daemons")
async def test_examples_trade_live_once_armed_and_the_journal_is_the_venues(
    pikerd: Pikerd,
) -> None:
    """The same files; not armed, or halted, the strategy does not begin and nothing is sent."""
    async with open_loopback(
        "binance", symbols=2, rate=60.0, limits=False, accounts=[OWNER]
    ) as (venue, port):  # fmt: skip
        account = venue.accounts.desks["spot"].accounts["main"]
        point_backend_at("binance", port)
        await pikerd.ready()
        await command("keys", "add", "binance", "main", "--store", "plain",
                      stdin=f'key = "{KEY}"\nsecret = "{SECRET}"\n')  # fmt: skip
        refused = await run_live("grid.py")
        assert (refused.returncode, refused.stdout) == (Refused.exit_code, b"")
        assert f"is not armed. Run: piker arm {LIVE}".encode() in refused.stderr
        await command("arm", LIVE, "--yes")
        await command("halt", LIVE, "--reason", "a look first")
        halted = await run_live("grid.py")
        assert halted.returncode == Refused.exit_code
        assert b"is halted: a look first. When you have looked: piker arm" in halted.stderr
        assert not account.orders
        await command("arm", LIVE, "--yes")
        for name in ("grid.py", "rebalancer.py"):  # all that they send goes to the venue as it is
            done = await run_live(name, *dict(RUNS)[name])
            assert done.returncode == 0, done.stderr
            assert b"runs LIVE, with real money," in done.stderr
            report = json.loads(done.stdout)
            assert (report["mode"], report["account"]) == ("live", LIVE)
            assert report["orders"] > 0
        await command("cancel", "--all")
        assert await hold_against(account) > 0
