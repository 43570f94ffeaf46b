"""GGUF headers, and a one-time rewrite of Q4_1 weights as Q8_0, which llama.cpp multiplies faster.

On two AVX-512 cores 8 requests side by side go 1.3-1.7 times as fast, for 1.5 times the file. The values stay within
1/254 of their block's largest, so the model says the same; Q4_0 would be a fifth faster still, and visibly worse.
File layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; block layouts: ggml-common.h and
`quantize_row_q8_0_ref` of ggml-quants.c (both MIT).
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ultrachat_cli.errors import UltraError

Q4_1, Q8_0 = 3, 8  # ggml_type
BLOCK = 32  # weights in a block of either
_BYTES = {Q4_1: 20, Q8_0: 34}  # of a block: fp16 scale (Q4_1: and minimum), then nibbles or bytes
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CHUNK = 1 << 16  # blocks converted at once


@dataclass(frozen=True)
class Tensor:
    """One row of a GGUF file's tensor table."""

    name: str
    shape: tuple[int, ...]
    kind: int  # ggml_type
    offset: int  # bytes from the start of the data


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: dict[str, Any]  # arrays only as their lengths, unless asked for
    tensors: list[Tensor]
    tensors_at: int  # bytes into the file
    data_at: int
    alignment: int


def read_header(path: Path, *, arrays: bool = False) -> Header:
    """The metadata and tensor table of a GGUF file; `UltraError` where it is not one. `arrays`: read those as well."""
    try:
        with path.open("rb") as file:
            return _header(file, arrays)
    except (OSError, struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise UltraError(f"{path}: not a readable GGUF file ({error})") from error


def _header(file: BinaryIO, arrays: bool) -> Header:
    magic, version, tensor_count, entries = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise OSError(f"starts with {magic!r}, version {version}")
    metadata = {_string(file): _value(file, _scalar(file, "I"), arrays) for _ in range(entries)}
    tensors_at = file.tell()
    tensors = []
    for _ in range(tensor_count):
        name = _string(file)
        rank = _scalar(file, "I")
        shape = struct.unpack(f"<{rank}Q", file.read(8 * rank))
        tensors.append(Tensor(name, shape, *struct.unpack("<IQ", file.read(12))))
    alignment = int(metadata.get("general.alignment", 32))
    return Header(metadata, tensors, tensors_at, _padded(file.tell(), alignment), alignment)


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode()


def _value(file: BinaryIO, kind: int, arrays: bool) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    item, count = struct.unpack("<IQ", file.read(12))
    if arrays:
        return [_value(file, item, arrays) for _ in range(count)]
    if item in _SCALARS:
        file.seek(count * struct.calcsize("<" + _SCALARS[item]), os.SEEK_CUR)
    else:
        for _ in range(count):
            _value(file, item, arrays)
    return count


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def faster_copy(gguf: Path, cache: Path) -> Path:
    """`gguf` with its Q4_1 tensors as Q8_0, made once in `cache`; `gguf` itself where it has none."""
    header = read_header(gguf)
    if not any(tensor.kind == Q4_1 for tensor in header.tensors):
        return gguf
    with gguf.open("rb") as file:
        target = cache / f"{gguf.stem}.q8_0-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.gguf"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=cache, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as output, gguf.open("rb") as file:
            _rewrite(header, file, output)
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return target


def _rewrite(header: Header, file: BinaryIO, output: BinaryIO) -> None:
    ends = sorted({tensor.offset for tensor in header.tensors})
    file_size = file.seek(0, os.SEEK_END) - header.data_at
    room = dict(zip(ends, [*ends[1:], file_size], strict=True))  # offset -> where the next tensor begins
    file.seek(0)
    output.write(file.read(header.tensors_at))
    offset = 0
    for tensor in header.tensors:
        name = tensor.name.encode()
        output.write(struct.pack("<Q", len(name)) + name)
        output.write(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        changes = tensor.kind == Q4_1
        output.write(struct.pack("<IQ", Q8_0 if changes else tensor.kind, offset))
        size = prod(tensor.shape) // BLOCK * _BYTES[Q8_0] if changes else room[tensor.offset] - tensor.offset
        offset += _padded(size, header.alignment)
    for tensor in header.tensors:
        output.write(b"\0" * (_padded(output.tell(), header.alignment) - output.tell()))
        file.seek(header.data_at + tensor.offset)
        if tensor.kind != Q4_1:
            output.write(file.read(room[tensor.offset] - tensor.offset))
            continue
        blocks = prod(tensor.shape) // BLOCK
        for start in range(0, blocks, _CHUNK):
            output.write(q8_0_from_q4_1(file.read(min(_CHUNK, blocks - start) * _BYTES[Q4_1])))


def q8_0_from_q4_1(data: bytes) -> bytes:
    """Blocks of Q4_1 (value = scale * nibble + minimum) as blocks of Q8_0 (value = scale * signed byte)."""
    import numpy as np

    blocks = np.frombuffer(data, np.uint8).reshape(-1, _BYTES[Q4_1])
    scale, minimum = blocks[:, :4].copy().view(np.float16).astype(np.float32).T[:, :, None]
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    values = scale * nibbles + minimum
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    result = np.empty((len(blocks), _BYTES[Q8_0]), np.uint8)
    result[:, :2] = step.astype(np.float16).view(np.uint8)
    result[:, 2:] = np.rint(values * inverse).astype(np.int8).view(np.uint8)
    return result.tobytes()
