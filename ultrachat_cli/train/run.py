"""The job: prepare, launch or join, train, leave a model."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryFile

from ultrachat_cli.config import Loaded
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import jsonl, manifest
from ultrachat_cli.train import checkpoint, choose, export, launch, processes, report
from ultrachat_cli.train.batches import Plan
from ultrachat_cli.train.checkpoint import State
from ultrachat_cli.train.engines.base import Engine
from ultrachat_cli.train.estimate import Estimate
from ultrachat_cli.train.flops import Cost
from ultrachat_cli.train.loop import Held, Loop, Outcome
from ultrachat_cli.train.metrics import Metrics
from ultrachat_cli.train.prepare import Prepared, prepare, summary
from ultrachat_cli.train.report import Report
from ultrachat_cli.train.settings import TrainConfig


def run(loaded: Loaded[TrainConfig], progress: Progress | None = None, *, resume: bool = False,
        arguments: list[str] | None = None) -> Report | None:  # fmt: skip
    """Train. None where `arguments` (the command line) were run in several processes, whose first one reports.

    Raises `ConfigError`, `UltraError` (data, memory, disk, numbers that are none), `launch.Stopped`.
    """
    config, progress = loaded.value, progress or Silent()
    started = time.monotonic()
    config.check_given()
    processes.check(config.launch)
    _check_folder(config, resume)
    prepared = prepare(config, progress)
    if arguments is not None and launch.needed(config.launch):
        Plan(prepared.train, prepared.weights, config, launch.here(config.launch) * config.launch.nodes)
        launch.run(config.launch, config.folder, arguments)
        return None
    engine_name, why = choose.engine(config)
    place = processes.join(config.launch)
    try:
        plan = Plan(prepared.train, prepared.weights, config, place.world)
        cost = _cost(prepared)
        compiled = choose.compiled(engine_name, config, place, plan, cost)
        progress.say(
            f"engine {engine_name}: {why}; {place.world} x {place.device.type}{', compiled' if compiled else ''}"
        )
        return _train(  # the engine is nobody else's: what holds the group is gone before it is left
            loaded, prepared, plan, cost, choose.built(engine_name, config, prepared, place, plan, compiled=compiled),
            progress, resume, started,
        )  # fmt: skip
    except RuntimeError as error:
        raise _explained(error) from error
    finally:
        processes.leave()


def estimate(loaded: Loaded[TrainConfig], progress: Progress | None = None) -> Estimate:
    """What a run would take: data is tokenized (and kept), no model is loaded, no GPU touched."""
    config = loaded.value
    config.check_given()
    prepared = prepare(config, progress or Silent())
    world = launch.here(config.launch) * config.launch.nodes
    plan = Plan(prepared.train, prepared.weights, config, world)
    return Estimate.of(config, prepared, plan, _cost(prepared), choose.engine(config)[0])


def _check_folder(config: TrainConfig, resume: bool) -> None:
    folder = config.folder
    if (
        not resume
        and not processes.launched()
        and any((folder / name).exists() for name in ("metrics.jsonl", "config.json"))
    ):
        raise ConfigError(f"--output: {folder} holds a run", "--resume goes on with it; another --output begins anew")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()  # of another name in each process: they come here at the same moment
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error


def _cost(prepared: Prepared) -> Cost:
    from transformers import AutoConfig

    return Cost.of(AutoConfig.from_pretrained(prepared.folder))


def _train(
    loaded: Loaded[TrainConfig], prepared: Prepared, plan: Plan, cost: Cost, engine: Engine, progress: Progress,
    resume: bool, started: float,
) -> Report:  # fmt: skip
    config = loaded.value
    state = State(0, 0, engine.place.world, engine.name, prepared.data)
    if resume and (found := checkpoint.newest(config.folder)):
        state = _resumed(found, engine, prepared.data)
        engine.load(found)
        progress.say(f"going on from {found}")
    first = engine.place.first
    told = {"config": config.model_dump(mode="json"), "config_sources": loaded.sources, "versions": _versions(),
            "data": summary(prepared), "model": prepared.spec.model_dump(mode="json")}  # fmt: skip
    metrics = Metrics(config.folder, state.step, config.log, told["config"]) if first else None
    if first:
        manifest.write(config.folder, told)
    held = Held(prepared.held, lambda engine: _samples(engine, prepared, config)) if prepared.held else None
    loop = Loop(config, engine, plan, prepared.data, cost, held, metrics, progress)
    try:
        outcome = loop.run(state)
    finally:
        if metrics:
            metrics.close()
    result = _report(loaded, prepared, plan, engine, outcome, started)
    done_before = state.step == plan.steps and (config.folder / "config.json").is_file()
    if done_before:
        progress.say("all steps were done before: nothing to do")
    elif not outcome.stopped:
        progress.stage("export", 0, "")
        card = report.card(
            config.folder.name, prepared.spec.name, prepared.spec.licence, told["config"], result, told["versions"]
        )
        pad = config.pad_token if prepared.pad_added else ""
        made = export.Made(prepared.folder, prepared.spec, prepared.tokenizer, prepared.vocabulary, card, pad)
        export.write(config.folder, engine.tensors(), made, first=first)
        result.files.append(config.folder)
    if first:
        manifest.write(config.folder, {**told, "report": result.record()})
    engine.place.wait()
    return result


def _resumed(path: Path, engine: Engine, data: str) -> State:
    state = checkpoint.state(path)
    if state.data != data:
        raise ConfigError(
            f"{path}: was made with other data, or another seed, batch, packing, max_length or epochs",
            "give the settings it was made with (manifest.json holds them), or begin anew in another --output",
        )
    if state.engine != engine.name:
        raise ConfigError(f"{path}: was made by engine {state.engine}", f"--engine {state.engine}")
    return state


def _samples(engine: Engine, prepared: Prepared, config: TrainConfig) -> list[dict[str, str]]:
    """Answers to held-out openings: the tokens before the first learned one are the prompt."""
    assert prepared.held is not None
    found = []
    for n in range(min(config.evaluate.samples, len(prepared.held))):
        ids, learn = prepared.held[n]
        prompt = ids[: int(learn.argmax())].tolist()
        said = engine.answer(prompt, config.evaluate.sample_tokens, prepared.tokenizer.end)
        decode = prepared.tokenizer.backend.decode
        found.append({"user": decode(prompt).strip(), "assistant": decode(said).strip()})
    return found


def _report(
    loaded: Loaded[TrainConfig], prepared: Prepared, plan: Plan, engine: Engine, outcome: Outcome, started: float
) -> Report:
    folder = loaded.value.folder
    return Report(
        folder=folder, engine=engine.name, steps=outcome.step, planned=plan.steps, stopped=outcome.stopped,
        first_loss=outcome.first_loss, last=outcome.last, validation=outcome.validation, data=summary(prepared),
        seconds=round(time.monotonic() - started, 3), files=[folder / "metrics.jsonl"],
    )  # fmt: skip


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {**manifest.versions(), "torch": torch.__version__, "transformers": transformers.__version__}


def _explained(error: RuntimeError) -> Exception:
    """Memory that ran out, or another process that died, as an error that says what to do; anything else as it is."""
    text = str(error)
    if any(words in text for words in ("onnection closed by peer", "onnection reset by peer", "NCCL")):
        return UltraError(
            f"another process of the run is gone: {text.splitlines()[0][-160:]}",
            "its own log says why; --resume goes on from the newest checkpoint",
        )
    if "out of memory" in text.lower() or "can't allocate memory" in text:
        return UltraError(
            f"out of memory: {text.splitlines()[0]}",
            "lower micro_batch or max_length, turn on activation_checkpointing, or use more processes",
        )
    return error
