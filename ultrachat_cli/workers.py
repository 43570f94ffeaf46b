"""Work spread over processes; results come in order of arrival, interruptions end all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import forkserver
from typing import Any, Protocol, TypeVar

from ultrachat_cli import signals

T = TypeVar("T")
R = TypeVar("R")
_job: Any = None  # what all tasks of this process share: sent once, not with every task


class Spread(Protocol):
    """(do, tasks) -> do(task, job) of every task, in any order."""

    def __call__(self, do: Callable[[T, Any], R], tasks: Iterable[T]) -> Iterator[R]:
        """Begins at once; results come as they are ready."""


def in_order(spread: Spread, do: Callable[[T, Any], R], tasks: Iterable[T]) -> Iterator[R]:
    """Results in the order of their tasks: what is ready early waits for its turn."""
    early: dict[int, R] = {}
    due = 0
    for number, result in spread(partial(_numbered, do), enumerate(tasks)):
        early[number] = result
        while due in early:
            yield early.pop(due)
            due += 1


def _numbered(do: Callable[[T, Any], R], task: tuple[int, T], job: Any) -> tuple[int, R]:
    return task[0], do(task[1], job)


def prepare(preload: str) -> None:
    """Begin to import what `pool` will be told to preload, while this process does other things."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([preload])
    with _undisturbed():
        forkserver.ensure_running()


@contextmanager
def pool(processes: int, job: object, preload: str) -> Iterator[Spread]:
    """Work by `processes` processes, or by this one where that is 1. `do` is a function of a module.

    `preload`: a module that is imported once, in the process that the others are forked from; it may start no thread.
    """
    if processes == 1:
        yield lambda do, tasks: (do(task, job) for task in tasks)
        return
    prepare(preload)
    context = multiprocessing.get_context("forkserver")
    executor = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(job,))
    with signals.handled(signal.SIG_IGN, [signal.SIGPIPE]):  # a pipe to a process that was killed must not end this one
        try:
            yield lambda do, tasks: _spread(executor, do, tasks, 3 * processes)
        except BaseException:
            for process in list((executor._processes or {}).values()):
                process.kill()
            executor._result_queue._writer.close()  # type: ignore[attr-defined]  # else half a result is waited for
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def _call(do: Callable[[T, Any], R], task: T) -> R:
    return do(task, _job)


def _spread(executor: ProcessPoolExecutor, do: Callable[[T, Any], R], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    """At most `ahead` tasks are under way, so that a long list of them is never in memory at once."""
    rest = iter(tasks)
    first = list(islice(rest, ahead))
    with _undisturbed():
        waiting: set[Future[R]] = {executor.submit(_call, do, task) for task in first}
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        waiting |= {executor.submit(_call, do, task) for task in islice(rest, len(done))}
        for future in done:
            yield future.result()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait until the processes that are being started are known, and can be ended."""
    came: list[int] = []
    try:
        with signals.handled(lambda number, _: came.append(number)):
            yield
    finally:
        for late in came:
            signal.raise_signal(late)


def _begin(job: Any) -> None:
    """A worker leaves Ctrl-C to its parent, and does not outlive it."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
