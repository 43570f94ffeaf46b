"""What the processes of the BMTrain tests do: each job returns tensors and numbers for the test to compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ultrachat_cli.errors import UltraError
from ultrachat_cli.train import model
from ultrachat_cli.train.batches import Batch
from ultrachat_cli.train.engines.bmtrain import BMTrain
from ultrachat_cli.train.processes import Place
from ultrachat_cli.train.settings import TrainConfig

WORDS, EXTRA = 259, 3
RATE, DECAY, EPS, CLIP = 1e-2, 0.1, 1e-4, 0.5  # an eps that keeps rounding from turning updates round


def config(**changed: Any) -> TrainConfig:
    optimizer = {"lr": RATE, "weight_decay": DECAY, "eps": EPS}
    return TrainConfig(engine="bmtrain", optimizer=optimizer, **{"precision": "fp32", **changed})


def documents() -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """The documents of a step's four micro-batches; of the third nothing is learned."""
    draw = np.random.default_rng(5)
    found = []
    for micro in range(4):
        lengths = draw.integers(3, 20, 1 + micro % 3)
        ids = [draw.integers(0, WORDS + EXTRA, n) for n in lengths]
        found.append([(one, (draw.random(len(one)) < 0.6) & (micro != 2)) for one in ids])
    return found


def engine(folder: Path, place: Place, **changed: Any) -> BMTrain:
    made = BMTrain(folder, WORDS + EXTRA, config(**changed), place, compiled=False)
    torch.set_num_threads(1)  # BMTrain sets it: on busy cores threads wait for each other
    return made


def step(trainer: BMTrain) -> dict[str, Any]:
    """One update of the weights: every process takes each world-th micro-batch."""
    place = trainer.place
    batches = [Batch.of(one) for one in documents()]
    learned = sum(batch.learned for batch in batches)
    losses = [trainer.forward_backward(batch, learned) for batch in batches[place.rank :: place.world]]
    loss = place.total([sum(losses)])[0] / learned
    slopes = {
        name: (weight._start_partition or 0, None if weight.grad is None else weight.grad.detach().clone())
        for name, weight in trainer._named.items()
    }
    norm = trainer.clip(CLIP)
    return {"loss": loss, "norm": norm, "slopes": slopes, "applied": trainer.step(RATE)}


def weights(trainer: BMTrain) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.tensors()}


def learning(given: Path, out: Path, place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("plain", "tied"):
        for recompute in (False, True):
            trainer = engine(given / kind, place, activation_checkpointing=recompute)
            before = weights(trainer)
            steps = [step(trainer), step(trainer)]
            with torch.no_grad():
                held = place.total([trainer.loss(Batch.of(documents()[place.rank % 2]))])[0] / place.world
            found[f"{kind} {recompute}"] = {
                "before": before, "steps": steps, "after": weights(trainer), "held": held,
                "answer": trainer.answer([5, 9, 2], 4, None),
            }  # fmt: skip
    return found


def resuming(given: Path, out: Path, place: Place) -> dict[str, Any]:
    """Two steps, saved, one more; and the third again from what was saved."""
    found: dict[str, Any] = {}
    for precision, offload in (("fp32", True), ("bf16", True), ("fp16", True), ("fp16", False)):
        name = f"{precision} {offload}"
        folder = out / name / str(place.world)
        if place.first:
            folder.mkdir(parents=True)
        first = engine(given / "tied", place, precision=precision, offload=offload)
        place.wait()
        told = [step(first), step(first)]
        first.save(folder)
        place.wait()
        told.append(step(first))
        second = engine(given / "tied", place, precision=precision, offload=offload)
        second.load(folder)
        found[name] = {
            "losses": [one["loss"] for one in told], "again": step(second)["loss"], "straight": weights(first),
            "resumed": weights(second), "adam": type(first.optimizer).__name__,
        }  # fmt: skip
    found["refused"] = refusals(given, out, place)
    return found


def refusals(given: Path, out: Path, place: Place) -> dict[str, str]:
    """The words for checkpoints that cannot be gone on with."""
    found = {}
    trainer = engine(given / "tied", place, precision="bf16")
    for name, folder in {
        "other precision": out / "fp32 True" / str(place.world),
        "other world": out / "bf16 True" / str(3 - place.world),
        "nothing": out,
    }.items():
        if folder.exists():
            try:
                trainer.load(folder)
            except UltraError as error:
                found[name] = error.message
    return found


def overflowing(given: Path, out: Path, place: Place) -> dict[str, Any]:
    """fp16 with a loss scale that is far too high."""
    trainer = engine(given / "plain", place, precision="fp16")
    before = weights(trainer)
    trainer.manager.loss_scale = 2.0**40
    skipped = step(trainer)
    same = weights(trainer)
    scale = trainer.manager.loss_scale
    trainer.manager.loss_scale = 2.0**10
    return {
        "before": before, "same": same, "skipped": skipped["applied"], "scale": scale,
        "applied": step(trainer)["applied"], "after": weights(trainer),
    }  # fmt: skip


def memory(given: Path, out: Path, place: Place) -> dict[str, Any]:
    """How many gathered blocks there are, and how many of them are still there after the forward pass."""
    trainer = engine(given / "plain", place)
    nccl = sys.modules["bmtrain"].nccl
    gathered: list[StorageWeakRef] = []
    gather = nccl.allGather

    def watched(source: Any, target: Any, comm: Any) -> None:
        if target.size() >= sum(info["size"] for info in trainer._blocks[0]._param_info):
            gathered.append(StorageWeakRef(target._untyped_storage))
        gather(source, target, comm)

    nccl.allGather = watched
    loss = trainer.learner(**model.on_device(Batch.of(documents()[0]), place.device))
    forward, alive = len(gathered), sum(not ref.expired() for ref in gathered)
    loss.backward()
    nccl.allGather = gather
    chained = [block._next_module is not None for block in trainer._blocks]
    return {"forward": forward, "alive": alive, "all": len(gathered), "chained": chained}
