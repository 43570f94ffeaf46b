"""Tensors are found where they are, and what is wrong with files is said before anything is read."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recover import folders
from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.models import tensor_files


def at(tensor: tensor_files.Tensor) -> torch.Tensor:
    """Read by offset what the table says."""
    data = bytearray(tensor.file.read_bytes()[tensor.offset : tensor.offset + tensor.size])
    return torch.frombuffer(data, dtype=getattr(torch, tensor_files.TORCH[tensor.dtype])).view(tensor.shape)


@pytest.mark.parametrize("kind", ["one", "shards", "bin", "bins"])
def test_every_tensor_is_found_at_its_bytes(tmp_path: Path, kind: str) -> None:
    tensors = folders.state(dtype=torch.float16)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    tensors["more"] = torch.randn(5).bfloat16()
    tensors["positions"] = torch.arange(7)
    tensors["flags"] = torch.tensor([True, False, True])
    found = tensor_files.read(folders.folder(tmp_path / "m", tensors, kind=kind))
    assert found.keys() == tensors.keys()
    assert folders.same({name: at(tensor) for name, tensor in found.items()}, tensors)


def test_views_of_one_storage(tmp_path: Path) -> None:
    """A .bin keeps a storage once, however many tensors look at it."""
    whole = torch.arange(24, dtype=torch.float32)
    tensors = {"all": whole.view(4, 6), "tail": whole[10:20]}
    (tmp_path / "m").mkdir()
    torch.save(tensors, tmp_path / "m/pytorch_model.bin")
    found = tensor_files.read(tmp_path / "m")
    assert folders.same({name: at(tensor) for name, tensor in found.items()}, tensors)


def refused(folder: Path, *says: str) -> UltraError:
    with pytest.raises(UltraError) as caught:
        tensor_files.read(folder)
    for words in says:
        assert words in caught.value.message, caught.value.message
    return caught.value


def test_no_weights(tmp_path: Path) -> None:
    refused(tmp_path, "no weights")


@pytest.mark.parametrize(("kind", "file"), [("one", "model.safetensors"), ("bin", "pytorch_model.bin")])
@pytest.mark.parametrize("left", [0, 5, 300, -1])
def test_a_file_that_is_cut_short(tmp_path: Path, kind: str, file: str, left: int) -> None:
    path = folders.folder(tmp_path / "m", folders.state(), kind=kind) / file
    os.truncate(path, left if left >= 0 else path.stat().st_size - 1)
    error = refused(tmp_path / "m", file)
    assert isinstance(error, DataError)
    assert error.hint


def test_shards_that_are_missing(tmp_path: Path) -> None:
    folder = folders.folder(tmp_path / "m", folders.state(), kind="shards")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "1 of 2 shards are missing", "model-00002-of-00002.safetensors")


def test_a_tensor_that_only_the_index_knows(tmp_path: Path) -> None:
    folder = folders.folder(tmp_path / "m", folders.state(), kind="shards")
    path = folder / "model.safetensors.index.json"
    told = json.loads(path.read_text())
    told["weight_map"]["lost"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(told))
    refused(folder, "lost is missing")


@pytest.mark.parametrize(
    "told", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": 3}']
)
def test_an_index_that_is_none(tmp_path: Path, told: str) -> None:
    folder = folders.folder(tmp_path / "m", folders.state())
    (folder / "model.safetensors.index.json").write_text(told)
    refused(folder, "not an index of weights")


def test_one_name_in_two_shards(tmp_path: Path) -> None:
    folder = folders.folder(tmp_path / "m", folders.state(), kind="shards")
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    refused(folder, "is also in")


def header(path: Path, told: Any, data: bytes = b"\0" * 64) -> None:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"dtype": "F16", "shape": [4], "data_offsets": [0, 16]}, "16 bytes for shape [4] of F16"),
        ({"dtype": "F16", "shape": [-4], "data_offsets": [0, -8]}, "bytes for shape"),
        ({"dtype": "F16", "shape": [4], "data_offsets": [-8, 0]}, "bytes for shape"),
        ({"dtype": "F16", "shape": [400], "data_offsets": [0, 800]}, "cut short"),
        ({"dtype": "X9", "shape": [4], "data_offsets": [0, 8]}, "unknown type X9"),
        ({"dtype": "F16", "shape": 4, "data_offsets": [0, 8]}, "not a header"),
        ({"shape": [4]}, "not a header"),
        (3, "not a header"),
    ],
)
def test_a_header_that_cannot_be(tmp_path: Path, entry: Any, says: str) -> None:
    header(tmp_path / "model.safetensors", {"a": entry})
    refused(tmp_path, says)


def test_a_header_that_is_no_json_or_too_long(tmp_path: Path) -> None:
    header(tmp_path / "model.safetensors", b"\xff\xfe")
    refused(tmp_path, "not a header")
    (tmp_path / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    refused(tmp_path, "not safetensors, or cut short")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_in_place_of_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    assert refused(tmp_path, "pointer of Git LFS").hint == "git lfs pull"


def test_a_bin_of_before_zip(tmp_path: Path) -> None:
    torch.save(folders.state(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert "torch.save" in refused(tmp_path, "not a zip archive").hint


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_bin_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "it-ran"
    bomb = {**folders.state(), "bomb": Bomb(mark)}
    torch.save(bomb, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refused(tmp_path, "could run a program: refused" if zipped else "not a zip archive")
    assert not mark.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "the file would have run a program, had it been loaded as anybody might"


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ([torch.zeros(3)], "not a mapping"),
        ({"model": {"a": torch.zeros(3)}}, "not a mapping"),
        ({"a": torch.zeros(4, 3).t()}, "not stored row by row"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "which no weights have"),
    ],
)
def test_a_bin_of_other_things(tmp_path: Path, saved: Any, says: str) -> None:
    torch.save(saved, tmp_path / "pytorch_model.bin")
    refused(tmp_path, says)


def rezipped(path: Path, **changed: bytes) -> None:
    """The same archive with other entries or compressed ones."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pack = zipfile.ZIP_DEFLATED if changed.get("pack") else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", pack) as archive:
        for name, data in entries.items():
            archive.writestr(name, changed.get(name.rpartition("/")[2], data))


def test_archives_that_pytorch_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(folders.state(), path)
    rezipped(path, byteorder=b"big")
    refused(tmp_path, "other byte order")
    torch.save(folders.state(), path)
    rezipped(path, pack=b"yes")
    refused(tmp_path, "compressed")
