"""Everything that ships can be loaded: configs, registry, prompts, lists."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from ultrachat_cli import config, registry, yaml_lines
from ultrachat_cli.chat.settings import ChatConfig
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.evaluate.presets import PRESETS
from ultrachat_cli.evaluate.settings import EvalConfig
from ultrachat_cli.evaluate.suites import questions
from ultrachat_cli.generate import pieces, prompts, settings, setup, shipped
from ultrachat_cli.generate.settings import GenerateConfig, Materials
from ultrachat_cli.models import specs
from ultrachat_cli.train.settings import TrainConfig

ROOT = Path(__file__).parents[2]
YAML = sorted([*(ROOT / "configs").rglob("*.yaml"), *shipped.DATA.rglob("*.yaml"), questions.DEMO_FILE])


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_yaml_is_good_yaml(path: Path) -> None:
    assert yaml_lines.read(path)


@pytest.mark.parametrize("path", sorted(registry.shipped("generate").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_generate_configs_load_by_name(path: Path) -> None:
    loaded = config.load(GenerateConfig, "generate", file=path.stem)
    setup.prepare(loaded.value, lambda error: pytest.fail(str(error)))
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what a config is for"


@pytest.mark.parametrize("path", sorted(registry.shipped("dedupe").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_dedupe_configs_load_by_name(path: Path) -> None:
    assert config.load(DedupeConfig, "dedupe", file=path.stem).value != DedupeConfig()
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what a config is for"


@pytest.mark.parametrize("path", sorted(registry.shipped("train").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_train_configs_load_by_name(path: Path) -> None:
    value = config.load(TrainConfig, "train", file=path.stem).value
    assert value.model in specs.known()
    assert (value.format or specs.known()[value.model].format) != "tokenizer"
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what a config is for"


@pytest.mark.parametrize("path", sorted(registry.shipped("chat").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_chat_configs_load_by_name(path: Path) -> None:
    value = config.load(ChatConfig, "chat", file=path.stem).value
    assert value != ChatConfig()
    assert value.model in specs.known()
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what a config is for"


@pytest.mark.parametrize("path", sorted(registry.shipped("eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_eval_configs_load_by_name(path: Path) -> None:
    value = config.load(EvalConfig, "eval", file=path.stem).value
    assert value != EvalConfig()
    assert value.preset in (None, *PRESETS)
    for name in filter(None, (value.judge, value.reward_model)):
        assert specs.resolve(name).name in specs.known(), "with a price or a source"
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what a config is for"


def test_published_hyper_parameters_are_kept() -> None:
    """EMNLP 2023 and train/train_bm.py of thunlp/UltraChat."""
    for name in ("ultralm-13b", "ultralm-65b"):
        value = config.load(TrainConfig, "train", file=name).value
        assert (value.batch, value.epochs, value.max_length) == (512, 3, 2048)
        optimizer = value.optimizer
        assert (optimizer.lr, optimizer.schedule, optimizer.warmup, optimizer.clip) == (1e-5, "cosine", 0.03, 1.0)
    legacy = config.load(TrainConfig, "train", file="gptj-legacy").value
    assert (legacy.optimizer.lr, legacy.optimizer.schedule, legacy.optimizer.warmup) == (5e-5, "linear", 200)
    assert (legacy.epochs, legacy.evaluate.validation, legacy.evaluate.every, legacy.save.every) == (5, 0.2, 50, 50)


def test_defaults_load_without_any_file() -> None:
    value = config.load(GenerateConfig, "generate").value
    assert value.assistant.model in specs.known()
    assert (value.rounds_of("world").low, value.rounds_of("world").high) == (3, 7)
    assert (value.rounds_of("writing").low, value.rounds_of("materials").high) == (2, 4)


def test_published_facts_are_kept() -> None:
    assert len(shipped.topics(None)) == 30
    assert len(shipped.material_types()) == 20
    world = settings.World()
    assert (world.subtopics.low, world.subtopics.high, world.questions, world.related) == (30, 50, 10, 10)
    assert (world.meta_questions, world.specific, world.general) == (5, 10, 20)
    assert (settings.Writing().expand, Materials().instructions) == (0.8, 5)


def test_shipped_lists_are_of_the_promised_size() -> None:
    assert len(shipped.entities(None)) >= 1000
    assert 25 <= len(shipped.personas(None)) <= 40
    ways = shipped.templates(None)
    assert len(ways.text_first) >= 3
    assert len(ways.text_last) >= 3


def test_shipped_passages_cover_every_type() -> None:
    kinds = {
        piece.kind.name
        for piece in pieces.read(Materials(), lambda error: pytest.fail(str(error)), Counter())
        if piece.kind
    }
    assert kinds == {kind.name for kind in shipped.material_types()}


def test_passage_urls_tell_their_types() -> None:
    types = shipped.material_types()
    for line in (shipped.DATA / "passages.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = pieces.classify(row["url"], types)
        assert found is not None
        assert found.name == row["type"]


@pytest.mark.parametrize("name", sorted(prompts.shipped()))
def test_prompts_name_only_what_they_are_given(name: str) -> None:
    given = {
        "world/subtopics": {"topic", "count", "avoid"},
        "world/questions": {"topic", "subtopic", "count", "avoid"},
        "world/related": {"question", "count", "avoid"},
        "world/entity_meta": {"entity", "count", "avoid"},
        "world/entity_specific": {"entity", "question", "count", "avoid"},
        "world/entity_general": {"entity", "question", "count", "avoid"},
        "writing/instructions": {"type", "noun", "angle", "subject", "count", "avoid"},
        "writing/expand": {"type", "instruction"},
        "materials/instructions": {"type", "text", "count", "avoid"},
        "world/user": {"persona"},
        "writing/user": {"persona"},
        "materials/user": {"persona"},
    }
    assert prompts.shipped()[name].placeholders <= given[name.removesuffix(".small")]


def test_every_sector_has_starters() -> None:
    assert set(shipped.starters()) == set(settings.SECTORS)
    assert all(len(rows) >= 3 for rows in shipped.starters().values())


@pytest.mark.parametrize("model", [GenerateConfig, DedupeConfig, TrainConfig, ChatConfig, EvalConfig])
def test_every_setting_is_explained(model: type[config.Frozen]) -> None:
    def undocumented(model: type[config.Frozen], at: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            section = isinstance(field.annotation, type) and issubclass(field.annotation, config.Frozen)
            if not field.description and not section:
                found.append(f"{at}.{name}")
            if section:
                found += undocumented(field.annotation, f"{at}.{name}")
        return found

    missing = [name for name in undocumented(model, model.__name__) if not name.endswith((".low", ".high"))]
    assert missing == []


def test_no_shipped_text_names_a_machine() -> None:
    home = os.path.expanduser("~")
    for path in [*YAML, *shipped.DATA.iterdir()]:
        assert home not in path.read_text(encoding="utf-8")
