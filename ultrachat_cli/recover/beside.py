"""What lies beside the weights: config, tokenizer, generation config, chat template, registry entry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.models import folders
from ultrachat_cli.models.specs import FACTS, ModelSpec
from ultrachat_cli.models.tensor_files import TORCH
from ultrachat_cli.recover.plan import Plan
from ultrachat_cli.recover.sides import Side

_WORDS = ("tokenizer", "special_tokens", "chat_template", "added_tokens", "vocab", "merges", "spiece")
_MORE = ("generation_config.json", "LICENSE")
_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def speaker(plan: Plan) -> Side | None:
    """Whose tokenizer goes with the result; None where neither side has one, which the plan's notes then say.

    `UltraError` where the only tokenizer does not know the new tokens.
    """
    if plan.other.has_tokenizer:
        return plan.other
    if plan.new_rows:
        raise UltraError(
            f"--{plan.other.role} {plan.other.folder} has {plan.new_rows} tokens more than the base, and no tokenizer",
            f"put the tokenizer of the model into {plan.other.folder}",
        )
    if plan.base.has_tokenizer:
        plan.notes.append(f"no tokenizer in {plan.other.folder}: the base's is used")
        return plan.base
    plan.notes.append(f"no tokenizer in {plan.other.folder} or {plan.base.folder}: put one beside the weights to chat")
    return None


def write(folder: Path, plan: Plan, spec: ModelSpec, owner: Side | None, **facts: Any) -> None:
    """All of it, config.json last: it makes a folder a model.

    `owner`: whose tokenizer goes with it; `facts`: what changes in the registry entry.
    """
    config = dict(plan.other.config)
    config.pop("torch_dtype", None)
    config["dtype"] = TORCH[main_type(plan)]
    if plan.vocabulary is not None:
        config["vocab_size"] = plan.vocabulary
    if owner is not None:
        for path in sorted(owner.folder.iterdir()):
            if path.name.startswith(_WORDS) and path.is_file() and not path.name.endswith(".py"):
                shutil.copyfile(path, folder / path.name)
    for name in _MORE:
        found = next((side.folder / name for side in (plan.other, plan.base) if (side.folder / name).is_file()), None)
        if found is not None:
            shutil.copyfile(found, folder / name)
    (folder / FACTS).write_bytes(folders.facts(spec.model_copy(update=facts)))
    (folder / "config.json").write_bytes(orjson.dumps(config, option=_PRETTY))


def main_type(plan: Plan) -> str:
    """The float type of most of what is written."""
    sizes: dict[str, int] = {}
    for piece in plan.pieces:
        if piece.dtype in ("F64", "F32", "F16", "BF16"):
            sizes[piece.dtype] = sizes.get(piece.dtype, 0) + piece.size
    return max(sizes, key=lambda kind: sizes[kind], default="F32")


def check_vocabulary(plan: Plan) -> None:
    """A note where the tokenizer has ids that the embedding has no rows for."""
    for side in (plan.other, plan.base):
        path = side.folder / "tokenizer.json"
        if not path.is_file():
            continue
        try:
            told = orjson.loads(path.read_bytes())
            ids = [*(told["model"].get("vocab") or {}).values()] if isinstance(told["model"].get("vocab"), dict) else []
            largest = max([*ids, *(token["id"] for token in told.get("added_tokens") or [])], default=-1)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(path, 0, "not a tokenizer", "fetch it again") from error
        if plan.vocabulary is not None and largest >= plan.vocabulary:
            plan.notes.append(f"{path} has the id {largest}, and the embedding {plan.vocabulary} rows")
        return
