"""checksums.json of a delta: what `recover` must arrive at, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from pydantic import model_validator

from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.models.tensor_files import SIZES
from ultrachat_cli.recover.arithmetic import HALVES, Fix, Outcome
from ultrachat_cli.recover.plan import Piece, Plan

FILE = "checksums.json"


class Expected(Frozen):
    """One tensor of the tuned model as `recover` gives it back."""

    dtype: str
    shape: list[int]
    sha256: str
    """Of its numbers, in rows, little-endian."""
    exact: Fix = []
    """[index, bits as a signed integer] of numbers that are not the sum of base and delta; of 16 bits only."""

    @model_validator(mode="after")
    def _possible(self) -> Expected:
        if self.dtype not in SIZES:
            raise ValueError(f"unknown type {self.dtype}")
        if self.exact and self.dtype not in HALVES:
            raise ValueError(f"numbers of type {self.dtype} are not listed")
        if any(len(fix) != 2 or fix[0] < 0 or not -(1 << 15) <= fix[1] < 1 << 15 for fix in self.exact):
            raise ValueError("exact: [index, bits] of 16-bit numbers are expected")
        return self


class Checksums(Frozen):
    """All tensors; `base`: `samples.fingerprint` of the model the delta was made from."""

    version: int = 1
    base: str
    tensors: dict[str, Expected]


class Unequal(UltraError):
    """What was written is not what the delta was made from."""


def read(folder: Path) -> Checksums | None:
    """What lies in a delta's folder, if anything. `DataError` when it is not what make-delta writes."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Checksums.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).splitlines()[:3])
        raise DataError(path, 0, f"not checksums of make-delta: {reason}", "fetch it again, or remove it") from error


def write(folder: Path, base: str, plan: Plan, outcomes: dict[str, Outcome]) -> None:
    """Beside a delta that is complete."""
    tensors: dict[str, Any] = {}
    for piece in plan.pieces:
        found = outcomes[piece.name]
        tensors[piece.name] = {
            "dtype": piece.other.dtype, "shape": list(piece.other.shape), "sha256": found.sha256,
            **({"exact": found.exact} if found.exact else {}),
        }  # fmt: skip
    told = {"version": 1, "base": base, "tensors": tensors}
    (folder / FILE).write_bytes(orjson.dumps(told))


def comparable(expected: Expected | None, piece: Piece) -> bool:
    """Whether the tensor is written in the type that was summed up."""
    return expected is not None and expected.dtype == piece.dtype and expected.shape == list(piece.other.shape)


def check(expected: Expected, outcome: Outcome, plan: Plan) -> None:
    """`Unequal` when a sum is not what it should be."""
    if outcome.sha256 != expected.sha256:
        raise Unequal(
            f"{outcome.name}: base + delta is not what the delta was made from (SHA-256 in {FILE})",
            f"{plan.base.folder} or {plan.other.folder} was damaged or changed: fetch it again; nothing was made",
        )
