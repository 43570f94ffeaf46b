"""The plan: openings drawn lazily from many lanes, in an order that depends on the seed alone.

A lane is an endless-looking source (a topic, an entity, a material type). Lanes are pulled side by side, as far ahead
as there is demand, but openings come out in the order of the picks: the same seed and answers give the same plan
whatever the timing, and a run of 20 asks for no more lists than 20 openings need.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrachat_cli.generate.settings import Sector


@dataclass(frozen=True, slots=True)
class Opening:
    """A first user message to be. `path`: its place in the plan, by numbers, so that the id says nothing of content."""

    sector: Sector
    path: tuple[str, ...]
    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    likeness: str = ""
    """What near duplicates are looked for in, where that is not the text itself."""
    expand: Callable[[str], Awaitable[str]] | None = None
    """Asked with the id when the dialogue starts: gives the final text in place of `text`."""

    def id(self, seed: int) -> str:
        """Stable name of the dialogue: hash of seed, sector and path (16 hex digits)."""
        return stable_id(seed, self.sector, *self.path)


def stable_id(seed: int, *parts: str) -> str:
    """16 hex digits from the seed and the parts."""
    return hashlib.blake2b("/".join((str(seed), *parts)).encode(), digest_size=8).hexdigest()


class Lane:
    """One source of openings, pulled in order; `done` once it has run dry."""

    def __init__(self, source: AsyncIterator[Opening]) -> None:
        self._source, self._turn = source, asyncio.Lock()
        self.done = False

    async def pull(self) -> Opening | None:
        """The next opening, or None from now on."""
        async with self._turn:
            if self.done:
                return None
            try:
                return await anext(self._source)
            except StopAsyncIteration:
                self.done = True
                return None


def around(lanes: Sequence[Lane]) -> Iterator[Lane]:
    """Round-robin, until all lanes are dry."""
    while not all(lane.done for lane in lanes):
        yield from lanes


def weighted(streams: Sequence[tuple[float, Iterator[Lane]]]) -> Iterator[Lane]:
    """Streams interleaved in proportion to their weights, evenly spread (smooth weighted round-robin)."""
    live = [(weight, stream) for weight, stream in streams if weight > 0]
    total = sum(weight for weight, _ in live)  # constant: a dry stream keeps its turns, so that the order stays a
    due = [0.0] * len(live)  # function of the picks alone
    dry: set[int] = set()
    while len(dry) < len(live):
        due = [so_far + weight for so_far, (weight, _) in zip(due, live, strict=True)]
        best = due.index(max(due))
        due[best] -= total
        if best not in dry:
            lane = next(live[best][1], None)
            if lane is None:
                dry.add(best)
            else:
                yield lane


async def ordered(picks: Iterator[Lane], ahead: Callable[[], int]) -> AsyncGenerator[Opening]:
    """Openings in the order of the picks, with up to `ahead()` pulls under way."""
    pulls: deque[asyncio.Task[Opening | None]] = deque()
    more = True
    try:
        while True:
            while more and len(pulls) < max(1, ahead()):
                lane = next(picks, None)
                if lane is None:
                    more = False
                elif not lane.done:
                    pulls.append(asyncio.create_task(lane.pull()))
            if not pulls:
                return
            opening = await pulls.popleft()
            if opening is not None:
                yield opening
    finally:
        # What is paid for is worth waiting for, unless somebody pressed Ctrl-C.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            for pull in pulls:
                pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
