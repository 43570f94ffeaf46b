"""Texts as vectors: embedding models by registry name, folder or hub id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ultrachat_cli import registry
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import specs, weights
from ultrachat_cli.models.specs import ModelSpec

if TYPE_CHECKING:
    import numpy as np

Say = Callable[[str], None]
STATIC = "static"
"""Scheme of a model that is a table of token vectors, distilled from another model on this machine."""


class Embedder(Protocol):
    """A model that is ready to embed."""

    @property
    def name(self) -> str:
        """What it was opened as."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, dimension], each row of length 1; what exceeds the model's tokens is cut off."""


def resolve(name: str) -> ModelSpec:
    """What `name` means: an embedding model of the registry, hf:org/name, or a folder (sentence-transformers layout).

    Raises `ConfigError`.
    """
    known = {n: spec for n, spec in specs.known().items() if spec.role == "embedding"}
    if name in known:
        return known[name]
    if name.startswith("hf:"):
        return ModelSpec(name=name.removeprefix("hf:"), role="embedding", source=name)
    if Path(name).is_dir():
        return ModelSpec(name=Path(name).name, role="embedding", source=f"folder:{Path(name).resolve()}")
    raise ConfigError(
        f"unknown embedding model '{name}'{registry.did_you_mean(name, known)}",
        f"known: {', '.join(known)}; or a folder in sentence-transformers layout, or hf:org/name",
    )


def open(name: str, say: Say = lambda _: None) -> Embedder:
    """The model, fetched or distilled first if it is not here yet; `say` takes notices of that.

    Raises `ConfigError` (unknown name), `MissingExtra`, `UltraError` (a model that cannot be fetched or run).
    """
    spec = resolve(name)
    if spec.scheme == STATIC:
        from ultrachat_cli.models.static_vectors import StaticEmbedder

        return StaticEmbedder(name, _table(spec, say), _folder(known_base(spec), say))
    from ultrachat_cli.models.sentence_encoder import SentenceEncoder

    return SentenceEncoder(name, _folder(spec, say))


def known_base(spec: ModelSpec) -> ModelSpec:
    """The model a static one is distilled from."""
    return specs.known()[spec.place]


def locate(spec: ModelSpec) -> Path | None:
    """The model's weights file if it is on this machine."""
    folder = weights.locate_folder(known_base(spec) if spec.scheme == STATIC else spec)
    found = weights.main_file(folder) if folder else None
    if spec.scheme != STATIC or found is None:
        return found
    from ultrachat_cli.models import static_vectors

    table = static_vectors.path_of(found)
    return table if table.is_file() else None


def pull(spec: ModelSpec, say: Say) -> Path:
    """Fetch or distill the model and check it; returns its weights file."""
    if spec.scheme == STATIC:
        return _table(spec, say)
    folder = _folder(spec, say)
    found = weights.main_file(folder)
    assert found is not None
    return found


def require(name: str) -> None:
    """`ConfigError` or `MissingExtra` before work begins rather than after it."""
    spec = resolve(name)
    from ultrachat_cli.models import sentence_encoder

    sentence_encoder.tokenizers(f"embedding model {name}")
    if spec.scheme != STATIC or locate(spec) is None:
        sentence_encoder.onnxruntime(f"embedding model {name}")


def _folder(spec: ModelSpec, say: Say) -> Path:
    folder = weights.pull_folder(spec, say)
    found = weights.main_file(folder)
    if found is None:
        raise ConfigError(f"embedding model {folder}: neither onnx/model.onnx nor model.safetensors is there")
    if spec.sha256:
        weights.check(spec, found)
    return folder


def _table(spec: ModelSpec, say: Say) -> Path:
    if (found := locate(spec)) is not None:
        return found
    from ultrachat_cli.models import static_vectors
    from ultrachat_cli.models.sentence_encoder import SentenceEncoder

    base = known_base(spec)
    folder = _folder(base, say)
    say(f"distilling {spec.name} from {base.name}, once (about 15 s)")
    return static_vectors.distill(SentenceEncoder(base.name, folder))
