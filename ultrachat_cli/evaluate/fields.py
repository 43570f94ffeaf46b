"""The fields of a row of answers or verdicts, each checked as it is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

DRAW = 1.5
RAW, SWITCHED = "raw_completion", "is_switched_outputs"
"""alpaca_eval's names of the judge's words, and of whether the answers were exchanged."""


class Fields:
    """The fields of a row, taken one by one; `ValueError` says what is wrong with one."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._left = dict(record)

    def text(self, key: str) -> str:
        """A text that must be there."""
        if key not in self._left:
            raise ValueError(f"no '{key}'")
        value = self._left.pop(key)
        if not isinstance(value, str):
            raise ValueError(f"'{key}' is not a text")
        return value

    def name(self, key: str) -> str:
        """A label; "" where there is none. Numbers, such as a difficulty, become text."""
        value = self._left.pop(key, None)
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"'{key}' is not a text")
        return "" if value is None else label(value)

    def preference(self) -> float | None:
        """From 1 to 2; the 0 of old files is a draw; null: no verdict."""
        if "preference" not in self._left:
            raise ValueError("no 'preference'")
        value = self._left.pop("preference")
        if value is None:
            return None
        if not _is_number(value) or not (value == 0 or 1 <= value <= 2):
            raise ValueError(f"'preference' is {orjson.dumps(value).decode()}, not null, 0 or a number from 1 to 2")
        return float(value) or DRAW

    def switched(self) -> bool | None:
        """Whether the model's answer was shown first; None: not known."""
        value = self._left.pop(SWITCHED, None)
        if not isinstance(value, bool | None):
            raise ValueError(f"'{SWITCHED}' is neither true nor false")
        return value

    def raw(self) -> str:
        """The judge's words where they are text; alpaca_eval's later versions keep whole responses, which stay."""
        return self._left.pop(RAW) if isinstance(self._left.get(RAW), str) else ""

    def scores(self) -> tuple[float, float] | None:
        """Of both answers; nan for null."""
        value = self._left.pop("scores", None)
        if value is None:
            return None
        if not (isinstance(value, list) and len(value) == 2 and all(v is None or _is_number(v) for v in value)):
            raise ValueError("'scores' is not two numbers")
        first, second = (math.nan if score is None else float(score) for score in value)
        return first, second

    def rest(self) -> dict[str, Any]:
        """What has not been taken."""
        return self._left


def label(value: object) -> str:
    """A name as one line that a terminal can show: without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
