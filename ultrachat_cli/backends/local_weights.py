"""Which models transformers runs, and where their weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ultrachat_cli.backends.transformers import LocalBackend
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import folders
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.models.specs import ModelSpec

Say = Callable[[str], None]


def runs(spec: ModelSpec, engine: str) -> bool:
    """Whether transformers is what runs a model's weights under `engine` (auto, llamacpp, transformers).

    `ConfigError` for a model that gives no answers, and for one that llama.cpp cannot run though it is asked to.
    """
    if spec.role in ("reward", "embedding"):
        hint = "it scores answers: chat --reward-model, score" if spec.role == "reward" else "it is for explore, dedupe"
        raise ConfigError(f"model {spec.name} is a model for {spec.role}s: it does not answer", hint)
    if engine == "llamacpp" and not spec.embedded:
        raise ConfigError(
            f"model {spec.name}: llama.cpp runs .gguf files, and {spec.source} is none", "leave --engine out"
        )
    return engine == "transformers" or not spec.embedded


def open_(spec: ModelSpec, settings: LocalSettings, concurrency: int, say: Say) -> LocalBackend:
    """The model loaded, fetched first where that is necessary. Raises as `folders.obtain` and `LocalBackend.open`."""
    folder = _recovered(spec, say) if spec.weights == "delta" else folders.obtain(spec, say)
    return LocalBackend.open(spec, folder, settings, slots=concurrency)


def _recovered(spec: ModelSpec, say: Say) -> Path:
    """The folder that `recover` makes of a delta unless told otherwise."""
    folder = Path(spec.name)
    if (folder / "config.json").is_file() and folders.of_folder(folder).weights == "full":
        say(f"{spec.name}: the recovered weights in {folder.resolve()}")
        return folder
    raise ConfigError(
        f"model {spec.name} is published as a delta, which is no model by itself",
        f"ultrachat recover {spec.name} --base FOLDER makes ./{spec.name} of it; or name a folder with the result",
    )
