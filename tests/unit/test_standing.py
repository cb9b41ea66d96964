"""What the journal comes to: bounded, the same in whatever pieces it was folded, and checked."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from piker.clearing import journal as journal_module
from piker.clearing import standing
from piker.clearing.journal import open_journal, verify
from piker.clearing.journal_file import JournalFile, create
from piker.clearing.journal_snapshot import keep, read_snapshot, take_up
from piker.clearing.lifecycle import Event, EventKind, OrderState, Phase
from piker.clearing.records import Happened, Intent, Position, Record, RiskChange, prepare, read_row
from piker.clearing.standing import Snapshot, fold_orders
from piker.errors import JournalDamaged
from piker.orders import Action, BrokerdPosition, Order

FQME = "btcusdt.spot.binance"


def intent(oid: str, action: Action = Action.BUY) -> Record:
    """Return an intent to trade two."""
    order = Order(
        oid=oid, symbol=FQME, account="paper", action=action, size=Decimal(2), price=Decimal(10)
    )
    return Record(entry=Intent(order), time_ns=1, account="paper", oid=oid)


def event(oid: str, kind: EventKind, tid: str = "", size: str = "0") -> Record:
    """Return something that happened to an order."""
    told = Event(kind=kind, time_ns=2, tid=tid, size=Decimal(size), price=Decimal(10))
    return Record(entry=Happened(told, FQME), time_ns=2, account="paper", oid=oid)


def session(chance: random.Random, count: int) -> list[Record]:
    """Return records in no sensible order: late, twice, of strangers, and of each kind."""
    records, oids = list[Record](), ["nobody's"]
    for number in range(count):
        what = chance.random()
        if what < 0.3:
            oids.append(f"o{number}")
            records.append(intent(oids[-1], chance.choice([Action.BUY, Action.SELL])))
        elif what < 0.9:
            oid = chance.choice([chance.choice(oids), chance.choice(oids[-5:])])
            kind = chance.choice([EventKind.FILL, *EventKind])
            records.append(event(oid, kind, f"t{number}", chance.choice(["0.5", "1", "2"])))
        elif what < 0.95:
            size = Decimal(chance.randrange(-3, 4))
            told = BrokerdPosition(broker="binance", account="paper", symbol=FQME, size=size)
            records.append(Record(entry=Position(told), time_ns=3, account="paper"))
        else:
            state = chance.choice(["active", "reducing", "halted"])
            account = chance.choice(["", "paper"])
            records.append(Record(entry=RiskChange(state), time_ns=3, account=account))
    return records


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let orders be forgotten, and snapshots be made, early."""
    monkeypatch.setattr(standing, "ENDED_KEPT", 5)
    monkeypatch.setattr(journal_module, "SNAPSHOT_ROWS", 20)


@pytest.mark.parametrize("seed", range(20))
def test_standing_is_the_whole_fold_when_folded_in_pieces(tmp_path: Path, seed: int) -> None:
    """Snapshots at any rows, and orders recalled, change nothing of what the rows come to."""
    chance = random.Random(seed)
    create(tmp_path / "journal")
    file = JournalFile(tmp_path / "journal")
    records = session(chance, 150)
    while records:
        some = chance.randrange(1, 30)
        file.append([prepare(record) for record in records[:some]])
        del records[:some]
        pieces = take_up(file).standing
        if chance.random() < 0.5:
            keep(file.path, pieces.snapshot())
            assert take_up(file).folded == 0
    (file.path / "standing").unlink(missing_ok=True)
    assert vars(take_up(file).standing) == vars(pieces)
    orders: dict[str, OrderState] = {}
    fold_orders(orders, [read_row(row) for row in file.rows(0, 1000)])
    assert pieces.live == {oid: state for oid, state in orders.items() if not state.is_over}
    assert all(orders[oid] == state for oid, state in pieces.ended.items())
    assert len(pieces.ended) <= 5
    nets = sum(state.order.side * state.filled for state in orders.values())
    assert sum(pieces.nets.values()) == nets
    file.close()


async def test_standing_is_the_same_when_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the appends left it: from the snapshot that was made meanwhile, and from the rows."""
    path = tmp_path / "journal"
    async with open_journal(path) as journal:
        for number, record in enumerate(session(random.Random(1), 210)):
            if number == 205:  # snapshots are taken when the writer has a turn: now the last one
                await trio.testing.wait_all_tasks_blocked()
                monkeypatch.setattr(journal_module, "SNAPSHOT_ROWS", 1000)
            await journal.append([record])
        left = journal.standing
        assert (left.seq, left.chain) == (journal.seq, journal.chain)
    snapshot = read_snapshot(path)
    assert isinstance(snapshot, Snapshot)
    assert 0 < snapshot.seq < left.seq
    assert verify(path).sound
    async with open_journal(path) as journal:
        assert vars(journal.standing) == vars(left)
        whole = await journal.fold()
        assert {oid: await journal.order(oid) for oid in whole} == whole
        assert await journal.order("never was") is None


async def test_late_fill_is_counted_when_its_order_was_forgotten(tmp_path: Path) -> None:
    """A refused order that trades after all stands again, however long ago it was refused."""
    async with open_journal(tmp_path / "journal") as journal:
        await journal.append([intent("old"), event("old", EventKind.REJECT)])
        for number in range(10):
            await journal.append([intent(f"{number}"), event(f"{number}", EventKind.EXPIRE)])
        assert journal.standing.get("old") is None
        await journal.append([event("old", EventKind.FILL, "t", "1")])
        assert journal.standing.live["old"].phase is Phase.UNKNOWN
        assert journal.standing.nets == {("paper", FQME): 1}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a closed journal of thirty rows, with a snapshot of them."""
    path = tmp_path / "journal"
    create(path)
    file = JournalFile(path)
    file.append([prepare(intent(f"o{number}")) for number in range(30)])
    keep(path, take_up(file).standing.snapshot())
    file.close()
    return path


@pytest.mark.slow
async def test_rows_are_folded_when_the_snapshot_does_not_check(kept: Path) -> None:
    """It is never needed; verify says that it is broken."""
    for at in range(0, (kept / "standing").stat().st_size, 97):
        data = bytearray((kept / "standing").read_bytes())
        data[at] ^= 4
        (kept / "standing").write_bytes(data)
        assert "standing" in verify(kept).files
        async with open_journal(kept, read_only=True) as journal:
            assert len(journal.standing.live) == 30
        data[at] ^= 4
        (kept / "standing").write_bytes(data)
    assert verify(kept).sound


@pytest.mark.parametrize("change", [{"fold": 0}, {"ended_kept": 4}])
async def test_rows_are_folded_when_the_snapshot_is_of_another_fold(
    kept: Path, change: dict[str, int]
) -> None:
    """What another piker made of the rows is not taken over."""
    snapshot = read_snapshot(kept)
    assert isinstance(snapshot, Snapshot)
    keep(kept, msgspec.structs.replace(snapshot, live=[], **change))
    async with open_journal(kept) as journal:
        assert len(journal.standing.live) == 30


def test_wrong_snapshot_is_seen_when_its_sum_is_right(kept: Path) -> None:
    """Verify folds the rows itself."""
    snapshot = read_snapshot(kept)
    assert isinstance(snapshot, Snapshot)
    keep(kept, msgspec.structs.replace(snapshot, live=snapshot.live[1:]))
    assert "is not what the rows up to 30 come to" in verify(kept).files


@pytest.mark.parametrize("change", [{"seq": 31}, {"chain": bytes(16)}])
async def test_loss_is_seen_when_the_snapshot_knows_more_rows_than_there_are(
    kept: Path, change: dict[str, object]
) -> None:
    """A snapshot is written after its rows are on the disk: without them they were lost."""
    snapshot = read_snapshot(kept)
    assert isinstance(snapshot, Snapshot)
    keep(kept, msgspec.structs.replace(snapshot, **change))
    with pytest.raises(JournalDamaged, match="rows that are not there"):
        async with open_journal(kept):
            pass
    assert not verify(kept).sound


async def test_journal_goes_on_when_no_snapshot_can_be_written(tmp_path: Path) -> None:
    """It costs the next start some time, and nobody an order."""
    async with open_journal(tmp_path / "journal") as journal:
        (tmp_path / "journal" / "standing.part").mkdir()
        for number in range(60):
            await journal.append([intent(f"{number}")])
        (tmp_path / "journal" / "standing.part").rmdir()
    assert verify(tmp_path / "journal").rows == 60
