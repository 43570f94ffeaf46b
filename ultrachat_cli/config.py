"""Four sources in, one frozen checked object out, or one `ConfigError` naming every fault.

Order, the later wins: defaults of the model < file (`--config`) < environment (ULTRACHAT_<AREA>__A__B) < command line
(`--set a.b=c`, then named flags). Every value remembers where it came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from ultrachat_cli import registry, yaml_lines
from ultrachat_cli.errors import ConfigError

Keys = tuple[str, ...]
_RANGE = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")
_QUOTED = re.compile("'([^']*)'")


class Frozen(BaseModel):
    """Base of every config section: unknown keys refused, immutable, the string under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Span(Frozen):
    """An inclusive range of whole numbers, written `5` or `3-7`."""

    low: int
    high: int

    @model_validator(mode="after")
    def _possible(self) -> Span:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"impossible range {self.low}-{self.high}: it must start at 1 or more and not go down")
        return self

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def _span(value: Any) -> Any:
    if isinstance(value, Span | dict):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("write a number or a range such as 3-7")
    found = _RANGE.fullmatch(str(value))
    if found is None:
        raise ValueError(f"'{value}' is neither a number nor a range such as 3-7")
    return {"low": int(found[1]), "high": int(found[2] or found[1])}


Range = Annotated[Span, BeforeValidator(_span), PlainSerializer(str, return_type=str)]
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A checked config with the source of every value that is not a default (dotted key -> source)."""

    value: T
    sources: dict[str, str]


def load(
    model: type[T],
    area: str,
    *,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
) -> Loaded[T]:
    """Check and merge all sources. `flags`: dotted key -> (flag as typed, value); a None value is absent."""
    merged: dict[str, Any] = {}
    sources: dict[Keys, str] = {}
    faults: list[str] = []
    if file is not None:
        path = find(area, file)
        document = yaml_lines.parse(_text(path), str(path))
        faults += document.faults
        if isinstance(document.data, dict):
            merged = document.data
            sources |= {keys: f"{path}:{line}" for keys, line in document.lines.items()}
        elif document.data is not None and not document.faults:
            faults.append(f"{path}:1: a mapping of keys is expected")
    prefix = f"ULTRACHAT_{area.upper()}__"
    overrides: list[tuple[Keys, str, Any]] = []
    for name, text in sorted((environ or {}).items()):
        if name.startswith(prefix):
            keys = tuple(part.lower() for part in name.removeprefix(prefix).split("__"))
            _override(overrides, faults, keys, f"environment {name}", text)
    for setting in sets:
        key, equals, text = setting.partition("=")
        if not equals:
            faults.append(f"--set {setting}: write --set key=value")
            continue
        _override(overrides, faults, _split(model, key.strip()), f"--set {key.strip()}", text)
    for key, (flag, value) in (flags or {}).items():
        if value is not None:
            overrides.append((tuple(key.split(".")), flag, value))
    for keys, source, value in overrides:
        place = merged
        for part in keys[:-1]:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[keys[-1]] = value
        sources = {known: at for known, at in sources.items() if known[: len(keys)] != keys}
        sources |= dict.fromkeys(_paths(keys, value), source)
    try:
        value = model.model_validate(merged)
    except ValidationError as error:
        faults += [_fault(model, detail, sources) for detail in error.errors()]
        raise ConfigError(faults, _see(area)) from None
    leaves = {keys: (at, leaf) for keys, at in sources.items() if not isinstance(leaf := _get(merged, keys), dict)}
    faults += [
        f"{at}: {'.'.join(k)}: not valid UTF-8" for k, (at, leaf) in leaves.items() if not _is_text([k, at, leaf])
    ]
    if faults:
        raise ConfigError(faults, _see(area))
    return Loaded(value, {".".join(keys): at for keys, (at, _) in leaves.items()})


def find(area: str, name: str) -> Path:
    """A config by path, or a shipped one by name; `ConfigError` lists the names there are."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"--config {name}: no such file")
        return path
    known = {found.stem: found for found in sorted(registry.shipped(area).glob("*.yaml"))}
    if name not in known:
        raise ConfigError(
            f"--config {name}: no shipped {area} config of that name{registry.did_you_mean(name, known)}",
            f"shipped: {', '.join(known)}; or give a path ending in .yaml",
        )
    return known[name]


def show(loaded: Loaded[T]) -> str:
    """The whole effective config as commented YAML that can be loaded again."""
    return "\n".join(_show(type(loaded.value), loaded.value.model_dump(mode="json"), loaded.sources, ())) + "\n"


def _see(area: str) -> str:
    return f"'ultrachat config show {area}' prints every key with its meaning"


def _show(model: type[BaseModel], data: dict[str, Any], sources: dict[str, str], at: Keys) -> list[str]:
    lines: list[str] = []
    indent = "  " * len(at)
    for name, field in model.model_fields.items():
        keys = (*at, name)
        if field.description:
            lines += [f"{indent}# {line}" for line in field.description.strip().splitlines()]
        section = _section(field.annotation)
        if section is not None and isinstance(data[name], dict):
            lines += [f"{indent}{name}:", *_show(section, data[name], sources, keys)]
            continue
        source = sources.get(".".join(keys))
        lines.append(f"{indent}{name}: {yaml_lines.dump(data[name])}" + (f"  # from {source}" if source else ""))
    return lines


def _section(annotation: Any) -> type[BaseModel] | None:
    """The config section a field holds, looking through Annotated; a Range is a plain value."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Span
    return annotation if is_section else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _override(overrides: list[tuple[Keys, str, Any]], faults: list[str], keys: Keys, source: str, text: str) -> None:
    try:
        overrides.append((keys, source, yaml_lines.scalar(text)))
    except ConfigError as error:
        faults.append(f"{source}: {error}")


def _split(model: type[BaseModel], key: str) -> Keys:
    """A dotted key in its parts; a name in a mapping of sections keeps its dots (`prices.gpt-4.1.input`)."""
    parts = key.split(".")
    section: type[BaseModel] | None = model
    for n, part in enumerate(parts, start=1):
        field = section.model_fields.get(part) if section else None
        annotation = field.annotation if field else None
        if get_origin(annotation) is dict and (entry := _section(get_args(annotation)[1])) and parts[n + 1 :]:
            end = len(parts) - (parts[-1] in entry.model_fields)
            return (*parts[:n], ".".join(parts[n:end]), *parts[end:])
        section = _section(annotation)
    return tuple(parts)


def _paths(keys: Keys, value: Any) -> Iterator[Keys]:
    """The key itself and those of everything within its value."""
    yield keys
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths((*keys, key), inner)


def _is_text(value: Any) -> bool:
    """Whether no part of a value is a name in another encoding: the manifest could not hold it."""
    try:
        return bool(json.dumps(value, ensure_ascii=False, default=str).encode())
    except UnicodeEncodeError:
        return False


def _get(data: Any, keys: Keys) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _fault(model: type[BaseModel], detail: ErrorDetails, sources: dict[Keys, str]) -> str:
    """One line: where it came from, the key, what is wrong, and the near match for an unknown key."""
    keys = tuple(str(part) for part in detail["loc"])
    above = (sources[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in sources)
    where = next(above, None) or next((at for known, at in sources.items() if known[: len(keys)] == keys), "")
    key = ".".join(keys)
    if detail["type"] == "extra_forbidden":
        section: type[BaseModel] | None = model
        for part in keys[:-1]:
            field = section.model_fields.get(part) if section else None
            section = _section(field.annotation) if field else None
        near = registry.did_you_mean(keys[-1], section.model_fields) if section else ""
        problem = f"unknown key{near}"
    elif detail["type"] == "value_error":
        problem = str(detail.get("ctx", {}).get("error", detail["msg"]))
    else:
        given = detail["input"]
        shown = "" if isinstance(given, dict | SecretStr) else f", got {given!r}"
        choices = _QUOTED.findall(str(detail.get("ctx", {}).get("expected", "")))
        problem = detail["msg"][0].lower() + detail["msg"][1:] + shown + registry.did_you_mean(str(given), choices)
    if where.removeprefix("--set ").removeprefix("--").replace("-", "_") == key:
        key = ""  # the flag has said it
    return ": ".join(part for part in (where, key, problem) if part)
