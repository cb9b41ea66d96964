"""``piker run``: a strategy's file on paper, live, or on a recording; the same file, unchanged."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

import msgspec
import trio

from piker import clock, config, log
from piker.brokers.spec import Backend, load_backend
from piker.clearing.accounts import PAPER, UNARMED, split_account
from piker.clearing.client import OrderClient, open_ems
from piker.clearing.strategy import Strategy, load_strategy, where_raised
from piker.cli.app import EXIT_INTERRUPTED
from piker.cli.markets import check_markets
from piker.cli.run_report import (
    Report,
    Tally,
    fees_of,
    holdings_of,
    session_of,
    show,
    standing_of,
)
from piker.data.feed import Feed, Item, open_feed
from piker.data.messages import FeedStats
from piker.data.quotes import QuoteMaker
from piker.errors import ConfigError, PikerError, Refused, Transient
from piker.market import MktPair, parse_fqme
from piker.ticks import Quote

__all__ = ["run_live", "run_replay"]

SYNC_S = 60.0  # an account's venue is waited for so long before the strategy starts
GRACE_S = 5.0  # after the feed's end, for a strategy that was not reading it; then it is cancelled
SETTLE_S = 3.0  # cancels that the strategy asked for at its end are waited for so long
RECENT = 256  # ticks that the last quote is made of
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Bound = Callable[[Feed, OrderClient], Awaitable[object]]


# -- on paper and live -------------------------------------------------------------------------
def run_live(
    file: str, *, account: str | None, markets: Sequence[str], options: Sequence[str],
    seconds: float | None, as_json: bool, log_level: str | None,
) -> None:  # fmt: skip
    """Run until the strategy returns, the time is up, or a signal; without an account on paper."""
    log.configure(log_level, default=config.load_conf().log.level, actor="run")
    strategy = load_strategy(Path(file))
    bound = strategy.bind(options)
    fqmes = _markets(strategy, markets)
    check_markets(fqmes)
    chosen = account or f"{parse_fqme(fqmes[0]).provider}.{PAPER}"
    provider, own = split_account(chosen)
    if account is not None and own == PAPER:
        raise ConfigError(f"{account} is a paper account.", remedy="Run it with --paper.")
    if provider not in {parse_fqme(fqme).provider for fqme in fqmes}:
        raise ConfigError(
            f"{chosen} can not trade {', '.join(fqmes)}.",
            remedy="An account's name begins with the provider of its markets.",
        )
    live = _Live(strategy, bound, fqmes, chosen)
    with _of_the_strategy(strategy), redirect_stdout(sys.stderr if as_json else sys.stdout):
        trio.run(live.run, seconds)
    if live.report is None:
        sys.exit(EXIT_INTERRUPTED)
    _print(live.report, live.mkts, as_json)
    if isinstance(live.failed, SystemExit):
        raise live.failed
    if live.failed is not None:
        raise _told_error(strategy, live.failed)


def _markets(strategy: Strategy, named: Sequence[str]) -> list[str]:
    fqmes = [str(parse_fqme(one)) for one in named] or list(strategy.markets)
    if not fqmes:
        raise ConfigError(
            f"{strategy.path.name} names no markets.",
            remedy="Name them with --market, or in the file: MARKETS = ('btcusdt.spot.binance',)",
        )
    return list(dict.fromkeys(fqmes))


class _EndingFeed(Feed):
    """A feed that can be ended: whoever iterates it then comes to its end, as in a replay."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(None)
        self.flumes = feed.flumes
        self.ended = False
        self._feed = feed
        self._reading = trio.CancelScope()

    def end(self) -> None:
        """End it."""
        self.ended = True
        self._reading.cancel()

    async def __anext__(self) -> Item:
        """Return what the feed does, up to its end."""
        if not self.ended:
            with trio.CancelScope() as self._reading:
                item = await self._feed.receive()
                self.resyncs = self._feed.resyncs
                return item
        raise StopAsyncIteration

    async def receive(self) -> Item:
        """Return what the feed does; raise ``trio.EndOfChannel`` at its end."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def stats(self) -> FeedStats:
        """Return the feed's."""
        return await self._feed.stats()


class _Live:
    """A run against emsd: ``report`` is there when it ended in order, ``failed`` what ended it."""

    def __init__(
        self, strategy: Strategy, bound: Bound, fqmes: Sequence[str], account: str
    ) -> None:
        self.report: Report | None = None
        self.failed: Exception | SystemExit | None = None
        self.mkts: dict[str, MktPair] = {}
        self._strategy = strategy
        self._bound = bound
        self._fqmes = list(fqmes)
        self._account = account
        self._enders: list[Callable[[], None]] = []

    async def run(self, seconds: float | None) -> None:
        """Open all that it needs, run it, and say what came of it."""
        account, fqmes = self._account, self._fqmes
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                self._enders.append(nursery.cancel_scope.cancel)
                nursery.start_soon(self._end_on, signals)
                async with (
                    open_feed(fqmes) as feed,
                    open_ems(*fqmes, account=account, name="piker run") as watch,
                    open_ems(*fqmes, account=account, name=self._strategy.name) as ems,
                ):
                    self.mkts = {fqme: flume.mkt for fqme, flume in feed.flumes.items()}
                    await _until_ready(watch, account)
                    await self._play(feed, ems, watch, seconds, nursery)
                nursery.cancel_scope.cancel()

    async def _end_on(self, signals: AsyncIterator[int]) -> None:
        """End more with each signal: the feed, the strategy, and then everything."""
        async for _ in signals:
            if self._enders:
                self._enders.pop()()

    async def _play(
        self, feed: Feed, ems: OrderClient, watch: OrderClient, seconds: float | None,
        nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        tally = Tally(session_of(ems))
        nursery.start_soon(tally.follow, watch)
        began = trio.current_time()
        self._say_begun(seconds)
        ending = _EndingFeed(feed)
        with trio.CancelScope() as scope:
            self._enders += [scope.cancel, partial(self._end, ending, scope)]
            if seconds is not None:
                nursery.start_soon(self._end_after, seconds)
            try:
                await self._bound(ending, ems)
            except (Exception, SystemExit) as err:
                self.failed = err
            except BaseExceptionGroup as group:  # out of a nursery of the strategy's
                exits, others = group.split(SystemExit)
                if exits is None or others is not None:
                    raise
                self.failed = SystemExit(*_first_of(exits).args)
        took = trio.current_time() - began
        await _settled(tally, ems)
        last = {fqme: _last_of(feed, fqme) for fqme in self._fqmes}
        self.report = self._reported(tally, took, last)

    def _end(self, feed: _EndingFeed, scope: trio.CancelScope) -> None:
        """End the feed; whoever does not read it is cancelled a little later."""
        feed.end()
        scope.deadline = trio.current_time() + GRACE_S

    async def _end_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        if len(self._enders) > 2:  # no signal was first
            self._enders.pop()()

    def _say_begun(self, seconds: float | None) -> None:
        how = "LIVE, with real money," if not self._account.endswith(f".{PAPER}") else "on paper"
        until = f"{seconds:g} s" if seconds is not None else "Ctrl-C"
        print(
            f"{self._strategy.path.name} runs {how} in {', '.join(self._fqmes)} "
            f"({self._account}) until {until}.",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def _reported(self, tally: Tally, took_s: float, last: dict[str, Quote]) -> Report:
        holdings = holdings_of(tally, self.mkts, self._account, last)
        mode = "paper" if self._account.endswith(f".{PAPER}") else "live"
        return Report(
            strategy=self._strategy.path.name, mode=mode, account=self._account,
            markets=self._fqmes, seconds=round(took_s, 3), orders=len(tally.newest),
            ended=tally.ends(), fills=len(tally.fills), fees=fees_of(holdings),
            holdings=holdings, standing=standing_of(tally.standing()),
        )  # fmt: skip


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group, however deep."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


async def _until_ready(watch: OrderClient, account: str) -> None:
    """Wait until an account can trade; raise what keeps it from it."""
    with trio.move_on_after(SYNC_S):
        while account not in watch.accounts or watch.accounts[account].sync != "synced":
            await watch.__anext__()
    told = watch.accounts.get(account)
    if told is None or told.sync != "synced":
        why = f": {told.reason}" if told is not None and told.reason else ""
        raise Transient(f"{account} was not heard of by its venue within {SYNC_S:.0f} s{why}.")
    if told.state == UNARMED:
        raise Refused(
            f"{account} trades real money and is not armed.", remedy=f"Run: piker arm {account}"
        )
    if told.state == "halted":
        raise Refused(
            f"{account} is halted: {told.reason}.",
            remedy=f"When you have looked: piker arm {account}",
        )


async def _settled(tally: Tally, ems: OrderClient) -> None:
    """Wait a moment for what is on its way, and for the tally to have heard it all."""

    def is_open() -> bool:
        own = [one for oid, one in ems.dialogs.items() if oid.startswith(tally.session)]
        standing = {one.oid for one in ems.open_orders()}
        return any(
            (one.oid in standing and (one.cancel_called or one.resp == "pending"))
            or not tally.has_heard(one)
            for one in own
        )

    with trio.move_on_after(SETTLE_S):
        while is_open():
            await trio.sleep(0.02)


def _last_of(feed: Feed, fqme: str) -> Quote:
    """Return a market's quote as it is now, whatever the strategy has read of it."""
    flume = feed.flumes[fqme]
    return QuoteMaker(flume.first_quote).fold(flume.ticks.array[-RECENT:].tobytes())


# -- on a recording ----------------------------------------------------------------------------
def run_replay(
    file: str, *, capture: str, markets: Sequence[str], options: Sequence[str], seed: int,
    as_json: bool, log_level: str | None,
) -> None:  # fmt: skip
    """Run a strategy on a capture, as fast as it goes; the same every time."""
    from piker.clearing._ems import limits_of
    from piker.clearing._paper_engine import fees_of as venue_fees
    from piker.clearing.replay import Replay
    from piker.clearing.replay_feed import moments
    from piker.cli.run_capture import markets_of, open_capture, told

    conf = config.load_conf()
    log.configure(log_level, default=conf.log.level, actor="run")
    strategy = load_strategy(Path(file))
    bound = strategy.bind(options)
    found = open_capture(Path(capture))
    if found.torn:
        print(f"{capture}: {found.torn}.", file=sys.stderr)
    mkts = markets_of(found, markets or strategy.markets)
    account = f"{found.header.provider}.{PAPER}"
    table = conf.accounts.get(found.header.provider, {}).get(PAPER, config.AccountConf())
    backend: Backend = load_backend(found.header.provider, conf.brokers.modules)
    tally = Tally()
    replay = Replay(
        mkts, moments(told(found), {mkt.mktid: mkt.fqme for mkt in mkts}), seed=seed,
        limits=limits_of(conf, account), latency_ms=conf.paper.latency_ms,
        fees=lambda mkt: venue_fees(backend.capabilities, mkt.address.venue),
        protect_ticks=table.protect_ticks, name=strategy.name, heard=tally.take,
        balances=conf.paper.balances,
    )  # fmt: skip
    began_ns = clock.monotonic_ns()
    with _of_the_strategy(strategy), redirect_stdout(sys.stderr if as_json else sys.stdout):
        result = replay.run(bound)
    took_s = (clock.monotonic_ns() - began_ns) / clock.NS
    by_name = {mkt.fqme: mkt for mkt in mkts}
    holdings = holdings_of(tally, by_name, account, result.last)
    report = Report(
        strategy=strategy.path.name, mode="replay", account=account, markets=list(by_name),
        seconds=round((result.ended_ns - result.began_ns) / clock.NS, 3),
        orders=len(tally.newest), ended=tally.ends(), fills=len(tally.fills),
        fees=fees_of(holdings), holdings=holdings, standing=standing_of(tally.standing()),
        capture=capture, seed=seed, events=result.items, rows=result.journal.seq,
        journal=result.journal.chain.hex(), took_s=round(took_s, 4),
        events_per_s=round(result.items / took_s, 1),
    )  # fmt: skip
    _print(report, by_name, as_json)


# -- both --------------------------------------------------------------------------------------
def _print(report: Report, mkts: dict[str, MktPair], as_json: bool) -> None:
    print(msgspec.json.encode(report).decode() if as_json else show(report, mkts))


@contextmanager
def _of_the_strategy(strategy: Strategy) -> Iterator[None]:
    """Let an error of the strategy's own be told with its place in the file."""
    try:
        yield
    except (PikerError, KeyboardInterrupt):
        raise
    except Exception as err:
        raise _told_error(strategy, err) from err


def _told_error(strategy: Strategy, err: Exception) -> Exception:
    """Return what to raise for an error; a strategy's own is shown with all its lines."""
    inner: BaseException = err
    while isinstance(inner, BaseExceptionGroup):
        ours = [one for one in inner.exceptions if isinstance(one, PikerError)]
        inner = ours[0] if ours else inner.exceptions[0]
    where = where_raised(inner, strategy.path)
    if isinstance(inner, PikerError) or not where:
        return inner if isinstance(inner, Exception) else err
    traceback.print_exception(inner, file=sys.stderr)
    return PikerError(f"{where}: {type(inner).__name__}: {inner}.", remedy="Mend the strategy.")
