"""One account's orders at Kraken: requests out, outcomes in. The contract is piker.brokers.trading.

Orders, amendments and cancels go by websocket v2; while that is gone, cancels go by REST. A request
whose answer does not come is a :class:`Doubt`; :mod:`.broker_sync` asks until it is proved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import trio

from piker import clock
from piker.brokers.kraken.api import load_listings
from piker.brokers.kraken.broker_asking import RATE_LIMITED, Asking, Rates, proves
from piker.brokers.kraken.broker_book import Book, Held
from piker.brokers.kraken.broker_ids import cl_ord_id_of
from piker.brokers.kraken.broker_rest import PrivateRest
from piker.brokers.kraken.broker_schema import Answered, Head
from piker.brokers.kraken.broker_terms import (
    Markets,
    add_params,
    amend_params,
    has_terms,
    stamp,
)
from piker.clock import NS
from piker.errors import BrokerError, PikerError, Rejected
from piker.log import get_logger
from piker.orders import (
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
)

__all__ = ["PATIENCE", "Dialog", "Doubt", "Patience"]

log = get_logger("kraken.broker")

CANCEL_TRIES = 5  # of a cancel that the engine's counter refused
CANCEL_AGAIN_S = 1.0


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long this backend waits for what."""

    answer_s: float = 5.0  # for an answer; the engine's own default deadline is 5 s
    deadline_s: float = 10.0  # after which the engine carries a request out no more (0.5 to 60)
    snapshot_s: float = 10.0  # for the first message of each channel; then we connect anew
    audit_s: float = 30.0  # between two looks at what stands, while all seems well
    rearm_s: float = 20.0  # Kraken's advice: every 15 to 30 s ...
    timeout_s: int = 60  # ... a dead man's switch of 60 s
    retry_s: float = 0.5  # first wait between two questions, doubled up to ...
    retry_cap_s: float = 5.0


PATIENCE = Patience()


class Doubt(msgspec.Struct, eq=False):
    """A request of which it is not known whether it was carried out."""

    request: BrokerdRequest
    held: Held
    what: str  # order, edit, cancel
    ends_ns: int = 0  # monotonic: from then on the venue carries it out no more
    missed: bool = False  # asked after that, the venue did not know the order


class Dialog:
    """The way to one account; made by :func:`piker.brokers.kraken.broker.open_trade_dialog`."""

    def __init__(
        self,
        account: str,
        rest: PrivateRest,
        markets: Markets,
        send: Callable[[str], Any],
        nursery: trio.Nursery,
        patience: Patience,
    ) -> None:
        self.account, self.rest, self.markets = account, rest, markets
        self.patience = patience
        self.book = Book(account, markets)
        self.asking = Asking(send)
        self.rates = Rates(rest.budget, account)
        self.doubts: list[Doubt] = []
        self.live = False  # connected, and hearing of orders
        self.ahead_ns = 0  # of our clock, the venue's
        self.news: deque[BrokerdEvent] = deque()
        self.wake = trio.Event()  # there is news
        self.work = trio.Event()  # there is something to ask
        self.on_bad_session: Callable[[], None] = lambda: None
        self._nursery = nursery

    # -- telling -------------------------------------------------------------------------------
    def tell(self, *events: BrokerdEvent) -> None:
        """Hand events to emsd, in their order. Never blocks."""
        self.news.extend(events)
        self.wake.set()

    async def pump(self, events: trio.MemorySendChannel[BrokerdEvent]) -> None:
        """Send what is told, until cancelled."""
        while True:
            await self.wake.wait()
            self.wake = trio.Event()
            while self.news:
                await events.send(self.news[0])
                self.news.popleft()

    def _refuse(self, request: BrokerdRequest, what: str, reason: str) -> None:
        """Tell that a request was not carried out."""
        error = BrokerdError(
            reason=reason, oid=request.oid, reqid=request.reqid, client_id=request.client_id,
            symbol=request.symbol, account=self.account, request=what, time_ns=clock.wall_ns(),
        )  # fmt: skip
        self.tell(error)

    def heed(self) -> None:
        """Have it asked soon what stands."""
        self.work.set()

    # -- requests ------------------------------------------------------------------------------
    async def send(self, request: BrokerdRequest) -> None:
        """Take a request on its way; see :class:`piker.brokers.trading.TradeDialog`."""
        handed = trio.Event()
        self._nursery.start_soon(self._carry_out, request, handed)
        await handed.wait()

    async def _carry_out(self, request: BrokerdRequest, handed: trio.Event) -> None:
        held = self.book.find(request.client_id, request.reqid)
        what = "cancel" if isinstance(request, BrokerdCancel) else "edit" if held else "order"
        try:
            if isinstance(request, BrokerdCancel):
                await self._cancel(request, held or self.book.adopt(request), handed)
            elif held is None and not request.reqid:
                await self._order(request, handed)
            elif held is None or held.is_over:
                self._refuse(request, "edit", "kraken: there is no such order, or it has ended")
            else:
                await self._edit(request, held, handed)
        except PikerError as error:  # nothing has left: what was sent is never raised from
            self._refuse(request, what, error.message)
        finally:
            handed.set()

    def _deadline(self) -> str:
        now_ns = clock.wall_ns() + self.ahead_ns
        return stamp(now_ns + round(self.patience.deadline_s * NS))

    def _age_s(self, held: Held) -> float:
        """Return how long an order stands as it is: an amendment makes it young again."""
        since_ns = max(held.made_ns, held.changed_ns)
        return (clock.wall_ns() - since_ns) / NS if since_ns else 0.0

    async def _wire(self, symbol: str) -> Any:  # Any: a Listing
        listing = self.markets.find(symbol)
        if listing is None:
            self.markets.learn((await load_listings()).values())
            listing = self.markets.find(symbol)
        if listing is None:
            raise Rejected(f"kraken: there is no market {symbol!r}; nothing was sent.")
        return listing

    def _need_link(self) -> None:
        if not self.live:
            raise Rejected("kraken: not connected; nothing was sent.")

    async def _order(self, order: BrokerdOrder, handed: trio.Event) -> None:
        self._need_link()
        listing = await self._wire(order.symbol)
        params = add_params(order, listing, clock.wall_ns() + self.ahead_ns)
        permit = await self.rates.permit(listing.wire, "add", 0.0)
        try:
            self._need_link()
            held = self.book.sent(order)
            held.made_ns = clock.wall_ns()
            answer, why = await self._ask("add_order", params, handed)
        finally:
            permit.done()
        if answer is None or not self._judged(answer, order, held, "order", listing.wire):
            self._doubt(Doubt(order, held, "order"), answer, why)

    async def _edit(self, edit: BrokerdOrder, held: Held, handed: trio.Event) -> None:
        self._need_link()
        listing = await self._wire(edit.symbol)
        params = amend_params(edit, held.order, held.txid)
        permit = await self.rates.permit(listing.wire, "amend", self._age_s(held))
        try:
            self._need_link()
            answer, why = await self._ask("amend_order", params, handed)
        finally:
            permit.done()
        if answer is None or not self._judged(answer, edit, held, "edit", listing.wire):
            self._doubt(Doubt(edit, held, "edit"), answer, why)

    async def _cancel(self, cancel: BrokerdCancel, held: Held, handed: trio.Event) -> None:
        listing = await self._wire(cancel.symbol)
        named = {"order_id": [held.txid]} if held.txid else {
            "cl_ord_id": [cl_ord_id_of(cancel.client_id)]
        }  # fmt: skip
        for left in reversed(range(CANCEL_TRIES)):
            permit = await self.rates.permit(listing.wire, "cancel", self._age_s(held))
            try:
                if self.live:
                    answer, why = await self._ask("cancel_order", named, handed)
                else:
                    handed.set()
                    answer, why = await self._cancel_by_rest(held, cancel)
            finally:
                permit.done()
            if answer is None or answer.error != RATE_LIMITED or not left:
                break
            self.rates.full(listing.wire)
            await trio.sleep(CANCEL_AGAIN_S)  # it was not carried out: the counter was full
        if answer is None or not self._judged(answer, cancel, held, "cancel", listing.wire):
            self._doubt(Doubt(cancel, held, "cancel"), answer, why)

    async def _cancel_by_rest(self, held: Held, cancel: BrokerdCancel) -> tuple[Head | None, str]:
        named = {"txid": held.txid} if held.txid else {
            "cl_ord_id": cl_ord_id_of(cancel.client_id)
        }  # fmt: skip
        try:
            await self.rest.cancel(named)
        except Rejected as error:
            return Head(success=False, error=error.message.removeprefix("kraken: ")), ""
        except BrokerError as error:
            return None, error.message
        return Head(success=True), ""

    async def _ask(
        self, method: str, params: dict[str, Any], handed: trio.Event
    ) -> tuple[Head | None, str]:  # fmt: skip
        if method != "cancel_order":
            params = {**params, "deadline": self._deadline()}
        return await self.asking.ask(method, params, self.patience.answer_s, handed.set)

    # -- outcomes ------------------------------------------------------------------------------
    def _judged(
        self, answer: Head, request: BrokerdRequest, held: Held, what: str, market: str
    ) -> bool:
        """Tell what an answer proves; return False where it proves nothing."""
        if answer.success:
            return self._done(answer, request, held, what)
        error = answer.error or ""
        if error == RATE_LIMITED:
            self.rates.full(market)
        if error.startswith("ESession:"):
            self.on_bad_session()
        if not proves(error):
            return False
        self._refuse(request, what, f"kraken: {error}")
        if not held.txid and (what == "order" or held.order is None):
            self.book.forget(held)
        elif what != "order":
            self.heed()  # it was refused for a reason: perhaps of what we have not heard
        return True

    def _done(self, answer: Head, request: BrokerdRequest, held: Held, what: str) -> bool:
        now_ns = clock.wall_ns()
        try:
            names = msgspec.json.decode(answer.result, type=Answered | None) or Answered()
        except msgspec.DecodeError:
            return False
        if what == "order":
            if not names.order_id:
                return False
            self.tell(*self.book.ack(held, names.order_id, now_ns))
        elif what == "edit":
            assert isinstance(request, BrokerdOrder)
            self.edited(request, held)
        elif not held.is_over:
            self._nursery.start_soon(self._see_to, Doubt(request, held, "cancel", self.ends_ns()))
        return True

    async def _see_to(self, doubt: Doubt) -> None:
        """Have it asked about a cancel that was answered, and of which the stream says nothing."""
        await trio.sleep(self.patience.retry_s * 2)
        if not doubt.held.is_over:
            self.doubts.append(doubt)
            self.heed()

    def edited(self, edit: BrokerdOrder, held: Held) -> None:
        """Tell that the venue has an order with its new terms."""
        held.order = msgspec.structs.replace(
            held.order or edit, size=edit.size, price=edit.price, trigger=edit.trigger,
            trail=edit.trail,
        )  # fmt: skip
        held.changed_ns = clock.wall_ns()
        ack = BrokerdOrderAck(
            oid=edit.oid, reqid=held.txid or edit.reqid, account=self.account,
            client_id=edit.client_id, request="edit", time_ns=clock.wall_ns(), terms=edit,
        )  # fmt: skip
        self.tell(ack)

    def ends_ns(self) -> int:
        """Return until when a request that is sent now may be carried out."""
        return clock.monotonic_ns() + round(self.patience.deadline_s * NS)

    def _doubt(self, doubt: Doubt, answer: Head | None, why: str) -> None:
        """Tell that the outcome of a request is not known, unless the stream has told it."""
        held = doubt.held
        if (doubt.what == "order" and held.txid) or (doubt.what == "cancel" and held.is_over):
            return
        if doubt.what == "edit" and held.order is not None:
            assert isinstance(doubt.request, BrokerdOrder)
            if has_terms(held.order, doubt.request):
                self.edited(doubt.request, held)
                return
        if held.is_over:  # whatever became of the edit, there is nothing left that it could change
            self.refuse(doubt, "the order has ended")
            return
        reason = (answer.error if answer is not None else why) or "an answer that says nothing"
        doubt.ends_ns = self.ends_ns()
        self.doubts.append(doubt)
        self.tell(self.book.doubt(held, clock.wall_ns(), f"kraken: {reason}"))
        log.warning("kraken.unknown", account=self.account, what=doubt.what, oid=held.oid, why=why)
        self.heed()

    def settle(self, doubts: Iterable[Doubt]) -> None:
        """Take doubts off the list: they are proved."""
        gone = set(map(id, doubts))
        self.doubts = [one for one in self.doubts if id(one) not in gone]

    def refuse(self, doubt: Doubt, reason: str) -> None:
        """Tell that a doubted request is proved not to have been carried out."""
        self._refuse(doubt.request, doubt.what, f"kraken: {reason}")
