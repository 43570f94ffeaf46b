"""What a run leaves for others: a folder that transformers, vLLM, `chat` and `eval` load as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ultrachat_cli.models import folders
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.models.formats_jinja import jinja
from ultrachat_cli.models.specs import FACTS, ModelSpec
from ultrachat_cli.records import jsonl

if TYPE_CHECKING:
    import torch

_SHARD = 5 << 30  # bytes
_LAST = "config.json"  # makes a folder a model: it appears after everything else


@dataclass
class _Shards:
    """Safetensors files of at most 5 GB, under their final names once their number is known."""

    folder: Path
    waiting: dict[str, torch.Tensor] = field(default_factory=dict)
    size: int = 0
    names: list[list[str]] = field(default_factory=list)
    total: int = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        bytes_ = tensor.numel() * tensor.element_size()
        if self.waiting and self.size + bytes_ > _SHARD:
            self.flush()
        self.waiting[name] = tensor.contiguous()
        self.size += bytes_
        self.total += bytes_

    def flush(self) -> None:
        from safetensors.torch import save_file

        save_file(self.waiting, self.folder / f"shard-{len(self.names)}", {"format": "pt"})
        self.names.append(list(self.waiting))
        self.waiting, self.size = {}, 0

    def close(self) -> None:
        self.flush()
        if len(self.names) == 1:
            (self.folder / "shard-0").rename(self.folder / "model.safetensors")
            return
        index: dict[str, str] = {}
        for number, names in enumerate(self.names):
            file = f"model-{number + 1:05}-of-{len(self.names):05}.safetensors"
            (self.folder / f"shard-{number}").rename(self.folder / file)
            index |= dict.fromkeys(names, file)
        told = {"metadata": {"total_size": self.total}, "weight_map": index}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(told, indent=2))


@dataclass(frozen=True)
class Made:
    """What the folder is made of, besides the weights."""

    source: Path
    """The folder the run started from."""
    spec: ModelSpec
    tokenizer: ChatTokenizer
    vocabulary: int
    card: str
    pad_token: str = ""
    """A token that the vocabulary grew by."""


def write(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], made: Made, *, first: bool) -> None:
    """Write weights (bf16; fp16 where the source is that), config, tokenizer with chat template, generation config,
    card and registry entry into `folder`. Every process takes part in `tensors`, the first one writes.

    Raises `UltraError` (disk); nothing of a former export is lost before the new one is complete.
    """
    beside = folder / ".export.partial"
    config = orjson.loads((made.source / _LAST).read_bytes())
    half = _half(config)
    shards = _Shards(beside)
    try:
        if first:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        for name, tensor in tensors:
            if first:
                shards.add(name, tensor.to(half))
        if first:
            shards.close()
            _write_beside(beside, config, made, str(half).removeprefix("torch."))
            _reveal(beside, folder)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error


def _half(config: dict[str, Any]) -> torch.dtype:
    import torch

    told = str(config.get("dtype") or config.get("torch_dtype") or "")
    return torch.float16 if told == "float16" else torch.bfloat16


def _write_beside(beside: Path, config: dict[str, Any], made: Made, half: str) -> None:
    config |= {"vocab_size": made.vocabulary, "dtype": half, "use_cache": True}
    config.pop("torch_dtype", None)
    if (end := made.tokenizer.end) is not None:
        config["eos_token_id"] = end
    (beside / _LAST).write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    for path in made.source.iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "chat_template", "added_tokens", "vocab", "merges")):
            shutil.copyfile(path, beside / path.name)
    _template(beside, made)
    if made.pad_token:
        _add_pad(beside, made.pad_token)
    generation = {
        "bos_token_id": made.tokenizer.bos, "eos_token_id": made.tokenizer.end, "do_sample": True,
        "pad_token_id": config.get("pad_token_id", made.tokenizer.eos),
        "temperature": made.spec.sampling.get("temperature", 0.7), "top_p": made.spec.sampling.get("top_p", 1.0),
    }  # fmt: skip
    generation = {key: value for key, value in generation.items() if value is not None}
    (beside / "generation_config.json").write_bytes(orjson.dumps(generation, option=orjson.OPT_INDENT_2))
    (beside / FACTS).write_bytes(
        folders.facts(made.spec, name="", role="chat", weights="full", base="", format=made.tokenizer.format)
    )
    (beside / "README.md").write_text(made.card, encoding="utf-8")


def _template(beside: Path, made: Made) -> None:
    """The chat template of the format the model learned."""
    if (text := jinja(made.tokenizer.format)) is None:
        return
    (beside / "chat_template.jinja").write_text(text, encoding="utf-8")
    path = beside / "tokenizer_config.json"
    told = orjson.loads(path.read_bytes()) if path.is_file() else {}
    told.pop("chat_template", None)
    path.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))


def _add_pad(beside: Path, token: str) -> None:
    path = beside / "tokenizer.json"
    if not path.is_file():  # LLaMA of 2023 ships a SentencePiece model only
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(beside)
        tokenizer.add_special_tokens({"pad_token": token})
        tokenizer.save_pretrained(beside)
        return
    from tokenizers import Tokenizer

    whole = Tokenizer.from_file(str(path))
    whole.add_special_tokens([token])
    whole.save(str(path))
    told = beside / "tokenizer_config.json"
    settings = orjson.loads(told.read_bytes()) if told.is_file() else {}
    told.write_bytes(orjson.dumps({**settings, "pad_token": token}, option=orjson.OPT_INDENT_2))


def _reveal(beside: Path, folder: Path) -> None:
    (folder / _LAST).unlink(missing_ok=True)
    for old in (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"):
        old.unlink(missing_ok=True)
    for path in sorted(beside.iterdir(), key=lambda path: path.name == _LAST):
        path.replace(folder / path.name)
    beside.rmdir()
