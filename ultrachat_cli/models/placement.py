"""Where a local model runs and in which numbers, and whether it fits: found out before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import UltraError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTIZED = {"8bit": 1.05, "4bit": 0.57}
"""Bytes a weight of a matrix takes with bitsandbytes, its scales included."""
DEFAULT_CONTEXT = 2048
"""Tokens of context of a model that does not say."""
_TOKENS = 2048
"""Tokens of conversation for which there must be memory beside the weights."""
_SPARE = 1.05
"""What a forward pass takes beside weights and cache, as a factor."""


class LocalSettings(Frozen):
    """How weights are loaded by transformers."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")
    """auto, cpu, mps, cuda, cuda:1, or balanced: spread over all GPUs."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto = bfloat16 where the processor or GPU computes in it, else float16 on a GPU and float32 on a CPU."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Weights in fewer bits by bitsandbytes."""


@dataclass(frozen=True)
class Need:
    """What a model takes. `matrices`, `others`: weights that quantising shrinks, and the rest."""

    matrices: int
    others: int
    dtype: str
    quantize: str
    kept: int
    """Numbers that the KV cache keeps of one token."""

    @property
    def kv(self) -> int:
        """Bytes of KV cache for one token."""
        return self.kept * BYTES[self.dtype]

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        width = BYTES[self.dtype]
        return int(self.matrices * _QUANTIZED.get(self.quantize, width)) + self.others * width

    @property
    def total(self) -> int:
        """Bytes without which a conversation of moderate length is not possible."""
        return int((self.weights + self.kv * _TOKENS) * _SPARE)


def check(need: Need, free: int, name: str, where: str) -> None:
    """`UltraError` if `free` bytes at `where` (`this machine`, `GPU cuda:0`) are too few."""
    if need.total <= free:
        return
    numbers = need.dtype if need.quantize == "none" else need.quantize
    parameters = (need.matrices + need.others) / 1e9
    ways: list[str] = []
    for dtype, quantize in ((need.dtype, "none"), ("bfloat16", "none"), ("bfloat16", "8bit"), ("bfloat16", "4bit")):
        less = Need(need.matrices, need.others, dtype, quantize, need.kept)
        if less.weights < need.weights and not (quantize != "none" and where == "this machine"):
            how = f"--dtype {dtype}" if quantize == "none" else f"--quantize {quantize}"
            ways.append(f"{how} ({_gb(less.total)})")
    ways += ["a smaller model", "a GPU that holds it" if where == "this machine" else "--device balanced or cpu"]
    raise UltraError(
        f"model {name} does not fit: {parameters:.1f} billion weights in {numbers} take {_gb(need.weights)}, "
        f"{_TOKENS} tokens of conversation {_gb(need.kv * _TOKENS)}, together with what computing takes "
        f"{_gb(need.total)}; {where} has {_gb(free)} free",
        f"{', '.join(ways)}, or an endpoint that serves it (--base-url)",
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
