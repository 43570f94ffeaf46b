"""How long a text is in tokens: by the tokenizer of the model in question, or by a rough count that says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ultrachat_cli.errors import ConfigError, MissingExtra

WORDS = "words"
CHOICES = "a tokenizer.json, a folder that holds one, or `words` (words and punctuation marks: fewer than tokens)"
Count = Callable[[Sequence[str]], list[int]]
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")


def counter(tokenizer: str | None) -> Count:
    """Counts the tokens of texts, special ones not among them. `words`: words, punctuation marks, CJK characters.

    `ConfigError` when the tokenizer is not named or is none.
    """
    if not tokenizer:
        raise ConfigError("--tokenizer: whose tokens?", f"name {CHOICES}")
    if tokenizer == WORDS:
        return lambda texts: [len(_WORD.findall(text)) for text in texts]
    path = Path(tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"--tokenizer: {path}: no such file", f"name {CHOICES}")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("--tokenizer", "tokenizers", "data") from error
    try:
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ConfigError(f"--tokenizer: {path}: not a tokenizer: {error}", f"name {CHOICES}") from error
    loaded.no_truncation()
    loaded.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in loaded.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count
