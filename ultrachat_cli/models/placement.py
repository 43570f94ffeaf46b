"""Where a local model runs and in which numbers, and whether it fits: found out before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.machine import available_memory

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTIZED = {"8bit": 1.05, "4bit": 0.57}
"""Bytes a weight of a matrix takes with bitsandbytes, its scales included."""
_SERVED = "an endpoint that serves it (--base-url)"
DEFAULT_CONTEXT = 2048
"""Tokens of context of a model that does not say."""
_TOKENS = 2048
"""Tokens of conversation for which there must be memory beside the weights."""
_SPARE = 1.05
"""What a forward pass takes beside weights and cache, as a factor."""


def _a_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?|balanced", name):
        raise ValueError(f"'{name}' is no device: auto, cpu, mps, cuda, cuda:1 or balanced")
    return name


Device = Annotated[str, AfterValidator(_a_device)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class LocalSettings(Frozen):
    """How weights are loaded by transformers."""

    device: Device = "auto"
    """auto, cpu, mps, cuda, cuda:1, or balanced: spread over all GPUs."""
    dtype: Dtype = "auto"
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


def device(wanted: str) -> str:
    """The device asked for; `auto` where that depends on what fits. `ConfigError` for one that is not here."""
    import torch

    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if wanted == "auto":
        return ("auto" if gpus > 1 else "cuda:0") if gpus else "mps" if mps else "cpu"
    found = "cuda:0" if wanted == "cuda" else wanted
    missing = (found == "balanced" and gpus == 0) or (found.startswith("cuda:") and int(found[5:]) >= gpus)
    if missing or (found == "mps" and not mps):
        raise ConfigError(
            f"--device {wanted}: this machine offers {gpus} CUDA GPUs to torch {torch.__version__}",
            "--device auto takes what there is",
        )
    return found


def numbers(wanted: str, device: str, *, on_cpu: str, stored: str = "") -> str:
    """The type to compute in; `auto` on a GPU: bfloat16, or float16 where it has no other or weights are stored so."""
    import torch

    if wanted != "auto":
        return wanted
    if device == "cpu":
        return on_cpu
    half = device == "mps" or not torch.cuda.is_bf16_supported() or stored == "float16"
    return "float16" if half else "bfloat16"


def free_on(device: str) -> int:
    """Bytes that are free there; of `balanced`, on all GPUs together."""
    import torch

    if device.startswith("cuda:"):
        return int(torch.cuda.mem_get_info(int(device[5:]))[0])
    if device == "balanced":
        return sum(int(torch.cuda.mem_get_info(n)[0]) for n in range(torch.cuda.device_count()))
    return available_memory()


def check(need: Need, free: int, name: str, device: str, instead: str = _SERVED) -> None:
    """`UltraError` if `free` bytes on `device` are too few. `instead`: what is left if nothing else helps."""
    if need.total <= free:
        return
    here = not device.startswith("cuda") and device != "balanced"
    where = "this machine" if here else f"GPU {device}"
    bits = need.dtype if need.quantize == "none" else need.quantize
    parameters = (need.matrices + need.others) / 1e9
    ways: list[str] = []
    for dtype, quantize in ((need.dtype, "none"), ("bfloat16", "none"), ("bfloat16", "8bit"), ("bfloat16", "4bit")):
        less = Need(need.matrices, need.others, dtype, quantize, need.kept)
        if less.weights < need.weights and (quantize == "none" or (need.matrices and not here)):
            how = f"--dtype {dtype}" if quantize == "none" else f"--quantize {quantize}"
            ways.append(f"{how} ({_gb(less.total)})")
    ways += [
        "a smaller model",
        "a GPU that holds it" if here else "--device cpu" if not need.kept else "--device balanced or cpu",
    ]
    talk = f"{_TOKENS} tokens of conversation {_gb(need.kv * _TOKENS)}, " if need.kept else ""
    raise UltraError(
        f"model {name} does not fit: {parameters:.1f} billion weights in {bits} take {_gb(need.weights)}, "
        f"{talk}together with what computing takes {_gb(need.total)}; {where} has {_gb(free)} free",
        f"{', '.join(ways)}, or {instead}",
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
