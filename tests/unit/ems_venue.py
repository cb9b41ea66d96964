"""A venue in memory for whole sessions of emsd: it matches for itself, and its line to us is bad.

The matching is the paper broker's. Here it is a venue: it keeps every order and fill for ever, so
that what it knows can be held against what emsd thinks, and speaks the dialog of
``piker.brokers.trading`` over a line that loses, doubles, delays and reorders what is said.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal

from piker.clearing.paper import PaperBroker
from piker.clock import wall_ns
from piker.errors import Transient
from piker.market import MktPair
from piker.orders import (
    BrokerdBelief,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdRequest,
    BrokerdStatus,
    BrokerdSync,
    SyncState,
)

__all__ = ["BadVenue"]


class BadVenue:
    """One account at a venue, and the line to it; it is its account's link."""

    name = "binance"

    def __init__(self, account: str, mkt: MktPair) -> None:
        self.account = account
        self.mkt = mkt
        self.broker = PaperBroker(account)
        self.broker.know(mkt)
        self.accepted: defaultdict[str, list[str]] = defaultdict(list)  # client id -> reqids
        self.fills: defaultdict[str, list[BrokerdFill]] = defaultdict(list)  # client id -> fills
        self.last: dict[str, BrokerdStatus | BrokerdError] = {}  # client id -> newest word of it
        self.rng = random.Random(0)
        self.loss = 0.0  # of what is said to us, on a line that looks healthy
        self.again = 0.0  # ... is said again, later
        self.unheard = 0.0  # of requests: they do not arrive
        self.unanswered = 0.0  # of requests: they are carried out, and nothing is said
        self.is_up = False
        self.hear: Callable[[str, BrokerdEvent], None] | None = None
        self._late: list[BrokerdEvent] = []

    # -- the link ------------------------------------------------------------------------------
    async def send(self, request: BrokerdRequest) -> None:
        """Carry a request out, or lose it on its way, or lose its answer."""
        if not self.is_up:
            raise Transient("the line is down.")
        if self.rng.random() < self.unheard:
            self._unknown(request)
            return
        events = self.broker.request(request, wall_ns())
        if isinstance(request, BrokerdOrder) and not isinstance(events[0], BrokerdError):
            reqid = events[0].reqid  # type: ignore[union-attr]
            if reqid not in self.accepted[request.client_id]:
                self.accepted[request.client_id].append(reqid)
        self._keep(events)
        if self.rng.random() < self.unanswered:
            self._unknown(request)
            return
        self._say(events)

    def ask_again(self) -> None:
        """Compare everything anew: the session does, when it sees the line down."""
        self.is_up = False

    def _unknown(self, request: BrokerdRequest) -> None:
        if isinstance(request, BrokerdOrder) and not request.reqid:
            self._tell(
                BrokerdStatus(
                    reqid="", time_ns=wall_ns(), status="unknown", account=self.account,
                    oid=request.oid, client_id=request.client_id, symbol=request.symbol,
                    reason="no answer",
                )
            )  # fmt: skip

    # -- the market ----------------------------------------------------------------------------
    def quote(self, bid: Decimal, ask: Decimal) -> None:
        """Show ten at either side."""
        ten = Decimal(10)
        self._happen(self.broker.quote(self.mkt.mktid, (bid, ten), (ask, ten), wall_ns()))

    def trade(self, price: Decimal, size: Decimal, side: int) -> None:
        """Print a trade."""
        self._happen(self.broker.trade(self.mkt.mktid, price, size, side, wall_ns()))

    def kick(self, client_id: str) -> None:
        """Cancel an order by ourselves, as venues may."""
        for oid, held in list(self.broker._held.items()):
            if held.order.client_id == client_id:
                cancel = BrokerdCancel(
                    oid=oid, client_id=client_id, account=self.account, symbol=held.order.symbol,
                    time_ns=wall_ns(),
                )  # fmt: skip
                self._happen(self.broker.request(cancel, wall_ns()))

    # -- the line ------------------------------------------------------------------------------
    def sync(self, beliefs: list[BrokerdBelief]) -> None:
        """Begin a dialog: answer for every belief and every order, as the contract says."""
        assert self.hear is not None
        self.is_up = True
        self._late.clear()
        self._tell_sync(SyncState.SYNCING)
        standing = {held.order.client_id: held for held in self.broker._held.values()}
        known = {belief.order.client_id: belief.order.oid for belief in beliefs}
        for client_id in self.accepted:
            for fill in self.fills[client_id]:
                self._tell(fill)
        for client_id, oid in known.items():
            held = standing.get(client_id)
            if held is not None:
                self._tell(self.broker._status(held.order.oid, "open", wall_ns()))
            elif client_id in self.last:
                self._tell(self.last[client_id])
            else:
                self._tell(
                    BrokerdStatus(
                        reqid="", time_ns=wall_ns(), status="absent", account=self.account,
                        oid=oid, client_id=client_id, symbol=self.mkt.mktid,
                    )
                )  # fmt: skip
        self._tell_sync(SyncState.SYNCED)

    def late(self) -> None:
        """Say what was held back, in any order."""
        late, self._late = self._late, []
        self.rng.shuffle(late)
        for event in late:
            self._tell(event)

    def _happen(self, events: list[BrokerdEvent]) -> None:
        self._keep(events)
        if self.is_up:
            self._say(events)

    def _keep(self, events: list[BrokerdEvent]) -> None:
        for event in events:
            match event:
                case BrokerdFill():
                    self.fills[event.client_id].append(event)
                case BrokerdStatus() if event.status != "open":
                    self.last[event.client_id] = event
                case BrokerdError() if event.request == "order":
                    self.last[event.client_id] = event

    def _say(self, events: list[BrokerdEvent]) -> None:
        for event in events:
            if self.rng.random() < self.loss:
                continue
            for _ in range(1 + (self.rng.random() < self.again)):
                if self.rng.random() < self.again:
                    self._late.append(event)
                else:
                    self._tell(event)

    def _tell(self, event: BrokerdEvent) -> None:
        if self.hear is not None:
            self.hear(self.account, event)

    def _tell_sync(self, state: SyncState) -> None:
        self._tell(BrokerdSync(account=self.account, state=state, time_ns=wall_ns()))
