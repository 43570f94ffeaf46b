"""What will be written: each tensor of the result with where it comes from, laid out in shards; every fault at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from ultrachat_cli.errors import UltraError
from ultrachat_cli.models.tensor_files import SIZES, Tensor
from ultrachat_cli.recover.sides import FLOATS, Side

BY_TOKEN = re.compile(r"(embed_tokens|word_embeddings|wte|embed_in|lm_head|embed_out)\.(weight|bias)$")
"""Tensors with a row for each token: those that grow with the vocabulary."""
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|word_embeddings|wte|embed_in)\.weight$")
_COMPUTED = re.compile(r"\.inv_freq$")
_BUFFER = re.compile(r"(\.inv_freq|\.(attn|attention)\.(bias|masked_bias)|\.position_ids|\.(cos|sin)_cached)$")
"""What transformers computes by itself; older versions wrote some of it beside the weights."""
_INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")
_SHOWN = 4


@dataclass(frozen=True)
class Piece:
    """One tensor of the result, of the shape of `other` (delta or tuned), in type `dtype`."""

    name: str
    other: Tensor
    base: Tensor | None
    """None: a tensor the base does not have, carried over as it is (integers only)."""
    dtype: str

    @property
    def grown(self) -> bool:
        """Whether it has rows that the base does not have."""
        return self.base is not None and self.base.shape != self.other.shape

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return self.other.numel * SIZES[self.dtype]


@dataclass(frozen=True)
class Shard:
    """A safetensors file: header, then the pieces one after another."""

    file: str
    pieces: list[Piece]

    @property
    def header(self) -> bytes:
        """Length in 8 bytes, JSON padded to a multiple of 8 so that numbers are aligned."""
        told: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for piece in self.pieces:
            shape = list(piece.other.shape)
            told[piece.name] = {"dtype": piece.dtype, "shape": shape, "data_offsets": [at, at + piece.size]}
            at += piece.size
        text = orjson.dumps(told)
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """Bytes of the weights in it."""
        return sum(piece.size for piece in self.pieces)


@dataclass
class Plan:
    """All that is decided before the first byte is written."""

    base: Side
    other: Side
    shards: list[Shard]
    left_out: list[str]
    """Buffers and tied heads that are not written."""
    new_rows: int
    """Tokens that the base does not have."""
    vocabulary: int | None
    """Rows of the embedding; None where no tensor is known as one."""
    notes: list[str] = field(default_factory=list)
    """What a person should look at."""

    @property
    def pieces(self) -> list[Piece]:
        """Of all shards."""
        return [piece for shard in self.shards for piece in shard.pieces]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(shard.size for shard in self.shards)


def plan(base: Side, other: Side, dtype_of: Callable[[Tensor], str], shard_size: int) -> Plan:
    """Pair the tensors of both sides. `dtype_of` tells the type that a float tensor of `other` is written in.

    `UltraError` lists names that one side lacks, shapes that do not fit, and quantized weights.
    """
    pairs, left_out, faults = _paired(base, other)
    new_rows = 0
    pieces: list[Piece] = []
    for name, (ours, theirs) in pairs.items():
        if fault := _misfit(base, other, ours, theirs):
            faults.append(fault)
            continue
        pieces.append(Piece(name, theirs, ours, dtype_of(theirs) if theirs.dtype in FLOATS else theirs.dtype))
        if ours is not None and pieces[-1].grown:
            new_rows = max(new_rows, theirs.shape[0] - ours.shape[0])
    if faults:
        more = f"\n... and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise UltraError(
            "\n".join(faults[:8]) + more,
            f"check that --base is the model that the {other.role} was made from, and that the two are not swapped",
        )
    vocabulary = next((piece.other.shape[0] for piece in pieces if _EMBEDDING.search(piece.name)), None)
    return Plan(base, other, _shards(pieces, shard_size), left_out, new_rows, vocabulary)


def _paired(base: Side, other: Side) -> tuple[dict[str, tuple[Tensor | None, Tensor]], list[str], list[str]]:
    """(name -> base's and other's tensor, in the order of the other's files; names left out; faults)."""
    pairs: dict[str, tuple[Tensor | None, Tensor]] = {}
    left_out: list[str] = []
    extra: list[str] = []
    ties = bool(other.config.get("tie_word_embeddings", False))
    embedding = next((tensor for name, tensor in base.tensors.items() if _EMBEDDING.search(name)), None)
    for name, tensor in other.tensors.items():
        ours = base.tensors.get(name)
        if _COMPUTED.search(name) or (ours is None and _BUFFER.search(name)):
            left_out.append(name)
        elif _HEAD.search(name) and ties and any(_EMBEDDING.search(known) for known in other.tensors):
            left_out.append(name)  # the embedding again
        elif ours is None and _HEAD.search(name) and base.config.get("tie_word_embeddings") and embedding is not None:
            pairs[name] = embedding, tensor  # the base's head is its embedding
        elif ours is None and tensor.dtype in FLOATS:
            extra.append(name)
        else:
            pairs[name] = ours, tensor
    lacking = [name for name in base.tensors if name not in other.tensors]
    left_out += [name for name in lacking if _BUFFER.search(name) or (ties and _HEAD.search(name))]
    missing = [name for name in lacking if name not in left_out]
    faults: list[str] = []
    if missing:
        faults.append(f"--{other.role} {other.folder} lacks {_some(missing)}, which the base has")
    if extra:
        faults.append(f"--base {base.folder} lacks {_some(extra)}, which the {other.role} has")
    return pairs, left_out, faults


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
    return f"{len(names)} tensors ({shown})" if len(names) > 1 else shown


def _misfit(base: Side, other: Side, ours: Tensor | None, theirs: Tensor) -> str:
    """What is wrong with a pair, or nothing."""
    known = FLOATS + _INTEGERS
    for side, tensor in ((base, ours), (other, theirs)):
        if tensor is not None and tensor.dtype not in known:
            return (
                f"--{side.role} {side.folder}: {tensor.name} is of type {tensor.dtype}: quantized weights have no sum"
            )
    if ours is None:
        return ""
    if (ours.dtype in FLOATS) != (theirs.dtype in FLOATS) or (ours.dtype not in FLOATS and ours.dtype != theirs.dtype):
        return f"{theirs.name} is {ours.dtype} in the base and {theirs.dtype} in the {other.role}"
    if ours.shape == theirs.shape:
        return ""
    grows = BY_TOKEN.search(theirs.name) and ours.dtype in FLOATS and ours.shape[1:] == theirs.shape[1:]
    if grows and 0 < ours.shape[0] < theirs.shape[0]:
        return ""
    return f"{theirs.name} has shape {list(ours.shape)} in the base and {list(theirs.shape)} in the {other.role}"


def _shards(pieces: list[Piece], limit: int) -> list[Shard]:
    """As many files as the limit asks for, of about the same size, so that workers end together."""
    total = sum(piece.size for piece in pieces)
    count = max(1, -(-total // limit))
    groups = _filled(pieces, max(-(-total // count), max((piece.size for piece in pieces), default=1)))
    if len(groups) > count:
        groups = _filled(pieces, limit)
    names = [f"model-{n:05}-of-{len(groups):05}.safetensors" for n in range(1, len(groups) + 1)]
    if len(groups) == 1:
        names = ["model.safetensors"]
    # within a file the wider types come first, so that all are aligned
    return [
        Shard(name, sorted(group, key=lambda piece: -SIZES[piece.dtype]))
        for name, group in zip(names, groups, strict=True)
    ]


def _filled(pieces: Iterable[Piece], limit: int) -> list[list[Piece]]:
    groups: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if groups[-1] and size + piece.size > limit:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.size
    return groups


_ALIKE = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps", "rope_theta",
    "max_position_embeddings",
)  # fmt: skip


def compared(base: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Settings in which the two configs differ though a fine-tuning leaves them alone."""
    both = (key for key in _ALIKE if base.get(key) is not None and other.get(key) is not None)
    return [
        f"{key} is {base[key]} in the base's config and {other[key]} here" for key in both if base[key] != other[key]
    ]
