"""Small tokenizers in folders, made as the big ones are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
_WORDS = (" river", " the", " and", "user", "assistant", "system", "the", "Assist", "stop", "river")


def _learned(words: Sequence[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that make each word one token, from left to right."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for n in range(1, len(word)):
            merges[word[:n], word[n]] = None
            vocabulary.setdefault(word[: n + 1], len(vocabulary))
    return list(merges)


def _save(tokenizer: Tokenizer, folder: Path, told: dict[str, Any], template: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(told))
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def byte_level(
    folder: Path, special: Sequence[str | AddedToken] = CHATML, *, bos: str = "", eos: str = "", template: str = "",
    more: int = 0,
) -> Path:  # fmt: skip
    """GPT-2's kind; `more`: so many tokens that never occur."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: n for n, letter in enumerate(alphabet)}
    merges = _learned([word.replace(" ", "\u0120") for word in _WORDS], vocabulary)
    for n in range(more):
        vocabulary[f"\u0120unused{n}"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    told = {"eos_token": eos or str(special[-1]), **({"bos_token": bos} if bos else {})}
    return _save(tokenizer, folder, told, template)


def sentencepiece(folder: Path, *, metaspace: bool = False, special: Sequence[str] = (), template: str = "") -> Path:
    """LLaMA's kind: a space before every text, bytes for what is unknown, <s> and </s>.

    `metaspace`: as newer files say it, with the space at the very beginning only.
    """
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for letter in "\u2581" + "".join(map(chr, range(33, 127))):
        vocabulary.setdefault(letter, len(vocabulary))
    merges = _learned(["\u2581User", "Assist", "Assistant", "\u2581Hi", "Hi", "\u2581", "\u2581the"], vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<s>", "</s>", *special)])
    return _save(tokenizer, folder, {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}, template)
