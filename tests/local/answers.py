"""Requests to a decoder, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.models import text_tokens
from ultrachat_cli.models.causal_lm import load
from ultrachat_cli.models.decode import Decoder, Ended, Event, Request
from ultrachat_cli.models.drawing import Drawing
from ultrachat_cli.models.placement import LocalSettings

GREEDY = Drawing(temperature=0)
FLOAT32 = LocalSettings(device="cpu", dtype="float32")


def decoder(folder: Path, **options: Any) -> Decoder:
    return Decoder(load(folder, FLOAT32), text_tokens.load(folder), **options)


@dataclass
class Heard:
    """An answer as it came."""

    request: Request
    events: list[Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(event for event in self.events if isinstance(event, str))

    @property
    def ended(self) -> Ended:
        last = self.events[-1]
        assert isinstance(last, Ended), last
        return last


def ask(decoder: Decoder, ids: Sequence[int], drawing: Drawing = GREEDY, **options: Any) -> Heard:
    """Hand a request in; `finish` answers it."""
    events: list[Event] = []
    heard = Heard(Request(list(ids), events.append, drawing, **options), events)
    decoder.add(heard.request)
    return heard


def finish(decoder: Decoder, *several: Heard) -> None:
    while not decoder.idle:
        decoder.step()
    assert all(isinstance(heard.events[-1], Ended) for heard in several)


def answer(decoder: Decoder, ids: Sequence[int], drawing: Drawing = GREEDY, **options: Any) -> Heard:
    heard = ask(decoder, ids, drawing, **options)
    finish(decoder, heard)
    return heard
