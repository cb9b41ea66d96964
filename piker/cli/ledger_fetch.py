"""``piker ledger fetch``: what an account traded, out of its venue and into the books."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
import trio

from piker import clock, service
from piker.accounting import Added, Contract, Transaction, contract_of, of_fill
from piker.accounting.history_csv import unmatched
from piker.brokers.spec import Backend, load_backend
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.brokerd import open_trade_history
from piker.clearing.journal_verify import Progress
from piker.clearing.lifecycle import Phase
from piker.cli.ledger import wait_for
from piker.cli.ledger_books import Books, Markets, is_same, open_books, write_import
from piker.cli.ledger_files import Taken, sentence
from piker.cli.markets import check_markets
from piker.cli.orders import check_account, start
from piker.config import load_conf
from piker.errors import ConfigError, PeerLost, ProviderError, RangeError, SymbolNotFound
from piker.market import MktPair, parse_fqme
from piker.orders import BrokerdEvent, BrokerdFill, decode

__all__ = ["fetch"]


class Fetched(Taken, frozen=True, kw_only=True):
    """What a venue's history came to; ``markets`` are those that were asked for, none for all."""

    markets: list[str]


def fetch(
    account: str, fqmes: Sequence[str], *, since: str | None, dry_run: bool, as_json: bool
) -> int:
    """Ask an account's venue for its trades and keep what is new; return the exit code.

    Blocks for as long as the venue takes: 6 s for 50 trades of a Kraken account of the first tier.
    """
    name = check_account(account)
    backend = _backend(name)
    for fqme in fqmes:
        _check(fqme, name)
    since_ns = _since_ns(since)
    with wait_for("Reading the journal ...") as told:
        books = trio.run(partial(open_books, told=told))
    asking = _Asking(name, backend, _asked_for(books, name, backend, fqmes), since_ns)
    with wait_for(f"Asking {backend.name} what {name} traded ...", "trade") as told:
        code = start(partial(asking.work, told), lambda: "interrupted: nothing was kept.")
    if code:
        return code
    found = _compare(books, asking)
    if asking.transactions and not dry_run:
        file = write_import(name, asking.transactions, asking.contracts)
        found = msgspec.structs.replace(found, file=str(file))
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found.read:
        print(f"{name}: its venue tells of no trade there.")
    else:
        print(sentence(found, dry_run=dry_run))
    return 0


# -- what is asked for -------------------------------------------------------------------------
def _backend(name: str) -> Backend:
    """Return the backend of a live account that can tell its trades; raise where there is none."""
    provider, own = split_account(name)
    if own == PAPER:
        raise ConfigError(
            f"{name} trades on paper: no venue knows of it.",
            remedy=f"The journal has all of it: piker ledger show {name}",
        )
    backend = load_backend(provider, load_conf().brokers.modules)
    if backend.trade_history is None:
        raise ProviderError(
            f"the backend {provider!r} does not tell what an account traded.",
            remedy=f"Import the venue's own file: piker ledger import FILE --account {name}",
        )
    return backend


def _check(fqme: str, name: str) -> None:
    check_markets([fqme])
    provider, _ = split_account(name)
    if parse_fqme(fqme).provider != provider:
        raise ConfigError(f"{name} does not trade {fqme}.", remedy=f"Name markets of {provider}.")


def _since_ns(text: str | None) -> int:
    """Return the beginning of a date, UTC, or the moment that was typed; 0 for none."""
    if text is None:
        return 0
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RangeError(f"{text!r} is no date.", remedy="Write it as 2026-05-01: UTC.") from None
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    since_ns = int(found.timestamp()) * clock.NS
    if since_ns > clock.wall_ns():
        raise RangeError(f"{text!r} is to come: it is UTC.", remedy="Give a date that was.")
    return max(0, since_ns)


def _asked_for(books: Books, name: str, backend: Backend, fqmes: Sequence[str]) -> list[str]:
    """Return the markets to ask for, none for all; those of the books where each must be named."""
    if fqmes or not backend.capabilities.trades_by_market:
        return list(dict.fromkeys(str(parse_fqme(fqme)) for fqme in fqmes))
    known = {tx.symbol for tx in books.ledger.transactions(name)}
    known |= {
        one.order.symbol for one in books.orders.values()
        if one.order.account == name and one.phase is not Phase.DENIED  # that never left piker
    }  # fmt: skip
    known = {symbol for symbol in known if symbol.endswith(f".{backend.name}")}
    if not known:
        raise ConfigError(
            f"{backend.name} must be asked for each market, and the books have none of {name}.",
            remedy=f"Name them: piker ledger fetch {name} FQME ...; `piker search` finds them.",
        )
    text = ", ".join(sorted(known))
    print(
        f"note: asked for {text}: the markets that the books have of {name}. Others are asked for "
        "when they are named.",
        file=sys.stderr,
    )
    return sorted(known)


class _Asking:
    """One account's history under way; what came of it is in ``transactions`` at the end."""

    def __init__(self, name: str, backend: Backend, fqmes: list[str], since_ns: int) -> None:
        self.name = name
        self.fqmes = fqmes
        self.transactions: list[Transaction] = []
        self.contracts: dict[str, Contract] = {}
        self._backend = backend
        self._since_ns = since_ns
        self._markets = Markets()
        self._known: dict[str, MktPair] = {}  # by address

    async def work(self, told: Progress) -> int:
        """Ask for the markets, then for their trades; return the exit code."""
        markets = [await self._market(fqme) for fqme in self.fqmes]
        self.fqmes = [market.fqme for market in markets]
        fills = await self._fills([market.mktid for market in markets], told)
        for fill in fills:
            market = await self._traded(f"{fill.symbol}.{self._backend.name}")
            self.contracts[market.fqme] = contract_of(market)
            tx = of_fill(fill, symbol=market.fqme, account=self.name)
            self.transactions.append(msgspec.structs.replace(tx, oid=tx.oid or fill.reqid))
        return 0

    async def _traded(self, fqme: str) -> MktPair:
        """Return the market of a trade; say what to do where it is listed no more."""
        try:
            return await self._market(fqme)
        except SymbolNotFound as err:
            err.remedy = (
                f"{self.name} traded there. Nothing was kept: name the markets to be fetched, "
                "without it."
            )
            raise

    async def _market(self, fqme: str) -> MktPair:
        """Return a market: from the symbol database, or else from the venue."""
        if fqme not in self._known:
            found = self._markets.of_fqme(fqme)
            if found is None and self._backend.get_mkt_info is not None:
                found = await self._backend.get_mkt_info(fqme)
            if found is None:
                raise SymbolNotFound(
                    f"the market {fqme!r} is not known; nothing was kept.",
                    remedy=f"Run: piker symbols populate {self._backend.name}",
                )
            self._known[fqme] = found
        return self._known[fqme]

    async def _fills(self, symbols: list[str], told: Progress) -> list[BrokerdFill]:
        """Return every fill; ``PeerLost`` where brokerd went before it had told them all."""
        fills: list[BrokerdFill] = []
        count = -1
        place = f"brokerd.{self._backend.name}"
        async with (
            service.open_service(place, start_pikerd=True) as brokerd,
            brokerd.open_dialog(
                open_trade_history, stream_type=list[bytes] | int, account=self.name,
                symbols=symbols, since_ns=self._since_ns,
            ) as (_, dialog),
        ):  # fmt: skip
            async for said in dialog:
                if isinstance(said, int):
                    count = said
                    break
                fills += [decode(one, BrokerdEvent) for one in said]
                told(len(fills), 0)
        if count != len(fills):
            raise PeerLost(
                f"{place} ended before it had told everything; nothing was kept.",
                remedy="Try again; its log is that of pikerd.",
            )
        return fills


# -- what is new -------------------------------------------------------------------------------
def _compare(books: Books, asking: _Asking) -> Fetched:
    """Tell what would change in the books; of trades that they have, theirs is what is kept.

    A line of a file that named no trade is known again by what it says: it is one of these.
    """
    before = books.ledger.transactions(asking.name)
    known = {tx.key: tx for tx in before}
    asking.transactions = [
        known[tx.key] if is_same(tx, known.get(tx.key)) else tx for tx in asking.transactions
    ]
    fresh = [tx for tx in asking.transactions if tx.key not in known]
    lines = len(before) - len(unmatched(fresh, before))
    told = Counter(books.ledger.add(tx) for tx in asking.transactions)
    return Fetched(
        account=asking.name, read=len(asking.transactions), new=told[Added.NEW] - lines,
        known=told[Added.DUPLICATE] + lines, corrected=told[Added.CORRECTED],
        conflicting=told[Added.CONFLICT], markets=asking.fqmes,
    )  # fmt: skip
