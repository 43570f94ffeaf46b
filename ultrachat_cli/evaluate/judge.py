"""A judge: two answers in, a verdict out; asked once in the life of a run, again where the verdict cannot be read.

The order in which answers are shown is alpaca_eval's: drawn by the instruction, so that every tool and every re-run
shows the same one. What the judge says of an exchanged pair is turned round: p becomes 3 - p.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ultrachat_cli.backends.base import prompt_tokens
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.errors import BackendError, CircuitOpen
from ultrachat_cli.evaluate.annotations import Annotation, Pair
from ultrachat_cli.evaluate.fields import DRAW
from ultrachat_cli.evaluate.presets import Preset
from ultrachat_cli.evaluate.verdicts import Verdict
from ultrachat_cli.models import formats
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import NOT_ASKED

ORDER_RULE = 'random.Random("is_switched_outputs" + instruction + "0").choices([False, True], k=1)[0]'
UNREADABLE = "verdicts that could not be read"
_CHARACTERS = 3  # of a token, at least
_PROBE = [{"role": "user", "content": "Reply with the letter m."}]


def is_switched(instruction: str) -> bool:
    """Whether the model's answer is shown first: alpaca_eval's rule, with its seed 0."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


async def with_logprobs(model: ChatModel, preset: Preset) -> Preset:
    """`preset` if the judge gives log probabilities, or does not need to; else the same by verdicts alone.

    One short request, kept like any other. Raises the `BackendError` of an endpoint that does not work at all.
    """
    if not preset.logprobs:
        return preset
    unkept = replace(model, journal=None)  # kept here, and that it was refused too

    async def probe() -> Completion:
        try:
            return await unkept.ask("", _PROBE, preset.sampling)
        except BackendError as error:
            if error.status not in (400, 422):
                raise
            return Completion("", NOT_ASKED)

    key = f"probe/logprobs/{model.spec.name}@{model.url}"
    answer = await (probe() if model.journal is None else model.journal.once(key, probe))
    return preset if answer.logprobs else preset.without_logprobs()


@dataclass(frozen=True)
class _Said:
    verdict: Verdict | None
    completion: Completion | None
    problem: str = ""


class Judge:
    """One model in this role. `asked`: verdicts; `failed`: those that cannot be had, by reason; `shortened`: those on
    answers cut to fit; `identical`: pairs that nobody is asked about.
    """

    def __init__(self, model: ChatModel, preset: Preset, *, both_orders: bool = False) -> None:
        self.model, self.preset, self.both_orders = model, preset, both_orders
        self.name = f"{preset.name}, {model.spec.name}" + (", verdicts only" if preset.verdicts_only else "")
        self.failed: Counter[str] = Counter()
        self.asked = self.shortened = self.identical = 0

    async def compare(self, pair: Pair) -> list[Annotation]:
        """The verdict on a pair; of both orders two. Identical answers are a draw that nobody is asked about.

        A verdict that cannot be had is None. Raises `CircuitOpen`, `BudgetSpent`.
        """
        if pair.reference.output == pair.model.output:
            self.identical += 1
            return [self._annotation(pair, None, _Said(Verdict(DRAW), None, "identical answers"))]
        first = is_switched(pair.model.instruction)
        found = []
        for switched in (first, not first) if self.both_orders else (first,):
            shown = (pair.model, pair.reference) if switched else (pair.reference, pair.model)
            slots = {"instruction": pair.model.instruction, "output_1": shown[0].output, "output_2": shown[1].output}
            found.append(self._annotation(pair, switched, await self._ask(slots)))
        return found

    async def score(self, pair: Pair, alone: bool) -> list[Annotation]:
        """A score for each answer by itself; `alone`: there is no reference. What is better follows from the scores."""
        instruction = pair.model.instruction
        said = await self._ask({"instruction": instruction, "output": pair.model.output})
        other = None if alone else await self._ask({"instruction": instruction, "output": pair.reference.output})
        reference, model = (
            math.nan if one is None or one.verdict is None or one.verdict.scores is None else one.verdict.scores[0]
            for one in (other, said)
        )
        preference = None if math.isnan(reference + model) else DRAW + (model > reference) / 2 - (model < reference) / 2
        found = self._annotation(pair, None, said)
        raw = [one.completion.text for one in (other, said) if one is not None and one.completion is not None]
        scores = None if math.isnan(reference) and math.isnan(model) else (reference, model)
        return [replace(found, preference=preference, scores=scores, raw="\n\n".join(raw))]

    async def _ask(self, slots: Mapping[str, str]) -> _Said:
        """Asked again, with another seed, while the verdict cannot be read; and shorter, if it is too long."""
        self.asked += 1
        room = self._room()
        length = sum(map(len, slots.values()))
        for cut in (room, *(length // n for n in (2, 4, 8))):
            shown = fitted(slots, cut) if cut else dict(slots)
            try:
                said = await self._attempts(self.preset.prompt(self._harmless(shown)))
            except CircuitOpen:
                raise
            except BackendError as error:
                if _too_long(error) and cut != length // 8:
                    continue
                self.failed[error.message] += 1
                return _Said(None, None, error.message)
            self.shortened += shown != slots
            if said.verdict is None:
                self.failed[UNREADABLE] += 1
            return said
        raise AssertionError("the last cut returns")

    async def _attempts(self, prompt: list[dict[str, str]]) -> _Said:
        kind, preset = f"judge/{self.preset.name}", self.preset
        verdict, said = await self.model.ask_until(kind, prompt, preset.sampling, preset.parse, schema=preset.schema)
        return _Said(verdict, said, "" if verdict is not None else UNREADABLE)

    def _room(self) -> int:
        """Characters that the slots may take; 0 where the judge's context is not known."""
        if not self.model.context:
            return 0
        empty = dict.fromkeys(("instruction", "output", "output_1", "output_2"), "")
        frame = prompt_tokens(self.preset.prompt(empty)) + (self.preset.sampling.max_tokens or 0)
        return max(200, (self.model.context - frame) * _CHARACTERS)

    def _harmless(self, slots: dict[str, str]) -> dict[str, str]:
        """For a model that runs here, an end of turn inside an answer must not end the judge's prompt."""
        name = self.model.spec.format
        if self.model.served or name not in formats.FORMATS:
            return slots
        for end in [end for end in formats.stop(name) if not end[0].isalpha()]:
            slots = {key: text.replace(end, f"{end[:1]} {end[1:]}") for key, text in slots.items()}
        return slots

    def _annotation(self, pair: Pair, switched: bool | None, said: _Said) -> Annotation:
        reference, model = pair
        preference = scores = None
        if said.verdict is not None:
            preference, scores = said.verdict.preference, said.verdict.scores
            if switched:
                preference, scores = 3 - preference, (scores[1], scores[0]) if scores else None
        extra: dict[str, Any] = {"note": said.problem} if said.problem else {}
        if said.completion is not None and said.completion.logprobs:
            extra["logprobs"] = orjson.loads(said.completion.logprobs)[0]
        return Annotation(
            model.instruction, reference.output, model.output, reference.generator, model.generator, preference,
            self.name, model.dataset, model.category, switched, said.completion.text if said.completion else "",
            scores, model.difficulty, extra,
        )  # fmt: skip


def fitted(slots: Mapping[str, str], room: int) -> dict[str, str]:
    """The texts with the middle of the longest left out, so that all together are at most `room` characters or so."""
    most, left, waiting = room, room, sorted(map(len, slots.values()))
    while waiting:
        most = left // len(waiting)
        if waiting[0] > most:
            break
        left -= waiting.pop(0)
    else:
        return dict(slots)
    return {key: text if len(text) <= most else _without_middle(text, most) for key, text in slots.items()}


def _without_middle(text: str, most: int) -> str:
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]}\n[... {len(text) - head - tail:,} characters left out ...]\n{text[len(text) - tail :]}"


def _too_long(error: BackendError) -> bool:
    words = error.message.lower()
    return error.status in (400, 413, 422) and ("context" in words or "too long" in words)
