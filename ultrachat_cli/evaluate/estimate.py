"""`--dry-run`: what an evaluation would ask and what that would cost; nobody is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ultrachat_cli.backends.base import prompt_tokens
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.evaluate import answers
from ultrachat_cli.evaluate.plan import Plan, prepare
from ultrachat_cli.evaluate.settings import EvalConfig
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.progress import Progress

_ANSWER = 350  # tokens assumed of an answer that is not there yet
_TEXT = "x" * (4 * _ANSWER)


@dataclass
class Role:
    """What one model would be asked. `cost`: US dollars; None: its price is not known."""

    name: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


@dataclass
class Estimate:
    """By role (model, reference, reward, judge)."""

    suite: str
    preset: str
    questions: int
    roles: dict[str, Role] = field(default_factory=dict)
    note: str = f"assumes {_ANSWER} tokens an answer; what the journal holds is asked no more"

    @property
    def cost(self) -> float | None:
        """Of all roles; None where a price is unknown."""
        known = [role.cost for role in self.roles.values() if role.cost is not None]
        return sum(known) if len(known) == len(self.roles) else None

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        roles = {name: dict(vars(role)) for name, role in self.roles.items()}
        calls = sum(role.calls for role in self.roles.values())
        return {**vars(self), "roles": roles, "calls": calls, "cost": self.cost}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "questions", f"{self.questions:,}, judged by {self.preset}"
        for name, role in self.roles.items():
            price = "unknown price" if role.cost is None else f"about ${role.cost:,.4f}"
            tokens = f"about {role.prompt_tokens:,} tokens in, {role.completion_tokens:,} out"
            yield name, f"{role.name}: {role.calls:,} requests, {tokens}, {price}"
        yield "cost", "unknown price" if self.cost is None else f"about ${self.cost:,.4f}"
        yield "note", self.note


def of(config: EvalConfig, progress: Progress) -> Estimate:
    """Count the requests. Raises what `prepare` does."""
    if config.annotations is not None:
        raise ConfigError("--dry-run: with --annotations nobody is asked")
    plan = prepare(config, progress)
    questions = plan.questions.questions
    found = Estimate(config.suite, plan.preset.name, len(questions))
    for role, n in (("model", config.best_of), ("reference", 1)):
        if role in plan.endpoints:
            found.roles[role] = _answering(plan, plan.endpoints[role], n)
    if "reward" in plan.endpoints:
        calls = len(questions) * config.best_of
        found.roles["reward"] = _priced(config, plan.endpoints["reward"], calls, calls * (_ANSWER + 250), calls * 4)
    found.roles["judge"] = _judging(plan)
    return found


def _answering(plan: Plan, endpoint: Endpoint, n: int) -> Role:
    spec = resolve(endpoint.model, base_url=endpoint.base_url)
    asked = sum(
        prompt_tokens(answers.messages(spec, plan.config.answers, question.instruction))
        for question in plan.questions.questions
    )
    calls = n * len(plan.questions.questions)
    return _priced(plan.config, endpoint, calls, n * asked, calls * _ANSWER)


def _judging(plan: Plan) -> Role:
    config, calls, tokens = plan.config, 0, 0
    for question in plan.questions.questions:
        model, other = (
            _TEXT if side is None else side[question.instruction].output if question.instruction in side else None
            for side in (plan.outputs, plan.reference)
        )
        same = plan.preset.kind == "pairwise" and plan.outputs is not None and model == other
        if model is None or other is None or same:
            continue
        if plan.preset.kind == "single":
            shown = [{"instruction": question.instruction, "output": text} for text in (model, other)]
            shown = shown[:1] if plan.alone else shown
        else:
            shown = [{"instruction": question.instruction, "output_1": other, "output_2": model}]
            shown *= 1 + config.both_orders
        calls += len(shown)
        tokens += sum(prompt_tokens(plan.preset.prompt(slots)) for slots in shown)
    return _priced(config, config.of_judge, calls, tokens, calls * plan.preset.typical)


def _priced(config: EvalConfig, endpoint: Endpoint, calls: int, asked: int, said: int) -> Role:
    spec = resolve(endpoint.model, base_url=endpoint.base_url)
    role = Role(spec.name, calls, asked, said)
    price = config.prices.get(spec.name) or spec.price
    if spec.scheme != "openai" and endpoint.base_url is None:
        role.cost = 0.0
    elif price is not None:
        role.cost = price.cost(asked, said)
    return role
