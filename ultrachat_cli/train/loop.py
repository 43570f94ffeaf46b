"""The training loop: the same for every engine."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultrachat_cli import signals
from ultrachat_cli.errors import UltraError
from ultrachat_cli.progress import Progress
from ultrachat_cli.train import checkpoint, schedule
from ultrachat_cli.train.batches import Batch, Examples, Plan
from ultrachat_cli.train.checkpoint import State
from ultrachat_cli.train.engines.base import Engine
from ultrachat_cli.train.flops import Cost
from ultrachat_cli.train.metrics import Metrics, Row
from ultrachat_cli.train.settings import TrainConfig

Sample = Callable[[Engine], list[dict[str, str]]]


@dataclass(frozen=True)
class Held:
    """Held-out examples, and how to let the model answer some of their openings."""

    examples: Examples
    sample: Sample


@dataclass
class Outcome:
    """Where a run ended."""

    step: int
    updates: int
    stopped: bool
    last: Row
    first_loss: float | None
    validation: list[float]


class Loop:
    """Steps from a state to the end. Raises `UltraError` for a loss or gradient that is no number."""

    def __init__(
        self, config: TrainConfig, engine: Engine, plan: Plan, data: str, cost: Cost, held: Held | None,
        metrics: Metrics | None, progress: Progress,
    ) -> None:  # fmt: skip
        self._config, self._engine, self._plan, self._data, self._cost = config, engine, plan, data, cost
        self._held, self._metrics, self._progress = held, metrics, progress
        self._folder = Path(config.output)
        self._validation: list[float] = []

    def run(self, state: State) -> Outcome:
        """All steps that are left; a signal (SIGTERM, Ctrl-C) saves after the step under way and ends it."""
        config, plan = self._config, self._plan
        step, updates, last = state.step, state.updates, Row()
        first_loss: float | None = None
        self._progress.stage("train", plan.steps, "steps")
        self._progress.advance(step)
        stopped = False
        saved = step
        with _signals() as asked:
            if step == 0:
                self._evaluate(0)
            while step < plan.steps and not stopped:
                last, applied, stopped = self._step(step, updates, asked)
                updates += applied
                step += 1
                first_loss = last["loss"] if first_loss is None else first_loss
                self._progress.advance(1, _note(last))
                if self._metrics and (step % config.log.every == 0 or step in (1, plan.steps)):
                    self._metrics.put(last)
                due = config.evaluate.every and step % config.evaluate.every == 0
                if not stopped and (due or step == plan.steps):
                    self._evaluate(step)
                if stopped or (config.save.every and step % config.save.every == 0 and step < plan.steps):
                    saved = self._save(step, updates)
        if step == plan.steps and saved < step:
            self._save(step, updates)
        return Outcome(step, updates, stopped and step < plan.steps, last, first_loss, self._validation)

    def _step(self, step: int, updates: int, asked: dict[str, bool]) -> tuple[Row, bool, bool]:
        engine, plan = self._engine, self._plan
        started = time.perf_counter()
        rows = plan.step_rows(step)
        learned = plan.learned(rows)
        batches = plan.batches(rows, engine.place.rank)
        losses = [engine.forward_backward(batch, learned) for batch in batches]
        loss, stop, flops = engine.place.total([sum(losses), float(asked["stop"]), sum(map(self._cost.flops, batches))])
        loss /= max(1, learned)
        norm = engine.clip(self._config.optimizer.clip)
        rate = schedule.rate(self._config.optimizer, updates, plan.steps)
        self._check(step, loss, norm)
        applied = engine.step(rate)
        seconds = time.perf_counter() - started
        tokens = plan.size(rows)
        row: Row = {
            "step": step + 1, "epoch": round(plan.epoch_at(step + 1), 4), "loss": loss, "lr": rate, "grad_norm": norm,
            "tokens": tokens, "learned": learned, "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens / seconds, 1), "memory_gib": round(engine.place.memory(), 3),
        }  # fmt: skip
        if (share := self._cost.utilisation(flops, seconds, engine.place)) is not None:
            row["mfu"] = round(share, 4)
        if not applied:
            row["skipped"] = True
        return row, applied, stop > 0

    def _check(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and (math.isfinite(norm) or self._config.precision == "fp16"):
            return
        what = "loss" if not math.isfinite(loss) else "norm of the gradient"
        raise UltraError(
            f"step {step + 1}: the {what} is {loss if what == 'loss' else norm}",
            "lower optimizer.lr, or look at the data of this step; the newest checkpoint is whole: --resume",
        )

    def _evaluate(self, step: int) -> None:
        """Loss and perplexity of the held-out examples; what the model says, if asked for."""
        if self._held is None:
            return
        engine, examples = self._engine, self._held.examples
        total = 0.0
        place = engine.place
        most = -(-len(examples) // place.world)  # every process computes equally often
        for n in range(most):
            number = n * place.world + place.rank
            batch = Batch.of([examples[number]] if number < len(examples) else [])
            total += float(engine.loss(batch))
        loss = engine.place.total([total])[0] / max(1, int(examples.learned.sum()))
        self._validation.append(loss)
        row: Row = {"step": step, "validation_loss": loss, "perplexity": math.exp(min(loss, 700))}
        samples = self._held.sample(engine)
        if samples:
            row["samples"] = samples
        self._progress.say(f"step {step}: validation loss {loss:.4f}, perplexity {row['perplexity']:.2f}")
        for sample in samples:
            self._progress.say(f"  {sample['user']}\n  > {sample['assistant']}")
        if self._metrics:
            self._metrics.put(row)

    def _save(self, step: int, updates: int) -> int:
        place = self._engine.place
        state = State(step, updates, place.world, self._engine.name, self._data)
        path = checkpoint.save(self._folder, self._engine, state, self._config.save.keep)
        self._progress.say(f"step {step}: saved {path}")
        return step


@contextmanager
def _signals() -> Iterator[dict[str, Any]]:
    """{"stop": whether SIGTERM or SIGINT came}; a second one ends the process at once."""
    asked = {"stop": False}

    def note(number: int, _: object) -> None:
        if asked["stop"]:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked["stop"] = True

    with signals.handled(note):
        yield asked


def _note(row: Row) -> str:
    share = f"  MFU {row['mfu']:.0%}" if "mfu" in row else ""
    return (
        f"epoch {row['epoch']:.2f}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  norm {row['grad_norm']:.2f}  "
        f"{row['tokens_per_second']:,.0f} tokens/s{share}  {row['memory_gib']:.1f} GiB"
    )
