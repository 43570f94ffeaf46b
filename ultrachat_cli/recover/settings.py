"""The configuration of `ultrachat recover` and `ultrachat make-delta`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ultrachat_cli.config import Frozen

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_SHORT = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32"}
_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def _bytes(value: Any) -> Any:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", str(value).strip())
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"'{value}' is no size: write 5GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Dtype = Annotated[Literal["", "float16", "bfloat16", "float32"], BeforeValidator(lambda name: _SHORT.get(name, name))]


class Shared(Frozen):
    """What both commands take."""

    base: str = ""
    """The model that the delta is added to: a folder, a registry name or hf:org/name."""
    output: Path | None = None
    """Folder to make."""
    shard_size: Size = 5_000_000_000
    """Largest file of weights: 5GB, 500MB."""
    workers: int = Field(default=0, ge=0, le=64)
    """Files written at the same time; 0 = one for each core, at most four."""
    unchecked: bool = False
    """Go on although base and delta look as if they do not belong together; sums are not verified."""
    dry_run: bool = False
    """Check everything and write nothing."""


class RecoverConfig(Shared):
    """base + delta."""

    model: str = ""
    """Registry name of a model published as a delta: gives base, delta, chat format and context."""
    delta: str = ""
    """The delta: a folder, a registry name or hf:org/name."""
    dtype: Dtype = ""
    """float16, bfloat16 or float32; empty = what the delta was made from, else the base's."""
    format: str = ""
    """Chat format, where neither the registry nor the delta's ultrachat.json tells it."""
    check: bool = False
    """Load the result with transformers and let it answer one prompt."""

    @property
    def kind(self) -> str:
        """The type in safetensors' words, or nothing."""
        return _TYPES.get(self.dtype, "")


class DeltaConfig(Shared):
    """tuned - base."""

    tuned: str = ""
    """The fine-tuned model: a folder, a registry name or hf:org/name."""
    dtype: Dtype = "float32"
    """float32 gives the tuned weights back bit for bit where they are of 16 bits; smaller ones within rounding."""

    @property
    def kind(self) -> str:
        """The type in safetensors' words."""
        return _TYPES[self.dtype or "float32"]
