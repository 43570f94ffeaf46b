"""Ctrl-C and SIGTERM taken over for a while, and given back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ENDS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, Any], Any] | signal.Handlers


@contextmanager
def handled(handler: Handler, numbers: Sequence[int] = ENDS) -> Iterator[Callable[[], None]]:
    """`handler` serves these signals until the end of the block, or until what is yielded is called.

    Python lets only the main thread do so; in any other the signals stay as they are.
    """
    before: dict[int, Any] = {}

    def give_back() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, handler)
    try:
        yield give_back
    finally:
        give_back()
