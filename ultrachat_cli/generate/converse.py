"""One dialogue: two models taking turns, each turn filtered before it counts."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from typing import Any

from ultrachat_cli.backends.base import Prompt as Asked
from ultrachat_cli.backends.base import estimate_tokens
from ultrachat_cli.backends.best_of import Candidate, best_of
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.backends.scorers import KeptScores, OpenScorer
from ultrachat_cli.errors import BackendError
from ultrachat_cli.filters import faults
from ultrachat_cli.filters.faults import Turn
from ultrachat_cli.generate import speaking
from ultrachat_cli.generate.plan import Opening
from ultrachat_cli.generate.prompts import Prompts
from ultrachat_cli.generate.settings import GenerateConfig, Sector, Speaker
from ultrachat_cli.generate.shipped import Persona
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.dialogue import Dialogue

CONTEXT = "context"
"""The reason of a cut where the next round would not fit the model's context."""


@dataclass(frozen=True)
class Cast:
    """Who takes part: the two models, the kinds of users, the prompts, the beginnings of continued user turns.

    `scorer`: chooses among several answers, where there are several.
    """

    assistant: ChatModel
    user: ChatModel
    personas: list[Persona]
    prompts: Prompts
    starters: dict[str, list[str]]
    scorer: OpenScorer | None = None


@dataclass
class Outcome:
    """A dialogue that was kept (`reason` then says why it was cut, if it was), or one that was rejected and why."""

    dialogue: Dialogue
    kept: bool
    reason: str = ""
    bad_turn: str = ""


@dataclass
class _Conversation:
    """The state of one dialogue under way."""

    identity: str
    sector: str
    persona: Persona
    rounds: int
    draw: random.Random
    turns: list[Turn] = field(default_factory=list)
    tokens: int = 0
    rewards: list[float] = field(default_factory=list)
    """Of the answers, where they were chosen among several."""

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]


async def converse(opening: Opening, cast: Cast, config: GenerateConfig) -> Outcome:
    """Hold the dialogue that begins with `opening`. Raises `BackendError` when a model gives no answer at all."""
    identity = opening.id(config.seed)
    draw = random.Random(f"{config.seed}/{identity}")
    rounds = draw_rounds(draw, opening.sector, config)
    talk = _Conversation(identity, opening.sector, draw.choice(cast.personas), rounds, draw)
    first = await opening.expand(identity) if opening.expand else opening.text
    fault, bad = faults.opening_fault(Turn("user", first), config.filters), first
    if fault is None:
        talk.turns.append(Turn("user", first))
        talk.tokens = estimate_tokens(first)
        fault, bad = await _rounds(talk, cast, config)
    return _outcome(talk, opening, cast, config, fault or "", bad)


def draw_rounds(draw: random.Random, sector: Sector, config: GenerateConfig) -> int:
    """Rounds of a dialogue: the first thing drawn for it, so that a dry run draws the same."""
    span = config.rounds_of(sector)
    return draw.randint(span.low, span.high)


async def _rounds(talk: _Conversation, cast: Cast, config: GenerateConfig) -> tuple[str | None, str]:
    """Go through the rounds; returns (reason, unfit text) where it ended early."""
    for n in range(talk.rounds):
        if n and (problem := await _turn(talk, "user", cast, config))[0]:
            return problem
        if (problem := await _turn(talk, "assistant", cast, config))[0]:
            return problem
    return None, ""


async def _turn(talk: _Conversation, speaker: str, cast: Cast, config: GenerateConfig) -> tuple[str | None, str]:
    """Add the next turn; one that is unfit is asked for again. Returns (reason, unfit text) when none was fit."""
    model = cast.user if speaker == "user" else cast.assistant
    settings: Speaker = config.user if speaker == "user" else config.assistant
    if model.context and talk.tokens + speaking.longest(model, settings, speaker) + 64 > model.context:
        return CONTEXT, ""
    number = len(talk.turns)
    fault, text = None, ""
    for attempt in range(1 + config.filters.retries):
        key = f"{talk.identity}/{number}.{attempt}"
        prompt, begun, stop = _prompt(talk, speaker, cast, config)
        try:
            candidates = await _candidates(key, speaker, cast, config, prompt, stop)
        except BackendError as error:
            if error.code == "context_length_exceeded" or ("context" in error.message and error.status == 400):
                return CONTEXT, ""
            raise
        for answer, reward in candidates:
            turn = _clean(speaker, begun + answer.text, answer, config)
            fault, text = faults.turn_fault(turn, talk.turns, config.filters), turn.text
            if fault is None:
                talk.turns.append(turn)
                talk.rewards += [] if reward is None else [reward]
                grown = talk.tokens + estimate_tokens(turn.text) + 8
                said = answer.prompt_tokens + answer.completion_tokens
                talk.tokens = max(grown, said if speaker == "assistant" else 0)
                return None, ""
        if fault == faults.POLITENESS:
            break  # the user has nothing more to ask: asking again would only make one up
    return fault, text


async def _candidates(
    key: str, speaker: str, cast: Cast, config: GenerateConfig, prompt: Asked, stop: tuple[str, ...]
) -> list[tuple[Completion, float | None]]:
    """What is said next and its reward: the only answer (None), or the best first of several to the assistant's prompt.

    Each sample has its own key, and so its own place in the journal and its own seed.
    """
    model, settings = (cast.user, config.user) if speaker == "user" else (cast.assistant, config.assistant)
    fields = speaking.recommended(model, speaker)

    async def ask(sample: int) -> Completion:
        own = f"{key}.{sample}" if sample else key
        seed = zlib.crc32(f"{config.seed}/{own}".encode())
        return await model.ask(own, prompt, speaking.sampling(fields, settings, seed, stop))

    if speaker == "user" or cast.scorer is None or isinstance(prompt, str):
        return [(await ask(0), None)]
    scorer = cast.scorer if model.journal is None else KeptScores(cast.scorer, model.journal, f"{key}.scores")
    found: list[Candidate] = await best_of(ask, config.assistant.best_of, prompt, scorer)
    return [(candidate.completion, candidate.score) for candidate in found]


def _prompt(
    talk: _Conversation, speaker: str, cast: Cast, config: GenerateConfig
) -> tuple[Asked, str, tuple[str, ...]]:
    """(prompt, beginning of the turn that the prompt already holds, stop strings)."""
    system = cast.assistant.spec.system if config.assistant.system is None else config.assistant.system
    history = ([{"role": "system", "content": system}] if system else []) + talk.messages
    if speaker == "assistant":
        return history, "", ()
    if speaking.strategy(cast.user, config) == "continue":
        raw, stop = cast.user.raw_turn(history, "user")
        begun = talk.draw.choice(cast.starters[talk.sector])
        return raw + begun, begun, stop
    told = cast.prompts.get(f"{talk.sector}/user", cast.user.spec.prompts).messages(persona=talk.persona.style)
    return talk.messages + told, "", ()


def _clean(speaker: str, text: str, answer: Completion, config: GenerateConfig) -> Turn:
    text, finish = text.strip(), answer.finish
    if speaker == "user":
        for label in ("User:", "user:", "Human:"):
            text = text.removeprefix(label).lstrip()
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1].strip()
    elif finish == "length" and config.filters.truncated == "trim":
        text, finish = faults.trim(text), "stop"
    return Turn(speaker, text, finish)


def _outcome(
    talk: _Conversation, opening: Opening, cast: Cast, config: GenerateConfig, reason: str, bad: str
) -> Outcome:
    whole = len(talk.turns) // 2
    kept = whole >= min(config.min_rounds, talk.rounds)
    meta: dict[str, Any] = {
        "sector": opening.sector,
        **opening.meta,
        "path": "/".join(opening.path),
        "rounds_drawn": talk.rounds,
        "models": {"assistant": cast.assistant.spec.name, "user": cast.user.spec.name},
        "seed": config.seed,
    }
    if speaking.strategy(cast.user, config) == "instruct":
        prompt = cast.prompts.get(f"{opening.sector}/user", cast.user.spec.prompts)
        meta |= {"persona": talk.persona.name, "prompt": f"{prompt.name}@{prompt.hash}"}
    if cast.scorer is not None and kept and talk.rewards:
        best = {"best_of": config.assistant.best_of, "reward_model": cast.scorer.name}
        meta |= {"reward": talk.rewards[whole - 1], **best}
    if reason and kept:
        meta["cut"] = reason
    turns = talk.turns[: 2 * whole] if kept else talk.turns
    return Outcome(Dialogue(talk.identity, [turn.text for turn in turns], meta), kept, reason, bad)
