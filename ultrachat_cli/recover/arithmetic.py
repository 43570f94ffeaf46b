"""base + delta and tuned - base, chunk by chunk through buffers that stay in the processor's cache.

A sum is taken in fp32 and rounded once. Rows that the base does not have count as the mean of those it has (each
column summed in fp64, the mean rounded to fp32), as Alpaca's and UltraLM's weight_diff.py begin new tokens.

When does base + delta give the tuned numbers back bit for bit? The delta, kept in fp32, has 24 bits.
- fp16 (all numbers are multiples of 2^-24): if the number moved by at most 1, or if |base| <= 4096 |tuned|.
- bf16: if |base| <= 2^15 |tuned|, or tuned is 0.
What remains is rare: weights that end thousands of times smaller than they were, and -0.0, which no sum of other
numbers gives. `subtract` finds them by adding again, and `Outcome.exact` lists them for the delta's checksums.json.
fp32 weights come back within rounding: base + (tuned - base) is rounded twice.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ultrachat_cli.errors import DataError
from ultrachat_cli.models.tensor_files import SIZES, TORCH, Tensor
from ultrachat_cli.recover.plan import Piece
from ultrachat_cli.recover.sides import FLOATS

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 18
"""Numbers at a time: 512 KB of fp16."""
HALVES = ("F16", "BF16")
Fix = list[list[int]]
"""[[index, bits], ...] of numbers that a sum does not give."""
Write = Callable[[memoryview], None]


class Stopped(Exception):
    """Another worker failed, or the user gave up."""


@dataclass
class Outcome:
    """What became of one tensor."""

    name: str
    sum: float = 0.0
    not_finite: int = 0
    sha256: str = ""
    """Of the recovered numbers; empty where nobody asked."""
    exact: Fix = field(default_factory=list)
    differing: int = 0
    """Numbers (make-delta) that recover gives back within rounding only."""


def few(piece: Piece) -> int:
    """How many numbers of a tensor may be listed one by one."""
    return 64 + (piece.other.numel >> 14)


class Files:
    """The inputs, each opened once for all workers."""

    def __init__(self) -> None:
        self._open: dict[Any, int] = {}
        self._lock = threading.Lock()

    def read(self, tensor: Tensor, start: int, into: memoryview) -> None:
        """Fill `into` with the tensor's bytes from number `start` on."""
        at = tensor.offset + start * SIZES[tensor.dtype]
        try:
            descriptor = self._open.get(tensor.file) or self._opened(tensor)
            while into:
                got = os.preadv(descriptor, [into], at)
                if not got:
                    raise DataError(
                        tensor.file, 0, f"ends within {tensor.name}", "it was changed meanwhile: start again"
                    )
                at, into = at + got, into[got:]
        except OSError as error:
            raise DataError(tensor.file, 0, f"cannot be read: {error.strerror or error}") from error

    def _opened(self, tensor: Tensor) -> int:
        with self._lock:
            if tensor.file not in self._open:
                self._open[tensor.file] = os.open(tensor.file, os.O_RDONLY)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(self._open[tensor.file], 0, 0, os.POSIX_FADV_SEQUENTIAL)
            return self._open[tensor.file]

    def close(self) -> None:
        """Close all of them."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


class Buffer:
    """Memory for one chunk, seen as numbers of any type or as bytes; what is never used of it takes no room."""

    def __init__(self, numbers: int, width: int) -> None:
        import torch

        self._memory = torch.empty(numbers * width, dtype=torch.uint8)
        self._bytes = memoryview(self._memory.numpy())  # type: ignore[arg-type]
        self._seen: dict[tuple[str, int], tuple[torch.Tensor, memoryview]] = {}

    def of(self, kind: str, count: int) -> tuple[torch.Tensor, memoryview]:
        """(kind[count], the same memory as bytes)."""
        if (kind, count) not in self._seen:
            if len(self._seen) > 64:
                self._seen.clear()
            import torch

            size = count * SIZES[kind]
            self._seen[kind, count] = self._memory[:size].view(getattr(torch, TORCH[kind])), self._bytes[:size]
        return self._seen[kind, count]


class Worker:
    """One thread's buffers and the chunk loop. `step(bytes)` is called after each chunk and may raise `Stopped`."""

    def __init__(self, files: Files, step: Callable[[int], None], widest: int = 0) -> None:
        numbers = max(CHUNK, widest)
        self._files, self._step = files, step
        self._base, self._other, self._out, self._back = (Buffer(numbers, 8) for _ in range(4))
        self._first, self._second, self._third = (Buffer(numbers, 4) for _ in range(3))

    def add(self, piece: Piece, write: Write, *, digest: bool, exact: Fix) -> Outcome:
        """base + delta, written in the piece's type; `exact`: numbers to put in place of their sums."""
        import torch

        found = Outcome(piece.name)
        sha = hashlib.sha256() if digest else None
        fixes = _Fixes(exact, piece.dtype)
        for start, count, base, other in self._chunks(piece):
            out, raw = self._out.of(piece.dtype, count)
            if base is None:
                out.copy_(other)
            elif piece.dtype not in FLOATS:
                torch.logical_xor(base, other, out=out) if piece.dtype == "BOOL" else torch.add(base, other, out=out)
            elif base.dtype == other.dtype == out.dtype:
                torch.add(base, other, out=out)  # torch computes halves in fp32 and rounds once
            else:
                total = out if piece.dtype == "F32" else self._first.of("F32", count)[0]
                torch.add(_wide(base, self._first), _wide(other, self._second), out=total)
                out.copy_(total)
            fixes.apply(out, start, count)
            _look(out, found)
            if sha is not None:
                sha.update(raw)
            write(raw)
            self._step(len(raw))
        found.sha256 = sha.hexdigest() if sha is not None else ""
        return found

    def subtract(self, piece: Piece, write: Write) -> Outcome:
        """tuned - base, written in the piece's type; tells how `add` gives the tuned numbers back."""
        listing = piece.other.dtype in HALVES and piece.dtype == "F32"
        found = self._subtracted(piece, write, self._step, listing)
        if len(found.exact) > few(piece):  # too many for a list: then the sums are hashed as they come
            found = self._subtracted(piece, lambda _: None, lambda _: None, False)
        return found

    def _subtracted(self, piece: Piece, write: Write, step: Callable[[int], None], listing: bool) -> Outcome:
        import torch

        found, sha, kind = Outcome(piece.name), hashlib.sha256(), piece.other.dtype
        for start, count, base, other in self._chunks(piece):
            out, raw = self._out.of(piece.dtype, count)
            back, recovered = self._back.of(kind, count)
            if base is None:
                out.copy_(other)
                back.copy_(other)
            elif kind not in FLOATS:
                torch.logical_xor(other, base, out=out) if kind == "BOOL" else torch.sub(other, base, out=out)
                back.copy_(other)
            else:
                wide, total = _wide(base, self._first), self._third.of("F32", count)[0]
                torch.sub(_wide(other, self._second), wide, out=total)
                out.copy_(total)
                back.copy_(torch.add(wide, total.copy_(out), out=total))
                self._compare(back, other, start, found, listing and len(found.exact) <= few(piece))
            _look(out, found)
            sha.update(self._other.of(kind, count)[1] if listing else recovered)
            write(raw)
            step(len(raw))
        if listing:  # all are given back
            found.differing = 0
        found.sha256 = sha.hexdigest()
        return found

    def _compare(self, back: torch.Tensor, other: torch.Tensor, start: int, found: Outcome, listing: bool) -> None:
        import torch

        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[back.element_size()]
        unlike = back.view(bits) != other.view(bits)
        count = int(torch.count_nonzero(unlike))
        found.differing += count
        if count and listing:
            at = unlike.nonzero()[:, 0]
            found.exact += [[start + n, b] for n, b in zip(at.tolist(), other.view(bits)[at].tolist(), strict=True)]

    def _chunks(self, piece: Piece) -> Iterator[tuple[int, int, torch.Tensor | None, torch.Tensor]]:
        """(first number, count, base's, other's) of each chunk; of whole rows where the base's mean is needed."""
        step, held = CHUNK, piece.other.numel
        columns, sums = 0, None
        if piece.grown and piece.base is not None:
            import torch

            columns = piece.base.numel // piece.base.shape[0]
            step, held = max(1, CHUNK // columns) * columns, piece.base.numel
            sums = torch.zeros(columns, dtype=torch.float64)
        for first, last in ((0, held), (held, piece.other.numel)):
            for start in range(first, last, step):
                count = min(step, last - start)
                other, raw = self._other.of(piece.other.dtype, count)
                self._files.read(piece.other, start, raw)
                base = None
                if piece.base is not None and start < held:
                    base, raw = self._base.of(piece.base.dtype, count)
                    self._files.read(piece.base, start, raw)
                    if sums is not None:
                        sums += base.view(-1, columns).sum(0, dtype=sums.dtype)
                elif piece.base is not None and sums is not None:
                    base = self._base.of("F32", count)[0]
                    base.view(-1, columns).copy_((sums / piece.base.shape[0]).to(base.dtype))
                yield start, count, base, other


def _wide(numbers: torch.Tensor, buffer: Buffer) -> torch.Tensor:
    """The numbers in fp32: themselves, or a copy in the buffer."""
    wide, _ = buffer.of("F32", len(numbers))
    return numbers if numbers.dtype == wide.dtype else wide.copy_(numbers)


class _Fixes:
    """Numbers of known bits, put in their places."""

    def __init__(self, exact: Fix, kind: str) -> None:
        import torch

        self._bits = {2: torch.int16, 4: torch.int32}.get(SIZES[kind], torch.uint8)
        self._at = torch.tensor([at for at, _ in exact], dtype=torch.int64)
        self._values = torch.tensor([bits for _, bits in exact], dtype=self._bits)
        self._any = bool(exact)

    def apply(self, out: torch.Tensor, start: int, count: int) -> None:
        if self._any:
            here = (self._at >= start) & (self._at < start + count)
            out.view(self._bits)[self._at[here] - start] = self._values[here]


def _look(out: torch.Tensor, found: Outcome) -> None:
    """Sum the numbers and count those that are none."""
    import torch

    if not out.is_floating_point():
        return
    total = float(out.sum(dtype=torch.float32))
    if total - total:  # infinite or NaN: an entry is, or the sum of a chunk is too large for fp32
        found.not_finite += out.numel() - int(torch.isfinite(out).sum())
        total = float(torch.nan_to_num(out, 0.0, 0.0, 0.0).sum(dtype=torch.float64))
    found.sum += total
