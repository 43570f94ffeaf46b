"""Prompts are files: found by name, checked, hashed, replaceable.

A file is a small chat: blocks that begin with a line `## system`, `## user` or `## assistant`; earlier pairs are worked
examples, the last block is the request. `{name}` is a placeholder. Optional `key: value` lines before the first block
say what list items look like: `pattern` (a regular expression), `max_chars` (longer ones are dropped) and, for small
models, `starts` (alternatives separated by `;`, a different one for each item, in the pattern's `{start}`) and `any`
(what `{any}` in those stands for).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.records.manifest import fingerprint
from ultrachat_cli.registry import did_you_mean

_SHIPPED = Path(__file__).parent / "prompts"
_BLOCK = re.compile(r"^## (system|user|assistant)[ \t]*$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_SPECIAL = re.compile(r"([\^$.\[\]()|{}*+?\\])")
_KEYS = ("pattern", "max_chars", "starts", "any")


@dataclass(frozen=True)
class Prompt:
    """One prompt file."""

    name: str
    blocks: tuple[tuple[str, str], ...]
    hash: str
    pattern: str = ""
    max_chars: int = 0
    starts: tuple[str, ...] = ()
    any: str = ""

    def patterns(self, count: int, draw: random.Random, values: Mapping[str, object]) -> list[str]:
        """A regular expression for each of `count` items; empty when they may look like anything."""
        if not self.pattern:
            return []
        starts = draw.sample(self.starts, len(self.starts)) or [""]
        bodies = (self.pattern.replace("{start}", starts[n % len(starts)]) for n in range(count))
        return [
            _PLACEHOLDER.sub(lambda found: _escape(str(values[found[1]])), body.replace("{any}", self.any))
            for body in bodies
        ]

    @property
    def placeholders(self) -> set[str]:
        """The names in braces."""
        texts = [text for _, text in self.blocks] + [self.pattern, *self.starts]
        return {name for text in texts for name in _PLACEHOLDER.findall(text)} - {"start", "any"}

    def messages(self, **values: object) -> list[dict[str, str]]:
        """The chat with its placeholders filled; `KeyError` for a placeholder without a value."""
        return [
            {"role": role, "content": _PLACEHOLDER.sub(lambda found: str(values[found[1]]), text)}
            for role, text in self.blocks
        ]


class Prompts:
    """The shipped prompts, with those of a user's folder laid over them."""

    def __init__(self, overlay: Path | None = None) -> None:
        """Raises `ConfigError` for a file that replaces nothing, lacks a request or knows a wrong placeholder."""
        self._prompts = dict(shipped())
        if overlay is None:
            return
        if not overlay.is_dir():
            raise ConfigError(f"prompts: {overlay}: no such folder")
        faults: list[str] = []
        mine: dict[str, Prompt] = {}
        for path in sorted(overlay.rglob("*.md")):
            name = path.relative_to(overlay).as_posix().removesuffix(".md")
            if name not in self._prompts:
                faults.append(f"{path}: replaces no shipped prompt{did_you_mean(name, self._prompts)}")
                continue
            try:
                mine[name] = parse(name, path)
            except ConfigError as error:
                faults += error.faults
                continue
            unknown = mine[name].placeholders - self._prompts[name].placeholders
            faults += [f"{path}: unknown placeholder {{{p}}}" for p in sorted(unknown)]
        if faults:
            raise ConfigError(faults)
        # a replaced prompt replaces its shipped variants too
        self._prompts = {n: p for n, p in self._prompts.items() if n.partition(".")[0] not in mine} | mine

    def get(self, name: str, variant: str = "") -> Prompt:
        """The prompt, in the wording for `variant` models where there is one."""
        return self._prompts.get(f"{name}.{variant}") or self._prompts[name]

    def hashes(self, sectors: tuple[str, ...]) -> dict[str, str]:
        """Name -> content hash of the prompts these sectors can use."""
        return {n: p.hash for n, p in sorted(self._prompts.items()) if n.split("/")[0] in sectors}


def parse(name: str, path: Path) -> Prompt:
    """A prompt file; `ConfigError` says what is wrong with it."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    head, *rest = _BLOCK.split(source)
    blocks = tuple((role, text.strip()) for role, text in zip(rest[::2], rest[1::2], strict=True))
    if not blocks or blocks[-1][0] != "user":
        raise ConfigError(f"{path}: a prompt ends in a '## user' block, the request")
    header: dict[str, str] = {}
    for number, line in enumerate(head.splitlines(), start=1):
        key, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or key not in _KEYS:
            raise ConfigError(f"{path}:{number}: before the first block only these may stand: {', '.join(_KEYS)}")
        header[key] = value.strip()
    starts = tuple(start.strip() for start in header.get("starts", "").split(";") if start.strip())
    try:
        max_chars = int(header.get("max_chars", "0"))
        prompt = Prompt(
            name,
            blocks,
            fingerprint(source.encode()),
            header.get("pattern", ""),
            max_chars,
            starts,
            header.get("any", ""),
        )
        for pattern in prompt.patterns(max(1, len(starts)), random.Random(0), dict.fromkeys(prompt.placeholders, "x")):
            re.compile(pattern)
    except (re.error, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return prompt


def _escape(value: str) -> str:
    """A text as a pattern that matches it, in the subset of escapes that grammars made from JSON schemas know."""
    return _SPECIAL.sub(r"\\\1", " ".join(value.replace('"', "'").split()))


@cache
def shipped() -> dict[str, Prompt]:
    """All shipped prompts by name (`sector/name`, or `sector/name.small` for small models)."""
    names = {path.relative_to(_SHIPPED).as_posix().removesuffix(".md"): path for path in _SHIPPED.rglob("*.md")}
    return {name: parse(name, path) for name, path in sorted(names.items())}
