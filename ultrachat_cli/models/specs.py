"""Names of models and what they mean: `configs/models.yaml`, files, hub ids and endpoint models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from ultrachat_cli import registry, yaml_lines
from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import formats

OPENAI = "https://api.openai.com/v1"
FACTS = "ultrachat.json"
"""Beside weights that were trained here: their registry entry."""


def _known_format(name: str) -> str:
    if name != formats.TOKENIZER and name not in formats.FORMATS:
        near = registry.did_you_mean(name, formats.FORMATS) or f" (known: {', '.join(formats.FORMATS)})"
        raise ValueError(f"unknown chat format '{name}'{near}")
    return name


FormatName = Annotated[str, AfterValidator(_known_format)]
"""The name of a chat format; `tokenizer` stands for the template that comes with the weights."""


class Price(Frozen):
    """US dollars for a million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for one request."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


class ModelSpec(Frozen):
    """Everything the program knows of a model. Nothing is guessed from its name."""

    name: str = ""
    role: Literal["chat", "base", "reward", "critique", "embedding"] = "chat"
    """What it is for."""
    source: str
    """hf:org/name, hf:org/name/file.gguf, package:distribution/file.gguf, gguf:path, openai:model, scripted:file.

    Embedding models also: package:distribution/folder, folder:path, static:name of the model it is distilled from.
    """
    weights: Literal["full", "delta"] = "full"
    """A delta is added to `base` by `recover`."""
    base: str = ""
    """Registry name of the base of a delta."""
    format: FormatName = formats.TOKENIZER
    """Chat format: a name in formats.py, or `tokenizer` for the template shipped with the weights."""
    context: int = Field(default=0, ge=0)
    """Tokens of context; 0 = unknown."""
    licence: str = ""
    """Licence of the weights."""
    sha256: str = ""
    """Checksum of the weights file, where it is a single one."""
    user: Literal["instruct", "continue"] = "instruct"
    """How it plays the user: told to after the history, or by raw continuation of the template's open user turn."""
    prompts: Literal["", "small"] = ""
    """Which wording of the prompts it gets: `small` for models that need examples and patterns."""
    system: str = ""
    """System prompt it works best with when it plays the assistant."""
    sampling: dict[str, Any] = {}
    """Recommended generation settings, as request fields."""
    user_sampling: dict[str, Any] = {}
    """What differs when it plays the user."""
    list_sampling: dict[str, Any] = {}
    """What differs when it makes lists."""
    eval_sampling: dict[str, Any] = {}
    """What differs when it is evaluated, as in its published results."""
    price: Price | None = None
    """US dollars for a million tokens, as published when the entry was written."""
    about: str = ""
    """One line."""

    @property
    def scheme(self) -> str:
        """Where it comes from: hf, package, gguf, openai, scripted, folder or static."""
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """The source without its scheme."""
        return self.source.partition(":")[2]

    @property
    def embedded(self) -> bool:
        """Whether the embedded llama.cpp can run it."""
        return self.scheme == "gguf" or (self.scheme in ("package", "hf") and self.place.endswith(".gguf"))


@cache
def known() -> dict[str, ModelSpec]:
    """All registry entries; `ConfigError` when the shipped file is wrong."""
    path = registry.shipped("models.yaml")
    entries = yaml_lines.read(path)
    specs: dict[str, ModelSpec] = {}
    for name, entry in entries.items():
        try:
            specs[name] = ModelSpec.model_validate({**entry, "name": name})
        except ValidationError as error:
            faults = [f"{path}: {name}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ConfigError(faults) from None
    return specs


def resolve(name: str, *, base_url: str | None = None) -> ModelSpec:
    """What `name` means: registry name, .gguf file or folder, hf:, openai:, scripted:, or with `base_url` any name."""
    if name in known():
        return known()[name]
    scheme, _, place = name.partition(":")
    if scheme == "openai" and place:
        entry = known().get(place)
        return entry if entry and entry.scheme == "openai" else ModelSpec(name=place, source=name)
    if scheme == "scripted" and place:
        if place != "synthetic" and not Path(place).is_file():
            raise ConfigError(f"model {name}: no such file: {place}")
        return ModelSpec(name="scripted", source=name)
    if base_url is not None and name:
        return ModelSpec(name=name, source=f"openai:{name}")
    if scheme == "hf" and place:
        return ModelSpec(name=place, source=name)
    path = Path(name)
    if name and (path / "config.json").is_file() and not any(path.glob("*.gguf")):
        from ultrachat_cli.models import folders

        return folders.of_folder(path)
    if path.suffix == ".gguf" or (name and path.is_dir()):
        return ModelSpec(name=path.stem, source=f"gguf:{_gguf(path)}")
    if "/" in name:
        hub = not name.startswith(("/", "./", "../", "~")) and name.count("/") == 1
        raise ConfigError(
            f"model {name}: no such folder or file", f"a model of the hub: hf:{name}" if hub else "is the path right?"
        )
    near = registry.did_you_mean(name, known())
    raise ConfigError(
        f"unknown model '{name}'{near}",
        "'ultrachat models ls' lists names; a folder, a .gguf file, hf:org/name/file.gguf or openai:NAME works too; "
        "for a model served elsewhere add --base-url",
    )


def _gguf(path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    if not path.is_dir():
        raise ConfigError(f"model {path}: no such file")
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        if not found:
            raise ConfigError(
                f"model {path}: no model in this folder: neither config.json nor a .gguf file",
                "name the folder with the weights",
            )
        listed = ", ".join(f.name for f in found)
        raise ConfigError(f"model {path}: exactly one .gguf file is expected in the folder (found: {listed})")
    return found[0].resolve()
