"""Tiny models with random weights, in transformers' layout, made in a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer(folder: Path, special: tuple[str, ...] = CHATML, eos: str = "<|im_end|>") -> int:
    """A byte-level tokenizer without merges: ids of special tokens come first; returns the size of the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: n for n, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": special[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return len(vocabulary)


def llama(folder: Path, *, tied: bool = False, seed: int = 0, layers: int = 2) -> Path:
    """A LLaMA of 64 dimensions with grouped heads and a tokenizer that knows ChatML's tokens."""
    size = tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def gptj(folder: Path, *, seed: int = 0) -> Path:
    """A GPT-J of 64 dimensions with a GPT-2-like tokenizer."""
    size = tokenizer(folder, ("<|endoftext|>",), "<|endoftext|>")
    torch.manual_seed(seed)
    config = GPTJConfig(
        vocab_size=size, n_positions=1024, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, bos_token_id=0, eos_token_id=0
    )
    GPTJForCausalLM(config).save_pretrained(folder)
    return folder
