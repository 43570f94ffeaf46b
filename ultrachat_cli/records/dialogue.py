"""A dialogue, in the published UltraChat shape and the two other shapes the field uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Shape = Literal["ultrachat", "messages", "sharegpt"]
_SHAREGPT = {"user": "human", "assistant": "gpt"}
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


@dataclass(slots=True)
class Dialogue:
    """Turns that alternate, starting with the user and ending with the assistant; `meta` is its provenance."""

    id: str
    data: list[str]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """A round is one user turn and one assistant turn."""
        return len(self.data) // 2

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as chat messages."""
        return [{"role": role(i), "content": text} for i, text in enumerate(self.data)]

    def record(self, shape: Shape = "ultrachat") -> dict[str, Any]:
        """The JSON object of one line: `data` (UltraChat), `messages` (OpenAI, HF) or `conversations` (ShareGPT)."""
        if shape == "messages":
            return {"id": self.id, "messages": self.messages, "meta": self.meta}
        if shape == "sharegpt":
            turns = [{"from": _SHAREGPT[m["role"]], "value": m["content"]} for m in self.messages]
            return {"id": self.id, "conversations": turns, "meta": self.meta}
        return {"id": self.id, "data": self.data, "meta": self.meta}

    def line(self, shape: Shape = "ultrachat") -> bytes:
        """One JSONL line, newline included."""
        return orjson.dumps(self.record(shape), option=orjson.OPT_APPEND_NEWLINE)


def role(turn: int) -> Literal["user", "assistant"]:
    """Who speaks at this index of `data`."""
    return "assistant" if turn % 2 else "user"


def parse(record: object) -> Dialogue:
    """A dialogue from any of the three shapes; `ValueError` says what is missing. System messages go to `meta`."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError("'meta' is not an object")
    identity = next((str(known) for key in ("id", "prompt_id") if (known := record.get(key)) is not None), "")
    if isinstance(record.get("data"), list):
        turns = record["data"]
        if not all(isinstance(text, str) for text in turns):
            raise ValueError("'data' holds something other than text")
        return Dialogue(identity, list(turns), meta)
    for key, who, what in (("messages", "role", "content"), ("conversations", "from", "value")):
        if isinstance(record.get(key), list):
            return _from_messages(identity, record[key], who, what, dict(meta))
    raise ValueError("no 'data', 'messages' or 'conversations' list")


def _from_messages(identity: str, turns: list[Any], who: str, what: str, meta: dict[str, Any]) -> Dialogue:
    data: list[str] = []
    for n, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get(what), str):
            raise ValueError(f"turn {n + 1} has no text under '{what}'")
        speaker = _ROLES.get(str(turn.get(who)))
        if speaker == "system" and not data:
            meta["system"] = turn[what]
        elif speaker != role(len(data)):
            raise ValueError(f"turn {n + 1} is by '{turn.get(who)}' where '{role(len(data))}' should speak")
        else:
            data.append(turn[what])
    return Dialogue(identity, data, meta)
