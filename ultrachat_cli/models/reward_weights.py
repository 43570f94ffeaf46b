"""The weights of a reward model, from its folder onto a device: nothing foreign is run, nothing is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ultrachat_cli.errors import ConfigError, DataError, MissingExtra, UltraError
from ultrachat_cli.machine import cores
from ultrachat_cli.models import placement, tensor_files
from ultrachat_cli.models.placement import Need


class Place(NamedTuple):
    """Where a model computes and in what numbers: a `torch.device` and a `torch.dtype`."""

    device: Any
    dtype: Any


def place(device: str, dtype: str) -> Place:
    """`auto`: the first GPU, else the CPU; bf16 on a GPU (fp16 where it has none), fp32 on a CPU.

    Raises `ConfigError` for a device that is not here, `MissingExtra` without torch.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("a reward model", "torch and transformers", "local") from error
    if device == "auto":
        device = "cuda" if torch.cuda.device_count() else "cpu"
    if device == "balanced":
        raise ConfigError("--device balanced: a reward model runs on one device", "use auto, cpu, cuda or cuda:1")
    where = placement.device(device)
    return Place(torch.device(where), getattr(torch, placement.numbers(dtype, where, on_cpu="float32")))


def check_memory(name: str, folder: Path, where: Place) -> None:
    """`UltraError` that says what the model of a config.json needs where that does not fit into free memory."""
    device = str(where.device)
    need = Need(0, parameters(folder), str(where.dtype).removeprefix("torch."), "none", 0)
    instead = "a model behind an API as the judge: judge:openai:NAME"
    placement.check(need, placement.free_on(device), name, device, instead)


def parameters(folder: Path) -> int:
    """Weights of the model that config.json describes, its head left out; `UltraError` where there is none."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(_config(folder))  # type: ignore[no-untyped-call]
    return sum(weight.numel() for weight in model.parameters())


def _config(folder: Path) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    try:
        told = orjson.loads((folder / "config.json").read_bytes())
        if told.get("model_type") not in CONFIG_MAPPING:  # transformers would offer to run the folder's own code
            raise ValueError(
                f"transformers knows no models of type {told.get('model_type')}; foreign code is never run"
            )
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(folder / "config.json", 0, f"not a model's config: {_first_line(error)}") from error


def load(name: str, folder: Path, where: Place) -> tuple[Any, bool]:
    """The model on its place, and whether it is an `UltraRM` (else any sequence classifier with one label).

    Raises `UltraError` for another kind of model, weights that are missing, damaged or more than tensors, no memory.
    """
    import torch
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

    from ultrachat_cli.models.folders import hushed
    from ultrachat_cli.models.ultrarm import HEAD, UltraRM

    tensors = tensor_files.read(folder)
    config = _config(folder)
    ultrarm = HEAD in tensors
    if ultrarm and config.model_type != "llama":
        raise UltraError(f"{name}: {HEAD} belongs to a LLaMA, and config.json says {config.model_type}")
    if not ultrarm and (config.num_labels != 1 or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING):
        raise UltraError(
            f"{name} is no reward model: it has no {HEAD}, and {config.num_labels} labels where a reward is one",
            "name a reward model (ultrachat models ls), or let a chat model judge: judge:NAME",
        )
    if where.device.type == "cpu":
        torch.set_num_threads(cores())
    check_memory(name, folder, where)
    made: Any = UltraRM if ultrarm else AutoModelForSequenceClassification
    more = {} if where.device.type == "cpu" else {"device_map": {"": where.device}}
    try:
        with hushed():
            model, told = made.from_pretrained(
                folder, config=config, dtype=where.dtype, local_files_only=True, weights_only=True,
                output_loading_info=True, **more,
            )  # fmt: skip
    except Exception as error:  # the libraries raise nothing narrower for what a file can hold
        raise UltraError(f"{folder}: the weights cannot be loaded: {_first_line(error)}") from error
    if lacking := [*told["missing_keys"], *(str(found[0]) for found in told["mismatched_keys"])]:
        shown = ", ".join(sorted(lacking)[:4])
        raise UltraError(
            f"{folder}: {len(lacking)} weights are missing or of another shape: {shown}",
            "fetch the model again, or train its head first: rewards of new random weights mean nothing",
        )
    return model.eval(), ultrarm


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
