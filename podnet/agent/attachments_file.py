"""The SQLite file under the attachments: schema, opening, what is done about a damaged or an outdated one.

Three tables: a record as JSON, each of its addresses with the range it came from, and of each range the address given
last. Other programs may read it while the agent runs (`read`); only the holder of the lock writes.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from zlib import crc32

import msgspec

from podnet.errors import UserError
from podnet.network.ipam import ranges
from podnet.network.view import Attachment, base_address

NAME = "attachments.db"
VERSION = 1
SCHEMA = f"""
CREATE TABLE attachment (container_id TEXT, ifname TEXT, record BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (container_id, ifname)) WITHOUT ROWID;
CREATE TABLE address (address TEXT PRIMARY KEY, container_id TEXT NOT NULL, ifname TEXT NOT NULL, range TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE range (label TEXT PRIMARY KEY, last TEXT, total TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""The last one: a table or column of the schema is not there."""

Statement = tuple[str, tuple[str | bytes | int | None, ...]]


class RangeUse(msgspec.Struct, frozen=True):
    """A range from which addresses were given: how many it has, how many are used, which was given last."""

    range: str
    used: int
    total: int
    last: str


class Opened(msgspec.Struct, frozen=True):
    """An open file and what was in it. `lock` is the file descriptor that keeps other writers out."""

    db: sqlite3.Connection
    lock: int
    records: tuple[Attachment, ...]
    last: Mapping[str, str]
    report: tuple[str, ...] = ()


def insert(
    attachment: Attachment, sets: Sequence[ranges.RangeSet], moved: Iterable[tuple[ranges.RangeSet, str]]
) -> list[Statement]:
    """What records an attachment, whose addresses came from `sets`; `moved` are the sets that went on to an address."""
    last = {ranges.label(each): address for each, address in moved}
    statements: list[Statement] = [("INSERT INTO attachment VALUES (?, ?, ?, ?)", _row(attachment))]
    for each, address in zip(sets, attachment.addresses, strict=True):
        name, total = ranges.label(each), str(sum(part.total for part in each))
        statements += [
            ("INSERT INTO address VALUES (?, ?, ?, ?)", (base_address(address), *attachment.id, name)),
            (
                "INSERT INTO range VALUES (?1, ?2, ?3) ON CONFLICT (label) DO UPDATE SET last = coalesce(?2, last)",
                (name, last.get(name), total),
            ),
        ]
    return statements


def _row(attachment: Attachment) -> tuple[str, str, bytes, int]:
    record = msgspec.json.encode(attachment)
    return (*attachment.id, record, crc32(record))


def update(attachment: Attachment) -> list[Statement]:
    """What records a change of an attachment that leaves its addresses as they are."""
    *identity, record, checksum = _row(attachment)
    changed = "UPDATE attachment SET record = ?, checksum = ? WHERE container_id = ? AND ifname = ?"
    return [(changed, (record, checksum, *identity))]


def delete(attachment: Attachment) -> list[Statement]:
    """What forgets an attachment; of an absent one: nothing."""
    return [
        (f"DELETE FROM {table} WHERE container_id = ? AND ifname = ?", attachment.id)  # noqa: S608 (two constants)
        for table in ("address", "attachment")
    ]


def transact(db: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    """All statements durably, or none; raises sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            db.execute(*statement)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")


def boot_id() -> str:
    """Which start of this machine this is."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def is_namespace(path: str) -> bool:
    """Whether a namespace is held at `path`; an ordinary file there is what is left of one that was mounted."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def open_(state_dir: str, boot_id: str, alive: Callable[[str], bool]) -> Opened:
    """See Attachments.open."""
    path = os.path.join(state_dir, NAME)
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        lock = _lock(path)
        try:
            return _opened(path, lock, boot_id, alive)
        except BaseException:
            os.close(lock)
            raise
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"the attachments in {path} can't be opened: {error}; check the disk and rights") from None


def _opened(path: str, lock: int, boot_id: str, alive: Callable[[str], bool]) -> Opened:
    db, report = _connect(path)
    records, last = tuple(_records(db)), dict(db.execute("SELECT label, last FROM range WHERE last IS NOT NULL"))
    gone = [record for record in records if record.boot_id != boot_id and not _survived(record.netns, alive)]
    if gone:
        transact(db, [statement for record in gone for statement in delete(record)])
        report = (*report, f"{len(gone)} attachments of an earlier boot are gone; their addresses are free again")
    return Opened(db, lock, tuple(record for record in records if record not in gone), last, report)


def read(state_dir: str) -> tuple[tuple[Attachment, ...], tuple[RangeUse, ...]]:
    """The records and ranges of a node, also while its agent runs; raises UserError when there are none to read."""
    path = os.path.join(state_dir, NAME)
    if not os.path.exists(path):
        raise UserError(f"there is no {path}: no agent has run with this state directory")
    used = (
        "SELECT label, (SELECT count(*) FROM address WHERE range = label), total, coalesce(last, '') FROM range"
        " ORDER BY label"
    )
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            rows = db.execute(used).fetchall()
            records = tuple(record for record in _records(db) if not record.ended)
            return records, tuple(RangeUse(name, n, int(total), last) for name, n, total, last in rows)
    except sqlite3.Error as error:
        raise UserError(f"{path} can't be read: {error}") from None


def _lock(path: str) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(f"another podnet agent uses {os.path.dirname(path)}; stop it first") from None
    return lock


def _connect(path: str) -> tuple[sqlite3.Connection, tuple[str, ...]]:
    try:
        return _usable(path), ()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in DAMAGED:
            raise
    saved = _salvage(path)
    aside = _move_aside(path)
    db = _usable(path)
    transact(db, [statement for record in saved for statement in _again(record)])
    sentence = f"{path} was damaged: it is now {aside}, and {len(saved)} readable attachments of it were kept"
    return db, (sentence,)


def _usable(path: str) -> sqlite3.Connection:
    """An open connection to a sound file of our version."""
    os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives its log the mode of the file
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UserError(f"{path} was written by a newer podnet; use that version, or move the file away")
        if version == 0:
            db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        findings = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if findings != "ok":
            _damaged(findings)
        list(_records(db))
    except BaseException:
        db.close()
        raise
    return db


def _damaged(why: str) -> None:
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    raise error


def _records(db: sqlite3.Connection) -> Iterator[Attachment]:
    for record, checksum in db.execute("SELECT record, checksum FROM attachment ORDER BY container_id, ifname"):
        attachment = _decoded(record, checksum)
        if attachment is None:
            _damaged("a record differs from its checksum")
        else:
            yield attachment


def _decoded(record: object, checksum: object) -> Attachment | None:
    if not isinstance(record, bytes) or crc32(record) != checksum:
        return None
    return msgspec.json.decode(record, type=Attachment)


def _salvage(path: str) -> list[Attachment]:
    """What of a damaged file can be read, each address once."""
    found: list[Attachment] = []
    addresses: set[str] = set()
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as db:
        for row in db.execute("SELECT record, checksum FROM attachment"):
            attachment = _decoded(*row)
            if attachment and addresses.isdisjoint(attachment.addresses):
                found.append(attachment)
                addresses.update(attachment.addresses)
    return found


def _again(attachment: Attachment) -> Iterator[Statement]:
    """A salvaged record; which range its addresses came from is not known any more."""
    yield "INSERT OR IGNORE INTO attachment VALUES (?, ?, ?, ?)", _row(attachment)
    for address in attachment.addresses:
        yield "INSERT OR IGNORE INTO address VALUES (?, ?, ?, '')", (base_address(address), *attachment.id)


def _move_aside(path: str) -> str:
    number = 1
    while os.path.exists(aside := f"{path}.damaged-{number}"):
        number += 1
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(path + suffix, aside + suffix)
    return aside


def _survived(netns: str, alive: Callable[[str], bool]) -> bool:
    """Whether a namespace can be from an earlier boot: a process of then can't, whoever has its number now."""
    return not netns.startswith("/proc/") and alive(netns)
