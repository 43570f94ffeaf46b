"""Tiny reward models with random weights, in the layouts of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel

from tests.train import tiny

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Watched:
    """Progress that remembers: stages as (what, total, unit), units done in each, notices."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, str]] = []
        self.done: list[int] = []
        self.said: list[str] = []
        self.note = ""

    def stage(self, what: str, total: int, unit: str) -> None:
        self.stages.append((what, total, unit))
        self.done.append(0)

    def advance(self, units: int = 1, note: str = "") -> None:
        self.done[-1] += units
        self.note = note or self.note

    def say(self, line: str) -> None:
        self.said.append(line)


def _config(vocabulary: int, **more: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip


def ultrarm(folder: Path, *, binary: bool = False, seed: int = 0) -> Path:
    """UltraRM's layout: `model.*`, `regression_head.weight`, a LLaMA config without auto_map, BOS `<s>`."""
    size = tiny.tokenizer(folder, ("<unk>", "<s>", "</s>"), "</s>")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"bos_token": "<s>", "pad_token": "<unk>"}))
    torch.manual_seed(seed)
    config = _config(size, architectures=["LlamaRewardModel"])
    # 0.02 as usual would leave rewards that differ in the fourth digit only
    config.initializer_range = 0.3
    state = {f"model.{name}": value.clone() for name, value in LlamaModel(config).state_dict().items()}
    state["regression_head.weight"] = torch.randn(1, 64)
    config.save_pretrained(folder)
    if binary:  # as PyTorch 1 and transformers 4 wrote them, with buffers that no model has today
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def classifier(folder: Path, *, labels: int = 1, pad: int | None = 0, seed: int = 0) -> Path:
    """A sequence classifier on a LLaMA, with ChatML as its template."""
    size = tiny.tokenizer(folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"chat_template": CHATML}))
    torch.manual_seed(seed)
    config = _config(size, num_labels=labels, pad_token_id=pad, initializer_range=0.3)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder
