"""What was said: rounds that can be edited, undone and asked again, and the one line of a file they fit in."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

from ultrachat_cli.errors import UltraError
from ultrachat_cli.records.dialogue import TURN_FIELDS, Dialogue


@dataclass(slots=True)
class Round:
    """A user turn and its answer; `answer` None: it is not answered yet.

    `facts`: how the answer came about (model, finish, tokens, score); they go with it into files.
    """

    user: str
    answer: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Conversation:
    """Rounds under a system prompt (empty: none). Only the last round can be without an answer."""

    def __init__(self, system: str = "", rounds: list[Round] | None = None, identity: str = "") -> None:
        self.system = system
        self.rounds = rounds or []
        self.id = identity or new_id()

    @property
    def pending(self) -> Round | None:
        """The round that waits for its answer."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].answer is None else None

    def messages(self, skip: int = 0) -> list[dict[str, str]]:
        """Chat messages without the first `skip` rounds; the system prompt always leads."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for said in self.rounds[skip:]:
            found.append({"role": "user", "content": said.user})
            if said.answer is not None:
                found.append({"role": "assistant", "content": said.answer})
        return found

    def ask(self, text: str) -> Round | None:
        """A new user turn; returns the unanswered one it takes the place of."""
        replaced = self.rounds.pop() if self.pending else None
        self.rounds.append(Round(text))
        return replaced

    def again(self) -> None:
        """Drop the last answer, so that it is asked for again. `UltraError` when nothing was said yet."""
        if not self.rounds:
            raise UltraError("nothing was said yet, so nothing can be asked again")
        self.rounds[-1] = Round(self.rounds[-1].user)

    def edit(self, number: int, text: str) -> None:
        """Put `text` in place of the user turn of round `number` (from 1); its answer and what follows are dropped."""
        self.round(number)
        self.rounds[number - 1 :] = [Round(text)]

    def undo(self) -> Round:
        """Drop the last round. `UltraError` when there is none."""
        if not self.rounds:
            raise UltraError("there is nothing to undo")
        return self.rounds.pop()

    def round(self, number: int) -> Round:
        """Round `number` from 1; `UltraError` when there is none."""
        if not 1 <= number <= len(self.rounds):
            there = f"1 to {len(self.rounds)}" if self.rounds else "none yet"
            raise UltraError(f"there is no round {number}", f"rounds: {there}; /history lists them")
        return self.rounds[number - 1]

    def kept(self) -> list[Round]:
        """The rounds as they are, to be put back should what comes next fail."""
        return [replace(said, facts=dict(said.facts)) for said in self.rounds]

    def dialogue(self, meta: dict[str, Any]) -> Dialogue:
        """The project's own line: the system prompt in meta.system, facts of answers in meta.turn_fields.

        A user turn without an answer is no dialogue's: it is kept in meta.pending.
        """
        answered = [said for said in self.rounds if said.answer is not None]
        data = [text for said in answered for text in (said.user, said.answer or "")]
        facts = {str(2 * n + 1): said.facts for n, said in enumerate(answered) if said.facts}
        pending = self.pending.user if self.pending else None
        more = {"system": self.system or None, "pending": pending, TURN_FIELDS: facts or None}
        return Dialogue(self.id, data, meta | {key: value for key, value in more.items() if value is not None})

    @classmethod
    def of(cls, dialogue: Dialogue) -> Conversation:
        """The conversation in a line, whoever wrote it; one that ends with the user waits for its answer."""
        data, facts = dialogue.data, dialogue.turn_fields
        rounds = [
            Round(data[n], data[n + 1] if n + 1 < len(data) else None, dict(facts.get(str(n + 1), {})))
            for n in range(0, len(data), 2)
        ]
        pending = dialogue.meta.get("pending")
        if isinstance(pending, str) and pending and len(data) % 2 == 0:
            rounds.append(Round(pending))
        return cls(dialogue.system or "", rounds, dialogue.id)


def new_id() -> str:
    """Unlike any other, and in the order of time."""
    return f"chat-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
