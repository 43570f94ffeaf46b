"""Overlap with benchmarks: which dialogues hold text of which evaluation items.

Two searches over every turn of the chosen speakers. n-grams (case folded, punctuation gone): the share of an item's
words that lie in n-grams it shares with one dialogue (Tulu 3: 8-grams, half of the item; GPT-3: one 13-gram). And near
equality of a single turn with an item, by Jaccard similarity of word 5-grams, which also finds items shorter than n.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultrachat_cli.dedupe import gram_table, kernel, words
from ultrachat_cli.dedupe.gram_table import Table
from ultrachat_cli.dedupe.settings import Against
from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.records import files, jsonl

_NEAR_GRAM = 5
_FIELDS = ("instruction", "prompt", "question", "text", "input", "query", "goal", "content")


@dataclass(frozen=True)
class Item:
    """One text of a benchmark."""

    name: str
    """file:number."""
    text: str


def load(paths: list[Path]) -> list[Item]:
    """All items of benchmark files; `ConfigError` names the first record without a text."""
    items: list[Item] = []
    for path in files.find(paths, "against.files"):
        try:
            for number, record in files.rows(path, jsonl.never):
                items += [Item(f"{path.name}:{number}", text) for text in _texts(record, path, number)]
        except DataError as error:
            raise ConfigError(f"against.files: {error}") from error
    if not items:
        raise ConfigError("against.files: no items in these files")
    return items


def _texts(record: Any, path: Path, number: int) -> list[str]:
    """The texts of a record: a field by one of the usual names, or the user's turns of a conversation."""
    if isinstance(record, str):
        return [record]
    if isinstance(record, dict):
        for name in _FIELDS:
            value = record.get(name)
            if isinstance(value, str) and value.strip():
                return [value]
        if isinstance(record.get("turns"), list):  # MT-Bench
            return [turn for turn in record["turns"] if isinstance(turn, str)]
        for name, who in (("messages", "role"), ("prompt", "role"), ("conversations", "from")):
            if isinstance(record.get(name), list):
                spoken = [
                    turn for turn in record[name] if isinstance(turn, dict) and turn.get(who) in ("user", "human")
                ]
                return [str(turn.get("content", turn.get("value", ""))) for turn in spoken]
        if isinstance(record.get("data"), list):
            return [str(turn) for turn in record["data"][::2]]
    raise ConfigError(f"against.files: {path}:{number}: no text found", f"looked for {', '.join(_FIELDS)} or turns")


class Benchmark:
    """Evaluation items, ready to be searched for."""

    def __init__(self, items: list[Item], settings: Against) -> None:
        self.items, self._settings = items, settings
        text = np.frombuffer("".join(item.text for item in items).encode() or b" ", np.uint8)
        ends = np.cumsum([len(item.text.encode()) for item in items])
        word, word_ends = kernel.hashed(text, ends, *words.tables())
        self._long = Table.of(word, word_ends, settings.size, distinct=False)
        self._near = Table.of(word, word_ends, _NEAR_GRAM, distinct=True)

    def keep(self, folder: Path) -> None:
        """The tables go into files of `folder`, which the processes of this machine then share."""
        self._long = self._long.keep(folder, "against-long")
        self._near = self._near.keep(folder, "against-near")

    def search(self, word: np.ndarray, ends: np.ndarray, speaker: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """float64[k, 4] of (dialogue, item, share of the item's words covered, nearest turn's Jaccard similarity).

        word uint64: the words of all turns, turn i's ending at ends[i]; by the user (0) or assistant (1) as speaker[i]
        says; of dialogue owner[i], ascending.
        """
        if self._settings.turns != "both":
            mine = speaker == ("user", "assistant").index(self._settings.turns)
            sizes = np.diff(ends, prepend=0)
            word, ends, owner = word[np.repeat(mine, sizes)], np.cumsum(sizes[mine]), owner[mine]
        return gram_table.search(word, ends, owner, self._long, self._near, self._settings.similar)

    def verdicts(self, overlaps: np.ndarray) -> dict[int, list[int]]:
        """The contaminated dialogues, each with the items that make it so."""
        enough = self._settings.coverage if self._settings.rule == "coverage" else 1e-9
        found: dict[int, list[int]] = {}
        for dialogue, item, *_ in overlaps[(overlaps[:, 2] >= enough) | (overlaps[:, 3] >= self._settings.similar)]:
            found.setdefault(int(dialogue), []).append(int(item))
        return found
