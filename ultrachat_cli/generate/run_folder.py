"""A run is a folder: dialogues.jsonl, rejected.jsonl, journal.sqlite, manifest.json, and a lock while it runs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.generate import near_duplicates
from ultrachat_cli.records import jsonl, lock, manifest
from ultrachat_cli.records.journal import Journal
from ultrachat_cli.records.lock import FolderLock

DIALOGUES, REJECTED, JOURNAL = "dialogues.jsonl", "rejected.jsonl", "journal.sqlite"
_SCHEMA = (
    near_duplicates.SCHEMA
    + """
CREATE TABLE IF NOT EXISTS settled(id TEXT PRIMARY KEY, sector TEXT, outcome TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs(name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
"""
)
WRITTEN = "written"
"""The outcome of a kept dialogue; a rejected one's outcome is its reason."""


class RunFolder:
    """Opens, resumes and refuses; then takes settled dialogues, in batches, each exactly once."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """`identity`: what makes two runs the same. Raises `RunLocked`, `ConfigError` (another run lives here)."""
        self.folder = folder
        self._lock = FolderLock(folder)
        try:
            self.manifest = manifest.read(folder) or {}
            changed = manifest.differences(self.manifest.get("identity", {}), identity)
            if self.manifest and changed and self._begun():
                raise ConfigError(
                    [f"{folder} holds a run with other settings:", *(f"  {line}" for line in changed)],
                    "use another --output, the old settings, or --restart (the old run is set aside, not deleted)",
                )
            if not self.manifest and _size(folder / DIALOGUES):
                raise ConfigError(
                    f"{folder} holds a {DIALOGUES} but no manifest: not a run of ours", "use another --output"
                )
            self.journal = Journal(folder / JOURNAL, _SCHEMA)
            self._files = {name: jsonl.Appender(folder / name) for name in (DIALOGUES, REJECTED)}
            self.repaired = {name: file.cut for name, file in self._files.items() if file.cut}
            try:
                self._reconcile()
            except sqlite3.Error as error:
                raise self.journal.failed(error) from error
            self.save_manifest(kind="generate", identity=identity)
        except BaseException:
            self._lock.release()
            raise
        self._pending: list[tuple[str, str, str, bytes]] = []
        self._writing: asyncio.Task[None] | None = None
        self.error: UltraError | None = None

    def _begun(self) -> bool:
        """Whether anything was answered or written here: an attempt that never started binds nobody."""
        if _size(self.folder / DIALOGUES) or _size(self.folder / REJECTED):
            return True
        if not (self.folder / JOURNAL).exists():
            return False
        journal = Journal(self.folder / JOURNAL, _SCHEMA)
        try:
            return journal.totals()[0] > 0
        finally:
            journal.close()

    def _reconcile(self) -> None:
        """Enter the lines that a killed process wrote but did not live to note; read again what shrank."""
        db = self.journal.reader
        noted = dict(db.execute("SELECT name, size FROM outputs"))
        for name, file in self._files.items():
            start = noted.get(name, 0)
            if file.size < start:  # lines were taken out by hand: what is gone is made again
                start = 0
                condition = "outcome = ?" if name == DIALOGUES else "outcome != ?"
                db.execute(f"DELETE FROM settled WHERE {condition}", (WRITTEN,))
            if file.size == start:
                continue
            for line in file.since(start):
                try:
                    record = orjson.loads(line)
                    outcome = WRITTEN if name == DIALOGUES else str(record["reason"])
                    row = (str(record["id"]), str(record["meta"]["sector"]), outcome)
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    continue  # edited by hand; the file is the user's
                db.execute("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", row)
            db.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?)", (name, file.size))

    def outcome(self, identity: str) -> str | None:
        """What became of a dialogue in an earlier session, if it was settled."""
        row = self.journal.reader.execute("SELECT outcome FROM settled WHERE id = ?", (identity,)).fetchone()
        return row[0] if row else None

    def settled(self) -> tuple[int, Counter[str]]:
        """(dialogues written, rejected by reason) so far."""
        rows = Counter(dict(self.journal.reader.execute("SELECT outcome, count(*) FROM settled GROUP BY outcome")))
        return rows.pop(WRITTEN, 0), rows

    def settle(self, identity: str, sector: str, outcome: str, line: bytes) -> None:
        """Take a dialogue that is decided; its line is appended with the others of this moment."""
        self._pending.append((identity, sector, outcome, line))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._pending and self.error is None:
            batch, self._pending = self._pending, []
            try:
                await self.journal.run(partial(self._append, batch=batch))
            except UltraError as error:
                self.error = error

    def _append(self, db: sqlite3.Connection, batch: list[tuple[str, str, str, bytes]]) -> None:
        kept = b"".join(line for *_, outcome, line in batch if outcome == WRITTEN)
        dropped = b"".join(line for *_, outcome, line in batch if outcome != WRITTEN)
        for name, data in ((DIALOGUES, kept), (REJECTED, dropped)):
            if data:
                self._files[name].append(data)
        rows = orjson.dumps([row[:3] for row in batch]).decode()
        db.execute("BEGIN")
        with db:
            db.execute(
                "INSERT OR REPLACE INTO settled SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
                " json_extract(value, '$[2]') FROM json_each(?)",
                (rows,),
            )
            sizes = [(name, file.size) for name, file in self._files.items()]
            db.executemany("INSERT OR REPLACE INTO outputs VALUES (?, ?)", sizes)

    async def flush(self) -> None:
        """Wait until every answer and every settled dialogue is on file; raises what went wrong."""
        await self.journal.flush()
        if self._writing is not None:
            await self._writing
        if self.error is not None:
            raise self.error

    def save_manifest(self, **entries: Any) -> None:
        """Update the manifest in one step."""
        self.manifest |= entries
        manifest.write(self.folder, self.manifest)

    def close(self) -> None:
        """Let go of the files and let the next process in; `flush` comes before."""
        self.journal.close()
        for file in self._files.values():
            file.close()
        self._lock.release()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def set_aside(folder: Path) -> Path | None:
    """Move an earlier run's files into `before-<time>/` (--restart)."""
    return lock.set_aside(folder, (DIALOGUES, REJECTED, JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", manifest.NAME))
