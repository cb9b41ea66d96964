"""Lay out recorded bars as a folder that the loopback venue serves, with made futures twins.

The recorded ones keep their text. The twins are made of them, so that the three markets differ in
every number and a bar of one can never pass for another's.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from pathlib import Path

from piker.errors import ConfigError
from piker.testing.bar_table import KLINE_COLUMNS

__all__ = ["COIN_M", "RECORDED", "USD_M", "Recorded", "lay_out_recorded_bars"]

Row = list[str]  # of the archive's twelve columns

#: A file below the folder of recorded venue data, and the name of its bars.
Recorded = tuple[str, str]
RECORDED: tuple[Recorded, ...] = (
    ("binance/golden-klines/btcusdt_spot_1h_2024w01.csv", "BTCUSDT-1h-2024w01"),
    ("binance/nautilus-data/ADABTC-1m-2021-11-27.csv", "ADABTC-1m-2021-11-27"),
)
#: The made ones: (the recorded one's name, the twin's, its prices are so many times as high,
#: contract size in USD where sizes are contracts).
Twin = tuple[str, str, Decimal, int]
USD_M: tuple[Twin, ...] = (
    ("BTCUSDT-1h-2024w01", "BTCUSDT-1h-2024w01", Decimal("1.001"), 0),
    ("ADABTC-1m-2021-11-27", "ADAUSDT-1m-2021-11-27", Decimal(54_000), 0),
)
COIN_M: tuple[Twin, ...] = (
    ("BTCUSDT-1h-2024w01", "BTCUSD_PERP-1h-2024w01", Decimal("1.002"), 100),
    ("ADABTC-1m-2021-11-27", "ADAUSD_PERP-1m-2021-11-27", Decimal(54_054), 10),
)
_VOLUME_TIMES = 3  # a USD-M twin trades so many times as much
_PRICE = {"BTCUSDT": Decimal("0.1"), "BTCUSD_PERP": Decimal("0.1")}  # ticks; others 0.0001
_COINS = Decimal("0.00000001")


def lay_out_recorded_bars(venues: Path, folder: Path) -> list[Path]:
    """Write the recorded bars and their twins below ``folder``; return the files.

    ``venues`` is the folder of recorded venue data. Raises ``ConfigError`` where a file of it is
    missing.
    """
    recorded: dict[str, list[Row]] = {}
    for path, name in RECORDED:
        try:
            lines = (venues / path).read_text(encoding="ascii").splitlines()
        except OSError as error:
            raise ConfigError(f"can not read {venues / path}: {error.strerror}.") from None
        recorded[name] = [_row(line) for line in lines if line[:1].isdigit()]
    written = [_write(folder / "spot", name, rows, header=False) for name, rows in recorded.items()]
    for of, twins in (("um", USD_M), ("cm", COIN_M)):
        for name, other, times, contract in twins:
            rows = [_twin(row, _tick(other), times, contract) for row in recorded[name]]
            written.append(_write(folder / of, other, rows, header=True))
    return written


def _row(line: str) -> Row:
    """Return the archive's columns of a line; the eleventh is the last that all sources have."""
    return [*line.split(",")[:11], "0"]


def _tick(name: str) -> Decimal:
    return _PRICE.get(name.partition("-")[0], Decimal("0.0001"))


def _twin(row: Row, tick: Decimal, times: Decimal, contract: int) -> Row:
    """Return a made bar: dearer by a factor; in contracts with coins beside where they are given.

    Contracts come from the turnover, coins from contracts and the bar's mean price, rounded down.
    """
    prices = [_rounded(Decimal(row[at]) * times, tick) for at in (1, 2, 3, 4)]
    worths = [Decimal(row[at]) * times for at in (7, 10)]
    if contract:
        sizes = [(worth / contract).to_integral_value(ROUND_DOWN) for worth in worths]
        mean = worths[0] / Decimal(row[5]) if Decimal(row[5]) else Decimal(1)
        worths = [_rounded(size * contract / mean, _COINS) for size in sizes]
    else:
        sizes = [Decimal(row[at]) * _VOLUME_TIMES for at in (5, 9)]
        worths = [_rounded(worth * _VOLUME_TIMES, _COINS) for worth in worths]
    return [
        row[0], *map(_text, prices), _text(sizes[0]), row[6], _text(worths[0]), row[8],
        _text(sizes[1]), _text(worths[1]), "0",
    ]  # fmt: skip


def _rounded(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value(ROUND_DOWN) * step


def _text(value: Decimal) -> str:
    return f"{value:f}"


def _write(folder: Path, name: str, rows: list[Row], *, header: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(KLINE_COLUMNS)] if header else []
    lines += [",".join(row) for row in rows]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path
