"""Which examples are learned from at which step, and their tokens as one long row with the documents' bounds.

Step, process and micro-step decide; a plan is a pure function of the data, seed and settings, so a run that goes on
from a checkpoint, or with another number of processes, sees the same rows in the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train import packing
from ultrachat_cli.train.settings import TrainConfig
from ultrachat_cli.train.tokens import Tokens

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Documents one after another: ids, positions, labels int64[t]; ends int64[d]: where each document ends.

    A label is the next token of the same document where that is learned, else -100.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
        """From (ids, learn) of each document; none at all gives one token from which nothing is learned."""
        documents = documents or [(np.zeros(1, np.int64), np.zeros(1, np.bool_))]
        labels = []
        for ids, learn in documents:
            shifted = np.full(len(ids), IGNORED, np.int64)
            shifted[:-1] = np.where(learn[1:], ids[1:], IGNORED)
            labels.append(shifted)
        return cls(
            np.concatenate([ids for ids, _ in documents]).astype(np.int64),
            np.concatenate([np.arange(len(ids)) for ids, _ in documents]),
            np.concatenate(labels),
            np.cumsum([len(ids) for ids, _ in documents]),
        )

    @property
    def learned(self) -> int:
        """Tokens that are predicted."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Examples:
    """Examples of several sets under one numbering."""

    sets: Sequence[Tokens]
    chosen: Sequence[np.ndarray]
    """int64: the examples of each set that are meant."""

    @cached_property
    def firsts(self) -> np.ndarray:
        """The number of each set's first example, and the number of all."""
        return np.cumsum([0, *map(len, self.chosen)])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        parts = [np.diff(tokens.ends, prepend=0)[chosen] for tokens, chosen in zip(self.sets, self.chosen, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @cached_property
    def learned(self) -> np.ndarray:
        """Predicted tokens of each example."""
        parts = [tokens.learned[chosen] for tokens, chosen in zip(self.sets, self.chosen, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        which = int(np.searchsorted(self.firsts, n, side="right")) - 1
        return self.sets[which].example(int(self.chosen[which][n - self.firsts[which]]))


def held_out(tokens: Tokens, share: float, seed: int) -> np.ndarray:
    """bool[n]: whether an example belongs to the validation set; all parts of a dialogue fall on the same side."""
    mixed = tokens.keys ^ np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) < share * 2.0**53


class Plan:
    """The steps of a run. Raises `ConfigError` where processes do not divide the batch, `UltraError` for no data."""

    def __init__(self, examples: Examples, weights: Sequence[float], config: TrainConfig, world: int) -> None:
        if not len(examples):
            raise UltraError(
                "there is nothing to learn in the data", "'ultrachat data show-tokens' shows what is learned"
            )
        self._examples, self._weights, self._config, self.world = examples, list(weights), config, world
        self._kept: tuple[int, np.ndarray, np.ndarray] | None = None
        per_micro = config.micro_batch * world
        if config.batch % per_micro:
            raise ConfigError(
                f"batch: {config.batch} rows cannot be shared by {world} processes of micro_batch {config.micro_batch}",
                f"batch must be a multiple of {per_micro}",
            )
        self.accumulation = config.batch // per_micro
        whole, share = divmod(config.epochs, 1)
        epochs = int(whole) + (share > 0)
        first = len(self._epoch(0)[1])
        if all(weight % 1 == 0 for weight in self._weights):  # every epoch has the same examples, so as many rows
            self._rows = [first] * epochs
        else:
            self._rows = [first, *(len(self._epoch(epoch)[1]) for epoch in range(1, epochs))]
        if share:
            self._rows[-1] = max(1, round(self._rows[-1] * share))
        self._row_ends = np.cumsum(self._rows)
        every = math.ceil(int(self._row_ends[-1]) / config.batch)
        self.steps = min(config.steps, every) if config.steps else every

    @property
    def seen(self) -> int:
        """Rows of the whole run."""
        return min(self.steps * self._config.batch, int(self._row_ends[-1]))

    @property
    def rows(self) -> int:
        """Rows of the first epoch."""
        return self._rows[0]

    @cached_property
    def fill(self) -> float:
        """How full the rows of the first epoch are."""
        order, ends = self._epoch(0)
        return float(self._examples.lengths[order].sum() / (len(ends) * self._config.max_length))

    @cached_property
    def tokens(self) -> int:
        """Tokens of the first epoch."""
        return int(self._examples.lengths[self._epoch(0)[0]].sum())

    @property
    def all_tokens(self) -> int:
        """Tokens of the whole run, about: as if all rows held as many as those of the first epoch."""
        return self.tokens * self.seen // max(1, self.rows)

    def epoch_at(self, step: int) -> float:
        """Epochs done before a step."""
        row = min(step * self._config.batch, int(self._row_ends[-1]))
        epoch = int(np.searchsorted(self._row_ends, row, side="right"))
        before = int(self._row_ends[epoch - 1]) if epoch else 0
        return epoch + ((row - before) / self._rows[epoch] if epoch < len(self._rows) else 0.0)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(order, ends) of an epoch's rows; the last one asked for is kept."""
        if self._kept is None or self._kept[0] != epoch:
            config, examples = self._config, self._examples
            drawn = packing.drawn([len(c) for c in examples.chosen], self._weights, config.seed, epoch)
            order, ends = packing.plan(
                examples.lengths, drawn, config.max_length, packed=config.packing, seed=config.seed, epoch=epoch
            )
            self._kept = epoch, order, ends
        return self._kept[1:]

    def step_rows(self, step: int) -> list[np.ndarray]:
        """The examples of each row of a step."""
        found = []
        last = int(self._row_ends[-1])
        for row in range(step * self._config.batch, min((step + 1) * self._config.batch, last)):
            epoch = int(np.searchsorted(self._row_ends, row, side="right"))
            order, ends = self._epoch(epoch)
            own = row - (int(self._row_ends[epoch - 1]) if epoch else 0)
            found.append(order[(ends[own - 1] if own else 0) : ends[own]])
        return found

    def learned(self, rows: Sequence[np.ndarray]) -> int:
        """Predicted tokens of rows: what the loss of a step is divided by."""
        return int(sum(self._examples.learned[row].sum() for row in rows))

    def size(self, rows: Sequence[np.ndarray]) -> int:
        """Tokens of rows."""
        return int(sum(self._examples.lengths[row].sum() for row in rows))

    def batches(self, rows: Sequence[np.ndarray], rank: int) -> list[Batch]:
        """This process's micro-batches of a step; as many for every process."""
        micro = self._config.micro_batch
        found = []
        for first in range(0, len(rows), micro * self.world):
            own = rows[first + rank * micro : min(first + (rank + 1) * micro, len(rows))]
            found.append(Batch.of([self._examples[int(n)] for row in own for n in row]))
        return found
