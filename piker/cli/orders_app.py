"""Options and help of the orders' commands: buy, sell, alert, orders, edit, cancel, accounts."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from typer.core import TyperCommand

__all__ = ["accounts", "alert", "arm", "buy", "cancel", "edit", "halt", "mount", "orders",
           "positions", "sell"]  # fmt: skip

_NEGATIVE = re.compile(r"-\.?[0-9]|-(inf|nan)", re.I)


class _Numbers(TyperCommand):
    """A command whose arguments may be negative numbers: they are refused as such."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Take ``-1`` for a number, not for an option."""
        ctx.ignore_unknown_options = any(_NEGATIVE.match(one) for one in args)
        return super().parse_args(ctx, args)


Json = Annotated[bool, typer.Option("--json", help="Print JSON, one line each, for programs.")]
Fqme = Annotated[str, typer.Argument(metavar="FQME", help="A market, as in btcusdt.spot.binance.")]
Size = Annotated[str, typer.Argument(metavar="SIZE", help="How much, in the market's units: 0.01.")]
Price = Annotated[
    str | None, typer.Option(metavar="P", help="A limit order at this price; without: market.")
]
Trigger = Annotated[
    str | None,
    typer.Option(metavar="T", help="A stop: it waits until the price has gone against it to T."),
]
Trail = Annotated[
    str | None, typer.Option(metavar="D", help="A trailing stop, this far behind the price.")
]
TriggerBy = Annotated[
    str, typer.Option("--by", metavar="WHAT", help="What wakes it: last (trades), side, or mark.")
]
Kind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="take_profit or take_profit_limit: T in its favour."),
]
Tif = Annotated[str, typer.Option(metavar="TIF", help="gtc, ioc, fok, day, or gtd with --until.")]
Until = Annotated[
    str | None, typer.Option(metavar="TIME", help="When it ends: 2h, 30m, 1d, or a time in UTC.")
]
PostOnly = Annotated[bool, typer.Option("--post-only", help="Never take: rest, or be refused.")]
ReduceOnly = Annotated[bool, typer.Option("--reduce-only", help="Only make a position smaller.")]
TakeProfit = Annotated[
    str | None,
    typer.Option(metavar="P", help="A bracket: once filled, a limit order the other way at P."),
]
StopLoss = Annotated[
    str | None,
    typer.Option(metavar="P", help="A bracket: once filled, a stop the other way at P."),
]
Account = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="binance.main, or binance.paper, the provider's default."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end; Ctrl-C lets it live.")]
OnlyAccount = Annotated[str | None, typer.Option("--account", metavar="NAME", help="Only of this.")]
OnlyMarket = Annotated[str | None, typer.Option("--market", metavar="FQME", help="Only in this.")]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing: for scripts.")]


def buy(
    fqme: Fqme, size: Size, price: Price = None, trigger: Trigger = None, trail: Trail = None,
    by: TriggerBy = "last", kind: Kind = None, tif: Tif = "gtc", until: Until = None,
    post_only: PostOnly = False, reduce_only: ReduceOnly = False,
    take_profit: TakeProfit = None, stop_loss: StopLoss = None, account: Account = None,
    wait: Wait = False, json: Json = False,
) -> int:  # fmt: skip
    """Buy, on paper unless a live account is named.

    A market order; with --price a limit order; with --trigger a stop that waits in piker, with no
    program running. Numbers are text and never rounded: what does not fit the market is denied.

    It prints what became of the order, and returns once its venue has answered. Exit code 1 when
    it was denied (before anything was sent) or rejected (by the venue), 7 when that is not known.

    Example: piker buy btcusdt.spot.binance 0.01 --price 60000
    """
    from piker.cli import orders_place as command

    typed = command.Ticket(
        action="buy", fqme=fqme, size=size, price=price, trigger=trigger, trail=trail, by=by,
        kind=kind, tif=tif, until=until, post_only=post_only, reduce_only=reduce_only,
        take_profit=take_profit, stop_loss=stop_loss, account=account,
    )  # fmt: skip
    return command.run(typed, wait=wait, as_json=json)


def sell(
    fqme: Fqme, size: Size, price: Price = None, trigger: Trigger = None, trail: Trail = None,
    by: TriggerBy = "last", kind: Kind = None, tif: Tif = "gtc", until: Until = None,
    post_only: PostOnly = False, reduce_only: ReduceOnly = False,
    take_profit: TakeProfit = None, stop_loss: StopLoss = None, account: Account = None,
    wait: Wait = False, json: Json = False,
) -> int:  # fmt: skip
    """Sell, on paper unless a live account is named.

    As `piker buy`, the other way.

    Example: piker sell btcusdt.spot.binance 0.01 --trigger 58000
    """
    from piker.cli import orders_place as command

    typed = command.Ticket(
        action="sell", fqme=fqme, size=size, price=price, trigger=trigger, trail=trail, by=by,
        kind=kind, tif=tif, until=until, post_only=post_only, reduce_only=reduce_only,
        take_profit=take_profit, stop_loss=stop_loss, account=account,
    )  # fmt: skip
    return command.run(typed, wait=wait, as_json=json)


def alert(
    fqme: Fqme,
    price: Annotated[str, typer.Argument(metavar="PRICE", help="Tell when a trade comes to it.")],
    account: Account = None,
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Have it told when a price comes.

    From either side. It waits in piker, across restarts, and is told to whoever looks:
    `piker orders --watch`, or this command with --wait.

    Example: piker alert btcusdt.spot.binance 65000 --wait
    """
    from piker.cli import orders_place as command

    typed = command.Ticket(action="alert", fqme=fqme, size="0", trigger=price, account=account)
    return command.run(typed, wait=wait, as_json=json)


def orders(
    every: Annotated[
        bool, typer.Option("--all", help="Those that have ended, too: the newest.")
    ] = False,
    last: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="So many that have ended, not 100; 0 for all."),
    ] = None,
    account: OnlyAccount = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking, until Ctrl-C.")] = False,
    json: Json = False,
) -> int:
    """List the open orders, of every account and client.

    Without a running pikerd it shows what the journal has, and starts nothing. The newest 10,000
    that have ended are at hand; for more the whole journal is read.

    Example: piker orders --watch
    """
    from piker.cli import orders_list as command

    shown = command.ENDED_SHOWN if last is None else last
    every = every or last is not None
    return command.run(every=every, account=account, watch=watch, as_json=json, last=shown)


def cancel(
    oids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OID]...", help="Orders; the end of an id is enough if unique."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every open order.")] = False,
    account: OnlyAccount = None,
    market: OnlyMarket = None,
    json: Json = False,
) -> int:
    """Take orders back.

    Returns once they are gone. Exit code 1 when one is not there or has ended, 7 when its venue
    has not confirmed it.

    Example: piker cancel --all --market btcusdt.spot.binance
    """
    from piker.cli import orders_cancel as command

    return command.run(oids or [], every=every, account=account, market=market, as_json=json)


def edit(
    oid: Annotated[str, typer.Argument(metavar="OID", help="An order; the end of an id will do.")],
    size: Annotated[str | None, typer.Option(metavar="S", help="Its whole size, not more.")] = None,
    price: Annotated[str | None, typer.Option(metavar="P", help="Its limit.")] = None,
    trigger: Annotated[str | None, typer.Option(metavar="T", help="What it waits for.")] = None,
    trail: Annotated[str | None, typer.Option(metavar="D", help="How far behind.")] = None,
    json: Json = False,
) -> int:
    """Give an open order other terms.

    Returns once they hold: at its venue, or in piker where it waits there. What was filled counts
    as part of the size. Exit code 1 when the edit was refused, or the order has ended; 7 when its
    venue has not answered.

    Example: piker edit 1f3-1 --price 59500
    """
    from piker.cli import orders_edit as command

    changes = {"size": size, "price": price, "trigger": trigger, "trail": trail}
    return command.run(oid, changes, as_json=json)


def positions(account: OnlyAccount = None, json: Json = False) -> int:
    """List what is held, and what it has made.

    Counted from the journal's fills, exactly; of live accounts the venue's own word stands beside
    it. Valued at the market's price where pikerd runs.

    Example: piker positions --account binance.paper
    """
    from piker.cli import orders_positions as command

    return command.run(account=account, as_json=json)


def accounts(
    name: Annotated[
        str | None, typer.Argument(metavar="[ACCOUNT]", help="Open this one, and show it alone.")
    ] = None,
    json: Json = False,
) -> int:
    """List the accounts, and what each may do.

    How each stands with its venue, and what it holds. Those that are open, those with keys, and
    those of the journal. Starts nothing, unless one is named.

    Example: piker accounts binance.paper
    """
    from piker.cli import orders_accounts as command

    return command.show(name, as_json=json)


def halt(
    account: Annotated[
        str | None, typer.Argument(metavar="[ACCOUNT]", help="Only this one; default: all.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept, and shown.")] = "by hand",
    json: Json = False,
) -> int:
    """Stop trading, and cancel every order.

    Nothing new passes until `piker arm`; it survives restarts. When the process that routes orders
    can not be reached, the file HALT is written beside conf.toml: it halts everything for as long
    as it is there.

    Example: piker halt
    """
    from piker.cli import orders_halt as command

    return command.halt(account or "", reason=reason, as_json=json)


def arm(
    account: Annotated[
        str | None,
        typer.Argument(metavar="[ACCOUNT]", help="Only this one; default: lift the halt of all."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "by hand",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Let an account trade.

    One that was halted, or one that trades real money for the first time. A live account's name
    has to be typed. The positions that its venue tells are then taken for true.

    Example: piker arm binance.paper
    """
    from piker.cli import orders_halt as command

    return command.arm(account or "", reason=reason, yes=yes, as_json=json)


def mount(app: typer.Typer) -> None:
    """Put the commands into the app."""
    for numbers in (buy, sell, alert, cancel, edit):
        app.command(cls=_Numbers)(numbers)
    for plain in (orders, positions, accounts, halt, arm):
        app.command()(plain)
