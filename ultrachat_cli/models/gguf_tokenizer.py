"""The tokenizer inside a GGUF file as one of the `tokenizers` package, so that texts are counted without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.models.requantize import read_header

_DIGITS_APART = ("smollm",)
"""Pre-tokenizers (`tokenizer.ggml.pre`) that are GPT-2's with every digit a token of its own."""
_PLAIN = ("gpt-2",)


def load(gguf: Path) -> Any:
    """A `tokenizers.Tokenizer` for byte-level BPE with GPT-2's pre-tokenizer, as SmolLM2 has it.

    Special tokens are text like any other. Raises `MissingExtra`, and `UltraError` for other kinds.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError as error:
        raise MissingExtra(f"the tokenizer of {gguf.name}", "tokenizers", "data") from error
    facts = read_header(gguf, arrays=True).metadata
    kind, before = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre")
    if kind != "gpt2" or before not in _DIGITS_APART + _PLAIN:
        raise UltraError(f"{gguf}: its tokenizer ({kind}, {before}) is not known", "name a tokenizer.json")
    vocabulary = {token: number for number, token in enumerate(facts["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if before in _DIGITS_APART else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer
