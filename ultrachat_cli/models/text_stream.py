"""Token ids as text while they come: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TORN = "\ufffd"
"""What a tokenizer makes of bytes that are no character, or not yet."""


class TextStream:
    """Decodes with `backend` (a `tokenizers.Tokenizer`), without the ids in `hidden`, up to one of `stops`.

    A few ids are decoded again with each new one, as white space at the edge of a word depends on its neighbour.
    """

    def __init__(self, backend: Any, hidden: frozenset[int], stops: Sequence[str] = ()) -> None:
        self._backend, self._hidden, self._stops = backend, hidden, [stop for stop in stops if stop]
        self._known: list[int] = []
        """Ids whose text is out: what the next ones are decoded behind."""
        self._fresh: list[int] = []
        self._said = 0
        """Characters of the fresh ids' text that are out."""
        self._held = ""
        self.stopped = False
        """Whether a stop string came: the text is then at its end."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; may be empty."""
        if self.stopped or token in self._hidden:
            return ""
        self._fresh.append(token)
        before = self._text(self._known)
        after = self._text(self._known + self._fresh)
        text = after[len(before) :]
        sure = text.rstrip(_TORN)
        piece, self._said = sure[self._said :], max(self._said, len(sure))
        if sure == text:
            self._known, self._fresh, self._said = self._fresh, [], 0
        return self._released(piece)

    def finish(self) -> str:
        """What was held back until now."""
        if self.stopped:
            return ""
        before = self._text(self._known)
        rest = self._text(self._known + self._fresh)[len(before) + self._said :]
        self._known, self._fresh, self._said = [], [], 0
        text = self._released(rest) + self._held
        self._held = ""
        return text

    def _text(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def _released(self, piece: str) -> str:
        if not self._stops:
            return piece
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_begun(text, stop) for stop in self._stops)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]


def _begun(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
