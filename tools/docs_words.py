"""The words of the generated documents that no code can say. tools/gendocs.py refuses gaps."""

from __future__ import annotations

from piker.cli.app import EXIT_INTERRUPTED

__all__ = [
    "BAR_WORDS",
    "CAPABILITY_WORDS",
    "FIXED_CODES",
    "LIMITS",
    "TICK_WORDS",
    "VARIABLES",
    "WHAT_TO_DO",
]

#: Words for each capability: the name of its row, and what a "no" or an empty list means.
CAPABILITY_WORDS = {
    "venues": ("markets (the fqme's venue)", "any"),
    "history": ("timeframes of history", "none"),
    "history_native": ("of these the venue's own; others are composed of them", "all"),
    "history_rows": ("bars a request brings at most", "not stated"),
    "closed_bars": ("bars the venue itself closes", "none; ours stand alone"),
    "trades": ("trades", "no"),
    "top_of_book": ("best bid and ask", "no"),
    "depth": ("verified order books", "no"),
    "mark_price": ("mark price, index, funding", "no"),
    "trade_ids": ("consecutive trade ids: a gap is seen and filled", "no"),
    "search": ("search by name", "no"),
    "metadata": ("price ticks and lot sizes", "no"),
    "archive": ("bulk archive of history", "no"),
    "trades_by_market": ("an account's trades are asked for market by market", "no"),
    "orders": ("orders that the venue does itself", "none; paper only"),
    "fees": ("what paper orders pay (maker / taker)", "0.001 / 0.001"),
}

#: Constants that are limits a backend keeps; the comment beside each is its source.
LIMITS = {
    "binance": {
        "messages a second to one websocket": "piker.brokers.binance.streams.SENDS_PER_S",
        "streams of one connection": "piker.brokers.binance.streams.STREAMS_PER_CONNECTION",
        "connection attempts": "piker.brokers.binance.api.HANDSHAKES",
        "missed trades fetched after a gap": "piker.brokers.binance.repair.MAX_REPAIR",
        "levels of a book's snapshot": "piker.brokers.binance.depth.SNAPSHOT_LEVELS",
    },
    "kraken": {
        "public REST calls": "piker.brokers.kraken.api.LIMITS[0]",
        "connection attempts": "piker.brokers.kraken.api.LIMITS[1]",
        "requests a second on one websocket": "piker.brokers.kraken.streams.SENDS_PER_S",
        "symbols of one connection": "piker.brokers.kraken.streams.SYMBOLS_PER_CONNECTION",
        "depths of a book": "piker.brokers.kraken.book.DEPTHS",
        "pages of missed trades fetched after a gap": "piker.brokers.kraken.repair.MAX_PAGES",
    },
}

#: Every environment variable the package reads: what it does, and its default.
VARIABLES = {
    "PIKER_CONFIG_DIR": ("Where `conf.toml` and `brokers.toml` are.", "`$XDG_CONFIG_HOME/piker`"),
    "PIKER_DATA_DIR": ("The store, the journal, symbols and logs.", "`$XDG_DATA_HOME/piker`"),
    "PIKER_RUNTIME_DIR": (
        "Shared memory, sockets and the secret of this boot; nobody else may enter it.",
        "`$XDG_RUNTIME_DIR/piker`, or `/dev/shm/piker-<uid>`",
    ),
    "PIKER_REGISTRY": (
        "Where pikerd listens, host:port. Before conf.toml, after `pikerd --registry`.",
        "`registry` of conf.toml",
    ),
    "PIKER_LOG": (
        "The log level, handed by every process to those it starts. After `--log-level`, before "
        "`level` of conf.toml.",
        "`WARNING`",
    ),
    "PIKER_ALLOW_WEAK_MEMORY": (
        "Set it to try shared memory on a machine that is not x86-64, at your own risk.",
        "unset",
    ),
    "PIKER_PASSPHRASE_FILE": (
        "A file of yours, 0600, with the passphrase of `keys.sealed`: [keys](../guides/keys.md).",
        "unset: it is asked for",
    ),
    "PIKER_API_KEY": (
        "`PIKER_API_KEY__KRAKEN__MAIN`: the API key of the account `main` at `kraken`, where no "
        "store has one. Taken out of the environment at the start: no process we start has it.",
        "unset",
    ),
    "PIKER_API_SECRET": ("`PIKER_API_SECRET__KRAKEN__MAIN`: its secret.", "unset"),
    "PIKER_API_PASSPHRASE": (
        "`PIKER_API_PASSPHRASE__KUCOIN__MAIN`: its passphrase, of venues that have one.",
        "unset",
    ),
    "PIKER_DIE_WITH": (
        "Internal: the pid with which a helper of `piker demo` ends. Do not set it.",
        "unset",
    ),
    "DSM_LOG_LEVEL": (
        "What piker.dsm writes: TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL. A manager's "
        "`log_level` counts before it. Read when piker.dsm is imported.",
        "`ERROR`",
    ),
    "DSM_LOG_FILE": (
        "A file that piker.dsm writes besides stderr: a new one every 10 MB, kept for a week. "
        "Read when it is imported.",
        "unset",
    ),
    "DSM_DISABLE_COLORS": (
        "`1`, `true`, `yes` or `on`: piker.dsm writes no colours on a terminal. Read when it is "
        "imported.",
        "unset",
    ),
    "DSM_USE_POLARS_OUTPUT": (
        "`1`, `true`, `yes` or `on`: frames of piker.dsm are polars', whether a call asks for them "
        "or not. Read at each call.",
        "unset",
    ),
}

#: What a person, or a program that catches it, does about each error.
WHAT_TO_DO = {
    "PikerError": "catch it to catch them all; read `message` and `remedy`",
    "ConfigError": "mend the file, key or option that it names",
    "RangeError": "mend the time, range or interval that it names",
    "SymbolNotFound": "take the nearest name that it gives, or ask `piker search`",
    "ProviderError": "mend the backend, or its dotted path in conf.toml: "
    "[the guide](../guides/provider.md)",
    "Refused": "run both ends as the same user, with the same `PIKER_RUNTIME_DIR`",
    "ShmError": "free memory or lower the sizes under `[feed]`; `piker doctor` says which",
    "StoreError": "free disk space, or see `piker store verify` and `piker store repair`",
    "JournalDamaged": "copy the journal's folder away before anything else; the message says which "
    "file, bytes or row differ from what was written, and every row before that still verifies",
    "HistoryError": "ask again later; `partial` holds what was obtained, and why the rest was not",
    "BrokerError": "catch it to catch whatever a venue does",
    "Transient": "wait, at least `retry_after` seconds where it is set, then try again",
    "Rejected": "read the venue's `code`; the same request will be refused again",
    "Unknown": "ask the venue what became of it before sending anything that would repeat it",
    "DataQuality": "nothing, once: it was dropped. Many of one `kind` mean that a parser is out "
    "of date: please report them",
    "DataUnavailable": "stop asking; another timeframe or provider may have it",
    "NotOffered": "ask for another length, or for less; the message says which",
    "NoData": "step back by `frame_size` rows, or take the range for empty",
    "PeerLost": "nothing inside a feed, which comes back by itself; else call again: pikerd "
    "restarts what died",
    "Bug": "report it, with the log",
}

FIXED_CODES = {
    0: "done",
    1: "a check failed (`doctor`, `check-provider`), an order was denied or rejected, or an error "
    "of no other kind",
    2: "a file, key, address or option is wrong; nothing was started",
    7: "the venue: not reachable, refusing, or its data are bad",
    EXIT_INTERRUPTED: "ended by Ctrl-C",
}

#: Fields of a bar and of a tick that their dtype says nothing about.
BAR_WORDS = {
    "index": "monotonic row number",
    "time": "the bar's open, epoch seconds UTC; rows are one period apart",
    "open": "price of the first trade; the close before it where there was none",
    "volume": "in base units, or contracts where the market is inverse",
    "count": "number of trades; `-(n + 1)`: n were seen and the bar is not known to be complete",
    "bar_wap": "volume-weighted average price, 0 without trades",
}
TICK_WORDS = {
    "price": "of a QUOTE the bid",
    "size": "in base units, or contracts where the market is inverse; of a QUOTE that of the bid",
    "size2": "of a QUOTE that of the ask, else 0",
    "type": "what it is, see below",
    "side": "who traded at once: 1 the buyer, -1 the seller, 0 not known",
}
