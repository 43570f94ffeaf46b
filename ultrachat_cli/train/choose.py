"""Which engine, and whether to compile."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ultrachat_cli.errors import UltraError
from ultrachat_cli.train import processes
from ultrachat_cli.train.settings import EngineName, TrainConfig

if TYPE_CHECKING:
    from ultrachat_cli.train.batches import Plan
    from ultrachat_cli.train.engines.base import Engine
    from ultrachat_cli.train.flops import Cost
    from ultrachat_cli.train.prepare import Prepared
    from ultrachat_cli.train.processes import Place

_COMPILE_SECONDS = 60  # what compiling takes on a CPU
_CPU_RATE = 80e9  # operations a second a core, about
_CPU_GAIN = 0.15  # of the time of a step


def engine(config: TrainConfig) -> tuple[EngineName, str]:
    """The engine's name and why."""
    if config.engine != "auto":
        return config.engine, "asked for"
    if not config.bmtrain:
        return "fsdp", "torch's own, for any machine"
    if not processes.gpus_wanted(config.launch):
        return "fsdp", "the config asks for BMTrain, which needs a GPU"
    if importlib.util.find_spec("bmtrain") is None:
        return "fsdp", "the config asks for BMTrain, which is not installed (make bmtrain)"
    return "bmtrain", "the config asks for it, it is installed, and there is a GPU"


def compiled(config: TrainConfig, plan: Plan, place: Place, cost: Cost) -> bool:
    """Whether compiling pays; see `TrainConfig.compile`."""
    if config.compile != "auto":
        return config.compile == "on"
    if place.device.type == "cuda":
        return True
    tokens = plan.tokens * config.epochs
    seconds = 6 * cost.weights * tokens / (_CPU_RATE * (processes_cores() or 1))
    return seconds * _CPU_GAIN > 2 * _COMPILE_SECONDS


def processes_cores() -> int:
    """Cores of this machine."""
    from ultrachat_cli.machine import cores

    return cores()


def built(
    name: EngineName, config: TrainConfig, prepared: Prepared, place: Place, plan: Plan, *, compiled: bool
) -> Engine:
    """The engine with the model in it. `MissingExtra` or `UltraError` where it cannot work here."""
    if name == "fsdp":
        from ultrachat_cli.train.engines.fsdp import Fsdp

        return Fsdp(prepared.folder, prepared.vocabulary, config, place, compiled=compiled)
    raise UltraError(f"engine {name} is not there yet", "use --engine fsdp")
