"""Transformer embeddings through ONNX Runtime, from a folder in sentence-transformers layout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.machine import cores
from ultrachat_cli.models import bert_graph, weights

EXTRA = "semantic"
_BATCH = 2048  # tokens, padding included: larger batches leave the cache, smaller ones leave the cores idle
LONG_TOKEN = 8  # characters: what lies beyond limit * this is not tokenized at all


def tokenizers(what: str) -> Any:
    """The tokenizers package; `MissingExtra` saying `what` needs it."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra(what, "tokenizers", EXTRA) from error
    return tokenizers


def onnxruntime(what: str) -> Any:
    """The onnxruntime package; `MissingExtra` saying `what` needs it."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra(what, "onnxruntime", EXTRA) from error
    return onnxruntime


def load_tokenizer(folder: Path, limit: int) -> Any:
    """`tokenizer.json` of a folder, set to cut at `limit` tokens and not to pad."""
    tokenizer = tokenizers(f"embedding model {folder}").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer


class SentenceEncoder:
    """A transformer whose token vectors are pooled to one (mean or first token) of length 1."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises `MissingExtra`, and `UltraError` for a model of another build."""
        self.name, self.folder = name, folder
        self.limit = _limit(folder)
        self._first_token = _pools_first_token(folder)
        self._tokenizer = load_tokenizer(folder, self.limit)
        self._session = _session(name, folder)
        self._inputs = {given.name for given in self._session.get_inputs()}
        self.dimension = int(_read(folder / "config.json")["hidden_size"])

    @property
    def tokens(self) -> dict[str, int]:
        """The vocabulary: token -> number."""
        found: dict[str, int] = self._tokenizer.get_vocab()
        return found

    def alone(self, tokens: Sequence[int]) -> np.ndarray:
        """The vectors of texts that are one token each: float32[n, dimension]."""
        frame: list[int] = self._tokenizer.encode("").ids
        half = len(frame) // 2
        return self.embed_tokens([[*frame[:half], token, *frame[half:]] for token in tokens])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, dimension], each row of length 1; texts are cut at `limit` tokens."""
        encoded = self._tokenizer.encode_batch_fast([text[: self.limit * LONG_TOKEN] for text in texts])
        return self.embed_tokens([found.ids for found in encoded])

    def embed_tokens(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """The same for texts that are token numbers already, special tokens included."""
        result = np.empty((len(ids), self.dimension), np.float32)
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))  # like lengths together: little padding
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(ids[order[end]]) <= _BATCH:
                end += 1
            rows = order[start:end]
            result[rows] = self._batch([ids[n] for n in rows])
            start = end
        return result

    def _batch(self, ids: list[Sequence[int]]) -> np.ndarray:
        tokens = np.zeros((len(ids), max(map(len, ids))), np.int64)
        mask = np.zeros_like(tokens)
        for row, found in enumerate(ids):
            tokens[row, : len(found)] = found
            mask[row, : len(found)] = 1
        given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        hidden = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        if self._first_token:
            pooled = hidden[:, 0]
        else:
            pooled = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32)) / mask.sum(1, keepdims=True)
        return normalised(pooled)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays one."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length == 0, 1, length)).astype(np.float32)


def _session(name: str, folder: Path) -> Any:
    runtime = onnxruntime(f"embedding model {name}")
    graph = folder / "onnx" / "model.onnx"
    if not graph.is_file():
        graph = _converted(folder)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside other work: twice the speed
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise UltraError(f"embedding model {name}: onnxruntime cannot run {graph}: {error}") from error


def _converted(folder: Path) -> Path:
    """The folder's safetensors as an ONNX graph, made once in the cache."""
    source = folder / "model.safetensors"
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = weights.cache() / f"{digest[:16]}.onnx"
    if not target.is_file():
        weights.cache().mkdir(parents=True, exist_ok=True)
        bert_graph.convert(folder, target)
    return target


def _read(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        raise UltraError(f"{path}: cannot be read: {error}") from error


def _limit(folder: Path) -> int:
    """Tokens the model takes, special ones included."""
    positions = int(_read(folder / "config.json").get("max_position_embeddings", 512))
    return min(positions, int(_read(folder / "sentence_bert_config.json").get("max_seq_length") or positions))


def _pools_first_token(folder: Path) -> bool:
    kinds = [module["type"].rsplit(".", 1)[-1] for module in _read(folder / "modules.json") or []]
    pooling = _read(folder / "1_Pooling" / "config.json")
    ways = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    if set(kinds) - {"Transformer", "Pooling", "Normalize"} or ways not in ([], [_MEAN], [_FIRST]):
        raise UltraError(
            f"embedding model {folder}: its layers ({', '.join([*kinds, *ways])}) are not supported",
            "transformer + mean or first-token pooling works: most MiniLM, BGE, E5 and GTE models",
        )
    return ways == [_FIRST]


_MEAN, _FIRST = "pooling_mode_mean_tokens", "pooling_mode_cls_token"
