"""Long dialogues become several that fit into a context window. Unlike upstream's pre-split, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ultrachat_cli.data.tokens import Count, counter
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.ids import origin
from ultrachat_cli.records.one_pass import Report, one_pass


@dataclass(frozen=True)
class Limit:
    """How long a chunk may be. `overhead`: tokens the chat format adds to each turn."""

    tokens: int
    overhead: int = 6
    context: bool = False


def run(
    inputs: Sequence[Path] | None, output: Path | None, limit: Limit, tokenizer: str | None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Split dialogues longer than the limit by rounds, into `<id>_0`, `<id>_1`, ... with meta.part; others stay.

    Every round is in exactly one chunk; a single round longer than the limit is one chunk of its own. With context,
    later chunks begin with as many of the rounds before as fit in half of the limit, and meta.context_rounds says how
    many (training masks them).
    """
    if limit.tokens < 1 or limit.overhead < 0:
        raise ConfigError("--max-tokens must be 1 or more, --overhead 0 or more")
    count = counter(tokenizer)
    with one_pass("split", inputs, output, progress) as job:
        job.report.counts.update(dict.fromkeys(("long_dialogues", "chunks", "too_long_rounds"), 0))
        for path, number, dialogue in job.dialogues():
            costs, fixed = _costs(dialogue, limit, count)
            if fixed + sum(costs) <= limit.tokens or len(costs) <= 1:
                job.report.counts["too_long_rounds"] += fixed + sum(costs) > limit.tokens
                job.put(dialogue)
                continue
            job.report.counts["long_dialogues"] += 1
            job.report.counts["too_long_rounds"] += sum(fixed + cost > limit.tokens for cost in costs)
            dialogue.id = dialogue.id or f"{origin(path)}:{number}"
            for chunk in _chunks(dialogue, pack(costs, limit.tokens - fixed, limit.context), limit.context):
                job.report.counts["chunks"] += 1
                job.put(chunk)
    return job.report


def _costs(dialogue: Dialogue, limit: Limit, count: Count) -> tuple[list[int], int]:
    """Tokens of each round (a last question without an answer is one), and of the system message."""
    system = [] if dialogue.system is None else [dialogue.system]
    tokens = [n + limit.overhead for n in count([*system, *dialogue.data])]
    turns = tokens[len(system) :]
    return [sum(turns[n : n + 2]) for n in range(0, len(turns), 2)], sum(tokens[: len(system)])


def pack(costs: Sequence[int], limit: int, context: bool) -> list[tuple[int, int, int]]:
    """(first round of context, first own round, end) of each chunk, packed greedily."""
    chunks: list[tuple[int, int, int]] = []
    start = 0
    while start < len(costs):
        first, before = start, 0
        room = min(limit // 2, limit - costs[start]) if context else 0
        while first > 0 and before + costs[first - 1] <= room:
            first -= 1
            before += costs[first]
        end, total = start + 1, before + costs[start]
        while end < len(costs) and total + costs[end] <= limit:
            total += costs[end]
            end += 1
        chunks.append((first, start, end))
        start = end
    return chunks


def _chunks(dialogue: Dialogue, packed: list[tuple[int, int, int]], context: bool) -> Iterator[Dialogue]:
    for n, (first, start, end) in enumerate(packed):
        chunk = dialogue.part(2 * first, min(2 * end, len(dialogue.data)))
        told = {"part": n} | ({"context_rounds": start - first} if context else {})
        yield replace(chunk, id=f"{dialogue.id}_{n}", meta=chunk.meta | told)
