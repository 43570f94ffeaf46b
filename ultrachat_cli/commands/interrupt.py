"""Ctrl-C and SIGTERM: stop at once, keep everything, say how to go on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import typer

from ultrachat_cli import signals
from ultrachat_cli.errors import INTERRUPTED

T = TypeVar("T")
_PATIENCE = 1.6  # seconds for the orderly way out, so that all of it ends within two


@contextmanager
def plain(farewell: str) -> Iterator[None]:
    """For work without an event loop: the first signal ends it with `KeyboardInterrupt`, said in one line, exit 130."""

    def stop(*_: Any) -> None:
        for number in signals.ENDS:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    with signals.handled(stop):
        try:
            yield
        except KeyboardInterrupt:
            print(farewell, file=sys.stderr, flush=True)
            raise typer.Exit(INTERRUPTED) from None


def run(job: Coroutine[Any, Any, T], farewell: str) -> T:
    """Run `job` on an event loop; the first signal cancels it (exit 130), and it may not linger."""
    try:
        import uvloop
    except ImportError:
        new_loop = None
    else:
        new_loop = uvloop.new_event_loop
    gc.freeze()  # a thousand dialogues under way are many live objects: look through them less often
    gc.set_threshold(50_000, 20, 50)
    interrupted = threading.Event()

    async def guarded() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(*_: Any) -> None:
            if interrupted.is_set():
                os._exit(INTERRUPTED)
            interrupted.set()
            watchdog = threading.Timer(_PATIENCE, leave)
            watchdog.daemon = True
            watchdog.start()
            loop.call_soon_threadsafe(task.cancel)

        def leave() -> None:
            # What was answered is on file; only threads of the embedded model, or a long search on the loop, are busy.
            print(farewell, file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)

        # Plain handlers, not the loop's: they run between two bytecodes even when the loop itself is held up.
        served.enter_context(signals.handled(stop))
        return await job

    with ExitStack() as served, asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            return runner.run(guarded())
        except (asyncio.CancelledError, KeyboardInterrupt):
            if not interrupted.is_set():
                raise
    print(farewell, file=sys.stderr, flush=True)
    raise typer.Exit(INTERRUPTED)
