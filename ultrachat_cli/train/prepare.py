"""Everything a run needs before a process group exists: model folder, tokenizer, tokens, plan."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import folders, specs
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.models.specs import ModelSpec
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import files, ids
from ultrachat_cli.train import tokens
from ultrachat_cli.train.batches import Examples, held_out
from ultrachat_cli.train.examples import Rules
from ultrachat_cli.train.settings import TrainConfig
from ultrachat_cli.train.tokens import Tokens

REJECTED = "rejected.jsonl"


@dataclass(frozen=True)
class Prepared:
    """What is trained on what. Examples are numbered over all files; weights belong to files."""

    spec: ModelSpec
    folder: Path
    tokenizer: ChatTokenizer
    vocabulary: int
    """Rows of the embedding."""
    train: Examples
    weights: list[float]
    held: Examples | None
    counts: Counter[str]
    bad_lines: int
    data: str
    """Digest of everything that decides which rows a step learns from."""

    @property
    def pad_added(self) -> bool:
        """Whether the vocabulary grows by the pad token."""
        return self.vocabulary > model_rows(self.folder)


def model_rows(folder: Path) -> int:
    """Rows of the embedding of a model folder."""
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def prepare(config: TrainConfig, progress: Progress) -> Prepared:
    """Model, tokens and split. Raises `ConfigError` for every wrong name before anything is fetched."""
    spec = _spec(config)
    sources = [(path, source.weight) for source in config.data for path in files.find(source.files, "data")]
    if doubled := [str(path) for path, count in Counter(path for path, _ in sources).items() if count > 1]:
        raise ConfigError(f"data: {', '.join(doubled)}: given twice", "use `weight` to see a file more often")
    apart = config.evaluate.validation
    held_paths = files.find(apart, "evaluate.validation") if isinstance(apart, list) else []
    folder = folders.obtain(spec, progress.say)
    tokenizer = ChatTokenizer(folder, config.format or spec.format)
    rules = Rules(config.max_length, config.overlong, config.examples, config.system)
    paths = [path for path, _ in sources]
    found = tokens.tokenize([*paths, *held_paths], tokenizer, rules, progress, config.folder / REJECTED)
    train, held = _sides(found[: len(paths)], found[len(paths) :], config)
    counts: Counter[str] = Counter()
    for one in found[: len(paths)]:
        counts.update(one.facts["counts"])
    order = [
        config.seed, config.batch, config.packing, config.epochs, config.max_length, apart if not held_paths else "",
        [(one.folder.name, weight) for one, (_, weight) in zip(found, sources, strict=False)],
    ]  # fmt: skip
    return Prepared(
        spec, folder, tokenizer, _vocabulary(folder, tokenizer, config), train, [weight for _, weight in sources], held,
        counts, sum(len(one.facts["rejected"]) for one in found), f"{ids.digest(json.dumps(order)):016x}",
    )  # fmt: skip


def _spec(config: TrainConfig) -> ModelSpec:
    spec = specs.resolve(config.model)
    if spec.weights == "delta":
        raise ConfigError(
            f"model: {spec.name} is published as a delta to {spec.base}",
            f"ultrachat recover {spec.name} makes it whole",
        )
    if spec.role not in ("chat", "base"):
        raise ConfigError(f"model: {spec.name} is a {spec.role} model", "train a chat or base model")
    if spec.role == "base" and not config.format:
        raise ConfigError(
            f"model: {spec.name} has no chat format of its own", "name one: --format ultralm, chatml, ..."
        )
    return spec


def _sides(sets: list[Tokens], held_sets: list[Tokens], config: TrainConfig) -> tuple[Examples, Examples | None]:
    """Training examples, and held-out ones if any."""
    if held_sets or not config.evaluate.validation:
        train = Examples(sets, [np.arange(len(one)) for one in sets])
        return train, Examples(held_sets, [np.arange(len(one)) for one in held_sets]) if held_sets else None
    share = config.evaluate.validation
    assert isinstance(share, float)
    apart = [held_out(one, share, config.seed) for one in sets]
    held = Examples(sets, [np.flatnonzero(out) for out in apart])
    return Examples(sets, [np.flatnonzero(~out) for out in apart]), held if len(held) else None


def _vocabulary(folder: Path, tokenizer: ChatTokenizer, config: TrainConfig) -> int:
    rows = model_rows(folder)
    if tokenizer.vocabulary > rows:
        raise ConfigError(
            f"model: the tokenizer has ids up to {tokenizer.vocabulary - 1}, the weights have {rows} rows",
            "this tokenizer belongs to another model",
        )
    if config.pad_token and tokenizer.backend.token_to_id(config.pad_token) is None:
        return max(rows, tokenizer.vocabulary + 1)
    return rows


def summary(prepared: Prepared) -> dict[str, Any]:
    """Counts for reports."""
    return {
        "dialogues": prepared.counts["dialogues"], "examples": len(prepared.train),
        "held_out": len(prepared.held) if prepared.held else 0, "bad_lines": prepared.bad_lines,
        "left_out": {name: n for name, n in prepared.counts.items() if name != "dialogues" and n},
    }  # fmt: skip
