"""Caches of conversations that may go on: the next prompt takes over the one it has most in common with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers.cache_utils import Cache

from ultrachat_cli.models.causal_lm import CausalLM
from ultrachat_cli.models.kv_cache import Rows

_MOST = 64
_WORTH = 16
"""Tokens in common for which a copy is made of a cache that others need."""


@dataclass(eq=False)
class Known:
    """A cache and the ids it was computed for; `row`: of several, in a cache that is in use."""

    ids: np.ndarray
    cache: Cache
    row: int = 0


class KeptCaches:
    """The most recent caches of `model`, as many as there is memory for."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self._kept: list[Known] = []
        """The newest first."""

    def take(self, ids: Sequence[int], in_use: Iterable[Known]) -> tuple[Cache, int]:
        """A cache for a prompt, and how many of its first tokens it has: never all, as the last one must be computed.

        A conversation goes on in its own cache, cut back to what is common. One that has less than half in common with
        the prompt, or is in use, is left as it is, and the common part copied.
        """
        wanted = np.asarray(ids, dtype=np.int64)
        if not self._model.plain:
            return self._whole(wanted)
        best, common = None, 0
        for known in (*self._kept, *in_use):
            if (count := min(_common(known.ids, wanted), len(wanted) - 1)) > common:
                best, common = known, count
        if best is None or not isinstance(best.cache, Rows):
            return self._model.new_cache(), 0
        if best in self._kept and 2 * common >= len(best.ids):
            self._kept.remove(best)
            best.cache.cut(common)
            return best.cache, common
        if common < _WORTH:
            return self._model.new_cache(), 0
        return best.cache.copy(best.row, common), common

    def _whole(self, wanted: np.ndarray) -> tuple[Cache, int]:
        """A cache that cannot be cut is of use only to a prompt that begins with all of it."""
        fit = [k for k in self._kept if len(k.ids) < len(wanted) and _common(k.ids, wanted) == len(k.ids)]
        if not fit:
            return self._model.new_cache(), 0
        best = max(fit, key=lambda known: len(known.ids))
        self._kept.remove(best)
        return best.cache, len(best.ids)

    def keep(self, ids: Sequence[int], cache: Cache, room: int) -> None:
        """Remember a cache for these ids; the oldest ones go, beyond `room` bytes for all."""
        self._kept.insert(0, Known(np.asarray(ids, dtype=np.int64), cache))
        total = 0
        for n, known in enumerate(self._kept):
            total += known.cache.nbytes if isinstance(known.cache, Rows) else len(known.ids) * self._model.kv_bytes
            if n and (total > room or n >= _MOST):
                del self._kept[n:]
                return

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the longest common beginning."""
    count = min(len(one), len(other))
    differ = np.flatnonzero(one[:count] != other[:count])
    return int(differ[0]) if len(differ) else count
