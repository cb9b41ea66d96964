"""Keeping what we know of an account equal to what Kraken knows: the stream, and questions by REST.

A look (:meth:`Keeper.look`) asks for everything that stands, for what no longer does, for requests
in doubt, and for fills that were missed. It is taken after every connection and whenever the stream
had a gap or a frame that can not be read, while there are doubts, and now and then for no reason: a
frame that was lost is not missed by anybody before the next one comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import trio

from piker import clock
from piker.brokers.kraken.broker_book import ENDS, Held
from piker.brokers.kraken.broker_dialog import Dialog, Doubt
from piker.brokers.kraken.broker_ids import cl_ord_id_of, plain
from piker.brokers.kraken.broker_rest import PAGE
from piker.brokers.kraken.broker_schema import (
    BalanceRow,
    Head,
    OrderRow,
    Report,
    Subscribed,
    TradeRow,
    decode_head,
)
from piker.brokers.kraken.broker_terms import has_terms
from piker.brokers.kraken.decode import time_ns
from piker.brokers.quality import venue_quality
from piker.brokers.ws import Backoff, Frames, Link, Ws
from piker.clock import NS
from piker.errors import PikerError, Rejected, Transient
from piker.log import Secret, get_logger
from piker.orders import BrokerdBalance, BrokerdOrder, BrokerdSync, SyncState
from piker.ticks import Outage, Resync

__all__ = ["CHANNELS", "Keeper"]

log = get_logger("kraken.broker")

CHANNELS = ("executions", "balances")
ONE_BY_ONE = 3  # so many orders without an id are asked for each alone; more by pages
PAGES_S = 3600  # those that were sent within so long: pages would go on for too long
MARGIN_S = 120  # of what is asked by time: clocks differ, and so do the venue's parts
GUARD_S = 1.0  # how often it is looked whether the dead man's switch is due
GUARD_AGAIN_S = 5.0  # between two tries while it can not be set: each counts
GUARD_WAIT_S = 3.0  # for an answer of the switch
BAD_KEY_S = 60.0  # between two tries of a key that the venue took before and refuses now


class Keeper:
    """The stream of one account, and the questions that go with it."""

    def __init__(self, dialog: Dialog, ws: Ws | None = None) -> None:
        self.dialog = dialog
        self.ws = ws
        self.state = SyncState.LOST
        self.first_token: Secret | None = None
        self.armed = False  # the dead man's switch
        self._gaps = dict.fromkeys(CHANNELS, 1)  # since the last look that came to its end
        self._sequences: dict[str, int] = {}  # of this connection's channels
        self._subscribed_at = 0.0  # on trio's clock
        self._heard_s = 0  # until when nothing of the account was missed
        self._assets: dict[str, str] = {}

    # -- states --------------------------------------------------------------------------------
    def _become(self, state: SyncState, reason: str = "") -> None:
        if state is self.state:
            return
        dialog = self.dialog
        self.state = state
        dialog.tell(
            BrokerdSync(account=dialog.account, state=state, time_ns=clock.wall_ns(), reason=reason)
        )
        log.info("kraken.sync", account=dialog.account, state=str(state), reason=reason)

    def begin(self) -> None:
        """Tell that the comparison begins."""
        self._become(SyncState.SYNCING, "connecting")

    def _gap(self, reason: str, *channels: str) -> None:
        """Note that something of the account may have been missed; of channels, or of all."""
        for channel in channels or CHANNELS:
            self._gaps[channel] += 1
        if self.state is SyncState.SYNCED:
            self._become(SyncState.SYNCING, reason)
        self.dialog.heed()

    # -- the stream ----------------------------------------------------------------------------
    async def subscribe(self, link: Link) -> None:
        """Subscribe a new connection with a token of its own."""
        token, self.first_token = self.first_token, None
        try:
            token = token or await self.dialog.rest.token()
        except Rejected as error:
            log.error("kraken.key", account=self.dialog.account, error=error)
            raise Transient(error.message, retry_after=BAD_KEY_S) from error
        except PikerError as error:
            raise Transient(error.message) from error
        self.dialog.asking.token = token
        for channel in CHANNELS:
            params: dict[str, Any] = {"channel": channel, "token": token.reveal()}
            params |= {"snap_orders": True, "snap_trades": False} if channel == CHANNELS[0] else {}
            await link.send(msgspec.json.encode({"method": "subscribe", "params": params}).decode())
        self._subscribed_at = trio.current_time()

    async def listen(self) -> None:
        """Take what the stream brings, until cancelled."""
        assert self.ws is not None
        async for item in self.ws:
            if isinstance(item, Outage):
                self._lost(item.reason)
            elif isinstance(item, Resync):
                self._sequences.clear()
                self._subscribed_at = 0.0
                self.dialog.live = False
                self._gap("reconnected")
                self._become(SyncState.SYNCING, item.detail)
            elif isinstance(item, Frames):
                for frame in item.frames:
                    self._frame(frame, item.recv_ns)

    def _lost(self, reason: str) -> None:
        self.dialog.live = False
        self._sequences.clear()
        self._subscribed_at = 0.0
        self._become(SyncState.LOST, reason)
        self._gap(reason)
        self.dialog.asking.lost(f"connection lost: {reason}")

    def _frame(self, frame: bytes, recv_ns: int) -> None:
        """Take one message; one that can not be read may have been any."""
        try:
            head = decode_head(frame)
            if head.channel in CHANNELS:
                self._data(head, recv_ns)
            elif head.method:
                self._answer(head, recv_ns)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, IndexError) as error:
            venue_quality("kraken").count("private-frame", str(error))
            self._gap("a message that can not be read")

    def _answer(self, head: Head, recv_ns: int) -> None:
        if head.time_out:
            self.dialog.ahead_ns = time_ns(head.time_out) - recv_ns
        if self.dialog.asking.answered(head) or head.method != "subscribe":
            return
        if head.success is False:
            if self.ws is not None:
                self.ws.reset(f"subscribing was refused: {head.error}")
            return
        said = msgspec.json.decode(head.result, type=Subscribed)
        if said.maxratecount > 0:  # of executions alone
            self.dialog.rates.tier(said.maxratecount)
            self.dialog.rest.tier(said.maxratecount)

    def _data(self, head: Head, recv_ns: int) -> None:
        last = self._sequences.get(head.channel)
        if head.type == "snapshot":
            self._sequences[head.channel] = head.sequence
        elif last is None or head.sequence > last + 1:
            self._gap(f"message {last} is followed by {head.sequence}", head.channel)
        if head.type != "snapshot":  # of one that was lost, the look that follows brings the rest
            self._sequences[head.channel] = max(last or 0, head.sequence)
        if head.channel == "balances":
            self._balances(msgspec.json.decode(head.data, type=list[BalanceRow]))
        else:
            for said in msgspec.json.decode(head.data, type=list[Report]):
                whole = head.type == "snapshot"
                self.dialog.tell(*self.dialog.book.report(said, recv_ns, whole=whole))
            if self._is_odd():
                self._gap("a fill that its order's sum has no room for", CHANNELS[0])
            elif self.dialog.book.incomplete():
                self.dialog.heed()
        if not self.dialog.live and all(name in self._sequences for name in CHANNELS):
            self.dialog.live = True
            self.dialog.heed()

    def _balances(self, rows: Iterable[BalanceRow]) -> None:
        for row in rows:
            if row.spot is not None:
                self._balance(row.asset.lower(), row.spot, None)

    def _balance(self, asset: str, total: Any, available: Any) -> None:
        balance = BrokerdBalance(
            broker="kraken", account=self.dialog.account, asset=asset, total=total,
            available=available, time_ns=clock.wall_ns(),
        )  # fmt: skip
        self.dialog.tell(balance)

    # -- looking -------------------------------------------------------------------------------
    async def keep(self) -> None:
        """Look when there is reason to, until cancelled; a look that fails is taken again."""
        patience = self.dialog.patience
        again = Backoff(floor_s=patience.retry_s, cap_s=patience.retry_cap_s)
        tries = 0
        while True:
            wait_s = self._wait_s(again.wait_s(tries)) if tries else patience.audit_s
            with trio.move_on_after(wait_s):
                await self.dialog.work.wait()
                if tries:  # what it waits for is a while, not a reason
                    await trio.sleep_forever()
            await trio.sleep(patience.retry_s / 4)  # what comes together is looked at together
            self.dialog.work = trio.Event()
            if not self.dialog.live and not self.dialog.doubts:
                continue
            try:
                done = await self.look()
            except PikerError as error:
                log.warning("kraken.look", account=self.dialog.account, error=error.message)
                done = False
            tries = 0 if done else tries + 1

    def _wait_s(self, backoff_s: float) -> float:
        """Return how long to wait for the next look, where the last one left something open.

        Before a request is late nothing is proved by asking, and each question costs: the venue
        counts them.
        """
        patience, now_ns = self.dialog.patience, clock.monotonic_ns()
        early = [one.ends_ns - now_ns for one in self.dialog.doubts if not one.held.txid]
        if early and min(early) > 0:
            until_s = min(early) / NS + patience.retry_s / 4
            return min(until_s, max(backoff_s, patience.retry_cap_s))
        if any(one.missed for one in self.dialog.doubts):
            return min(backoff_s, 2 * patience.retry_s)
        return backoff_s

    async def look(self) -> bool:
        """Compare once; return whether nothing is open. Raises what a question came to."""
        dialog, gaps, began_s = self.dialog, dict(self._gaps), self._venue_s(clock.wall_ns())
        orders, balances = (dialog.live and gaps[channel] > 0 for channel in CHANNELS)
        if orders or not balances or dialog.doubts:
            await self._orders()
            if orders and self._heard_s and not dialog.doubts:  # dear: not in each look that waits
                await self._missed_trades()
            await self._fills()
        if balances:
            await self._all_balances()
        if self._is_odd() or dialog.doubts or dialog.book.incomplete() or self._untold():
            return False
        if gaps == self._gaps and dialog.live:
            self._gaps = dict.fromkeys(CHANNELS, 0)
            self._heard_s = began_s
            self._become(SyncState.SYNCED)
        return not any(self._gaps.values()) or not dialog.live

    def _is_odd(self) -> bool:
        """Count the fills that were withheld for the first time; tell whether there were any.

        It is asked anew then: a sum may be behind a list of trades.
        """
        odd, self.dialog.book.odd = self.dialog.book.odd, []
        for why in odd:
            venue_quality("kraken").count("fill-ids", why)
            log.warning("kraken.fill-ids", account=self.dialog.account, why=why)
        return bool(odd)

    def _venue_s(self, ns: int) -> int:
        """Return a time of our clock as the venue's has it, in seconds."""
        return (ns + self.dialog.ahead_ns) // NS

    def _untold(self) -> list[Held]:
        """Return the orders that emsd believes in and that have no status yet."""
        return [one for one in self.dialog.book if one.believed and not one.told]

    async def _missed_trades(self) -> None:
        """Ask for fills while away: those of strangers' orders are found in no other way.

        Of each order that has one what it traded in all is asked first: no more is told of it.
        """
        book = self.dialog.book
        found = await self.dialog.rest.trades_since(self._heard_s - MARGIN_S)
        whose = {row.ordertxid for tid, row in found.items() if book.lacks(tid, row.ordertxid)}
        for txid, order in (await self.dialog.rest.orders(sorted(whose))).items():
            self.dialog.tell(*book.row(txid, order, clock.wall_ns()))
        self._tell_trades(found)

    def _tell_trades(self, found: dict[str, TradeRow]) -> None:
        """Tell fills, the newest first: where a sum has not room for all, those are what lacks."""
        for tid, trade in sorted(found.items(), key=lambda item: -item[1].time):
            self.dialog.tell(*self.dialog.book.trade(tid, trade, clock.wall_ns()))

    async def _orders(self) -> None:
        """Ask for what stands, for what does not any more, and for what is in doubt."""
        dialog, began_ns = self.dialog, clock.monotonic_ns()
        doubts = list(dialog.doubts)
        stood = [one.txid for one in dialog.book if one.txid and not one.end]
        rows = await dialog.rest.open_orders()
        gone = [txid for txid in stood if txid not in rows]
        nameless = [one for one in doubts if not one.held.txid and not self._is_in(one, rows)]
        others = await dialog.rest.orders(gone)
        whole = len(rows) < PAGE and all(row.status in ENDS for row in others.values())
        rows |= others
        # The list of what is over is dear, and tells nothing final before a request is late.
        rows |= await self._ended([one.held for one in nameless if began_ns > one.ends_ns])
        rows |= await self._elsewhere(
            [one for one in nameless if one.missed and not self._is_in(one, rows)], whole=whole
        )
        for txid, row in rows.items():
            dialog.tell(*dialog.book.row(txid, row, clock.wall_ns()))
        for txid in gone:
            if txid not in rows:
                self._vanished(txid)
        dialog.settle([one for one in doubts if self._is_proved(one, rows, began_ns)])

    @staticmethod
    def _is_in(doubt: Doubt, rows: dict[str, OrderRow]) -> bool:
        name = plain(cl_ord_id_of(doubt.held.client_id))
        return any(plain(row.cl_ord_id) == name for row in rows.values())

    async def _ended(self, nameless: list[Held]) -> dict[str, OrderRow]:
        """Return what the venue has of orders that do not stand and whose txid is not known."""
        rest, names = self.dialog.rest, {cl_ord_id_of(one.client_id) for one in nameless}
        since_ns = clock.wall_ns() - PAGES_S * NS
        recent = [one for one in nameless if one.order is not None and one.made_ns > since_ns]
        found: dict[str, OrderRow] = {}
        alone = set(names)
        if len(recent) > ONE_BY_ONE:
            oldest_s = self._venue_s(min(one.made_ns for one in recent)) - MARGIN_S
            rows = await rest.closed_since(oldest_s)
            found |= {txid: row for txid, row in rows.items() if plain(row.cl_ord_id) in names}
            alone -= {cl_ord_id_of(one.client_id) for one in recent}
        for name in sorted(alone):
            found |= await rest.closed_orders(name)
        return found

    async def _elsewhere(self, missed: list[Doubt], *, whole: bool) -> dict[str, OrderRow]:
        """Look for orders in every other place before they are called absent.

        emsd may send again what is absent. A list of what stands may be cut some day: each is asked
        for by its own id, where they are few, or where that list is not ``whole`` for all one can
        see: so many that a page may have ended, or without one that stands. A list of orders may be
        behind that of trades: whose those are that came since the orders were made is asked, too.
        Where that is not answered nothing is proved yet.
        """
        rest, found, now_ns = self.dialog.rest, dict[str, OrderRow](), clock.wall_ns()
        if not missed:
            return found
        names = {cl_ord_id_of(one.held.client_id) for one in missed}
        for name in sorted(names if len(names) <= ONE_BY_ONE or not whole else ()):
            found |= await rest.open_orders(name)
        oldest_ns = min(one.held.made_ns or now_ns - PAGES_S * NS for one in missed)
        trades = await rest.trades_since(self._venue_s(oldest_ns) - MARGIN_S)
        known = self.dialog.book.is_named
        strange = {row.ordertxid: row for row in trades.values() if not known(row.ordertxid)}
        found |= await rest.orders(sorted(strange.keys() - found.keys()))
        symbol = self.dialog.markets.symbol
        nobodys = {symbol(row.pair) for txid, row in strange.items() if txid not in found}
        for one in missed:
            if one.held.symbol in nobodys:
                one.missed = False
                log.warning("kraken.nobodys-trade", account=self.dialog.account, oid=one.held.oid)
        return found

    def _vanished(self, txid: str) -> None:
        """Ask by the client's id for an order whose txid the venue does not know."""
        held = self.dialog.book.find("", txid)
        if held is not None and held.oid and held.order is not None:
            log.error("kraken.vanished", account=self.dialog.account, txid=txid, oid=held.oid)
            held.txid, held.vanished = "", True
            self.dialog.doubts.append(Doubt(held.order, held, "order", self.dialog.ends_ns()))

    def _is_proved(self, doubt: Doubt, rows: dict[str, OrderRow], began_ns: int) -> bool:
        """Tell whether what the venue said settles a doubt; say what it settles."""
        dialog, held = self.dialog, doubt.held
        late = began_ns > doubt.ends_ns
        if not held.txid:
            if late and doubt.missed:
                # What is absent was never there, and emsd may send it once more.
                end, why = "absent", "kraken never had it"
                if held.vanished:
                    end, why = "canceled", "kraken does not know it any more"
                dialog.tell(dialog.book.status(held, end, clock.wall_ns(), why))
                dialog.book.forget(held)
                return True
            doubt.missed = late  # once is not enough: what is asked may be behind what takes orders
            return False
        if doubt.what == "order":
            return True
        if held.is_over:
            if doubt.what == "edit":
                dialog.refuse(doubt, "the order has ended")
            return True
        if held.txid not in rows:
            return False
        if doubt.what == "edit" and held.order is not None:
            assert isinstance(doubt.request, BrokerdOrder)
            if has_terms(held.order, doubt.request):
                dialog.edited(doubt.request, held)
                return True
        if late:
            dialog.refuse(doubt, "the order stands as it was")
        return late

    async def _fills(self) -> None:
        """Ask for the fills that orders had and that were not told."""
        book, rest = self.dialog.book, self.dialog.rest
        unnamed = [one.txid for one in book.incomplete() if not one.trade_ids - one.fills.keys()]
        for txid, row in (await rest.orders(unnamed)).items():
            self.dialog.tell(*book.row(txid, row, clock.wall_ns()))
        self._tell_trades(await rest.trades(book.wanted_trades()))

    async def _all_balances(self) -> None:
        self._assets = self._assets or await self.dialog.rest.asset_names()
        for name, row in (await self.dialog.rest.balances()).items():
            asset = self._assets.get(name) or name.lower()
            self._balance(asset, row.balance, row.balance - row.hold_trade)

    # -- the dead man's switch -----------------------------------------------------------------
    async def guard(self) -> None:
        """Push the switch back while orders of ours stand; stop it when none does."""
        due = again = 0.0
        while True:
            await trio.sleep(GUARD_S)
            self._see_to_snapshots()
            stand = any(one.oid for one in self.dialog.book.standing())
            now = trio.current_time()
            if now >= again and ((stand and now >= due) or (self.armed and not stand)):
                again = now + GUARD_AGAIN_S
                if await self._switch(self.dialog.patience.timeout_s if stand else 0):
                    due, again = (now + self.dialog.patience.rearm_s if stand else 0.0), 0.0

    def _see_to_snapshots(self) -> None:
        """Subscribe anew where the first message of a channel does not come."""
        waits_s = trio.current_time() - self._subscribed_at
        if self.dialog.live or not self._subscribed_at or waits_s < self.dialog.patience.snapshot_s:
            return
        self._subscribed_at = 0.0
        if self.ws is not None:
            self.ws.reset("no snapshot came")

    async def _switch(self, timeout_s: int) -> bool:
        """Set the switch, by whatever way there is; return whether the venue said so."""
        dialog = self.dialog
        self.armed = self.armed or timeout_s > 0
        if dialog.live:
            answer, _ = await dialog.asking.ask(
                "cancel_all_orders_after", {"timeout": timeout_s}, GUARD_WAIT_S, lambda: None
            )
            if answer is not None and answer.success:
                self.armed = timeout_s > 0
                return True
        try:
            await dialog.rest.cancel_after(timeout_s)
        except PikerError as error:
            log.warning("kraken.switch", account=dialog.account, error=error.message)
            return False
        self.armed = timeout_s > 0
        return True

    async def disarm(self) -> None:
        """Stop the switch, if it may be set: nothing is to be canceled for our leaving."""
        if self.armed:
            self.dialog.live = False  # nobody reads the stream any more
            await self._switch(0)
