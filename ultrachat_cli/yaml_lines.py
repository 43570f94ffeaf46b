"""YAML with the line of every key: what PyYAML reads, less its surprises.

Differences from `yaml.safe_load`: two equal keys are a fault (PyYAML keeps the last in silence), and plain words mean
what YAML 1.2 says: `2e-5` and `010` are the numbers they look like, only `true` and `false` are booleans (PyYAML: also
`no`, `on`, ...), dates and `1:30` are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ultrachat_cli.errors import ConfigError

Keys = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Quotes the text that either PyYAML or we would take for something else."""


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.inf|\.nan", list("-+.")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _int(_: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


@dataclass
class Document:
    """A parsed file: its data, the line of every key path (from 1), and what is wrong with it."""

    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` is what faults call the file. Syntax errors are faults, not exceptions."""
    document = Document()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _build(loader, node, (), document, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        document.faults.append(f"{name}:{line}: not valid YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.faults.append(f"{name}:{line}: not valid YAML: character {error.character:#x} may not stand in it")
    except RecursionError:
        line = next(reversed(document.lines.values()), loader.line + 1)
        document.faults.append(f"{name}:{line}: nested too deeply, or an anchor within itself")
    return document


def dump(value: Any) -> str:
    """One line of YAML that `parse` reads as the same value."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def scalar(text: str) -> Any:
    """The value of a command-line or environment setting, read as YAML; `ConfigError` when it is none."""
    document = parse(text, "value")
    if document.faults:
        raise ConfigError(f"{text!r}: {document.faults[0].partition(': ')[2]}")
    return document.data


def read(path: Path) -> Any:
    """The data of a shipped or user's YAML list or mapping; `ConfigError` when it cannot be had."""
    try:
        document = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
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
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError, AttributeError) as error:  # a tag that does not fit: `!!bool x`
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error
