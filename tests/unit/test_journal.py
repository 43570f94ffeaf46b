from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.conftest import OpenJournal
from ultrachat_cli.errors import BackendError, UltraError
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import Journal

AWKWARD = 'quotes "\' nul \x00 newline\n\u2028 emoji \U0001f600 [1, "$"]'


class Caller:
    """Answers `1`, `2`, ... or raises; counts how often it was called."""

    def __init__(self, *, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds, self.error, self.calls = seconds, error, 0

    async def __call__(self) -> Completion:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Completion(str(self.calls), "stop", 10, 5, "m", 0.25)


def test_an_answer_is_returned_as_it_came(journal: Journal) -> None:
    answer = Completion(AWKWARD, "length", 12, 34, "model/x", 0.125)

    async def call() -> Completion:
        return answer

    assert asyncio.run(journal.once("key", call)) == answer
    assert journal.get("key") == answer


def test_what_was_stored_is_not_asked_again_after_reopening(open_journal: OpenJournal) -> None:
    call = Caller()
    first = asyncio.run(open_journal().once("key", call))
    journal = open_journal()
    assert asyncio.run(journal.once("key", call)) == first
    assert (call.calls, journal.repeated) == (1, 1)


def test_what_was_stored_is_not_asked_again_while_the_journal_is_open(journal: Journal) -> None:
    call = Caller()

    async def twice() -> tuple[Completion, Completion]:
        return await journal.once("key", call), await journal.once("key", call)

    first, second = asyncio.run(twice())
    assert first == second
    assert call.calls == 1


def test_callers_of_one_key_wait_for_one_call(journal: Journal) -> None:
    call = Caller(seconds=0.02)

    async def together() -> list[Completion]:
        return await asyncio.gather(*(journal.once("key", call) for _ in range(20)))

    assert len(set(asyncio.run(together()))) == 1
    assert call.calls == 1
    assert journal.totals()[0] == 1


def test_other_keys_are_asked_at_the_same_time(journal: Journal) -> None:
    under_way = most = 0

    async def call() -> Completion:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return Completion("x")

    async def together() -> None:
        await asyncio.gather(*(journal.once(f"key {n}", call) for n in range(10)))

    asyncio.run(together())
    assert most == 10


def test_an_answer_is_on_file_before_anyone_sees_it(journal: Journal) -> None:
    async def once() -> int:
        await journal.once("key", Caller())
        with sqlite3.connect(journal.path) as other:
            found: int = other.execute("SELECT count(*) FROM answers").fetchone()[0]
        other.close()
        return found

    assert asyncio.run(once()) == 1


def test_answers_that_arrive_together_share_commits(journal: Journal) -> None:
    async def many() -> None:
        await asyncio.gather(*(journal.once(f"key {n}", Caller()) for n in range(500)))

    commits = 0

    def committed(statement: str) -> None:
        nonlocal commits
        commits += statement.lstrip().upper().startswith("INSERT")

    async def traced() -> None:
        await journal.run(lambda db: db.set_trace_callback(committed))
        await many()
        await journal.run(lambda db: db.set_trace_callback(None))

    asyncio.run(traced())
    assert journal.totals()[0] == 500
    assert 1 <= commits <= 10


def test_totals_are_of_everything_stored(open_journal: OpenJournal) -> None:
    async def store(journal: Journal, *keys: str) -> None:
        await asyncio.gather(*(journal.once(key, Caller()) for key in keys))

    assert open_journal().totals() == (0, 0, 0, 0.0)
    asyncio.run(store(open_journal(), "a", "b"))
    asyncio.run(store(open_journal(), "b", "c"))
    assert open_journal().totals() == (3, 30, 15, 0.75)


def test_an_error_is_not_stored_and_the_next_call_may_succeed(journal: Journal) -> None:
    async def retried() -> Completion:
        with pytest.raises(BackendError, match="busy"):
            await journal.once("key", Caller(error=BackendError("busy")))
        assert journal.get("key") is None
        return await journal.once("key", Caller())

    assert asyncio.run(retried()).text == "1"
    assert journal.totals()[0] == 1


def test_all_who_waited_for_a_failing_call_are_told(journal: Journal) -> None:
    call = Caller(seconds=0.01, error=BackendError("busy"))

    async def together() -> list[Completion | BaseException]:
        return await asyncio.gather(*(journal.once("key", call) for _ in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(together())] == ["busy"] * 3
    assert call.calls == 1


def test_one_who_gives_up_waiting_leaves_the_others_their_answer(journal: Journal) -> None:
    call = Caller(seconds=0.05)

    async def second_gives_up() -> tuple[Completion, bool]:
        first, second = (asyncio.create_task(journal.once("key", call)) for _ in range(2))
        await asyncio.sleep(0.01)
        second.cancel()
        return await first, second.cancelled()

    answer, cancelled = asyncio.run(second_gives_up())
    assert (answer.text, cancelled, call.calls) == ("1", True, 1)


def test_the_first_who_gives_up_leaves_the_others_their_answer(journal: Journal) -> None:
    call = Caller(seconds=0.05)

    async def first_gives_up() -> Completion | BaseException:
        first, second = (asyncio.create_task(journal.once("key", call)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        return (await asyncio.gather(second, return_exceptions=True))[0]

    answer = asyncio.run(first_gives_up())
    assert isinstance(answer, Completion)


def test_an_answer_that_came_is_kept_even_if_nobody_waits_for_it_any_more(journal: Journal) -> None:
    answered = asyncio.Event()

    async def call() -> Completion:
        answered.set()
        return Completion("paid for")

    async def cancelled_while_storing() -> None:
        task = asyncio.create_task(journal.once("key", call))
        await answered.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await journal.flush()

    asyncio.run(cancelled_while_storing())
    kept = journal.get("key")
    assert kept is not None
    assert kept.text == "paid for"


def test_what_once_returned_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    program = f"""
import asyncio, os, signal
from pathlib import Path
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import Journal

async def main():
    journal = Journal(Path({str(path)!r}))
    async def call():
        return Completion("kept", "stop", 1, 2)
    await asyncio.gather(*(journal.once(f"key {{n}}", call) for n in range(100)))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    journal = Journal(path)
    assert journal.totals() == (100, 100, 200, 0.0)
    journal.close()


def _no_folder(tmp_path: Path) -> Path:
    return tmp_path / "none" / "journal.sqlite"


def _no_database(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database at all" * 100)
    return path


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "journal.sqlite").mkdir()
    return tmp_path / "journal.sqlite"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("place", [_no_folder, _no_database, _folder])
def test_a_journal_that_cannot_be_opened_is_named(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    path = place(tmp_path)
    with pytest.raises(UltraError, match=r"journal\.sqlite: the journal cannot be written"):
        Journal(path)


def test_a_full_disk_is_told_to_everyone_who_waits(journal: Journal) -> None:
    big = Completion("x" * 100_000)

    async def call() -> Completion:
        return big

    async def fill() -> list[Completion | BaseException]:
        await journal.once("before", Caller())
        await journal.run(lambda db: db.execute("PRAGMA max_page_count = 12").fetchall())
        waiting: list[Awaitable[Completion]] = [journal.once(f"key {n}", call) for n in range(3)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    for error in asyncio.run(fill()):
        assert type(error) is UltraError
        assert "full" in error.message
        assert "free space" in error.hint
    assert [journal.get(key) is None for key in ("before", "key 0")] == [False, True]


def test_after_a_full_disk_the_journal_works_again(journal: Journal) -> None:
    async def call() -> Completion:
        return Completion("x" * 100_000)

    async def fill() -> Completion:
        await journal.run(lambda db: db.execute("PRAGMA max_page_count = 12").fetchall())
        with pytest.raises(UltraError):
            await journal.once("key", call)
        await journal.run(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
        return await journal.once("key", call)

    assert asyncio.run(fill()) == journal.get("key")


def test_features_keep_tables_of_their_own_in_the_same_file(tmp_path: Path) -> None:
    schema = "CREATE TABLE IF NOT EXISTS mine(n INTEGER)"
    journal = Journal(tmp_path / "j.sqlite", schema)
    asyncio.run(journal.run(lambda db: db.execute("INSERT INTO mine VALUES (7)").rowcount))
    journal.close()
    journal = Journal(tmp_path / "j.sqlite", schema)
    assert journal.reader.execute("SELECT n FROM mine").fetchall() == [(7,)]
    journal.close()


def test_closing_lets_go_of_the_file(journal: Journal) -> None:
    journal.close()
    opened = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}
    assert not [name for name in opened if name.startswith(str(journal.path))]


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_log_probabilities_are_kept(journal: Journal) -> None:
    answer = Completion("m", "length", 12, 1, "model/x", 0.125, logprobs='[[["m",-0.1]]]')

    async def call() -> Completion:
        return answer

    assert asyncio.run(journal.once("key", call)) == answer
    assert journal.get("key") == answer


def test_a_journal_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as old:
        fields = "text, finish, prompt_tokens, completion_tokens, model, cost"
        old.execute(f"CREATE TABLE answers(key TEXT PRIMARY KEY, {fields})")
        old.execute("INSERT INTO answers VALUES ('before', 'yes', 'stop', 3, 1, 'm', 0.5)")
    old.close()
    journal = Journal(path)
    try:
        assert journal.get("before") == Completion("yes", "stop", 3, 1, "m", 0.5)
        new = Completion("m", logprobs="[]")
        asyncio.run(journal.put("after", new))
        assert journal.get("after") == new
        assert journal.totals() == (2, 3, 1, 0.5)
    finally:
        journal.close()


def test_what_is_set_aside_is_asked_again_and_still_counts(journal: Journal) -> None:
    call = Caller()

    async def twice() -> list[str]:
        said = [(await journal.once("key", call)).text]
        await journal.set_aside(["key", "never asked"])
        assert journal.get("key") is None
        said.append((await journal.once("key", call)).text)
        await journal.set_aside(["key"])
        said.append((await journal.once("key", call)).text)
        return said

    assert asyncio.run(twice()) == ["1", "2", "3"]
    assert journal.totals() == (3, 30, 15, 0.75)
    assert journal.repeated == 0
