"""A random sample in one pass, the same one for the same seed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.ids import digest
from ultrachat_cli.records.one_pass import Report, one_pass

_Drawn = tuple[int, int, Dialogue]


def run(
    inputs: Sequence[Path] | None, output: Path | None, size: int | None, seed: int = 0, by: str | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Draw `size` dialogues without replacement, each as likely as any other, and keep their order.

    `by`: equally many for each value of this key of `meta`; groups that have fewer leave their share to the others.
    Which dialogues are drawn depends on the seed and on what they say, not on the order of files. Only the sample is
    held in memory.
    """
    if size is None or size < 1:
        raise ConfigError("-n: how many dialogues? 1 or more")
    groups = Groups(size)
    with one_pass("sample", inputs, output, progress) as job:
        for n, (_, _, dialogue) in enumerate(job.dialogues()):
            key = digest(str(seed), dialogue.id, *dialogue.data)
            groups.offer(_value(dialogue, by), (-key, -n, dialogue))
        for name, dialogue in groups.drawn():
            if by is not None:
                job.report.counts[f"{by}.{name or '(none)'}"] += 1
            job.put(dialogue)
    return job.report


def _value(dialogue: Dialogue, by: str | None) -> str:
    value = dialogue.meta.get(by) if by is not None else None
    return "" if value is None else str(value)


class Groups:
    """The `size` smallest keys, in equal parts from each group.

    While there are too many, the largest group (the first by name of equally large ones) gives up its largest key:
    the level the groups share only sinks, so that nothing given up would have been needed later.
    """

    def __init__(self, size: int) -> None:
        self._size, self._total = size, 0
        self._heaps: dict[str, list[_Drawn]] = {}
        self._largest: list[tuple[int, str]] = []
        """(-size, name), a heap; out of date where the size is not the group's."""

    def offer(self, name: str, drawn: _Drawn) -> None:
        """Take one into account."""
        heapq.heappush(self._heaps.setdefault(name, []), drawn)
        self._total += 1
        self._resized(name)
        while self._total > self._size:
            size, largest = heapq.heappop(self._largest)
            if -size == len(self._heaps[largest]):
                heapq.heappop(self._heaps[largest])
                self._total -= 1
                self._resized(largest)

    def _resized(self, name: str) -> None:
        heapq.heappush(self._largest, (-len(self._heaps[name]), name))
        if len(self._largest) > 4 * len(self._heaps) + 1000:
            self._largest = [(-len(heap), name) for name, heap in self._heaps.items()]
            heapq.heapify(self._largest)

    def drawn(self) -> Iterator[tuple[str, Dialogue]]:
        """(group, dialogue) in the order of the input."""
        found = [(-place, name, dialogue) for name, heap in self._heaps.items() for _, place, dialogue in heap]
        for _, name, dialogue in sorted(found, key=lambda one: one[0]):
            yield name, dialogue
