"""What was made, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SHOWN = 3


@dataclass
class Report:
    """The end of `recover` or `make-delta`."""

    folder: Path
    written: bool
    tensors: int
    bytes: int
    shards: int
    resumed: int
    """Shards that an earlier run had finished."""
    dtype: str
    new_tokens: int
    left_out: list[str]
    sum: float
    """Of all numbers written."""
    not_finite: int
    """NaN and infinite ones."""
    verified: int | None = None
    """Tensors whose SHA-256 was as make-delta wrote it; None: not compared."""
    differing: int | None = None
    """Numbers that recover gives back within rounding only (make-delta)."""
    listed: int = 0
    """Numbers that checksums.json lists because no sum gives them (make-delta)."""
    notes: list[str] = field(default_factory=list)
    prompt: str = ""
    answer: str | None = None
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return vars(self) | {"folder": str(self.folder)}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        files = f"{self.shards} file{'s' * (self.shards > 1)}"
        size = f"{self.tensors:,} tensors, {_size(self.bytes)} of {self.dtype}, {files}"
        if not self.written:
            yield "would write", f"{size}, to {self.folder}"
        else:
            again = f", {self.resumed} of the files there already" if self.resumed else ""
            yield "written", f"{size}, {self.seconds:.1f} s{again}"
        if self.new_tokens:
            yield "new tokens", f"{self.new_tokens:,}, beginning as the mean of the base's"
        if self.left_out:
            shown = ", ".join(self.left_out[:_SHOWN]) + (" ..." if len(self.left_out) > _SHOWN else "")
            yield "left out", f"{len(self.left_out)} that transformers computes: {shown}"
        if self.written:
            yield "sum", f"{self.sum:,.6g}"
            yield "not finite", f"{self.not_finite:,} numbers are NaN or infinite" if self.not_finite else ""
        if self.verified is not None:
            others = ", the others are written in another type" if self.verified < self.tensors else ""
            yield "verified", f"{self.verified:,} of {self.tensors:,} tensors by SHA-256{others}"
        elif self.written and self.differing is None:
            yield "verified", "no: there are no checksums with the delta, or none were asked for"
        if self.differing is not None:
            listed = f" ({self.listed:,} of them listed, as no sum gives them)" if self.listed else ""
            within = f"{self.differing:,} numbers within rounding, all others bit for bit"
            yield "gives back", within if self.differing else f"the tuned weights, bit for bit{listed}"
        yield "notes", "\n".join(self.notes)
        if self.answer is not None:
            yield "asked", self.prompt
            yield "answered", self.answer
        if self.written:
            yield "folder", str(self.folder)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
