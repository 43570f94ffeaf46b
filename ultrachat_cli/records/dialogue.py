"""A dialogue, in the published UltraChat shape and the two other shapes the field uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

Shape = Literal["ultrachat", "messages", "sharegpt"]
KEYS: dict[Shape, str] = {"ultrachat": "data", "messages": "messages", "sharegpt": "conversations"}
"""The field that holds the turns."""
FIELDS: dict[Shape, tuple[str, str]] = {"messages": ("role", "content"), "sharegpt": ("from", "value")}
"""Who speaks and what is said, in the shapes whose turns are objects."""
TURN_FIELDS = "turn_fields"
"""meta.turn_fields: more fields of single messages, {"<index in data>" or "system": {name: value}}."""
_SHAREGPT = {"user": "human", "assistant": "gpt"}
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


@dataclass(slots=True)
class Dialogue:
    """Turns that alternate, starting with the user and ending with the assistant; `meta` is its provenance.

    What a shape has no place for is kept and put back: unknown fields of the record in `extra`, a system message in
    meta.system, unknown fields of single messages (null is none) in meta.turn_fields. `shape`: the one it came in.
    """

    id: str
    data: list[str]
    meta: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    shape: Shape = field(default="ultrachat", compare=False)

    @property
    def rounds(self) -> int:
        """A round is one user turn and one assistant turn."""
        return len(self.data) // 2

    @property
    def system(self) -> str | None:
        """The system message."""
        system = self.meta.get("system")
        return system if isinstance(system, str) else None

    @property
    def turn_fields(self) -> dict[str, dict[str, Any]]:
        """meta.turn_fields; empty where something else goes by that name."""
        fields = self.meta.get(TURN_FIELDS)
        if not isinstance(fields, dict) or not all(isinstance(found, dict) for found in fields.values()):
            return {}
        places = {str(n) for n in range(len(self.data))} | ({"system"} if self.system is not None else set())
        return fields if fields.keys() <= places else {}

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as chat messages, after the system message where there is one."""
        spoken = [{"role": role(i), "content": text} for i, text in enumerate(self.data)]
        return spoken if self.system is None else [{"role": "system", "content": self.system}, *spoken]

    def meta_beside_messages(self, *without: str) -> dict[str, Any]:
        """`meta` where a system message stands among the messages."""
        left_out = {"system", *without} if self.system is not None else set(without)
        return {key: value for key, value in self.meta.items() if key not in left_out}

    def part(self, start: int, stop: int) -> Dialogue:
        """The turns from `start` up to `stop`; the rest is shared with the whole."""
        meta = self.meta
        if fields := self.turn_fields:
            shifted = {str(n - start): fields[str(n)] for n in range(start, stop) if str(n) in fields}
            kept = {key: value for key, value in fields.items() if key == "system"} | shifted
            meta = {**meta, TURN_FIELDS: kept} if kept else {k: v for k, v in meta.items() if k != TURN_FIELDS}
        return replace(self, data=self.data[start:stop], meta=meta)

    def record(self, shape: Shape | None = "ultrachat") -> dict[str, Any]:
        """The JSON object of one line; None: in the shape it came in. Empty `id` and `meta` are left out."""
        shape = shape or self.shape
        turns: list[Any] = self.data
        meta = self.meta
        if shape != "ultrachat":
            turns, fields = self._turns(shape), self.turn_fields
            meta = self.meta_beside_messages(*([TURN_FIELDS] if fields else []))
        record = {"id": self.id, KEYS[shape]: turns, "meta": meta}
        return {key: value for key, value in record.items() if value or key == KEYS[shape]} | {
            key: value for key, value in self.extra.items() if key not in record
        }

    def _turns(self, shape: Shape) -> list[dict[str, Any]]:
        who, what = FIELDS[shape]
        names = _SHAREGPT if shape == "sharegpt" else {}
        turns: list[dict[str, Any]] = [
            {who: names.get(m["role"], m["role"]), what: m["content"]} for m in self.messages
        ]
        first = len(turns) - len(self.data)
        for place, more in self.turn_fields.items():
            turn = turns[0 if place == "system" else first + int(place)]
            turn |= {key: value for key, value in more.items() if key not in turn}
        return turns

    def line(self, shape: Shape | None = "ultrachat") -> bytes:
        """One JSONL line, newline included."""
        return orjson.dumps(self.record(shape), default=str, option=orjson.OPT_APPEND_NEWLINE)


def role(turn: int) -> Literal["user", "assistant"]:
    """Who speaks at this index of `data`."""
    return "assistant" if turn % 2 else "user"


def parse(record: object) -> Dialogue:
    """A dialogue from any of the three shapes; `ValueError` says what is missing."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError("'meta' is not an object")
    shape = next((shape for shape, key in KEYS.items() if isinstance(record.get(key), list)), None)
    if shape is None:
        raise ValueError("no 'data', 'messages' or 'conversations' list")
    identity = next((str(known) for key in ("id", "prompt_id") if (known := record.get(key)) is not None), "")
    known = ("id", KEYS[shape], "meta")
    extra = {key: value for key, value in record.items() if key not in known}
    turns = record[KEYS[shape]]
    if shape == "ultrachat":
        if not all(isinstance(text, str) for text in turns):
            raise ValueError("'data' holds something other than text")
        return Dialogue(identity, list(turns), meta, extra)
    meta = dict(meta)
    return Dialogue(identity, _from_messages(turns, *FIELDS[shape], meta), meta, extra, shape)


def speaker(turn: Mapping[str, Any], who: str) -> str | None:
    """`user`, `assistant` or `system`, by whichever of its names; None for anybody else."""
    return _ROLES.get(str(turn.get(who)))


def _from_messages(turns: list[Any], who: str, what: str, meta: dict[str, Any]) -> list[str]:
    """The texts; what else there is goes to `meta`."""
    data: list[str] = []
    more: dict[str, dict[str, Any]] = {}
    for n, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get(what), str):
            raise ValueError(f"turn {n + 1} has no text under '{what}'")
        if n == 0 and speaker(turn, who) == "system":
            _keep(meta, "system", turn[what])
            place = "system"
        elif speaker(turn, who) != role(len(data)):
            raise ValueError(f"turn {n + 1} is by '{turn.get(who)}' where '{role(len(data))}' should speak")
        else:
            place = str(len(data))
            data.append(turn[what])
        fields = {key: value for key, value in turn.items() if value is not None and key not in (who, what)}
        if fields:
            more[place] = fields
    if more:
        _keep(meta, TURN_FIELDS, more)
    return data


def _keep(meta: dict[str, Any], key: str, value: Any) -> None:
    if key in meta:
        raise ValueError(f"meta.{key} is taken, and the messages need it")
    meta[key] = value
