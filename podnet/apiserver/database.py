"""The SQLite file: current objects, and an undo log from which every recent revision can be told again.

Two tables: `cur` holds each object once; `log` holds, per revision, what the object was before (NULL: it did not
exist). What it became is the `before` of its next revision, or `cur`: every version is stored once. WAL mode makes a
crash of the process harmless at any moment. `synchronous=full` also survives a power cut with every acknowledged
write; `normal`, the default, may lose the last second of them then, and notices it: the kernel's boot id has changed
and the file was not closed, so the history is declared over and every client lists anew.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

from podnet.apiserver.records import Change, Key, Record

DURABILITY = ("normal", "full")
_SKIP_AFTER_POWER_CUT = 1_000_000  # more revisions than one second can hold
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cur (resource TEXT, namespace TEXT, name TEXT, revision INTEGER NOT NULL,
    value BLOB NOT NULL, PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (revision INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL,
    name TEXT NOT NULL, before_revision INTEGER, before BLOB);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Database:
    """One open file; used by one thread at a time."""

    def __init__(self, path: str, durability: str = "normal", boot_id: str = "") -> None:
        assert durability in DURABILITY
        self._wal = f"{path}-wal"
        self._every_commit = durability == "full"
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=32)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={durability}")
        self._db.executescript(_SCHEMA)
        self.lost_power = self._recover(durability, boot_id)

    def _recover(self, durability: str, boot_id: str) -> bool:
        """Notice a power cut that may have undone acknowledged commits; see the module's story."""
        last = dict(self._db.execute("SELECT name, value FROM meta"))
        lost = bool(last) and not last.get("closed") and last["boot"] != boot_id and last["durability"] != "full"
        if lost:
            self._db.execute("DELETE FROM log")
        skip = _SKIP_AFTER_POWER_CUT if lost else 0
        base = str(max(int(last.get("base", "0")), self._newest()) + skip)
        rows = (("boot", boot_id), ("durability", durability), ("closed", ""), ("base", base))
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the mark itself must survive a power cut
        return lost

    def _newest(self) -> int:
        newest = "SELECT max(coalesce(max(revision), 0), (SELECT coalesce(max(revision), 0) FROM cur)) FROM log"
        return int(self._db.execute(newest).fetchone()[0])

    def load(self) -> tuple[int, dict[Key, Record], list[Change]]:
        """(newest revision, every object, the changes still in the log, oldest first)."""
        rows = self._db.execute("SELECT resource, namespace, name, revision, value FROM cur")
        objects = {Key(*names): Record.read(Key(*names), revision, value) for *names, revision, value in rows}
        state: dict[Key, Record | None] = dict(objects)
        changes: list[Change] = []
        log = "SELECT resource, namespace, name, revision, before_revision, before FROM log ORDER BY revision DESC"
        for *names, revision, before_revision, value in self._db.execute(log):
            key = Key(*names)
            before = None if value is None else Record.read(key, before_revision, value)
            changes.append(Change(revision, key, before, state.get(key)))
            state[key] = before
        base = int(self._db.execute("SELECT value FROM meta WHERE name = 'base'").fetchone()[0])
        return max(base, self._newest()), objects, changes[::-1]

    def commit(self, changes: Sequence[Change]) -> None:
        """All of them, or none; raises sqlite3.Error."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", map(_log_row, changes))
            for change in changes:
                if change.after is None:
                    self._db.execute("DELETE FROM cur WHERE resource=? AND namespace=? AND name=?", change.key)
                else:
                    row = (*change.key, change.after.revision, change.after.value)
                    self._db.execute("INSERT OR REPLACE INTO cur VALUES (?, ?, ?, ?, ?)", row)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def sync(self) -> None:
        """Bring what was committed to the disk, unless each commit has done so; raises OSError.

        SQLite holds no locks on the WAL itself, so opening and closing it here releases none.
        """
        if self._every_commit:
            return
        handle = os.open(self._wal, os.O_RDONLY)
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def compact(self, revision: int) -> None:
        """Forget how things were before `revision`, itself included."""
        self._db.execute("DELETE FROM log WHERE revision <= ?", (revision,))

    def close(self) -> None:
        """Fold the WAL into the file; a clean end."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('closed', 'yes')")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


def _log_row(change: Change) -> tuple[int | str | bytes | None, ...]:
    if change.before is None:
        return (change.revision, *change.key, None, None)
    return (change.revision, *change.key, change.before.revision, change.before.value)
