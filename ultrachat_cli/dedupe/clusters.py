"""Which dialogues belong together, and the one of each cluster that stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ultrachat_cli.dedupe import pairs

STAGES = ("exact", "near", "semantic")


def ranking(keep: Literal["first", "longest", "best"], length: np.ndarray, score: np.ndarray) -> np.ndarray:
    """int64[n], a permutation: of a cluster, the dialogue of the lowest rank stays."""
    place = np.arange(len(length))
    order = {
        "first": place,
        "longest": np.lexsort((place, -length)),
        "best": np.lexsort((place, -length, -score)),
    }[keep]
    rank = np.empty(len(length), np.int64)
    rank[order] = place
    return rank


def equal(digests: np.ndarray, items: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """float64[k, 3] of (item, equal item of the lowest rank, 1.0) for all but one of each set of equal digests."""
    if not len(items):
        return np.empty((0, 3))
    order = items[np.lexsort((rank[items], digests[items, 1], digests[items, 0]))]
    same = np.all(digests[order[1:]] == digests[order[:-1]], axis=1)
    firsts = np.flatnonzero(np.concatenate([[True], ~same]))
    leader = np.repeat(order[firsts], np.diff(np.append(firsts, len(order))))
    others = order != leader
    return np.column_stack([order[others], leader[others], np.ones(others.sum())])


@dataclass
class Clusters:
    """The verdicts on n dialogues, gathered stage by stage.

    kept_by int64[n]: the dialogue each one was removed for, itself where it stays (before `settle`: the link that was
    found first); stage int8[n]: index into STAGES, -1 for none; similarity float64[n].
    """

    rank: np.ndarray
    kept_by: np.ndarray
    stage: np.ndarray
    similarity: np.ndarray
    parent: np.ndarray

    @classmethod
    def of(cls, rank: np.ndarray) -> Clusters:
        """Every dialogue alone."""
        n = len(rank)
        return cls(rank, np.arange(n), np.full(n, -1, np.int8), np.zeros(n), np.arange(n))

    def add(self, links: np.ndarray, owners: np.ndarray, stage: str) -> None:
        """Join the dialogues of linked items; links float64[k, 3] of (item, leading item, similarity)."""
        for a, b, similarity in links:
            one, other = int(owners[int(a)]), int(owners[int(b)])
            if one == other:
                continue
            pairs.unite(self.parent, one, other)
            if self.rank[one] < self.rank[other]:
                one, other = other, one
            if self.stage[one] < 0:
                self.stage[one], self.kept_by[one], self.similarity[one] = STAGES.index(stage), other, similarity

    def settle(self) -> np.ndarray:
        """int64[n]: the survivor of each dialogue's cluster."""
        n = len(self.rank)
        roots = pairs.roots(self.parent, np.arange(n))
        best = np.full(n, -1, np.int64)
        order = np.argsort(self.rank)[::-1]
        best[roots[order]] = order  # the lowest rank comes last and stays
        survivors: np.ndarray = best[roots]
        return survivors
