"""The journal: what it keeps, what it refuses, and what it notices."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from piker.clearing import journal_file, journal_seal, journal_verify
from piker.clearing.journal import Journal, open_journal, verify
from piker.clearing.journal_file import MIGRATIONS, JournalFile, connect, create, leave
from piker.clearing.lifecycle import Event, EventKind, Phase
from piker.clearing.records import (
    Duplicate,
    Happened,
    Intent,
    Note,
    Opened,
    Position,
    Prepared,
    Record,
    RiskChange,
    make_ready,
    prepare,
)
from piker.errors import JournalDamaged, RangeError, StoreError
from piker.orders import Action, BrokerdPosition, Order

FQME = "btcusdt.spot.binance"


def intent(oid: str) -> Record:
    """Return an intent to buy two."""
    order = Order(
        oid=oid, symbol=FQME, account="paper", action=Action.BUY,
        size=Decimal(2), price=Decimal("64000.10"),
    )  # fmt: skip
    return Record(entry=Intent(order), time_ns=1, account="paper", oid=oid, actor="anna:1000")


def fill(oid: str, tid: str, size: str = "1", account: str = "paper") -> Record:
    """Return a fill of an order."""
    event = Event(
        kind=EventKind.FILL, time_ns=2, tid=tid, size=Decimal(size), price=Decimal("64000.1")
    )
    return Record(entry=Happened(event, FQME), time_ns=2, account=account, oid=oid, actor="binance")


async def written(journal: Journal, since: int = 0) -> list[Record]:
    """Return the records of a journal."""
    return [record async for record in journal.read(since)]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return a closed journal of forty orders, each filled once."""
    path = tmp_path / "journal"
    create(path)
    file = JournalFile(path)
    for number in range(40):
        pair = intent(f"o{number}"), fill(f"o{number}", f"t{number}")
        file.append([prepare(record) for record in pair])
    file.close()
    return path


async def test_records_come_back_as_they_were_when_reopened(tmp_path: Path) -> None:
    """Every kind of entry, with its order, its author and a dense number."""
    told = BrokerdPosition(broker="binance", account="paper", symbol=FQME, size=Decimal("-0.10"))
    records = [
        intent("a"), fill("a", "1"), Record(entry=Position(told), time_ns=3),
        Record(entry=RiskChange("halted", "by hand"), time_ns=4, actor="piker halt:1000"),
        Record(entry=Note("reconcile", "nothing found", {"orders": "0"}), time_ns=5),
        Record(entry=Opened(FQME, Decimal("-0.10"), Decimal("64000.05")), time_ns=6),
    ]  # fmt: skip
    async with open_journal(tmp_path / "journal") as journal:
        assert await journal.append(records) == [1, 2, 3, 4, 5, 6]
        chain = journal.chain
    async with open_journal(tmp_path / "journal") as journal:
        back = await written(journal)
        assert (journal.seq, journal.chain) == (6, chain)
    assert [(r.seq, r.kind) for r in back] == [
        (1, "intent"), (2, "event"), (3, "position"), (4, "risk"), (5, "note"), (6, "opened"),
    ]  # fmt: skip
    assert [r.entry for r in back] == [r.entry for r in records]
    assert [r.actor for r in back] == [
        "anna:1000",
        "binance",
        "emsd",
        "piker halt:1000",
        "emsd",
        "emsd",
    ]


async def test_fold_gives_the_orders_when_some_are_filled(filled: Path) -> None:
    """The fold is that of the lifecycle."""
    async with open_journal(filled) as journal:
        orders = await journal.fold()
    assert len(orders) == 40
    assert {state.phase for state in orders.values()} == {Phase.PARTIAL}
    assert sum(state.filled for state in orders.values()) == 40


async def test_second_intent_and_second_fill_are_told_when_appended_again(tmp_path: Path) -> None:
    """Once per oid, once per account, market and trade id: in one commit or in another."""
    async with open_journal(tmp_path / "journal") as journal:
        first = await journal.append([intent("a"), intent("a"), fill("a", "7"), fill("a", "7")])
        assert first == [1, Duplicate(1), 2, Duplicate(2)]
        again = await journal.append([fill("a", "7"), fill("a", "7", account="other")])
        assert again == [Duplicate(2), 3]
        assert await journal.append([intent("a")]) == [Duplicate(1)]
        assert await journal.append([]) == []
    assert verify(tmp_path / "journal").rows == 3


async def test_those_who_wait_together_are_committed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight who append again and again share each sync: the first of them waits for the others."""
    sizes: list[int] = []
    append = JournalFile.append

    def counted(file: JournalFile, ready: list[Prepared]) -> list[int | Duplicate]:
        sizes.append(len(ready))
        return append(file, ready)

    monkeypatch.setattr(JournalFile, "append", counted)
    async with open_journal(tmp_path / "journal") as journal:

        async def client(name: str) -> None:
            for number in range(40):
                await journal.append([intent(f"{name}{number}")])

        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(client, name)
    assert sum(sizes) == 320
    assert len(sizes) < 50  # 40 where all go together, 110 where the first goes alone


async def test_what_is_posted_keeps_its_place_and_is_written_when_nobody_waits(
    tmp_path: Path,
) -> None:
    """It goes with the next append, by itself soon after, and with the end of the journal."""
    async with open_journal(tmp_path / "journal") as journal:
        await journal.append([intent("a")])
        journal.post([fill("a", "1")])
        assert await journal.append([intent("b")]) == [3]
        journal.post([intent("c")])
        journal.post([fill("c", "2")])
        while journal.standing.seq < 5:
            await trio.sleep(0.001)
        assert {"a", "b", "c"} <= set(journal.standing.live)
        journal.post([fill("b", "3")])
    found = verify(tmp_path / "journal")
    assert found.rows == 6
    async with open_journal(tmp_path / "journal") as journal:
        told = [(record.oid, record.kind) for record in await written(journal)]
    assert told == [
        ("a", "intent"), ("a", "event"), ("b", "intent"), ("c", "intent"), ("c", "event"),
        ("b", "event"),
    ]  # fmt: skip
    with pytest.raises(StoreError, match="closed"):
        journal.post([intent("d")])


async def test_posts_and_appends_of_many_keep_their_order(tmp_path: Path) -> None:
    """Eight clients post and append at once: every row is there, each client's in its order."""

    async def client(name: str) -> None:
        for number in range(30):
            await journal.append([intent(f"{name}{number}")])
            journal.post([fill(f"{name}{number}", f"{name}{number}")])
            if number % 7 == 0:
                await trio.sleep(0.004)

    async with open_journal(tmp_path / "journal") as journal:
        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(client, name)
    assert verify(tmp_path / "journal").rows == 480
    async with open_journal(tmp_path / "journal") as journal:
        rows = [(record.oid, record.kind) for record in await written(journal)]
    for name in "abcdefgh":
        assert [row for row in rows if row[0][0] == name] == [
            (f"{name}{number}", kind) for number in range(30) for kind in ("intent", "event")
        ]


async def test_verification_says_how_far_it_is_when_asked(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows so far, and of how many; the findings are the same."""
    heard: list[tuple[int, int]] = []
    monkeypatch.setattr(journal_verify, "STEP", 30)
    found = verify(filled, lambda row, rows: heard.append((row, rows)))
    assert found == verify(filled)
    assert heard == [(30, 80), (60, 80)]


async def test_each_caller_gets_its_own_answers_when_many_append_at_once(tmp_path: Path) -> None:
    """Group commit mixes what waits, and nobody's records."""
    answers: dict[str, list[int | Duplicate]] = {}

    async def client(name: str) -> None:
        for number in range(20):
            oid = f"{name}{number}"
            answers[oid] = await journal.append([intent(oid), fill(oid, oid)])

    async with open_journal(tmp_path / "journal") as journal:
        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(client, name)
        oids = {record.seq: record.oid for record in await written(journal)}
    assert len(oids) == 320
    for oid, (one, two) in answers.items():
        assert isinstance(one, int)
        assert two == one + 1
        assert oids[one] == oids[two] == oid


async def test_record_is_whole_when_its_writer_is_cancelled(tmp_path: Path) -> None:
    """A caller that goes away leaves all of its records, and later ones are not hurt."""
    async with open_journal(tmp_path / "journal") as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.append([intent("a"), fill("a", "1")])
        assert scope.cancelled_caught
        assert await journal.append([intent("b")]) == [3]
    found = verify(tmp_path / "journal")
    assert (found.rows, found.sound) == (3, True)


async def test_what_waits_is_written_when_the_block_is_cancelled(tmp_path: Path) -> None:
    """Leaving the block, by whatever way, commits first."""
    with trio.CancelScope() as scope:
        async with open_journal(tmp_path / "journal") as journal:
            scope.cancel()
            await journal.append([intent("a")])
    assert verify(tmp_path / "journal").rows == 1


async def test_append_is_refused_when_no_row_can_hold_it(tmp_path: Path) -> None:
    """Too long, no Unicode, an impossible time: nothing is written, and the journal lives."""
    async with open_journal(tmp_path / "journal") as journal:
        for wrong in (
            Record(entry=Note("x", "y" * 70_000), time_ns=1),
            Record(entry=Note("x"), time_ns=-1),
            Record(entry=Note("x", "\ud800"), time_ns=1),
            Record(entry=Note("x"), time_ns=1, actor="\ud800"),
        ):
            with pytest.raises(RangeError):
                await journal.append([intent("a"), wrong])
        assert await journal.append([intent("a")]) == [1]


async def test_writer_waits_when_a_reader_makes_its_copy(filled: Path) -> None:
    """Who looks at the orders of an emsd that was killed does not keep the next one from them."""
    reading, done = threading.Event(), threading.Event()

    def read() -> None:
        with journal_file.locked(filled, shared=True):
            reading.set()
            done.wait(10)

    async def open_one() -> None:
        async with open_journal(filled) as journal:
            assert done.is_set()
            await journal.append([intent("new")])

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_one)
        await trio.sleep(0.1)
        done.set()
    reader.join()
    assert verify(filled).rows == 81


async def test_second_writer_is_refused_and_a_reader_is_not_when_in_use(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writer; whoever reads has a copy of the moment."""
    monkeypatch.setattr(journal_file, "READ_S", 0.1)
    async with open_journal(filled) as journal:
        with pytest.raises(StoreError, match="in use"):
            async with open_journal(filled):
                pass
        await journal.append([intent("new")])
        async with open_journal(filled, read_only=True) as reader:
            await journal.append([intent("newer")])
            assert (await written(reader, 79))[-1].oid == "new"
            with pytest.raises(StoreError, match="reading only"):
                await reader.append([intent("x")])
        assert verify(filled).rows == 82


async def test_nobody_reads_a_journal_when_there_is_none(tmp_path: Path) -> None:
    """Reading makes none."""
    with pytest.raises(StoreError, match="there is no journal"):
        async with open_journal(tmp_path / "journal", read_only=True):
            pass
    assert not (tmp_path / "journal").exists()


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let this process write no file beyond ``size``: as near to a full disk as a test comes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_every_waiter_is_told_and_nothing_is_lost_when_the_disk_fails(filled: Path) -> None:
    """Closed for writing at the first failure; what was acknowledged is there at the next start."""
    async with open_journal(filled) as journal:
        await journal.append([intent("kept")])
        failed = []

        async def client(oid: str) -> None:
            try:
                await journal.append([Record(entry=Note(oid, "x" * 60_000), time_ns=1)])
            except StoreError:
                failed.append(oid)

        with file_limit(journal.log_bytes + 9_000):
            async with trio.open_nursery() as nursery:
                for oid in "abc":
                    nursery.start_soon(client, oid)
        assert sorted(failed) == ["a", "b", "c"]
        with pytest.raises(StoreError):
            await journal.append([intent("late")])
    async with open_journal(filled) as journal:
        assert (await written(journal))[80].oid == "kept"
        assert await journal.append([intent("late")]) == [journal.seq]
    assert verify(filled).sound


# -- damage ------------------------------------------------------------------------------------
ROW = "SELECT seq + 0, time_ns, kind, account, oid, payload, actor, chain FROM rows"
TAMPER = {
    "removed": "DELETE FROM rows WHERE seq = 20",
    "last removed": "DELETE FROM rows WHERE seq = 80",
    "doubled": f"INSERT INTO rows {ROW.replace('seq + 0', '81')} WHERE seq = 80",
    "swapped": "UPDATE rows SET seq = 1000 - seq WHERE seq IN (20, 21);"
    "UPDATE rows SET seq = seq - 959 WHERE seq > 900",
    "changed": "UPDATE rows SET time_ns = 3 WHERE seq = 20",
    "unlisted": "DELETE FROM once WHERE seq = 20",
}


@pytest.mark.parametrize("how", TAMPER)
async def test_tampering_is_seen_and_the_row_named_when_rows_are_not_ours(
    filled: Path, how: str
) -> None:
    """Start refuses by the seals; verify names the row by the chain, seals or no seals."""
    db = sqlite3.connect(filled / "rows.db")
    db.executescript(TAMPER[how])
    db.close()
    with pytest.raises(JournalDamaged) as raised:
        async with open_journal(filled):
            pass
    assert "verify" in raised.value.remedy
    found = verify(filled)
    assert found.first_bad == {"last removed": 80, "doubled": 81}.get(how, 20)
    assert found.files


@pytest.mark.parametrize("name", ["head", "sums", "rows.db"])
async def test_missing_file_is_seen_when_the_journal_is_opened(filled: Path, name: str) -> None:
    """A journal of which a part is gone is not an empty journal."""
    (filled / name).unlink()
    with pytest.raises(JournalDamaged, match="missing"):
        async with open_journal(filled):
            pass
    assert not (filled / name).exists()


async def test_fold_is_the_same_when_opened_twice(filled: Path) -> None:
    """Opening twice is opening once: the files do not change either."""
    before = {file.name: file.read_bytes() for file in filled.iterdir()}
    for _ in range(2):
        async with open_journal(filled) as journal:
            assert journal.seq == 80
    assert {file.name: file.read_bytes() for file in filled.iterdir()} == before


# -- the log -----------------------------------------------------------------------------------
def test_log_is_read_as_sqlite_reads_it_when_cut_anywhere(tmp_path: Path) -> None:
    """Whatever is left of a log, our reading of its end is SQLite's."""
    path = tmp_path / "journal"
    create(path)
    file = JournalFile(path)
    ends = [0]
    for number in range(6):
        file.append([prepare(intent(f"{number}-{part}")) for part in range(20)])
        ends.append(file.head.log_bytes)
    file.abandon()
    log = (path / "rows.db-wal").read_bytes()
    for cut in [*range(0, len(log), 1999), *ends, *(end + 4000 for end in ends)]:
        (path / "rows.db-wal").write_bytes(log[:cut])
        due = max(number for number, end in enumerate(ends) if end <= cut)
        assert journal_seal.last_frames(log[:cut], 0).end == ends[due]
        other = tmp_path / "copy"
        shutil.copytree(path, other)
        db = connect(other)
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (20 * due,)
        leave(db)
        shutil.rmtree(other)


def test_log_of_before_is_forgotten_when_a_crash_follows_a_checkpoint(filled: Path) -> None:
    """The file is used again: it keeps its length, and frames left of the last log never count."""
    file = JournalFile(filled)
    file.append([prepare(intent(f"a{number}")) for number in range(200)])
    log = filled / "rows.db-wal"
    size = log.stat().st_size
    file.checkpoint()
    for seq in (281, 282):
        assert file.append([prepare(intent(f"b{seq}"))]) == [seq]
    assert file.head.log_bytes < size == log.stat().st_size
    file.abandon()
    found = verify(filled)
    assert (found.rows, found.sound) == (282, True)
    again = JournalFile(filled)
    assert again.head.seq == 282
    again.close()
    assert verify(filled).sound


# -- schema ------------------------------------------------------------------------------------
def _add_column(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE rows ADD COLUMN venue TEXT")


def test_backup_is_whole_when_the_schema_is_migrated(filled: Path) -> None:
    """The rows are the same in both; a piker that does not know the new schema says so."""
    file = JournalFile(filled, migrations=(*MIGRATIONS, _add_column))
    assert len(file.rows(0, 1000)) == 80
    file.close()
    db = sqlite3.connect(filled / f"backup-{len(MIGRATIONS)}.db")
    assert db.execute("SELECT count(*) FROM rows").fetchone() == (80,)
    db.close()
    assert verify(filled).sound
    ours = len(MIGRATIONS)
    with pytest.raises(
        StoreError, match=rf"version {ours + 1} .* written by piker .* knows {ours}"
    ):
        JournalFile(filled)


async def test_journal_of_the_first_schema_opens_and_is_folded_anew(tmp_path: Path) -> None:
    """One that piker wrote before holdings and days were folded: rows, chain and backup hold."""
    path = tmp_path / "journal"
    with zipfile.ZipFile(Path(__file__).parent / "journal-v1.zip") as old:
        old.extractall(path)
    assert verify(path).rows == 35
    assert "of another piker" in verify(path).files  # its snapshot, which is not needed
    for fresh in (True, False):
        async with open_journal(path) as journal:
            assert (journal.seq, journal.chain.hex()) == (35, "d19fe8aeafa3b09536eb8443e09bddb2")
            standing = journal.standing
            held = standing.holdings["binance.paper", FQME]
            assert held.size == standing.nets["binance.paper", FQME] == Decimal("0.25")
            assert held.fees == {"usdt": 9}
            assert standing.days["binance.paper", FQME].size == held.size
            assert standing.risk["binance.main"].state == "active"
            assert standing.live["o10"].taken_ns == 1_700_000_010_000_000_000
            assert journal._file.db.execute("PRAGMA user_version").fetchone() == (2,)
            assert fresh or not (path / "backup-2.db").exists()
    assert (path / "backup-1.db").exists()
    async with open_journal(path) as journal:
        await journal.append([intent("new")])
    assert verify(path).sound  # the snapshot was made anew


def _add_and_fail(db: sqlite3.Connection) -> None:
    _add_column(db)
    raise sqlite3.OperationalError("disk I/O error")


def test_journal_is_as_before_when_a_migration_fails(filled: Path) -> None:
    """One commit: all of it or none."""
    with pytest.raises(sqlite3.OperationalError):
        JournalFile(filled, migrations=(*MIGRATIONS, _add_and_fail))
    file = JournalFile(filled)
    assert len(file.rows(0, 1000)) == 80
    file.close()
    assert verify(filled).sound


async def test_kind_of_a_later_piker_is_refused_in_words_when_opened(filled: Path) -> None:
    """It is named and not skipped: nobody trades on half of what was written."""
    file = JournalFile(filled)
    time_ns, _, *rest = prepare(Record(entry=Note("x"), time_ns=1)).columns
    file.append([make_ready((time_ns, "swap", *rest), None)])
    file.close()
    with pytest.raises(StoreError, match=r"kind 'swap', which this piker does not know"):
        async with open_journal(filled):
            pass


# -- crashes at every point --------------------------------------------------------------------
CRASH = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_journal import MIGRATIONS, _add_column, intent, prepare
from piker.clearing import journal_seal
from piker.clearing.journal_file import JournalFile, create
def reached(name):
    if name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
journal_seal.reached = reached
create(Path(sys.argv[2]))
newer = sys.argv[4:] == ["newer"]
file = JournalFile(Path(sys.argv[2]), migrations=MIGRATIONS + (_add_column,) * newer)
file.append([prepare(intent("last"))])
file.checkpoint()
"""
POINTS = ["made", "commit", "committed", "announced", "copied", "cut", "sealed", "sums written"]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_nothing_is_lost_or_called_damage_when_killed_at(
    filled: Path, tmp_path: Path, point: str
) -> None:
    """Killed at each point of a commit, of a checkpoint, and of the making of a journal."""
    new = point in ("made", "sums written")
    path = tmp_path / "new" if new else filled
    command = [sys.executable, "-c", CRASH, Path(__file__).parent, path, point]
    done = await trio.run_process(command, check=False)
    assert done.returncode == -9
    async with open_journal(path) as journal:
        seq = journal.seq
        await journal.append([intent("after")])
    before = 0 if new else 80
    assert seq - before == (0 if new or point == "commit" else 1)
    found = verify(path)
    assert (found.rows, found.sound) == (seq + 1, True)
    assert sorted(file.name for file in path.iterdir()) == ["head", "rows.db", "sums"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["backed up", "sums written", "announced", "copied", "cut", "sealed"]
)
def test_schema_is_brought_up_once_when_killed_at(filled: Path, point: str) -> None:
    """Killed at each point of a migration; the next start does what is left of it."""
    command = [sys.executable, "-c", CRASH, Path(__file__).parent, filled, point, "newer"]
    assert subprocess.run(command).returncode == -9
    file = JournalFile(filled, migrations=(*MIGRATIONS, _add_column))
    assert len(file.rows(0, 1000)) == 80
    assert file.db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    file.close()
    assert verify(filled).sound
    assert (filled / f"backup-{len(MIGRATIONS)}.db").exists()


async def test_log_is_brought_in_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many checkpoints while rows are written, and every one of them sound."""
    monkeypatch.setattr(journal_file, "CHECKPOINT_BYTES", 50_000)
    async with open_journal(tmp_path / "journal") as journal:
        for number in range(30):
            await journal.append([intent(f"{number}-{part}") for part in range(30)])
            if number % 10 == 5:
                assert verify(tmp_path / "journal").sound
    assert verify(tmp_path / "journal").rows == 900
