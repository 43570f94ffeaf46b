"""YAML with the line of every key: what PyYAML reads, less its surprises.

Differences from `yaml.safe_load`: two equal keys are a fault (PyYAML keeps the last in silence), `2e-5` is a
number (PyYAML: text), only `true` and `false` are booleans (PyYAML: also `no`, `on`, ...).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ultrachat_cli.errors import ConfigError, DataError

Keys = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Document:
    """A parsed file: its data, the line of every key path (from 1), and what is wrong with it."""

    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` is what faults call the file. Syntax errors are faults, not exceptions."""
    document = Document()
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            document.data = _build(loader, node, (), document, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        document.faults.append(f"{name}:{line}: not valid YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        document.faults.append(f"{name}: not valid YAML: {error}")
    finally:
        loader.dispose()
    return document


def scalar(text: str) -> Any:
    """The value of a command-line or environment setting, read as YAML; `ConfigError` when it is none."""
    document = parse(text, "value")
    if document.faults:
        raise ConfigError(f"{text!r}: {document.faults[0].partition(': ')[2]}")
    return document.data


def read(path: Path) -> Any:
    """The data of a shipped or user's YAML list or mapping; `DataError` or `ConfigError` when it cannot be had."""
    try:
        document = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, 0, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if document.faults:
        raise ConfigError(document.faults)
    return document.data


def _build(loader: _Loader, node: yaml.Node, at: Keys, document: Document, name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in mapping:
                first = document.lines[(*at, key)]
                document.faults.append(f"{name}:{line}: duplicate key '{key}' (first on line {first})")
                continue
            document.lines[(*at, key)] = line
            mapping[key] = _build(loader, value_node, (*at, key), document, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for i, item in enumerate(node.value):
            document.lines[(*at, str(i))] = item.start_mark.line + 1
            items.append(_build(loader, item, (*at, str(i)), document, name))
        return items
    return loader.construct_object(node)
