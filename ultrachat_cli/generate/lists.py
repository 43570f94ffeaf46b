"""Lists from a model: by JSON schema where the endpoint can, by a tolerant parser where not."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.generate.prompts import Prompt, Prompts
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.settings import Opener
from ultrachat_cli.generate.speaking import sampling

_MARKER = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,3}[.):]|\(?[a-z][.)])\s+(?=\S)")
_WRAPPERS = "\"'`*_\u201c\u201d\u2018\u2019 \t,;"
_PLAIN = re.compile(r"[\W_]+")


class ListMaker:
    """Makes lists with the opening model, few items a request, each request journaled."""

    def __init__(self, model: ChatModel, prompts: Prompts, settings: Opener, seed: int, counts: Counts) -> None:
        self._model, self._prompts, self._settings = model, prompts, settings
        self._seed, self._counts = seed, counts
        self.small = model.spec.prompts == "small"
        self.per_request = settings.per_request or (5 if self.small else 10)

    async def items(self, key: str, name: str, count: int, **values: str) -> AsyncIterator[str]:
        """Up to `count` distinct items of prompt `name`, asked for chunk by chunk as they are consumed."""
        prompt = self._prompts.get(name, self._model.spec.prompts)
        seen: set[str] = set()
        taken: list[str] = []
        chunk = 0
        while len(taken) < count:
            fresh = await self._chunk(
                f"{key}#{chunk}", prompt, min(self.per_request, count - len(taken)), taken, values
            )
            fresh = [item for item in fresh if plain(item) not in seen]
            if not fresh:
                return
            for item in fresh[: count - len(taken)]:
                seen.add(plain(item))
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
        return answer.text.strip().strip('"\u201c\u201d').strip()

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
                if plain(item) and plain(item) not in known and not 0 < prompt.max_chars < len(item):
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
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start >= 0:
        end = max(text.rfind("}"), text.rfind("]")) + 1
        try:
            return [clean(item) for item in _texts(orjson.loads(text[start:end]))]
        except orjson.JSONDecodeError:
            pass  # prose with a bracket in it, or JSON torn by max_tokens: read it as lines
    rows = [row for row in text.splitlines() if row.strip() and not row.strip().startswith("```")]
    marked = [row for row in rows if _MARKER.match(row)]
    bare = [row for row in rows if not row.rstrip().endswith((":", "{", "[", "}", "]"))]
    return [item for row in (marked or bare) if (item := clean(row))]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), list(value.values()))
    if not isinstance(value, list):
        return []
    flat = [next(iter(v.values()), "") if isinstance(v, dict) else v for v in value]
    return [item for item in flat if isinstance(item, str) and item.strip()]


def clean(item: str) -> str:
    """An item without its number, bullet, quotes, emphasis and trailing comma."""
    item = _MARKER.sub("", item.strip()).replace("**", "")
    return " ".join(item.strip(_WRAPPERS).split())


def plain(item: str) -> str:
    """Letters and digits only, folded: what makes two items the same."""
    return _PLAIN.sub(" ", item).strip().casefold()
