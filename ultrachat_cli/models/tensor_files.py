"""Where each tensor of a model folder lies on disk: safetensors and .bin, one file or shards, without loading any.

Everything that can be wrong with the files is found here: shards that are missing or cut short, tensors that reach
beyond their file. A .bin is read by PyTorch's restricted loader, which builds tensors and runs nothing.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ultrachat_cli.errors import DataError, UltraError

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of a number, by safetensors' names of types."""
TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""The same types as torch and config.json call them."""
_NAMED = {name: kind for kind, name in TORCH.items()}
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library allows
_AGAIN = "fetch the file again"


class Tensor(NamedTuple):
    """A tensor in its file, its numbers one after another in rows."""

    name: str
    file: Path
    offset: int
    """Of its first byte in the file."""
    dtype: str
    """A key of SIZES."""
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.numel * SIZES[self.dtype]


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder in transformers' layout by name; safetensors are preferred to .bin.

    Raises `UltraError` for a folder without weights, `DataError` for a file that is missing, cut short, of a form
    that cannot be read by offset, or that holds more than tensors; `MissingExtra` for a .bin without torch.
    """
    found: dict[str, Tensor] = {}
    listed, files = _files(folder)
    for path in files:
        for tensor in _tensors(path):
            if tensor.name in found:
                raise DataError(path, 0, f"{tensor.name} is also in {found[tensor.name].file.name}", _AGAIN)
            found[tensor.name] = tensor
    for name, path in listed.items():
        if name not in found:
            raise DataError(path, 0, f"{name} is missing, which the index says is in it", _AGAIN)
    return found


def _files(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """(tensor -> file as the index tells, files)."""
    for whole, index in zip(_WHOLE, _INDICES, strict=True):
        if (folder / index).is_file():
            listed = _index(folder / index)
            files = list(dict.fromkeys(listed.values()))
            if missing := [path.name for path in files if not path.is_file()]:
                shown = ", ".join(missing[:4]) + (" ..." if len(missing) > 4 else "")
                raise DataError(folder, 0, f"{len(missing)} of {len(files)} shards are missing: {shown}", "fetch them")
            return listed, files
        if (folder / whole).is_file():
            return {}, [folder / whole]
    raise UltraError(f"{folder}: no weights", "model.safetensors or pytorch_model.bin, or shards with their index")


def _index(path: Path) -> dict[str, Path]:
    try:
        listed = orjson.loads(path.read_bytes())["weight_map"]
        if not listed or any(Path(file).name != file for file in listed.values()):
            raise ValueError("it must name files of its own folder")
        return {name: path.with_name(file) for name, file in listed.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(path, 0, f"not an index of weights: {error}", _AGAIN) from error


def _tensors(path: Path) -> Iterator[Tensor]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(b"version https:/"):
            raise DataError(path, 0, "a pointer of Git LFS: the weights themselves are not here", "git lfs pull")
        return iter(_safetensors(path) if path.suffix == ".safetensors" else _bin(path, head))
    except OSError as error:
        raise DataError(path, 0, f"cannot be read: {error.strerror or error}") from error


def _safetensors(path: Path) -> list[Tensor]:
    """Header: its length in 8 bytes, then JSON; offsets count from its end (safetensors' README, "Format")."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise DataError(path, 0, f"not safetensors, or cut short: {size:,} bytes", _AGAIN)
        text = file.read(length)
    found: list[Tensor] = []
    try:
        told: dict[str, Any] = orjson.loads(text)
        told.pop("__metadata__", None)
        for name, entry in told.items():
            start, end = map(int, entry["data_offsets"])
            tensor = Tensor(name, path, 8 + length + start, entry["dtype"], tuple(map(int, entry["shape"])))
            if tensor.dtype not in SIZES:
                raise ValueError(f"{name} is of the unknown type {tensor.dtype}")
            if start < 0 or min(tensor.shape, default=0) < 0 or end - start != tensor.size:
                raise ValueError(f"{name} has {end - start} bytes for shape {list(tensor.shape)} of {tensor.dtype}")
            found.append(tensor)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(path, 0, f"not a header of safetensors: {error}", _AGAIN) from error
    needed = max((tensor.offset + tensor.size for tensor in found), default=0)
    if needed > size:
        raise DataError(path, 0, f"cut short: {size:,} bytes of {needed:,}", _AGAIN)
    return sorted(found, key=lambda tensor: tensor.offset)


def _bin(path: Path, head: bytes) -> list[Tensor]:
    """A zip archive of stored (uncompressed) entries: PyTorch tells at which byte each storage begins."""
    if not head.startswith(b"PK\x03\x04"):
        raise DataError(
            path, 0, "not a zip archive: weights of before PyTorch 1.6, or no weights",
            "rewrite it once: torch.save(torch.load(FILE, weights_only=True), FILE)",
        )  # fmt: skip
    try:
        starts = _starts(path)
    except (zipfile.BadZipFile, ValueError) as error:
        raise DataError(path, 0, f"cut short or damaged: {error}", _AGAIN) from error
    size = path.stat().st_size
    found: list[Tensor] = []
    for name, tensor in _described(path).items():
        kind = _NAMED.get(str(tensor.dtype).removeprefix("torch."))
        if kind is None:
            raise DataError(path, 0, f"{name} is of type {tensor.dtype}, which no weights have")
        if not tensor.is_contiguous():
            raise DataError(path, 0, f"{name} is not stored row by row", "save it again with contiguous tensors")
        storage = tensor.untyped_storage()._checkpoint_offset
        start = storage + tensor.storage_offset() * tensor.element_size()
        found.append(Tensor(name, path, start, kind, tuple(tensor.shape)))
        if storage not in starts or start + found[-1].size > size:
            raise DataError(path, 0, f"{name} is not where the file says", _AGAIN)
    return sorted(found, key=lambda tensor: tensor.offset)


def _starts(path: Path) -> set[int]:
    """Where the data of each entry begins; `ValueError` for an archive that PyTorch does not write."""
    found: set[int] = set()
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its entries are compressed")
            if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
                raise ValueError("its numbers are of the other byte order")
            file.seek(entry.header_offset + 26)  # a local header: 30 bytes, the last four of them lengths
            name, extra = file.read(2), file.read(2)
            found.add(entry.header_offset + 30 + int.from_bytes(name, "little") + int.from_bytes(extra, "little"))
    return found


def _described(path: Path) -> dict[str, Any]:
    """name -> tensor on the device `meta`, which has no data; nothing but tensors is built."""
    try:
        import torch
        from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]
    except ImportError as error:
        from ultrachat_cli.errors import MissingExtra

        raise MissingExtra(f"reading {path}", "torch", "train") from error
    try:
        told = torch.load(path, map_location="meta", weights_only=True)
    except UnpicklingError as error:
        raise DataError(
            path, 0, "holds more than tensors, and loading it could run a program: refused",
            "get the weights as safetensors, or from a source you trust",
        ) from error  # fmt: skip
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(path, 0, f"not weights: {str(error).splitlines()[0][:200]}", _AGAIN) from error
    if not isinstance(told, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in told.values()):
        raise DataError(path, 0, "not a mapping of names to tensors", "save the model's state_dict alone")
    return told
