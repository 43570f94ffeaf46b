"""Critiques: a score from 1 to 10 and feedback for an answer, by UltraCM or by any chat model.

UltraCM writes the score first, as it was trained to (UltraFeedback paper, section 3; openbmb/UltraCM-13b): its prompt
ends with the opening of the feedback. A chat model is asked for the feedback first, as GPT-4 was for UltraFeedback.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ultrachat_cli.backends import marks
from ultrachat_cli.backends.base import Messages, Prompt, Sampling, prompt_tokens
from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import formats
from ultrachat_cli.models.specs import ModelSpec, resolve
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files, jsonl, manifest
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.manifest import fingerprint
from ultrachat_cli.records.one_pass import checked
from ultrachat_cli.reward import asking
from ultrachat_cli.reward import estimate as estimates
from ultrachat_cli.reward.estimate import Estimate
from ultrachat_cli.reward.report import Report
from ultrachat_cli.reward.settings import CritiqueConfig

_PROMPTS = Path(__file__).parent / "prompts"
_SLOTS = re.compile(r"\{(instruction|completion)\}")
_LONGEST = 1024  # tokens of a critique, as in UltraFeedback's annotation
_ASSUMED = 250  # tokens of a critique, for estimates
_CHARACTERS = 3  # of a token, at least
_HEADING = re.compile(r"^\s*(?:#+\s*|\*\*)?feedback\W*$", re.I | re.M)


@dataclass(frozen=True)
class Critique:
    """`score` from 1 to 10, as written; `feedback` without the line that holds it; whether it breaks off."""

    score: float
    feedback: str
    cut: bool = False

    def record(self, model: str) -> dict[str, Any]:
        """What is written: {score, feedback, model}, and `cut` where the model ran out of tokens."""
        return {"score": self.score, "feedback": self.feedback, "model": model} | ({"cut": True} if self.cut else {})


def parse(text: str, *, score_first: bool) -> Critique | None:
    """Score and feedback of a model's answer; None without a score from 1 to 10 (see `marks.find`)."""
    mark = marks.find(text, last=not score_first)
    if mark is None:
        return None
    before, after = text[: mark.start].rstrip(" \t*#[_"), text[mark.end :].lstrip(" \t*])_.,:;")
    score = int(mark.value) if mark.value.is_integer() else mark.value
    return Critique(score, _HEADING.sub("", f"{before}\n{after}").strip())


class Critic:
    """One model in this role. `prompt`: a file with {instruction} and {completion} that replaces ours."""

    def __init__(self, spec: ModelSpec, prompt: Path | None = None) -> None:
        """Raises `ConfigError` for a prompt without its slots, or a critique model whose chat format is not known."""
        if spec.role in ("reward", "embedding"):
            hint = f"score --model {spec.name}" if spec.role == "reward" else "name a chat model, or ultracm-13b"
            raise ConfigError(f"model {spec.name} is a model for {spec.role}s: it writes no critiques", hint)
        self.spec, self.raw = spec, spec.role == "critique"
        if self.raw and spec.format == formats.TOKENIZER:
            raise ConfigError(f"model {spec.name}: a critique model needs its chat format in the registry entry")
        path = prompt or _PROMPTS / ("ultracm.md" if self.raw else "critique.md")
        try:
            self.template = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompt: {path}: cannot be read: {error}") from error
        if sorted(_SLOTS.findall(self.template)) != ["completion", "instruction"]:
            raise ConfigError(f"--prompt: {path}: {{instruction}} and {{completion}} are each needed once")
        self.version = fingerprint(self.template.encode())
        self.cut = 0

    def prompt(self, messages: Messages, answer: str, context: int = 0) -> tuple[Prompt, tuple[str, ...]]:
        """(what is sent, stop strings). `context`: the model's, 0 where it is not known."""
        room = context - _LONGEST - prompt_tokens(self.template + answer) if context else 0
        text, cut = marks.asked(messages, max(1, room) * _CHARACTERS if context else 0)
        self.cut += cut
        if self.raw:  # what ends a turn in the format must not end it in the middle of an answer
            end = formats.stop(self.spec.format)[0]
            text, answer = (words.replace(end, f"{end[:1]} {end[1:]}") for words in (text, answer))
        slots = {"instruction": text, "completion": answer}
        task = _SLOTS.sub(lambda slot: slots[slot[1]], self.template)
        if not self.raw:
            return [{"role": "user", "content": task}], ()
        system = [{"role": "system", "content": self.spec.system}] if self.spec.system else []
        end, *turns = formats.stop(self.spec.format)
        sent = formats.text(self.spec.format, [*system, {"role": "user", "content": task}], "assistant")
        return sent, (end, *(f"\n{turn}" for turn in turns))

    async def critique(self, model: ChatModel, messages: Messages, said: str) -> Critique | None:
        """Asked again, with another seed, when there is no usable score; None when no attempt gave one."""
        prompt, stop = self.prompt(messages, said, model.context)

        def read(answer: Completion) -> Critique | None:
            found = parse(answer.text, score_first=self.raw)
            return found and replace(found, cut=answer.finish == "length")

        return (await model.ask_until("critique", prompt, Sampling(_LONGEST, 0.0, stop=stop), read))[0]


async def run(settings: CritiqueConfig, environ: Mapping[str, str], progress: Progress | None = None) -> Report:
    """Write the dialogues with meta.critique = {score, feedback, model}, of all turns a list of them.

    An answer that got no usable score has none (null in a list) and counts as failed. Every answer of the model is in
    the journal, so the same call asks only for what is missing. Raises `UltraError`s of the endpoint.
    """
    progress = progress or Silent()
    settings.check_given()
    _, outputs, _ = checked(settings.inputs, settings.output)
    endpoint = settings.endpoint
    critic = Critic(resolve(endpoint.model, base_url=endpoint.base_url), settings.prompt)
    report = Report(endpoint.model)
    started = time.monotonic()
    path = asking.journal_of(outputs[0], settings, "critique")
    async with asking.opened(path, settings, environ, progress.say, report) as (models, model):

        async def ask(messages: Messages, answer: str) -> dict[str, Any] | None:
            found = await critic.critique(model, messages, answer)
            return None if found is None else found.record(model.spec.name)

        kept = asking.Kept("critique", "critique", lambda found: float(found["score"]))
        await asking.annotate(settings, ask, kept, models, report, progress)
        report.truncated = critic.cut
    report.seconds = time.monotonic() - started
    if outputs[0] != files.STDIN:
        report.io.files.append(_manifest(outputs[0], critic, model, settings, report))
    return report


def _manifest(output: Path, critic: Critic, model: ChatModel, settings: CritiqueConfig, report: Report) -> Path:
    """`<output>.manifest.json`: by whom, with which prompt, and what came of it."""
    import orjson

    path = files.beside(output, "manifest.json")
    told = {
        "kind": "critique", **manifest.versions(), "turns": settings.turns,
        "model": {"name": model.spec.name, "source": model.spec.source, "url": model.url},
        "prompts": {"ultracm" if critic.raw else "critique": critic.version}, "report": report.record(),
    }  # fmt: skip
    with jsonl.replacing(path) as file:
        file.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path


def estimate(settings: CritiqueConfig) -> Estimate:
    """What `run` would ask for and cost; asks nothing."""
    critic = Critic(resolve(settings.endpoint.model, base_url=settings.endpoint.base_url), settings.prompt)
    return estimates.of(settings, lambda messages, answer: prompt_tokens(critic.prompt(messages, answer)[0]), _ASSUMED)
