"""Rows of at most `length` tokens filled with whole examples, and the order in which they are seen.

Everything follows from (seed, epoch): every process computes the same plan and takes its own rows from it.
"""

from __future__ import annotations

import numpy as np


def best_fit(lengths: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing: each example goes to the fullest row that still has room for it.

    lengths int[n], each at most `length`. Returns (order int64[n], ends int64[rows]): row r holds the examples
    order[ends[r - 1] : ends[r]]. Rows with the same free room are kept in a stack, and one bit a size in a large
    integer tells which sizes there are, so an example takes constant time.
    """
    if len(lengths) and int(lengths.max()) > length:
        raise ValueError(f"an example of {int(lengths.max())} tokens does not fit into rows of {length}")
    free: list[list[int]] = [[] for _ in range(length + 1)]
    there = rows = 0
    placed: list[int] = []
    order = np.argsort(-lengths, kind="stable")
    for need in lengths[order].tolist():
        fits = there >> need
        if fits:
            room = need + (fits & -fits).bit_length() - 1
            row = free[room].pop()
            if not free[room]:
                there &= ~(1 << room)
        else:
            room, row = length, rows
            rows += 1
        placed.append(row)
        if room - need:
            free[room - need].append(row)
            there |= 1 << (room - need)
    of_row = np.array(placed, np.int64)
    return order[np.argsort(of_row, kind="stable")], np.cumsum(np.bincount(of_row, minlength=rows), dtype=np.int64)


def drawn(sizes: list[int], weights: list[float], seed: int, epoch: int) -> np.ndarray:
    """int64: the examples of an epoch, in random order; set i has sizes[i] of them and is seen weights[i] times.

    A share of a set is a new random one in each epoch.
    """
    draw = np.random.default_rng([seed, epoch])
    parts: list[np.ndarray] = []
    first = 0
    for size, weight in zip(sizes, weights, strict=True):
        whole, share = divmod(weight, 1)
        every = np.arange(first, first + size)
        parts += [every] * int(whole)
        parts.append(draw.permutation(size)[: round(share * size)] + first)
        first += size
    return draw.permutation(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def plan(
    lengths: np.ndarray, examples: np.ndarray, length: int, *, packed: bool, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """(order, ends) as `best_fit`, of these examples of an epoch; the rows in random order."""
    if not packed:
        return examples, np.arange(1, len(examples) + 1)
    order, ends = best_fit(lengths[examples], length)
    sizes = np.diff(ends, prepend=0)
    shuffled = np.random.default_rng([seed, epoch, 1]).permutation(len(ends))
    now = np.cumsum(sizes[shuffled])
    shift = (ends - sizes)[shuffled] - (now - sizes[shuffled])  # from where a row stands now to where it stood
    return examples[order][np.repeat(shift, sizes[shuffled]) + np.arange(len(order))], now
