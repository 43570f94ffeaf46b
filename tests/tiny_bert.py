"""A BERT of random weights, small enough to make in a test, in the layout of sentence-transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

WORDS = [
    "the", "a", "red", "blue", "dog", "cat", "river", "stone", "runs", "sleeps", "under", "over", "old", "new", "green",
    "house", "##s", "##ing",
]  # fmt: skip
CONFIG = {
    "model_type": "bert", "hidden_act": "gelu", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 32, "layer_norm_eps": 1e-12, "max_position_embeddings": 64, "type_vocab_size": 2,
}  # fmt: skip
LIMIT = 12


def make(folder: Path, pooling: str = "pooling_mode_mean_tokens", seed: int = 0) -> Path:
    """Write the model; returns its folder."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=40)  # as published files have it: the reader must switch it off
    (folder / "1_Pooling").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(weights(len(vocabulary), seed), folder / "model.safetensors")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]
    for name, data in {
        "config.json": CONFIG, "sentence_bert_config.json": {"max_seq_length": LIMIT}, "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": False, pooling: True},
    }.items():  # fmt: skip
        (folder / name).write_bytes(orjson.dumps(data))
    return folder


def weights(tokens: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    width, inner = 16, 32
    shapes = {
        "embeddings.word_embeddings.weight": (tokens, width), "embeddings.position_embeddings.weight": (64, width),
        "embeddings.token_type_embeddings.weight": (2, width), "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }  # fmt: skip
    for n in range(2):
        linear = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (width, width), "intermediate.dense": (inner, width)}
        linear |= {"output.dense": (width, inner)}
        for name, shape in linear.items():
            shapes[f"encoder.layer.{n}.{name}.weight"] = shape
            shapes[f"encoder.layer.{n}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{n}.{name}.{part}": (width,) for part in ("weight", "bias")}
    tensors = {name: draw.normal(0, 0.5 if name.endswith("weight") else 0.05, shape) for name, shape in shapes.items()}
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name] += 1
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def hidden(tensors: dict[str, np.ndarray], ids: Sequence[int]) -> np.ndarray:
    """The last hidden states of one text, float64[tokens, 16], computed from the definition."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ tensors[f"{name}.weight"].T.astype(np.float64) + tensors[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    x = tensors["embeddings.word_embeddings.weight"][list(ids)].astype(np.float64)
    x = x + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("embeddings.LayerNorm", x + tensors["embeddings.token_type_embeddings.weight"][0])
    for n in range(2):
        name = f"encoder.layer.{n}"
        query, key, value = (
            linear(f"{name}.attention.self.{part}", x).reshape(len(ids), 4, 4).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = np.exp(query @ key.transpose(0, 2, 1) / 2)
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        joined = mixed.transpose(1, 0, 2).reshape(len(ids), 16)
        x = norm(f"{name}.attention.output.LayerNorm", linear(f"{name}.attention.output.dense", joined) + x)
        inner = linear(f"{name}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", inner) + x)
    return x
