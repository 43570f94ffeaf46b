"""A conversation under way: said, changed, loaded, kept. It prints nothing: what there is to see goes to a `Screen`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ultrachat_cli import __version__
from ultrachat_cli.backends.best_of import Candidate, Scorer
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
from ultrachat_cli.backends.fresh import INTERRUPTED
from ultrachat_cli.chat import settings, transcript
from ultrachat_cli.chat.asking import Asker
from ultrachat_cli.chat.conversation import Conversation, Round
from ultrachat_cli.chat.screen import Screen
from ultrachat_cli.chat.settings import ChatConfig, ChatSampling
from ultrachat_cli.chat.statistics import Taken, Totals
from ultrachat_cli.errors import BackendError, UltraError
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.manifest import without_secrets


class Session:
    """One conversation with one model at a time. Commands change it; `say`, `regenerate` and `edit` ask."""

    def __init__(
        self, config: ChatConfig, models: ChatModels, model: ChatModel, screen: Screen, *,
        scorer: Scorer | None = None, kept: transcript.Kept | None = None, keeps: bool = True,
    ) -> None:  # fmt: skip
        """`kept`: where earlier conversations are, and, if it `keeps`, this one after every change."""
        self.config, self.models, self.screen = config, models, screen
        self.endpoint = config.endpoint
        self.asker = Asker(model, screen, scorer, config.context)
        self.sampling, self.best_of = config.sampling, config.best_of
        self.talk = Conversation(model.spec.system if config.system is None else config.system)
        self.totals = Totals()
        self.candidates: list[Candidate] = []
        """Of the last answer, the best first."""
        self.file: Path | None = config.save
        """Where the conversation was saved or loaded from."""
        self.multi = False
        """Whether Enter begins a line instead of sending."""
        self._kept, self._keeps, self._written = kept, keeps, b""

    @property
    def model(self) -> ChatModel:
        """The one that answers."""
        return self.asker.model

    async def open(self, endpoint: Endpoint) -> None:
        """Go on with another model. A system prompt that is the old model's own gives way to the new one's."""
        self.models.settings = settings.limits_for(self.config.limits, endpoint, self.best_of)
        before, model = self.model, await self.models.open(endpoint)
        if self.config.system is None and self.talk.system == self.model.spec.system:
            self.talk.system = model.spec.system
        self.endpoint = endpoint
        self.asker = Asker(model, self.screen, self.asker.scorer, self.config.context)
        if before not in (model, getattr(self.asker.scorer, "model", None)):  # a judge may go on working
            await self.models.release(before)

    # asking

    async def say(self, text: str) -> Taken | None:
        """A user turn and its answer; None when it was stopped before anything came.

        Raises `UltraError`; the turn then waits for `regenerate`, unless it can never be answered.
        """
        if self.talk.ask(text):
            self.screen.say("the question before, which got no answer, is dropped")
        return await self._answer(None)

    async def regenerate(self) -> Taken | None:
        """The last answer anew; when that fails before anything came, the old one stays."""
        before = self.talk.kept()
        self.talk.again()
        return await self._answer(before)

    async def edit(self, number: int, text: str) -> Taken | None:
        """Another text for round `number`, answered anew; when that fails before anything came, nothing changes."""
        before = self.talk.kept()
        self.talk.edit(number, text)
        return await self._answer(before)

    def stop(self) -> None:
        """End the answer under way; what came stays."""
        self.asker.stop()

    async def _answer(self, before: list[Round] | None) -> Taken | None:
        earlier, self.candidates = self.candidates, []
        taken: Taken | None = None
        try:
            taken = await self.asker.answer(self.talk, self.sampling, self.best_of)
        except UltraError as error:
            if before is None and self.talk.pending and not isinstance(error, BackendError):
                self.talk.undo()  # asking again cannot help
            raise
        finally:
            if self.talk.pending and before is not None:
                self.talk.rounds, self.candidates = before, earlier
            self.keep()
        if taken is None:
            self.screen.say("stopped before anything came" + ("; /regen asks again" if self.talk.pending else ""))
            return None
        self.candidates = taken.candidates
        self.totals.add(taken)
        self.screen.statistics(taken.line())
        if taken.completion.finish == INTERRUPTED:
            self.screen.say("stopped; what came is kept")
        elif taken.completion.finish == "length":
            self.screen.say(f"cut off after {taken.tokens:,} tokens (/set max_new_tokens)")
        return taken

    def pick(self, number: int) -> Candidate:
        """Take candidate `number` (from 1, best first) for the last answer. Raises `UltraError`."""
        chosen = self.candidate(number)
        last = self.talk.rounds[-1]
        last.answer = chosen.completion.text
        last.facts = {**self.asker.facts(chosen.completion), "best_of": len(self.candidates), "score": chosen.score}
        self.keep()
        return chosen

    def candidate(self, number: int) -> Candidate:
        """Candidate `number` of the last answer. Raises `UltraError`."""
        if not 1 <= number <= len(self.candidates):
            there = f"1 to {len(self.candidates)}" if self.candidates else "none; --best-of N makes some"
            raise UltraError(f"there is no candidate {number}", f"candidates of the last answer: {there}")
        return self.candidates[number - 1]

    # files

    def begin(self) -> None:
        """A new conversation under the same system prompt and settings."""
        self.talk = Conversation(self.talk.system)
        self.file, self._written, self.candidates, self.asker.dropped = None, b"", [], 0

    async def load(self, wanted: str, *, model: bool = True) -> None:
        """Take over a conversation: what was said, system prompt, settings and, unless told not to, the model.

        Raises `UltraError`, and nothing changes, when there is no such conversation. `last`: the one talked last.
        """
        kept = self._kept.last(self.dialogue()) if self._kept and wanted == transcript.LAST else None
        dialogue, path = transcript.read(str(kept or wanted))
        meta, sampling = dialogue.meta, self.sampling
        ours = "ultrachat" in meta
        if ours and isinstance(meta.get("sampling"), dict):
            try:
                sampling = ChatSampling.model_validate(meta["sampling"])
            except ValueError:
                self.screen.say("its settings are not known here; they stay as they are")
        found = replace(
            self.endpoint,
            model=str(meta.get("model") or ""),
            base_url=meta.get("base_url"),
            api_key_env=meta.get("api_key_env"),
            format=str(meta.get("format") or ""),
        )
        if model and ours and found.model and found != self.endpoint:
            try:
                await self.open(found)
            except UltraError as error:
                self.screen.warn(error)
                self.screen.say(f"going on with {self.endpoint.model}")
        self.talk, self.sampling, self.candidates, self.asker.dropped = Conversation.of(dialogue), sampling, [], 0
        self.file = path if kept is None and ours else None
        self._written = b"" if self.file is None else self.dialogue().line()

    def dialogue(self) -> Dialogue:
        """The conversation with all that `load` needs."""
        url = self.endpoint.base_url
        meta = {
            "model": self.endpoint.model,
            "base_url": without_secrets(url) if url else None,
            "api_key_env": self.endpoint.api_key_env,
            "format": self.endpoint.format or None,
            "sampling": {key: value for key, value in self.sampling.model_dump().items() if value is not None},
            "ultrachat": __version__,
        }
        return self.talk.dialogue({key: value for key, value in meta.items() if value is not None})

    @property
    def unsaved(self) -> bool:
        """Whether something was said that no file of the user's holds."""
        return bool(self.talk.rounds) and self.dialogue().line() != self._written

    def save(self, name: str = "") -> Path:
        """Write the conversation to FILE, or to where it was saved or loaded from. Raises `UltraError`."""
        if not self.talk.rounds:
            raise UltraError("nothing was said yet")
        path = transcript.target(name or str(self.file or f"{self.talk.id}.jsonl"))
        transcript.save(path, self.dialogue())
        self.file, self._written = path, self.dialogue().line()
        return path

    def export(self, name: str) -> Path:
        """Add the conversation to FILE as one line. Raises `UltraError`."""
        if not any(said.answer is not None for said in self.talk.rounds):
            raise UltraError("no answer was given yet")
        path = transcript.target(name)
        dialogue = self.dialogue()
        dialogue.meta.pop("pending", None)
        transcript.export(path, dialogue)
        return path

    def keep(self) -> Path | None:
        """After every change: among the conversations talked here, and in the file of --save; where, if nowhere else.

        What cannot be written is said, and ends nothing.
        """
        if not self.talk.rounds:
            return None
        path = None
        try:
            if self._kept is not None and self._keeps:
                path = self._kept.keep(self.dialogue())
            if self.config.save is not None and self.unsaved:
                self.save(str(self.config.save))
        except UltraError as error:
            self.screen.warn(error)
        return path if self.unsaved else None
