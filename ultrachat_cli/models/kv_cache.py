"""Keys and values of attention for texts of different lengths, in buffers that grow.

transformers' own cache is copied whole at every token and has one length for all its texts. Here a text is a row, its
tokens begin at 0, and what lies behind its end is masked: so a row can be cut, copied, joined to others and taken out.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

_STEP = 256  # tokens by which a buffer grows at least, and whose multiple it is


class _Lengths:
    """Tokens of each row, as the layers of one cache share them."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows
        self._on: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def changed(self) -> None:
        self._on.clear()

    def places(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Row numbers and lengths, int64[rows] each."""
        if device not in self._on:
            count = torch.arange(len(self.rows), device=device)
            self._on[device] = count, torch.tensor(self.rows, device=device)
        return self._on[device]


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """`keys` and `values`: [rows or more, heads, tokens or more, width]."""

    def __init__(self, lengths: _Lengths) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._lengths = lengths

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new tokens [rows, heads, new, width] behind each row; several at once only if there is one row."""
        rows, new = key_states.shape[0], key_states.shape[-2]
        end = max(self._lengths.rows) + new
        self.reserve(key_states, value_states, rows, end)
        assert self.keys is not None
        assert self.values is not None
        if rows == 1:
            start = end - new
            self.keys[:1, :, start:end] = key_states
            self.values[:1, :, start:end] = value_states
        else:
            at = self._lengths.places(key_states.device)
            self.keys[at[0], :, at[1]] = key_states[:, :, 0]
            self.values[at[0], :, at[1]] = value_states[:, :, 0]
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def reserve(self, keys: torch.Tensor, values: torch.Tensor, rows: int, tokens: int) -> None:
        """Make room for so many rows and tokens like these."""
        if self.keys is None or self.values is None:
            self.device, self.is_initialized = keys.device, True
            self.keys = keys.new_zeros(rows, keys.shape[1], _rounded(tokens), keys.shape[3])
            self.values = values.new_zeros(rows, values.shape[1], _rounded(tokens), values.shape[3])
            return
        had_rows, had_tokens = self.keys.shape[0], self.keys.shape[2]
        if rows <= had_rows and tokens <= had_tokens:
            return
        rows = had_rows if rows <= had_rows else max(rows, 2 * had_rows)
        tokens = had_tokens if tokens <= had_tokens else _rounded(max(tokens, had_tokens * 5 // 4))
        self.keys, self.values = (self._grown(one, rows, tokens) for one in (self.keys, self.values))

    def _grown(self, old: torch.Tensor, rows: int, tokens: int) -> torch.Tensor:
        # zeros: what is masked must still be a number
        new = old.new_zeros(rows, old.shape[1], tokens, old.shape[3])
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def get_seq_length(self) -> int:
        """Tokens of the longest row."""
        return max(self._lengths.rows) if self.is_initialized else 0


class Rows(Cache):
    """A cache of `layers` layers that begins with one empty row; a model may be called with it as with any other.

    `advance` must be called after each call of the model, which itself does not change `lengths`.
    """

    def __init__(self, layers: int) -> None:
        self._lengths = _Lengths([0])
        self._each: list[Any] = [_Layer(self._lengths) for _ in range(layers)]
        super().__init__(layers=self._each)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self._lengths.rows

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in self._each if layer.is_initialized)

    def advance(self, new: int) -> None:
        """Each row has grown by `new` tokens."""
        self._lengths.rows[:] = [length + new for length in self.lengths]
        self._lengths.changed()

    def cut(self, length: int) -> None:
        """Forget what the only row has beyond `length` tokens."""
        self._lengths.rows[:] = [length]
        self._lengths.changed()

    def mask(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """What one more token of each row must not see, to be added to scores: [rows, 1, 1, longest + 1]."""
        if len(self.lengths) == 1:
            return None
        lengths = self._lengths.places(device)[1]
        beyond = torch.arange(max(self.lengths) + 1, device=device) > lengths[:, None]
        mask = torch.zeros(beyond.shape, dtype=dtype, device=device)
        return mask.masked_fill_(beyond, torch.finfo(dtype).min)[:, None, None]

    def copy(self, row: int, length: int) -> Rows:
        """A cache of its own with the first `length` tokens of a row."""
        made = Rows(len(self._each))
        for mine, theirs in zip(made._each, self._each, strict=True):
            _put(mine, 0, theirs, row, length)
        made.cut(length)
        return made

    def join(self, other: Rows) -> None:
        """One more row: a copy of the only row of `other`."""
        row = len(self.lengths)
        for mine, theirs in zip(self._each, other._each, strict=True):
            _put(mine, row, theirs, 0, other.lengths[0])
        self._lengths.rows.append(other.lengths[0])
        self._lengths.changed()

    def leave(self, row: int) -> Rows:
        """Take a row out; the last row gets its number. Returns a cache with that row, or this one if it is the only.

        The row's buffers are copied, unless nothing but this row ever was in them.
        """
        last = len(self.lengths) - 1
        if last == 0 and self._each[0].keys.shape[0] == 1:
            return self
        taken = self.copy(row, self.lengths[row])
        if row != last:
            for layer in self._each:
                _put(layer, row, layer, last, self.lengths[last])
        self._lengths.rows[row] = self.lengths[last]
        self._lengths.rows.pop()
        self._lengths.changed()
        return taken


def _put(layer: Any, row: int, source: Any, source_row: int, length: int) -> None:
    keys, values = (one[source_row : source_row + 1, :, :length] for one in (source.keys, source.values))
    layer.reserve(keys, values, row + 1, length)
    layer.keys[row : row + 1, :, :length] = keys
    layer.values[row : row + 1, :, :length] = values


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
