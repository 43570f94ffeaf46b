"""The shipped lists (topics, entities, types, personas, templates, passages) and their users' replacements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrachat_cli import yaml_lines
from ultrachat_cli.errors import ConfigError

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class MaterialType:
    """One of the 20 types of written material."""

    name: str
    noun: str
    url_keywords: frozenset[str]


@dataclass(frozen=True)
class Persona:
    """A kind of user: `style` tells the user model how to write."""

    name: str
    style: str


@dataclass(frozen=True)
class Templates:
    """Ways of joining a text and an instruction, each with `{text}` and `{instruction}` once."""

    text_first: tuple[str, ...]
    text_last: tuple[str, ...]


def topics(path: Path | None) -> list[str]:
    """Meta topics."""
    return _names(path or DATA / "meta_topics.yaml", "topics")


def subtopics() -> dict[str, list[str]]:
    """Subtopics of the published meta topics, for models that cannot list them."""
    data: dict[str, list[str]] = yaml_lines.read(DATA / "subtopics.yaml")
    return data


def material_types() -> list[MaterialType]:
    """The 20 types, in their published order."""
    rows = yaml_lines.read(DATA / "material_types.yaml")
    return [MaterialType(row["name"], row["noun"], frozenset(row["url_keywords"])) for row in rows]


def angles() -> dict[str, list[str]]:
    """`subjects`, `audiences` and `tones` that vary instruction requests."""
    data: dict[str, list[str]] = yaml_lines.read(DATA / "angles.yaml")
    return data


def entities(path: Path | None) -> list[str]:
    """Entities, one a line; `#` begins a comment line. Kept as one list: 10k names are under 1 MB."""
    source = path or DATA / "entities.txt"
    try:
        rows = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"world.entities: {source}: cannot be read: {error}") from error
    found = list(dict.fromkeys(row.strip() for row in rows if row.strip() and not row.startswith("#")))
    if not found:
        raise ConfigError(f"world.entities: {source}: no entity in it; write one a line")
    return found


def personas(path: Path | None) -> list[Persona]:
    """Kinds of users."""
    source = path or DATA / "personas.yaml"
    rows = _list(source, "user.personas")
    faults = [
        f"{source}: persona {n}: needs 'name' and 'style'"
        for n, row in enumerate(rows, start=1)
        if not (isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("style"), str))
    ]
    if faults:
        raise ConfigError(faults)
    return [Persona(row["name"], row["style"]) for row in rows]


def templates(path: Path | None) -> Templates:
    """Joining templates; `ConfigError` for one without its two placeholders."""
    source = path or DATA / "templates.yaml"
    data = yaml_lines.read(source)
    lists = {key: data.get(key) or [] for key in ("text_first", "text_last")} if isinstance(data, dict) else {}
    if not any(lists.values()) or not all(isinstance(rows, list) for rows in lists.values()):
        raise ConfigError(f"{source}: lists 'text_first' and 'text_last' are expected")
    faults = [
        f"{source}: {key} {n}: must hold {{text}} and {{instruction}} once each"
        for key, rows in lists.items()
        for n, row in enumerate(rows, start=1)
        if not isinstance(row, str) or row.count("{text}") != 1 or row.count("{instruction}") != 1
    ]
    if faults:
        raise ConfigError(faults)
    return Templates(**{key: tuple(rows) for key, rows in lists.items()})


def starters() -> dict[str, list[str]]:
    """Beginnings of user turns by sector, for models that continue the user's turn."""
    data: dict[str, list[str]] = yaml_lines.read(DATA / "starters.yaml")
    return data


def _names(path: Path, key: str) -> list[str]:
    rows = _list(path, f"world.{key}")
    if not all(isinstance(row, str) and row.strip() for row in rows):
        raise ConfigError(f"{path}: a list of names is expected")
    return [str(row) for row in rows]


def _list(path: Path, key: str) -> list[Any]:
    if not path.is_file():
        raise ConfigError(f"{key}: {path}: no such file")
    rows = yaml_lines.read(path)
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{key}: {path}: a YAML list with at least one entry is expected")
    return rows
