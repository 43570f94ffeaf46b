"""`--dry-run`: what a judge would be asked and what that would cost; nobody is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ultrachat_cli.backends.base import Messages
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.records import files
from ultrachat_cli.records.one_pass import checked
from ultrachat_cli.reward import answers
from ultrachat_cli.reward.settings import Judging


@dataclass
class Estimate:
    """What a run would ask and cost, before anybody is asked; answers that are in the journal already cost nothing."""

    model: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "model", self.model
        yield "requests", f"{self.calls:,}"
        yield "tokens", f"about {self.prompt_tokens:,} in, {self.completion_tokens:,} out"
        yield "cost", "unknown price" if self.cost is None else f"about ${self.cost:,.4f}"
        yield "note", self.note


def of(settings: Judging, tokens: Callable[[Messages, str], int], answer: int) -> Estimate:
    """Count the requests. `tokens`: of the prompt about an answer; `answer`: tokens assumed of the model's answer."""
    settings.check_given()
    sources, _, _ = checked(settings.inputs, settings.output)
    spec = resolve(settings.endpoint.model, base_url=settings.endpoint.base_url)
    found = Estimate(spec.name, note=f"assumes {answer} tokens an answer; what the journal holds is asked no more")
    for path in sources:
        for _, dialogue in files.dialogues(path, lambda _: None):
            for place in answers.places(dialogue, settings.turns):
                found.calls += 1
                found.prompt_tokens += tokens(answers.question(dialogue, place), dialogue.data[place])
    found.completion_tokens = found.calls * answer
    price = settings.prices.get(spec.name) or spec.price
    if spec.scheme != "openai" and settings.endpoint.base_url is None:
        found.cost = 0.0
    elif price is not None:
        found.cost = price.cost(found.prompt_tokens, found.completion_tokens)
    return found
