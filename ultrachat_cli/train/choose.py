"""Which engine, and whether to compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.machine import cores
from ultrachat_cli.train import processes
from ultrachat_cli.train.settings import EngineName, TrainConfig

if TYPE_CHECKING:
    from ultrachat_cli.train.batches import Plan
    from ultrachat_cli.train.engines.base import Engine
    from ultrachat_cli.train.flops import Cost
    from ultrachat_cli.train.prepare import Prepared
    from ultrachat_cli.train.processes import Place

_WORTH = 2.4e14
"""Operations of a run, for each core, from which compiling for a CPU pays: half an hour's. It takes half a minute, the
first time, and saves 5-10%.
"""


def engine(config: TrainConfig) -> tuple[EngineName, str]:
    """The engine's name and why."""
    if config.engine != "auto":
        return config.engine, "asked for"
    if not config.bmtrain:
        return "fsdp", "torch's own, for any machine"
    if not processes.gpus_wanted(config.launch):
        return "fsdp", "the config asks for BMTrain, which needs a GPU"
    if config.lora.rank:
        return "fsdp", "the config asks for BMTrain, which has no LoRA"
    if importlib.util.find_spec("bmtrain") is None:
        return "fsdp", "the config asks for BMTrain, which is not installed (make bmtrain)"
    return "bmtrain", "the config asks for it, it is installed, and there is a GPU"


def compiled(name: EngineName, config: TrainConfig, place: Place, plan: Plan, cost: Cost) -> bool:
    """Whether that engine compiles; see `TrainConfig.compile`."""
    if config.compile != "auto":
        return config.compile == "on"
    if name != "fsdp":
        return False
    return place.device.type == "cuda" or (_can_compile() and cost.least(plan.all_tokens) > _WORTH * cores())


def _can_compile() -> bool:
    """Whether there is what torch compiles with on a CPU: a C++ compiler and Python's headers."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return shutil.which(compiler) is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


def built(
    name: EngineName, config: TrainConfig, prepared: Prepared, place: Place, plan: Plan, *, compiled: bool
) -> Engine:
    """The engine with the model in it. `MissingExtra` or `UltraError` where it cannot work here."""
    if name == "fsdp":
        from ultrachat_cli.train.engines.fsdp import Fsdp

        return Fsdp(prepared.folder, prepared.vocabulary, config, place, compiled=compiled)
    if name == "bmtrain":
        from ultrachat_cli.train.engines.bmtrain import BMTrain

        if place.device.type != "cuda":
            raise ConfigError("engine bmtrain computes on GPUs only", "--engine fsdp trains on the CPU")
        return BMTrain(prepared.folder, prepared.vocabulary, config, place, compiled=compiled)
    from ultrachat_cli.train.engines.accelerated import Accelerated

    _check_positions(prepared)
    return Accelerated(prepared.folder, prepared.vocabulary, config, place, compiled=compiled)


def _check_positions(prepared: Prepared) -> None:
    """`ConfigError` for an example longer than a model with a table of positions (GPT-2, GPT-J) can hold."""
    from transformers import AutoConfig

    told = AutoConfig.from_pretrained(prepared.folder)
    most = getattr(told, "max_position_embeddings", None)
    sets = [one for one in (prepared.train, prepared.held) if one is not None and len(one)]
    longest = max(int(one.lengths.max()) for one in sets)
    if most and longest > most and getattr(told, "rope_parameters", None) is None:
        raise ConfigError(
            f"max_length: an example has {longest} tokens, the model has places for {most}", f"--max-length {most}"
        )
