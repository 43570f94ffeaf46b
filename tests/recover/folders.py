"""Folders with weights and little else, as base, tuned model and delta."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

State = dict[str, torch.Tensor]
CONFIG = {"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "tie_word_embeddings": False}
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def state(seed: int = 0, dtype: torch.dtype = torch.float16, *, rows: int = 40, scale: float = 1.0) -> State:
    """A few matrices and a norm under LLaMA's names."""
    torch.manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {ROWS[0]: (rows, 16), "model.norm.weight": (16,), ROWS[1]: (rows, 16)}
    for n in range(3):
        shapes[f"model.layers.{n}.mlp.up_proj.weight"] = (48, 16)
    return {name: (torch.randn(shape) * scale).to(dtype) for name, shape in shapes.items()}


def moved(before: State, by: float = 0.01, seed: int = 9, dtype: torch.dtype | None = None) -> State:
    """What a training could have made of it."""
    torch.manual_seed(seed)
    return {name: (t.float() + by * torch.randn(t.shape)).to(dtype or t.dtype) for name, t in before.items()}


def folder(
    path: Path, tensors: State, *, config: Mapping[str, Any] | None = None, words: bool = True, kind: str = "one",
    beside: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Save it. `kind`: one, shards, bin or bins."""
    path.mkdir(parents=True)
    if words:
        tokenizer(path)
    (path / "config.json").write_text(json.dumps(CONFIG | dict(config or {})))
    for name, text in (beside or {}).items():
        (path / name).write_text(text)
    names = list(tensors)
    halves = {"shards": 2, "bins": 2}.get(kind, 1)
    stem, suffix = ("pytorch_model", ".bin") if kind.startswith("bin") else ("model", ".safetensors")
    index: dict[str, str] = {}
    for n in range(halves):
        part = {name: tensors[name].contiguous() for name in names[n::halves]}
        file = f"{stem}-{n + 1:05}-of-{halves:05}{suffix}" if halves > 1 else stem + suffix
        index |= dict.fromkeys(part, file)
        if suffix == ".bin":
            torch.save(part, path / file)
        else:
            save_file(part, path / file, {"format": "pt"})
    if halves > 1:
        (path / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def tokenizer(path: Path) -> None:
    """Forty tokens, the last of them special."""
    made = Tokenizer(models.BPE({chr(97 + n): n for n in range(39)}, []))
    made.add_special_tokens(["</s>"])
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')


def weights(path: Path) -> State:
    """All tensors of a folder of safetensors."""
    found: State = {}
    for file in sorted(path.glob("model*.safetensors")):
        found |= load_file(file)
    return found


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes, so that -0.0 and NaN are compared too."""
    return tensor.contiguous().view(torch.uint8)


def same(a: State, b: State) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and torch.equal(bits(a[n]), bits(b[n])) for n in a
    )


def contents(path: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
