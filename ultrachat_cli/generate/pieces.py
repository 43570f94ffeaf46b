"""Pieces of text for the materials sector, read lazily from whatever users have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.filters.faults import trim
from ultrachat_cli.generate import shipped
from ultrachat_cli.generate.settings import Materials
from ultrachat_cli.generate.shipped import MaterialType
from ultrachat_cli.records import files as sources
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.dialogue import parse

_TEXTS = (".txt", ".md", ".text")
_NOT_LETTERS = re.compile(r"[^a-z]+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A text with its place in the stream, its type where known, and where it came from."""

    number: int
    text: str
    kind: MaterialType | None
    source: str


def files(paths: list[Path]) -> list[Path]:
    """The files behind files, folders and run folders, in order; `ConfigError` for what is missing or unknown."""
    return sources.find(paths or [shipped.DATA / "passages.jsonl"], "materials", (*sources.SUFFIXES, *_TEXTS))


def read(settings: Materials, on_bad: jsonl.OnBad, skipped: Counter[str]) -> Iterator[Piece]:
    """All usable pieces, in file order. Bad lines go to `on_bad`; `skipped` counts the others by reason."""
    types = shipped.material_types()
    by_name = {kind.name.casefold(): kind for kind in types}
    number = 0
    for path in files(settings.paths):
        for text, kind_name, url, source in _rows(path, on_bad):
            text = text.strip()
            kind = by_name.get(kind_name.casefold()) or classify(url, types)
            if len(text) < settings.min_chars:
                skipped["shorter than min_chars"] += 1
            elif kind is None and settings.classified_only:
                skipped["type unknown"] += 1
            else:
                yield Piece(number, cut(text, settings.max_chars), kind, source)
                number += 1


def check_not_empty(settings: Materials) -> None:
    """`ConfigError` when no piece at all can be used: found out before any model is asked."""
    faults: list[str] = []
    skipped: Counter[str] = Counter()
    if next(read(settings, lambda error: faults.append(str(error)), skipped), None) is None:
        reasons = [f"{count} {reason}" for reason, count in skipped.items()] + faults[:3]
        raise ConfigError(
            f"materials: no usable text ({'; '.join(reasons) or 'the files are empty'})",
            'lines look like {"text": "...", "url": "..."}; see materials.min_chars',
        )


def classify(url: str, types: list[MaterialType]) -> MaterialType | None:
    """The type whose keywords occur in the URL's words (EMNLP paper, section 3.3); most hits win."""
    if not url:
        return None
    words = set(_NOT_LETTERS.split(url.casefold()))
    best = max(types, key=lambda kind: len(kind.url_keywords & words))
    return best if best.url_keywords & words else None


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ending with a sentence where one ends in the last half."""
    if len(text) <= limit:
        return text
    whole = trim(text[:limit])
    return whole if len(whole) >= limit // 2 else text[:limit].rsplit(" ", 1)[0]


Row = tuple[str, str, str, str]
"""(text, type name or empty, URL or empty, where it came from)."""


def _rows(path: Path, on_bad: jsonl.OnBad) -> Iterator[Row]:
    if path.name.endswith(_TEXTS):
        try:
            yield path.read_text(encoding="utf-8"), "", "", str(path)
        except (OSError, UnicodeDecodeError) as error:
            on_bad(DataError(path, 0, f"cannot be read: {error}"))
        return
    try:
        for number, record in sources.rows(path, on_bad):
            try:
                yield _row(record, f"{path.name}:{number}")
            except ValueError as error:
                on_bad(DataError(path, number, str(error)))
    except DataError as error:
        on_bad(error)


def _row(record: Any, place: str) -> Row:
    """`ValueError` says why a record is no piece."""
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        url = str(record.get("url") or "")
        return record["text"], str(record.get("type") or ""), url, url or place
    if isinstance(record, dict) and {"data", "messages", "conversations"} & set(record):
        dialogue = parse(record)
        answers = dialogue.data[1::2]
        kind = str(dialogue.meta.get("type") or "")
        if not answers:
            raise ValueError("a dialogue without an answer")
        return max(answers, key=len), kind, "", f"dialogue {dialogue.id}"
    raise ValueError("no 'text' in this line")
