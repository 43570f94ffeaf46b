"""`--dry-run`: the real plan, run against synthetic lists, and the real draw of rounds; no model is asked."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrachat_cli.backends.base import estimate_tokens
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.backends.limits import Budget, Limiter, LimitSettings, Usage
from ultrachat_cli.backends.scripted import ScriptedBackend, synthetic
from ultrachat_cli.generate import setup
from ultrachat_cli.generate.converse import draw_rounds
from ultrachat_cli.generate.lists import ListMaker, portion
from ultrachat_cli.generate.plan import Opening, ordered
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.settings import GenerateConfig, Sector, Speaker
from ultrachat_cli.models.specs import ModelSpec, resolve
from ultrachat_cli.records.journal import Journal

ANSWER, QUESTION = 300, 40
"""Tokens assumed for an assistant turn (UltraChat: about 258) and a follow-up (about 52, openings included)."""
JUDGED, MARK = 200, 4
"""Tokens of a judge's task around an answer, and of the mark."""
ROLES = ("assistant", "user", "opening")
_SIMULATED = 5000  # openings looked at for each sector; larger plans are scaled up


@dataclass
class Estimate:
    """What a run would take, as far as that can be known before."""

    folder: str
    models: dict[str, str]
    openings: Counter[str]
    kinds: Counter[str]
    opening_requests: int = 0
    dialogue_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    minutes_at_limits: float = 0.0
    note: str = f"assumes {ANSWER} tokens an answer and {QUESTION} a follow-up; bad turns are asked for again on top"

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "openings": dict(self.openings), "kinds": dict(self.kinds)}

    def rows(self) -> list[tuple[str, str]]:
        """For the screen."""
        cost = "unknown price" if self.cost is None else f"about ${self.cost:,.2f}"
        return [
            ("folder", self.folder),
            ("models", ", ".join(f"{role}: {name}" for role, name in self.models.items())),
            ("dialogues", ", ".join(f"{n:,} {sector}" for sector, n in self.openings.items())),
            ("openings", ", ".join(f"{n:,} {kind}" for kind, n in self.kinds.most_common())),
            ("requests", f"{self.opening_requests:,} for openings, {self.dialogue_requests:,} in dialogues"),
            ("tokens", f"about {self.prompt_tokens:,} in, {self.completion_tokens:,} out"),
            ("cost", cost),
            ("rate limits", f"at least {self.minutes_at_limits:,.1f} minutes" if self.minutes_at_limits else ""),
            ("note", self.note),
        ]


@dataclass
class _Plan:
    """Totals of one sector: requests of each role and tokens (in, out) of each role."""

    requests: Counter[str]
    prompt: Counter[str]
    completion: Counter[str]
    kinds: Counter[str]
    openings: int = 0

    def add_dialogue(
        self, opening: Opening, rounds: int, answer: int, question: int, best_of: int, judged: bool
    ) -> None:
        """Each request of a dialogue carries all turns before it."""
        history = estimate_tokens(opening.text)
        for n in range(rounds):
            if n:
                self._ask("user", history, question)
                history += question
            self._ask("assistant", history, answer, best_of)
            history += answer
            if judged:
                self._ask("judge", history + JUDGED, MARK, best_of)

    def _ask(self, role: str, prompt: int, completion: int, times: int = 1) -> None:
        self.requests[role] += times
        self.prompt[role] += prompt * times
        self.completion[role] += completion * times


async def estimate(config: GenerateConfig) -> Estimate:
    """Plan the run without asking a model. Raises what the run itself would raise before it starts."""
    parts = setup.prepare(config, lambda _: None)
    specs = {role: _spec(config, speaker) for role, speaker in _speakers(config).items()}
    result = Estimate(str(config.folder), {role: spec.name for role, spec in specs.items()}, Counter(), Counter())
    if config.assistant.reward_model:
        result.note += f"; {config.assistant.best_of} answers are asked for at each turn"
        if "judge" not in specs:
            result.models["reward"] = config.assistant.reward_model
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite")
        try:
            share, left = divmod(config.limit, len(config.sectors))
            for n, sector in enumerate(config.sectors):
                wanted = share + (n < left)
                looked = min(wanted, _SIMULATED)
                plan = await _simulate(sector, looked, config, parts, specs["opening"], journal)
                _add(
                    result, plan, sector, wanted / looked if looked and plan.openings == looked else 1.0, specs, config
                )
        finally:
            journal.close()
    if result.openings.total() < config.limit:
        result.note += f"; the plan holds only {result.openings.total():,} of the {config.limit:,} dialogues asked for"
    requests = result.opening_requests + result.dialogue_requests
    tokens = result.prompt_tokens + result.completion_tokens
    limits = config.limits
    result.minutes_at_limits = max(requests / limits.rpm if limits.rpm else 0, tokens / limits.tpm if limits.tpm else 0)
    return result


async def _simulate(
    sector: Sector, looked: int, config: GenerateConfig, parts: setup.Parts, spec: ModelSpec, journal: Journal
) -> _Plan:
    """Walk the first `looked` openings of the real plan, lists made up by the scripted backend."""
    plan = _Plan(Counter(), Counter(), Counter(), Counter())
    usage, unlimited = Usage(), LimitSettings()
    limiter = Limiter(unlimited, usage, Budget(None))
    # Made-up items fit no pattern: a small model's lists are planned with the plain prompts, in its own portions.
    plain = spec.model_copy(update={"prompts": ""})
    opener = ChatModel(plain, ScriptedBackend(synthetic), limiter, journal, None, 0, "")
    portions = config.opening.model_copy(update={"per_request": portion(spec, config.opening)})
    lists = ListMaker(opener, parts.prompts, portions, config.seed, Counts())
    answer = min(ANSWER, config.assistant.max_tokens or ANSWER)
    question = min(QUESTION, config.user.max_tokens or QUESTION)
    expansions: list[asyncio.Future[str]] = []
    if looked:
        async for opening in ordered(setup.picks(sector, parts, lists), lambda: looked - plan.openings):
            identity = opening.id(config.seed)
            rounds = draw_rounds(random.Random(f"{config.seed}/{identity}"), sector, config)
            plan.openings += 1
            plan.kinds[str(opening.meta.get("kind") or sector)] += 1
            if opening.expand:
                expansions.append(asyncio.ensure_future(opening.expand(identity)))
            judged = setup.judge(config) is not None
            plan.add_dialogue(opening, rounds, answer, question, config.assistant.best_of, judged)
            if plan.openings >= looked:
                break
    await asyncio.gather(*expansions)
    plan.requests["opening"] = usage.requests
    plan.prompt["opening"] = usage.prompt_tokens
    plan.completion["opening"] = usage.completion_tokens
    return plan


def _add(
    result: Estimate, plan: _Plan, sector: Sector, scale: float, specs: dict[str, ModelSpec], config: GenerateConfig
) -> None:
    result.openings[sector] = round(plan.openings * scale)
    for kind, n in plan.kinds.items():
        result.kinds[kind] += round(n * scale)
    for role, speaker in _speakers(config).items():
        prompt, completion = round(plan.prompt[role] * scale), round(plan.completion[role] * scale)
        if role == "opening":
            result.opening_requests += round(plan.requests[role] * scale)
        else:
            result.dialogue_requests += round(plan.requests[role] * scale)
        result.prompt_tokens += prompt
        result.completion_tokens += completion
        price = config.prices.get(specs[role].name) or specs[role].price
        if price is not None and result.cost is not None:
            result.cost += price.cost(prompt, completion)
        elif specs[role].scheme == "openai" or setup.endpoint(config, speaker).base_url:
            result.cost = None


def _speakers(config: GenerateConfig) -> dict[str, Speaker]:
    """The roles that answer requests."""
    found = {role: getattr(config, role) for role in ROLES}
    judge = setup.judge(config)
    return found if judge is None else found | {"judge": judge}


def _spec(config: GenerateConfig, speaker: Speaker) -> ModelSpec:
    where = setup.endpoint(config, speaker)
    return resolve(where.model, base_url=where.base_url)
