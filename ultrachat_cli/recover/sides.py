"""The two models that are added or subtracted: what a name means, where its folder is, what is in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli import registry
from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.models import folders, specs, tensor_files
from ultrachat_cli.models.specs import FACTS, ModelSpec
from ultrachat_cli.models.tensor_files import Tensor

FLOATS = ("F64", "F32", "F16", "BF16")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""Any of these makes a tokenizer."""


@dataclass(frozen=True)
class Side:
    """One model folder; `role` is the option that names it: base, delta or tuned."""

    role: str
    spec: ModelSpec
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def dtype(self) -> str:
        """The type of most of its weights."""
        found: Counter[str] = Counter()
        for tensor in self.tensors.values():
            if tensor.dtype in FLOATS:
                found[tensor.dtype] += tensor.size
        return found.most_common(1)[0][0] if found else ""

    @property
    def has_tokenizer(self) -> bool:
        """Whether words can be told to it."""
        return any((self.folder / name).is_file() for name in TOKENIZER)


def meant(role: str, name: str) -> ModelSpec:
    """The entry behind `--role name`: a folder's own, a registry entry (first of all for `model`), or hf:org/name.

    `ConfigError` for none of these.
    """
    path = Path(name)
    if path.is_dir() and not (role == "model" and name in specs.known()):
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"--{role} {name}: no config.json in this folder", "name a folder in transformers' layout"
            )
        return folders.of_folder(path)
    if name in specs.known():
        return specs.known()[name]
    if name.startswith("hf:"):
        same = (entry for entry in specs.known().values() if entry.source == name)
        return next(same, None) or specs.resolve(name)
    raise ConfigError(
        f"--{role} {name}: no such folder, and no model of that name{registry.did_you_mean(name, specs.known())}",
        "a folder in transformers' layout, a name of 'ultrachat models ls', or hf:org/name",
    )


def published_in_full(spec: ModelSpec) -> bool:
    """Whether it is known to be no delta: told by the registry, or by the folder itself."""
    told = (Path(spec.place) / FACTS).is_file() if spec.scheme == "folder" else spec.name in specs.known()
    return told and spec.weights == "full"


def opened(role: str, spec: ModelSpec, say: folders.Say) -> Side:
    """Find or fetch the folder and look up its tensors. Raises as `folders.obtain` and `tensor_files.read`."""
    folder = folders.obtain(spec, say)
    path = folder / "config.json"
    try:
        config = orjson.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("a mapping is expected")
    except (OSError, ValueError) as error:
        raise DataError(path, 0, f"not a model's config: {error}") from error
    return Side(role, spec, folder, config, tensor_files.read(folder))
