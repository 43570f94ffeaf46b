"""`recover` and `make-delta`: check everything, then write."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultrachat_cli import machine, registry
from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.models import formats
from ultrachat_cli.models.specs import ModelSpec, known
from ultrachat_cli.models.tensor_files import TORCH, Tensor
from ultrachat_cli.progress import Progress
from ultrachat_cli.recover import beside, check, checksums, plan, samples, sides, write
from ultrachat_cli.recover.arithmetic import Outcome, Worker, Write
from ultrachat_cli.recover.plan import Piece, Plan
from ultrachat_cli.recover.report import Report
from ultrachat_cli.recover.settings import DeltaConfig, RecoverConfig, Shared

_MOST = 4  # workers, unless more are asked for: the memory bus is full then


def recover(config: RecoverConfig, progress: Progress) -> Report:
    """Make base + delta. `ConfigError` when nothing can be begun, `UltraError` when the two do not fit, or on a disk
    that is full; `DataError` for a file that cannot be read.
    """
    begun = time.monotonic()
    delta_spec, base_spec = _meant(config)
    spec = _with_format(delta_spec, config.format)
    output = _free(config.output or (Path(config.model) if config.model in known() else None))
    _needs_torch()
    base = sides.opened("base", base_spec, progress.say)
    delta = sides.opened("delta", delta_spec, progress.say)
    told = None if config.unchecked else checksums.read(delta.folder)

    def dtype_of(tensor: Tensor) -> str:
        expected = told.tensors.get(tensor.name) if told else None
        return config.kind or (expected.dtype if expected and expected.dtype in sides.FLOATS else base.dtype)

    made = plan.plan(base, delta, dtype_of, config.shard_size)
    made.notes += plan.compared(base.config, delta.config)
    if told is not None and told.base != samples.fingerprint(base):
        raise UltraError(
            f"--base {base.folder} is not the model that the delta was made from",
            "the weights must be the same, of the same type; --unchecked goes on all the same",
        )
    if told is None and not config.unchecked:
        made.notes += samples.check_delta(made)
    owner = beside.speaker(made)
    beside.check_vocabulary(made)
    if config.check:
        check.check_memory(made.size)
        if owner is None:
            raise ConfigError("--check: there is no tokenizer", made.notes[-1])
        check.prompt_of(owner.folder, spec.format, spec.system)

    def do(worker: Worker, piece: Piece, put: Write) -> Outcome:
        expected = told.tensors.get(piece.name) if told else None
        if expected is None or not checksums.comparable(expected, piece):
            return worker.add(piece, put, digest=False, exact=[])
        found = worker.add(piece, put, digest=True, exact=expected.exact)
        checksums.check(expected, found, made)
        return found

    settings = {"made": "recover", "checked": told is not None}
    named = config.model in known() or (spec.scheme != "folder" and spec.name in known())
    name = spec.name if named else ""

    def finish(folder: Path, _: dict[str, Outcome]) -> None:
        beside.write(folder, made, spec, owner, weights="full", base="", name=name)

    report = _made(config, made, output, do, settings, progress, finish)
    if told is not None and report.written:
        report.verified = sum(checksums.comparable(told.tensors.get(piece.name), piece) for piece in made.pieces)
    if config.check and report.written:
        progress.say("loading the result")
        report.prompt, report.answer = check.PROMPT, check.answer(output)
    report.seconds = time.monotonic() - begun
    return report


def make_delta(config: DeltaConfig, progress: Progress) -> Report:
    """Make tuned - base; raises as `recover`."""
    begun = time.monotonic()
    for role, value in (("base", config.base), ("tuned", config.tuned)):
        if not value:
            raise ConfigError(
                f"--{role} is missing", "ultrachat make-delta --base MODEL --tuned FOLDER --output FOLDER"
            )
    base_spec, spec = sides.meant("base", config.base), sides.meant("tuned", config.tuned)
    for role, one in (("base", base_spec), ("tuned", spec)):
        if one.weights == "delta":
            raise ConfigError(
                f"--{role} {config.base if role == 'base' else config.tuned} is itself a delta",
                "recover it first, and name the result",
            )
    output = _free(config.output)
    _needs_torch()
    base, tuned = sides.opened("base", base_spec, progress.say), sides.opened("tuned", spec, progress.say)
    made = plan.plan(base, tuned, lambda _: config.kind, config.shard_size)
    made.notes += plan.compared(base.config, tuned.config)
    if not config.unchecked:
        made.notes += samples.check_tuned(made)
    owner = beside.speaker(made)
    beside.check_vocabulary(made)
    mark = samples.fingerprint(base)
    name = base_spec.name if base_spec.name in known() else ""

    def finish(folder: Path, outcomes: dict[str, Outcome]) -> None:
        checksums.write(folder, mark, made, outcomes)
        beside.write(folder, made, spec, owner, weights="delta", base=name, name="")

    def do(worker: Worker, piece: Piece, put: Write) -> Outcome:
        return worker.subtract(piece, put)

    report = _made(config, made, output, do, {"made": "delta"}, progress, finish)
    report.seconds = time.monotonic() - begun
    return report


def _meant(config: RecoverConfig) -> tuple[ModelSpec, ModelSpec]:
    """(delta, base)."""
    usage = "ultrachat recover --base FOLDER --delta FOLDER --output FOLDER, or: ultrachat recover NAME --base FOLDER"
    given = config.model or config.delta
    if not given:
        raise ConfigError("--delta is missing", usage)
    spec = sides.meant("model", config.model) if config.model else sides.meant("delta", config.delta)
    if not sides.published_in_full(spec) and config.model and config.delta:  # facts by the name, files by the folder
        spec = spec.model_copy(update={"source": sides.meant("delta", config.delta).source})
    if sides.published_in_full(spec):
        where = "" if spec.scheme == "folder" else f" (registry: {spec.about})"
        raise ConfigError(
            f"{given} is full weights{where}: nothing is to be recovered", f"use it as it is: --model {given}"
        )
    if not (config.base or spec.base):
        raise ConfigError(f"--base is missing, and {given} does not tell what its base is", usage)
    base = sides.meant("base", config.base or spec.base)
    if base.weights == "delta":
        raise ConfigError(f"--base {config.base or spec.base} is itself a delta", "are --base and --delta swapped?")
    return spec, base


def _with_format(spec: ModelSpec, format: str) -> ModelSpec:
    if not format:
        return spec
    if format != formats.TOKENIZER and format not in formats.FORMATS:
        near = registry.did_you_mean(format, formats.FORMATS)
        raise ConfigError(f"--format: unknown chat format '{format}'{near}", f"one of {', '.join(formats.FORMATS)}")
    return spec.model_copy(update={"format": format})


def _free(output: Path | None) -> Path:
    """The output, which nothing may stand in the way of."""
    if output is None:
        raise ConfigError("--output is missing", "name the folder to make")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output} exists", "remove it, or choose another; nothing is overwritten")
    return output


def _needs_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("recover", "torch", "train") from error


def _made(
    config: Shared, made: Plan, output: Path, do: Callable[[Worker, Piece, Write], Outcome], settings: dict[str, Any],
    progress: Progress, finish: Callable[[Path, dict[str, Outcome]], None],
) -> Report:  # fmt: skip
    report = Report(
        output, not config.dry_run, len(made.pieces), made.size, len(made.shards), 0,
        TORCH[beside.main_type(made)], made.new_rows, made.left_out, 0.0, 0, notes=made.notes,
    )  # fmt: skip
    if config.dry_run:
        write.check_space(output, made.size)
        return report
    if not write.partial(output).is_dir():
        write.check_space(output, made.size)
    for note in made.notes:
        progress.say(note)
    with write.alone(output) as folder:
        _free(output)  # again: another process may just have finished it
        done = write.resumed(folder, made, settings)
        report.resumed = len(done)
        left = sum(shard.size for shard in made.shards if shard.file not in done)
        write.check_space(output, left)
        if done:
            progress.say(f"{len(done)} of {len(made.shards)} files are there already")
        progress.stage("writing", left // 10**6, "MB")
        try:
            write.shards(folder, made, done, do, config.workers or min(machine.cores(), _MOST), progress)
        except checksums.Unequal:
            shutil.rmtree(folder)
            raise
        found = {outcome.name: outcome for outcomes in done.values() for outcome in outcomes}
        ordered = [found[piece.name] for piece in made.pieces]
        try:
            write.index(folder, made)
            finish(folder, found)
        except OSError as error:
            raise write.unwritable(folder, error) from error
        write.reveal(folder, output)
    report.sum = sum(outcome.sum for outcome in ordered)
    report.not_finite = sum(outcome.not_finite for outcome in ordered)
    report.listed = sum(len(outcome.exact) for outcome in ordered)
    if settings["made"] == "delta":
        report.differing = sum(outcome.differing for outcome in ordered)
    if report.not_finite:
        made.notes.append("numbers that are NaN or infinite: a weight is damaged, or too large for the type written")
    return report
