"""Do base and delta belong together? A few thousand numbers of each tell, before anything is written."""

from __future__ import annotations

import hashlib
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.models.tensor_files import SIZES, TORCH, Tensor
from ultrachat_cli.recover.plan import Piece, Plan
from ultrachat_cli.recover.sides import FLOATS, Side

if TYPE_CHECKING:
    import torch

_TENSORS, _NUMBERS = 48, 8192
_ENDS = 256  # numbers at either end of a tensor that go into the fingerprint
_LARGE = 0.75
"""Root mean square of a delta over that of its base, from which it is no delta. Fine-tunes are below 0.3."""
_SAME = 0.8
"""Correlation with the base from which a delta is full weights: a true one has about none."""
_ANYWAY = "--unchecked goes on all the same"


class _Alike(NamedTuple):
    ratio: float
    """Root mean square of other / base, median over tensors."""
    correlation: float
    equal: bool
    """Whether no number differed."""


def fingerprint(base: Side) -> str:
    """SHA-256 of the ends of all float tensors as fp32, by name: the same for the same values in another layout."""
    digest = hashlib.sha256()
    for name in sorted(base.tensors):
        tensor = base.tensors[name]
        if tensor.dtype in FLOATS and not name.endswith(".inv_freq"):
            digest.update(f"{name} {list(tensor.shape)}\n".encode())
            for start in (0, max(0, tensor.numel - _ENDS)):
                digest.update(numbers(tensor, start, _ENDS).numpy().tobytes())
    return digest.hexdigest()


def numbers(tensor: Tensor, start: int, count: int) -> torch.Tensor:
    """float32[up to count] from number `start` on. `DataError` when the file cannot be read."""
    import torch

    width = SIZES[tensor.dtype]
    count = min(count, tensor.numel - start)
    if count <= 0:
        return torch.empty(0)
    try:
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset + start * width)
            data = bytearray(file.read(count * width))
    except OSError as error:
        raise DataError(tensor.file, 0, f"cannot be read: {error.strerror or error}") from error
    return torch.frombuffer(data, dtype=getattr(torch, TORCH[tensor.dtype])).float()


def check_delta(plan: Plan) -> list[str]:
    """`UltraError` for a delta that is none; otherwise what is odd about it."""
    seen = _compared(plan.pieces)
    if seen is None:
        return []
    base, delta = plan.base.folder, plan.other.folder
    if abs(seen.correlation) > _SAME and seen.ratio > _LARGE / 2:
        raise UltraError(
            f"--delta {delta} is no delta: its weights are like those of --base {base} themselves "
            f"(correlation {seen.correlation:.2f})",
            f"full weights are used as they are, without recovering; {_ANYWAY}",
        )
    if seen.ratio > _LARGE:
        raise UltraError(
            f"--delta {delta} is {seen.ratio:.2g} times as large as --base {base}: no delta of this base is",
            f"are --base and --delta swapped, or are both full weights? {_ANYWAY}",
        )
    return [] if seen.ratio else ["the delta is zero wherever it was looked at: the result is the base again"]


def check_tuned(plan: Plan) -> list[str]:
    """`UltraError` for a model that was not made from this base; otherwise what is odd about it."""
    seen = _compared(plan.pieces)
    if seen is None:
        return []
    if seen.correlation < 0.5:
        raise UltraError(
            f"--tuned {plan.other.folder} was not made from --base {plan.base.folder}: "
            f"their weights have nothing in common (correlation {seen.correlation:.2f})",
            f"name the model that the training began with; {_ANYWAY}",
        )
    return ["base and tuned are equal wherever they were looked at: the delta may be nothing"] if seen.equal else []


def _compared(pieces: list[Piece]) -> _Alike | None:
    """Of the middles of some matrices; None where there are none that say anything."""
    import torch

    matrices = [piece for piece in pieces if piece.base is not None and len(piece.base.shape) > 1]
    ratios: list[float] = []
    correlations: list[float] = []
    equal = True
    for piece in matrices[:: max(1, len(matrices) // _TENSORS)]:
        if piece.base is None or piece.base.dtype not in FLOATS:
            continue
        start = max(0, piece.base.numel // 2 - _NUMBERS // 2)
        base, other = numbers(piece.base, start, _NUMBERS), numbers(piece.other, start, _NUMBERS)
        base, other = base[: len(other)].double(), other[: len(base)].double()
        size = float(base.square().mean().sqrt())
        ratio = float(other.square().mean().sqrt()) / size if size else 0.0
        if size and ratio == ratio:  # not of zeros, and no NaN
            equal = equal and torch.equal(base, other)
            ratios.append(ratio)
            product = float(torch.linalg.vector_norm(base) * torch.linalg.vector_norm(other))
            correlations.append(float(base @ other) / product if product else 0.0)
    return _Alike(median(ratios), median(correlations), equal) if ratios else None
