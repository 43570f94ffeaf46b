"""A causal language model loaded by transformers for generation, on a CPU, one GPU or several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.machine import cores
from ultrachat_cli.models import placement, tensor_files
from ultrachat_cli.models.folders import hushed
from ultrachat_cli.models.kv_cache import Rows
from ultrachat_cli.models.placement import LocalSettings, Need

Free = Callable[[str], int]
"""Bytes that are free on a device: `cpu`, `cuda:0`, ..., or `balanced` for all GPUs together."""


@dataclass
class CausalLM:
    """A model, how much it can hold, and its forward pass over a cache."""

    model: Any
    context: int
    """Most tokens of a prompt and its answer."""
    ends: frozenset[int]
    """Ids that end an answer, as its generation config says."""
    kv_bytes: int
    """Bytes of KV cache one token takes."""
    room: int
    """Bytes that are left for caches."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Sampling fields that its generation config recommends."""

    def __post_init__(self) -> None:
        names = inspect.signature(self.model.forward).parameters
        # transformers 5.21 calls past_key_values cache
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
        self._takes_positions = "position_ids" in names

    @cached_property
    def plain(self) -> bool:
        """Whether all layers keep keys and values of all tokens: only such a cache can be cut back and shared."""
        return all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.model.config).layers)

    def new_cache(self) -> Cache:
        """An empty cache; a `Rows` for a plain model."""
        empty = DynamicCache(config=self.model.config)
        return Rows(len(empty.layers)) if self.plain else empty

    def forward(self, tokens: Sequence[Sequence[int]], starts: Sequence[int], cache: Cache) -> torch.Tensor:
        """Scores float32[rows, vocabulary] of what follows the last of `tokens` (equally many in each row).

        `starts`: how many tokens of each row the cache has; afterwards it has the new ones too.
        """
        device = self.model.get_input_embeddings().weight.device
        ids = torch.tensor(tokens, device=device)
        given: dict[str, Any] = {"use_cache": True, self._cache_name: cache, **self._last_only}
        if self._takes_positions:
            first = torch.tensor(starts, device=device)[:, None]
            given["position_ids"] = first + torch.arange(ids.shape[1], device=device)
        if isinstance(cache, Rows):
            given["attention_mask"] = cache.mask(self.model.dtype, device)
        logits: torch.Tensor = self.model(input_ids=ids, **given).logits[:, -1]
        if isinstance(cache, Rows):
            cache.advance(ids.shape[1])
        return logits.float()

    @cached_property
    def batches(self) -> bool:
        """Whether rows of different lengths can go through the model together; found out by doing it."""
        if not self.plain or not self._takes_positions:
            return False
        texts = [[1, 2, 3, 4, 5, 6, 7], [3, 1, 2]]
        caches = [self.new_cache() for _ in texts]
        with torch.inference_mode():
            for ids, cache in zip(texts, caches, strict=True):
                self.forward([ids], [0], cache)
            both, second = (cache for cache in caches if isinstance(cache, Rows))
            alone = second.copy(0, len(texts[1]))
            expected = self.forward([[4]], [len(texts[1])], alone)[0]
            both.join(second)
            try:
                found = self.forward([[8], [4]], [len(text) for text in texts], both)[1]
            except (RuntimeError, ValueError, TypeError, IndexError):
                return False  # a model that makes its own use of the mask
        return bool((found - expected).norm() <= 0.05 * expected.norm())


def load(
    folder: Path, settings: LocalSettings, *, name: str = "", context: int = 0, free: Free | None = None
) -> CausalLM:
    """The model of a folder. `context`: what its registry entry says, 0 = its config's word counts.

    Raises `UltraError` for a folder that is no model or incomplete, and for a model that does not fit into memory
    (before loading it); `MissingExtra` for quantised weights without bitsandbytes.
    """
    free, name = free or placement.free_on, name or folder.name
    config, parameters = _shell(folder)
    device = placement.device(settings.device)
    # where the processor computes in bf16, prompts take half the time and tokens two thirds
    on_cpu = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
    stored = str(config.dtype).removeprefix("torch.")
    dtype = placement.numbers(settings.dtype, device, on_cpu=on_cpu, stored=stored)
    need = Need(*parameters, dtype, settings.quantize, _kept(config))
    if device == "auto":
        device = _roomiest(need, free)
    if settings.quantize != "none":
        _check_quantized(device)
    there = free(device)
    placement.check(need, there, name, device)
    if device == "cpu":
        torch.set_num_threads(cores())
    model = _loaded(folder, settings, dtype, device)
    own = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
    holds = min((size for size in (context, own) if size), default=placement.DEFAULT_CONTEXT)
    room = (there - need.weights) // 2
    told = model.generation_config.eos_token_id
    ends = frozenset([told] if isinstance(told, int) else told or ())
    return CausalLM(model.eval(), min(holds, max(1, room // need.kv)), ends, need.kv, room, _recommended(folder))


def _shell(folder: Path) -> tuple[Any, tuple[int, int]]:
    """The config, and how many weights there are: in the matrices that quantising shrinks, and in the rest."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UltraError(f"{folder}: not a language model: {str(error).splitlines()[0]}") from error
    head = model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, nn.Linear) and part is not head]
    matrices = sum(part.weight.numel() for part in linear)
    return config, (matrices, sum(one.numel() for one in model.parameters()) - matrices)


def _kept(config: Any) -> int:
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    keeping = getattr(text, "num_key_value_heads", None) or heads
    return int(text.num_hidden_layers * keeping * width * 2)


def _roomiest(need: Need, free: Free) -> str:
    """The GPU with most room if the model fits there, else all of them."""
    best = max((f"cuda:{n}" for n in range(torch.cuda.device_count())), key=free)
    return best if need.total <= free(best) else "balanced"


def _check_quantized(device: str) -> None:
    if device in ("cpu", "mps"):
        raise UltraError(
            f"--quantize is for CUDA GPUs; the model is to run on {device}",
            "without a GPU, a .gguf file of the model is what fewer bits are for: the embedded backend runs it",
        )
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise MissingExtra("--quantize", "bitsandbytes", "quantized") from error


def _loaded(folder: Path, settings: LocalSettings, dtype: str, device: str) -> Any:
    from safetensors import SafetensorError
    from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]
    from transformers import AutoModelForCausalLM

    given: dict[str, Any] = {"dtype": getattr(torch, dtype), "local_files_only": True, "output_loading_info": True}
    if device != "cpu":
        given["device_map"] = "balanced" if device == "balanced" else {"": device}
    if settings.quantize != "none":
        from transformers import BitsAndBytesConfig

        four = settings.quantize == "4bit"
        given["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )  # fmt: skip
    read: Any = AutoModelForCausalLM.from_pretrained
    model: Any
    try:
        with hushed():
            model, told = read(folder, **given)
    except torch.OutOfMemoryError as error:
        raise UltraError(f"{folder}: out of GPU memory while loading", "--quantize 4bit, or --device cpu") from error
    except (
        OSError, EOFError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError, UnpicklingError
    ) as error:  # fmt: skip
        tensor_files.read(folder)  # tells better what is wrong with a file
        raise UltraError(f"{folder}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if missing := sorted(told["missing_keys"]):
        raise UltraError(
            f"{folder}: weights are missing: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            "the folder is incomplete, or not of the kind that its config.json says",
        )
    return model


def _recommended(folder: Path) -> dict[str, Any]:
    """Sampling fields of generation_config.json, if it says that answers are to be drawn."""
    told: Any = {}
    with suppress(OSError, orjson.JSONDecodeError):
        told = orjson.loads((folder / "generation_config.json").read_bytes())
    if not isinstance(told, dict) or not told.get("do_sample"):
        return {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: told[name] for name in names if told.get(name) is not None}
