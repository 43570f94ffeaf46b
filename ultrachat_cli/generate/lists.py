"""Lists from a model: by JSON schema where the endpoint can, by a tolerant parser where not."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.errors import BackendError, CircuitOpen
from ultrachat_cli.generate.prompts import Prompt, Prompts
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.settings import Opener
from ultrachat_cli.generate.speaking import sampling
from ultrachat_cli.models.specs import ModelSpec

_MARKER = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,3}[.):]|\(?[a-z][.)]|\(?[A-Z]\))\s+(?=\S)")
_PAIRS = {**{mark: mark for mark in "\"'`*_"}, "\u201c": "\u201d", "\u2018": "\u2019"}
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_JSON = re.compile(r"[\[{]")
_JSON_TEXTS = re.compile(r"\[\s*[\"{]|\{\s*\"")
_JSON_LIST = re.compile(r"\[\s*[\"{]")
_JSON_TEXT = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|\]', re.DOTALL)
_PLAIN = re.compile(r"[\W_]+")


class ListMaker:
    """Makes lists with the opening model, few items a request, each request journaled."""

    def __init__(self, model: ChatModel, prompts: Prompts, settings: Opener, seed: int, counts: Counts) -> None:
        self._model, self._prompts, self._settings = model, prompts, settings
        self._seed, self._counts = seed, counts
        self.small = model.spec.prompts == "small"
        self.per_request = portion(model.spec, settings)

    async def items(self, key: str, name: str, count: int, **values: str) -> AsyncIterator[str]:
        """Up to `count` distinct items of prompt `name`, asked for chunk by chunk as they are consumed."""
        prompt = self._prompts.get(name, self._model.spec.prompts)
        taken: list[str] = []
        chunk = 0
        while len(taken) < count:
            wanted = min(self.per_request, count - len(taken))
            try:
                fresh = await self._chunk(f"{key}#{chunk}", prompt, wanted, taken, values)
            except CircuitOpen:
                raise
            except BackendError:  # this list cannot be had (a content filter, a text too long); the others can
                self._counts.warnings["lists that no answer came for"] += 1
                return
            if not fresh:
                return
            for item in fresh:  # no more than wanted, and none that was taken before
                taken.append(item)
                yield item
            chunk += 1

    async def text(self, key: str, name: str, **values: str) -> str:
        """One free text from prompt `name`; empty when the model gives none of the form the prompt asks for."""
        prompt = self._prompts.get(name, self._model.spec.prompts)
        if prompt.pattern:
            found = await self._chunk(key, prompt, 1, [], values)
            return found[0] if found else ""
        answer = await self._model.ask(key, prompt.messages(**values), self._sampling(key))
        return _unwrapped(answer.text)

    async def _chunk(self, key: str, prompt: Prompt, count: int, taken: list[str], values: dict[str, str]) -> list[str]:
        """One request's worth of items; a short list is asked for again, then taken as it is with a warning."""
        found: dict[str, str] = {}
        known = {plain(item) for item in taken}
        for attempt in range(1 + self._settings.list_retries):
            avoid = [*taken, *found.values()][-40:]
            listed = f"\n\nThese are taken already: {'; '.join(avoid)}" if avoid else ""
            messages = prompt.messages(count=count, avoid=listed, **values)
            request = f"{key}.{attempt}"
            patterns = prompt.patterns(count, random.Random(f"{self._seed}/{request}"), values)
            answer = await self._model.ask(request, messages, self._sampling(request), schema=schema(count, patterns))
            for item in parse_list(answer.text):
                fits = not 0 < prompt.max_chars < len(item) and _any_matches(patterns, item)
                if fits and plain(item) and plain(item) not in known:
                    found.setdefault(plain(item), item)
            if len(found) >= count:
                return list(found.values())[:count]
        self._counts.warnings["lists shorter than asked for"] += 1
        return list(found.values())

    def _sampling(self, key: str) -> Sampling:
        settings = self._settings
        fields = {"temperature": 1.0, **self._model.spec.sampling, **self._model.spec.list_sampling}
        if not self._model.spec.list_sampling:
            fields |= {"temperature": 1.0, "max_tokens": 1024}  # variety is what lists are for
        return sampling(fields, settings, zlib.crc32(f"{self._seed}/{key}".encode()))


def portion(spec: ModelSpec, settings: Opener) -> int:
    """Items asked for in one request."""
    return settings.per_request or (5 if spec.prompts == "small" else 10)


def schema(count: int, patterns: Sequence[str] = ()) -> dict[str, Any]:
    """JSON schema of an object with `items`: exactly `count` texts, each of its pattern where there are patterns."""
    items: dict[str, Any] = {"type": "array", "minItems": count, "maxItems": count}
    if len(set(patterns)) > 1:
        items["prefixItems"] = [{"type": "string", "pattern": pattern} for pattern in patterns]
    else:
        items["items"] = {"type": "string", **({"pattern": patterns[0]} if patterns else {})}
    return {"type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": False}


def parse_list(text: str) -> list[str]:
    """The items of a JSON list or object with one, or of a numbered, bulleted or bare list of lines."""
    end = 0
    for bracket in _JSON.finditer(text):
        at = bracket.start()
        if at < end:
            continue
        try:
            end = json.JSONDecoder().raw_decode(text, at)[1]
            items = _texts(orjson.loads(text[at:end]))
        except (ValueError, RecursionError):  # prose with a bracket in it, or JSON torn by max_tokens
            items = _whole_texts(text, at) if _JSON_TEXTS.match(text, at) else []
        if items:
            return [clean(item) for item in items]
    rows = [row for row in text.splitlines() if row.strip() and not row.strip().startswith("```")]
    marked = [row for row in rows if _MARKER.match(row)]
    bare = [row for row in rows if row.lstrip()[0] not in "{[" and row.rstrip()[-1] not in ":{[}]"]
    return [item for row in (marked or bare) if (item := clean(row))]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), list(value.values()))
    if not isinstance(value, list):
        return []
    flat = (list(v.values()) if isinstance(v, dict) else [v] for v in value)
    texts = (next((text for text in parts if isinstance(text, str)), "") for parts in flat)
    return [text for text in texts if text.strip()]


def _whole_texts(text: str, at: int) -> list[str]:
    """The texts of a JSON list that is torn or wrong, up to where it ends; what is torn itself is left out."""
    start = _JSON_LIST.search(text, at)
    found: list[str] = []
    for token in _JSON_TEXT.finditer(text, start.start() if start else at):
        if token[1] is None:
            break
        try:
            found += [] if token[2] else [orjson.loads(token[1])]
        except orjson.JSONDecodeError:
            continue
    return [item for item in found if item.strip()]


def _any_matches(patterns: list[str], item: str) -> bool:
    """Whether an item looks as it should: a server may not know patterns, or know none of ours."""
    return not patterns or any(re.search(pattern, item) for pattern in patterns)


def clean(item: str) -> str:
    """An item without its number, bullet, quotes, emphasis and trailing comma."""
    return " ".join(_unwrapped(_MARKER.sub("", item.strip()).replace("**", "")).split())


def _unwrapped(text: str) -> str:
    """A text without the quotes or emphasis around the whole of it."""
    text = text.strip(" \t\n,;")
    while len(text) > 1 and _PAIRS.get(text[0]) == text[-1]:
        inner = text[1:-1].strip(text[0] + text[-1])
        if text[-1] in _APOSTROPHE.sub("", inner):
            break
        text = text[1:-1].strip(" \t\n,;")
    return text


def plain(item: str) -> str:
    """Letters and digits only, folded: what makes two items the same."""
    return _PLAIN.sub(" ", item).strip().casefold()
