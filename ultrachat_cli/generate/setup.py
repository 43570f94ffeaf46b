"""What a run needs before it starts, checked before anything is asked or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ultrachat_cli.backends import scorers
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.generate import export, pieces, shipped, speaking
from ultrachat_cli.generate.converse import Cast
from ultrachat_cli.generate.lists import ListMaker
from ultrachat_cli.generate.plan import Lane
from ultrachat_cli.generate.prompts import Prompts
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.sectors import materials, world, writing
from ultrachat_cli.generate.settings import GenerateConfig, Sector, Speaker
from ultrachat_cli.models import formats, specs
from ultrachat_cli.records.jsonl import OnBad
from ultrachat_cli.records.manifest import fingerprint


@dataclass(frozen=True)
class Parts:
    """Prompts, lists and the run's identity: everything that needs no model."""

    config: GenerateConfig
    prompts: Prompts
    personas: list[shipped.Persona]
    identity: dict[str, Any]
    on_bad: OnBad


def prepare(config: GenerateConfig, on_bad: OnBad) -> Parts:
    """Read and check all files the run depends on; `ConfigError` names what is wrong."""
    export.check(config.format)
    if config.assistant.reward_model and judge(config) is None:
        scorers.reward_spec(config.assistant.reward_model)
    prompts = Prompts(config.prompts)
    personas = shipped.personas(config.user.personas)
    lists: dict[str, Any] = {"personas": [vars(p) for p in personas]}
    if "world" in config.sectors:
        lists["topics"] = shipped.topics(config.world.topics)
        lists["entities"] = shipped.entities(config.world.entities)
    if "materials" in config.sectors:
        pieces.check_not_empty(config.materials)
        lists["templates"] = vars(shipped.templates(config.materials.templates))
        lists["materials"] = [(ascii(path.name), path.stat().st_size) for path in pieces.files(config.materials.paths)]
    identity = {
        "config": config.identity(),
        "prompts": prompts.hashes(config.sectors),
        "lists": {name: fingerprint(orjson.dumps(rows)) for name, rows in lists.items()},
    }
    return Parts(config, prompts, personas, identity, on_bad)


@dataclass(frozen=True)
class Stage:
    """Everything on its place: the models in their roles and the plan's sources."""

    parts: Parts
    cast: Cast
    opener: ChatModel
    lists: ListMaker
    most_dialogues: int

    def picks(self, sector: Sector) -> Iterator[Lane]:
        """The lanes of a sector's plan, in the order they are asked."""
        return picks(sector, self.parts, self.lists)

    def described(self) -> dict[str, dict[str, Any]]:
        """For the manifest: which model answered which role, and where."""
        roles = {"assistant": self.cast.assistant, "user": self.cast.user, "opening": self.opener}
        told: dict[str, dict[str, Any]] = {
            role: {"name": m.spec.name, "source": m.spec.source, "url": m.url, "sha256": m.spec.sha256}
            for role, m in roles.items()
        }
        scorer = self.cast.scorer
        return told if scorer is None else told | {"reward": {"name": scorer.name}}

    @property
    def asked(self) -> list[ChatModel]:
        """All models that answer requests."""
        scorer = self.cast.scorer
        more = [scorer.model] if isinstance(scorer, scorers.JudgeScorer) else []
        return [self.cast.assistant, self.cast.user, self.opener, *more]

    async def close(self) -> None:
        """Let go of the scorer; the models belong to their `ChatModels`."""
        if self.cast.scorer is not None:
            await self.cast.scorer.close()


def picks(sector: Sector, parts: Parts, lists: ListMaker) -> Iterator[Lane]:
    """The plan of a sector."""
    config = parts.config
    if sector == "world":
        return world.picks(config.world, lists, config.seed)
    if sector == "writing":
        return writing.picks(config.writing, lists, config.seed)
    texts = pieces.read(config.materials, parts.on_bad, Counter())
    return materials.picks(config.materials, texts, lists, config.seed)


async def stage(
    config: GenerateConfig, parts: Parts, models: ChatModels, counts: Counts, say: Callable[[str], None]
) -> Stage:
    """Open the models; `ConfigError` when one cannot do what the plan needs."""
    counts.state = "opening models"
    assistant = await models.open(endpoint(config, config.assistant))
    user = await models.open(endpoint(config, config.user))
    opener = await models.open(endpoint(config, config.opening))
    _check_user(config, user)
    _check_context(config, assistant, user)
    scorer = await _scorer(config, models, say)
    cast = Cast(assistant, user, parts.personas, parts.prompts, shipped.starters(), scorer)
    lists = ListMaker(opener, parts.prompts, config.opening, config.seed, counts)
    here = assistant.url.startswith(("embedded:", "local:"))
    # A model run here keeps one dialogue's cache in each slot: more dialogues than slots would throw it away.
    most = assistant.limiter.slots.count if here else 2 * models.parallel
    return Stage(parts, cast, opener, lists, most)


async def _scorer(config: GenerateConfig, models: ChatModels, say: Callable[[str], None]) -> scorers.OpenScorer | None:
    """What chooses among several answers; None where there is but one."""
    name = config.assistant.reward_model
    if name is None:
        return None
    where = judge(config)
    if where is None:
        return await scorers.open_scorer(name, models, say=say)
    at = endpoint(config, where)
    return await scorers.open_scorer(name, models, base_url=at.base_url, api_key_env=at.api_key_env, say=say)


def judge(config: GenerateConfig) -> Speaker | None:
    """The chat model that scores answers, as a role; None where a reward model does, or nobody."""
    name = config.assistant.reward_model or ""
    return Speaker(model=name.removeprefix(scorers.JUDGE)) if name.startswith(scorers.JUDGE) else None


def endpoint(config: GenerateConfig, speaker: Speaker) -> Endpoint:
    """Where a role's model is: its own place, or the assistant's unless its name says where to find it."""
    assistant = config.assistant
    model = speaker.model or assistant.model or ""
    inherits = speaker.model is None or not _says_where(model)
    base_url = speaker.base_url or (assistant.base_url if inherits else None)
    same_place = base_url == assistant.base_url
    return Endpoint(model, base_url, speaker.api_key_env or (assistant.api_key_env if same_place else None))


def _says_where(model: str) -> bool:
    """Whether a model's name alone tells where to find it, so that another role's URL is not meant for it."""
    if model.startswith(("openai:", "scripted:", "hf:")) or model.endswith(".gguf"):
        return True
    spec = specs.known().get(model)
    return spec is not None and (spec.embedded or spec.scheme == "openai")


def _check_user(config: GenerateConfig, user: ChatModel) -> None:
    if speaking.strategy(user, config) == "continue" and user.spec.format == formats.TOKENIZER:
        raise ConfigError(
            f"user.strategy: continue: the chat format of model '{user.spec.name}' is not known here",
            "use user.strategy=instruct, or a model whose registry entry names its format",
        )


def _check_context(config: GenerateConfig, assistant: ChatModel, user: ChatModel) -> None:
    """The shortest dialogue that would be kept must fit, at the longest turns allowed."""
    answer = speaking.longest(assistant, config.assistant, "assistant")
    question = speaking.longest(user, config.user, "user")
    opening = config.materials.max_chars // 4 if "materials" in config.sectors else 128
    rounds = min(config.min_rounds, *(config.rounds_of(sector).low for sector in config.sectors))
    needed = opening + rounds * answer + (rounds - 1) * question + 64
    for model in (assistant, user):
        if model.context and model.context < needed:
            raise ConfigError(
                f"model '{model.spec.name}' has a context of {model.context} tokens; {rounds} rounds of these settings "
                f"can take {needed}",
                "lower assistant.max_tokens, user.max_tokens, materials.max_chars or --rounds"
                + ("; or raise embedded_context" if model.url.startswith("embedded:") else ""),
            )
