"""Which answers of a dialogue are judged, and where what is found is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.reward.settings import Turns

NO_ANSWER = "no answer of the assistant to judge"


def places(dialogue: Dialogue, turns: Turns) -> list[int]:
    """Indices in `data` of the answers to judge: the last one, or every one. A last turn by the user is no answer."""
    found = list(range(1, len(dialogue.data), 2))
    return found if turns == "all" else found[-1:]


def question(dialogue: Dialogue, place: int) -> list[dict[str, str]]:
    """The messages before the answer at `place`, the system message among them if there is one."""
    return dialogue.part(0, place).messages


def annotated(dialogue: Dialogue, found: Sequence[Any], turns: Turns, one: str, several: str, **more: Any) -> Dialogue:
    """With `found`, one for each of `places`, in meta: the last as meta.`one`; with all turns, all as meta.`several`.

    None is left out of the former. `one` may equal `several`.
    """
    meta = {key: value for key, value in dialogue.meta.items() if key not in (one, several, *more)}
    if found[-1] is not None:
        meta[one] = found[-1]
    if turns == "all":
        meta[several] = list(found)
    return replace(dialogue, meta=meta | more)
