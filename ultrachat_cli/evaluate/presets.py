"""How judges are asked: two published evaluators, whose prompts are read from alpaca_eval's files, and two of ours."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.errors import ConfigError, MissingExtra
from ultrachat_cli.evaluate import verdicts
from ultrachat_cli.evaluate.verdicts import Verdict
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.manifest import fingerprint
from ultrachat_cli.registry import did_you_mean

_PROMPTS = Path(__file__).parent / "prompts"
_SLOTS = re.compile(r"\{(instruction|output|output_1|output_2|mark)\}")
_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.S)
Slots = Mapping[str, str]


@dataclass(frozen=True)
class Preset:
    """One way to ask. `published`: where alpaca_eval keeps the prompt; `judge`: the model it was published with."""

    name: str
    kind: Literal["pairwise", "single"]
    sampling: Sampling
    parse: Callable[[Completion], Verdict | None]
    published: str = ""
    file: str = ""
    judge: str = ""
    schema: Mapping[str, Any] | None = None
    typical: int = 60
    """Tokens of an answer, for estimates."""
    messages: tuple[tuple[str, str], ...] = ()
    """(role, text with slots), once loaded."""
    version: str = ""
    """Hash of the prompt."""
    origin: str = ""
    """Where the prompt was read."""
    verdicts_only: bool = False
    """Whether log probabilities were wanted and cannot be had."""

    @property
    def logprobs(self) -> bool:
        """Whether the verdict is made of the probabilities of tokens."""
        return bool(self.sampling.extra.get("logprobs"))

    def without_logprobs(self) -> Preset:
        """The same for a server that gives none: verdicts alone."""
        return replace(
            self, sampling=replace(self.sampling, temperature=0.0, extra={}), parse=verdicts.token, verdicts_only=True
        )

    def without_reasons(self) -> Preset:
        """The same for a model so small that its reasons only take time: where a schema can be asked for, numbers."""
        if self.schema is None:
            return self
        names = [name for name in self.schema["required"] if name != "reason"]
        return replace(self, schema=_numbers(*names, reason=False))

    def prompt(self, slots: Slots) -> list[dict[str, str]]:
        """The messages. What fills a slot is put in as it is, and never looked through for slots itself.

        `{mark}` is a hash of what is filled in: an answer cannot know it, and so not write the line that ends it.
        """
        given = {**slots, "mark": hashlib.sha256(repr(sorted(slots.items())).encode()).hexdigest()[:8]}
        return [
            {"role": role, "content": _SLOTS.sub(lambda slot: given[slot[1]], text)} for role, text in self.messages
        ]


def _numbers(*names: str, reason: bool = True) -> dict[str, Any]:
    """The JSON schema of whole numbers from 1 to 10, and a reason."""
    fields: dict[str, Any] = {name: {"type": "integer", "enum": list(range(1, 11))} for name in names}
    if reason:
        fields["reason"] = {"type": "string"}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


_OURS = Sampling(max_tokens=256, temperature=0.0)
PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "alpaca_eval_gpt4", "pairwise", Sampling(max_tokens=100, temperature=0.0), verdicts.ranking,
            published="alpaca_eval_gpt4/alpaca_eval.txt", judge="gpt-4", typical=35,
        ),
        Preset(
            "weighted_alpaca_eval_gpt4_turbo", "pairwise",
            Sampling(max_tokens=1, temperature=1.0, extra={"logprobs": True, "top_logprobs": 5}), verdicts.weighted,
            published="alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt", judge="gpt-4-1106-preview", typical=1,
        ),
        Preset(
            "pairwise-score", "pairwise", _OURS, verdicts.pair, file="pairwise.md",
            schema=_numbers("answer_1", "answer_2"),
        ),
        Preset("single-score", "single", _OURS, verdicts.single, file="single.md", schema=_numbers("score")),
    )
}  # fmt: skip


def load(name: str, prompt: Path | None = None) -> Preset:
    """The preset with its prompt, read from `prompt` where that is given.

    `ConfigError` for an unknown name or a prompt without its slots, `MissingExtra` where alpaca_eval is not installed.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"--preset: unknown preset '{name}'{did_you_mean(name, PRESETS)}", f"presets: {', '.join(PRESETS)}"
        )
    preset = PRESETS[name]
    path = prompt or (_published(preset) if preset.published else _PROMPTS / preset.file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompt: {path}: cannot be read: {error}") from error
    messages = tuple((role, words.strip()) for role, words in _CHATML.findall(text)) or (("user", text.strip()),)
    wanted = {"instruction", *(("output",) if preset.kind == "single" else ("output_1", "output_2"))}
    held = {slot for _, words in messages for slot in _SLOTS.findall(words)} - {"mark"}
    if held != wanted:
        listed = ", ".join(f"{{{slot}}}" for slot in sorted(wanted))
        raise ConfigError(f"--prompt: {path}: a prompt for {name} holds {listed} and no other of these slots")
    where = str(prompt) if prompt else f"alpaca_eval {_version()}" if preset.published else "ultrachat"
    return replace(preset, messages=messages, version=fingerprint(text.encode()), origin=where)


def _published(preset: Preset) -> Path:
    """The prompt among alpaca_eval's files; finding them does not import it, which would take seconds."""
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            f"the published prompt of {preset.name} (or --prompt FILE with its text, or --preset pairwise-score)",
            "alpaca_eval", "alpaca",
        )  # fmt: skip
    return Path(spec.submodule_search_locations[0], "evaluators_configs", preset.published)


def _version() -> str:
    try:
        return importlib.metadata.version("alpaca_eval")
    except importlib.metadata.PackageNotFoundError:
        return "(a copy without its metadata)"
