"""What was paid for is kept before it is used: SQLite, WAL, group commit.

Answers arrive faster than commits: all that arrive while one commit runs go into the next, in one statement, so that
a busy event loop cannot starve the writing thread of the interpreter lock. A killed process loses
nothing that `once` returned: a commit in WAL mode is a write that outlives the process.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from ultrachat_cli.errors import UltraError
from ultrachat_cli.records.completion import Completion

T = TypeVar("T")
NOT_ASKED = "not asked"
"""`finish` of an entry that is no answer of a model, such as scores: it is kept, and counts as no request."""
_LINGER = 0.005
"""Seconds in which answers gather before a commit: a twentieth of a fast model's latency, several answers a commit."""
_GRACE = 0.4
"""Seconds for calls under way when a run is interrupted: enough for answers that are on the wire."""
_NAMES = ("text", "finish", "prompt_tokens", "completion_tokens", "model", "cost", "logprobs")
"""Of a `Completion`: what a cache knew is of no use later."""
_FIELDS = ", ".join(_NAMES)
_row = attrgetter(*_NAMES)
_SCHEMA = f"CREATE TABLE IF NOT EXISTS answers(key TEXT PRIMARY KEY, {_FIELDS});"
_PLACES = f"({', '.join('?' * (1 + len(_NAMES)))})"
_ROWS = 100  # of one statement
_SET_ASIDE = "UPDATE answers SET key = 'unusable/' || rowid || '/' || key WHERE key = ?"


def _store(db: sqlite3.Connection, rows: list[tuple[object, ...]]) -> None:
    """Few statements of many rows: each statement gives up the interpreter lock once."""
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        values = ", ".join([_PLACES] * len(part))
        db.execute(f"INSERT OR REPLACE INTO answers(key, {_FIELDS}) VALUES {values}", [v for row in part for v in row])


class Journal:
    """Completions under stable keys in one file. All writes happen on one thread; reads on the caller's."""

    def __init__(self, path: Path, schema: str = "") -> None:
        """Open or create; `schema`: more tables (IF NOT EXISTS) that a feature keeps in the same file."""
        self.path = path
        self.repeated = 0
        """Answers served from the store."""
        self._running: dict[str, asyncio.Future[Completion]] = {}
        self._pending: list[tuple[str, Completion, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        try:
            self._write = self._connect()
            self._write.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA + schema)
            known = {column[1] for column in self._write.execute("PRAGMA table_info(answers)")}
            for name in set(_NAMES) - known:  # a journal of an earlier version
                self._write.execute(f"ALTER TABLE answers ADD COLUMN {name}")
            self.reader = self._connect()
        except sqlite3.Error as error:
            raise self.failed(error) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    async def once(self, key: str, call: Callable[[], Awaitable[Completion]]) -> Completion:
        """The stored answer of `key`, or the answer of `call`, returned only after it is stored.

        Callers that come while the call runs wait for the same answer. A cancelled caller leaves the call running:
        `flush` waits a moment for it, as it may be paid for already.
        """
        running = self._running.get(key)
        if running is None:
            if (stored := self.get(key)) is not None:
                self.repeated += 1
                return stored
            running = self._running[key] = asyncio.ensure_future(self._ask(key, call))
            running.add_done_callback(partial(self._ended, key))
        return await asyncio.shield(running)

    def _ended(self, key: str, call: asyncio.Future[Completion]) -> None:
        self._running.pop(key, None)
        if not call.cancelled():
            call.exception()  # of a call nobody waits for any more, it is nobody's error

    async def _ask(self, key: str, call: Callable[[], Awaitable[Completion]]) -> Completion:
        answer = await call()
        await self.put(key, answer)
        return answer

    def get(self, key: str) -> Completion | None:
        """The stored answer, if any."""
        row = self.reader.execute(f"SELECT {_FIELDS} FROM answers WHERE key = ?", (key,)).fetchone()
        return Completion(**dict(zip(_NAMES, row, strict=True))) if row else None

    async def put(self, key: str, answer: Completion) -> None:
        """Store; returns when the commit that holds it is done."""
        done = asyncio.get_running_loop().create_future()
        self._pending.append((key, answer, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        await done

    async def set_aside(self, keys: Sequence[str]) -> None:
        """Take answers that are of no use from their keys, so that `once` asks anew; they still count in `totals`."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("BEGIN")
            with db:
                for key in keys:
                    db.execute(_SET_ASIDE, (key,))

        await self.run(change)

    async def _commit(self) -> None:
        while self._pending:
            await asyncio.sleep(_LINGER)
            batch, self._pending = self._pending, []
            rows = [(key, *_row(answer)) for key, answer, _ in batch]
            try:
                await self.run(partial(_store, rows=rows))
            except UltraError as error:
                for _, _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, _, done in batch:
                    if not done.done():
                        done.set_result(None)

    async def run(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Make a change on the writing thread; a full or vanished disk is an `UltraError`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, change, self._write)
        except sqlite3.Error as error:
            raise self.failed(error) from error

    async def flush(self) -> None:
        """Wait until every answer that arrived is stored; calls nobody waits for any more get a moment to end."""
        calls = list(self._running.values())
        if calls:
            await asyncio.wait(calls, timeout=_GRACE)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        if self._committing is not None:
            await self._committing

    def totals(self) -> tuple[int, int, int, float]:
        """(requests, prompt tokens, completion tokens, dollars) of everything stored."""
        row = self.reader.execute(
            "SELECT count(*), total(prompt_tokens), total(completion_tokens), total(cost) FROM answers "
            "WHERE finish != ?",
            (NOT_ASKED,),
        ).fetchone()
        return row[0], int(row[1]), int(row[2]), row[3]

    def close(self) -> None:
        """Let running writes end, then let go of the file. What must not be lost is flushed before."""
        self._thread.shutdown(wait=True)
        for connection in (self.reader, self._write):
            connection.close()

    def failed(self, error: sqlite3.Error) -> UltraError:
        """What to say of a change that could not be made."""
        return UltraError(
            f"{self.path}: the journal cannot be written: {error}",
            "check free space and permissions, then run the same command again: everything stored so far is kept",
        )
