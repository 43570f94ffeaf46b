"""An evaluation from questions to report: answers, verdicts, figures, files. Nothing is paid for twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli import __version__
from ultrachat_cli.backends import chat_model, scorers
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels
from ultrachat_cli.evaluate import annotations as kept
from ultrachat_cli.evaluate import page
from ultrachat_cli.evaluate.annotations import Annotation, Pair
from ultrachat_cli.evaluate.answers import Answerer, gathered
from ultrachat_cli.evaluate.folder import ANNOTATIONS, METRICS, OUTPUTS, REFERENCES, REPORT, EvalFolder
from ultrachat_cli.evaluate.judge import ORDER_RULE, UNREADABLE, Judge, with_logprobs
from ultrachat_cli.evaluate.plan import Answers, Plan, flags_of, prepare, told
from ultrachat_cli.evaluate.report import Report, other_files
from ultrachat_cli.evaluate.settings import EvalConfig
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import jsonl, manifest
from ultrachat_cli.records.manifest import without_secrets


async def run(config: EvalConfig, environ: Mapping[str, str], progress: Progress | None = None) -> Report:
    """Evaluate, into the folder `config.folder`. The same call goes on where an earlier one ended.

    Raises `ConfigError` and `DataError` before anything is asked, then the `UltraError`s of the endpoints; what was
    answered until then is kept.
    """
    progress = progress or Silent()
    config.check_given()
    if config.annotations is not None:
        return recomputed(config, progress)
    plan = prepare(config, progress)
    report = Report(config.suite, questions=len(plan.questions.questions), left_out=plan.left_out)
    started, date = time.monotonic(), time.strftime("%Y-%m-%d %H:%M:%S%z")
    folder = EvalFolder(config.folder, plan.identity)
    try:
        models = ChatModels(
            config.limits, folder.journal, environ, prices=config.prices, spent=folder.journal.totals()[3],
            embedded_context=config.embedded_context, local=config.local, say=progress.say,
        )  # fmt: skip
        try:
            sides = await _answers(plan, models, folder, report, progress)
            with flags_of("judge"):
                found, judge = await _verdicts(plan, sides, models, report, progress)
        finally:
            models.halt()
            await folder.journal.flush()
            await models.close()
            usage = models.usage
            report.requests, report.repeated, report.cost = usage.requests, folder.journal.repeated, usage.cost
            report.tokens = usage.prompt_tokens + usage.completion_tokens
        others = plan.others
        if others.gamed is not None and len({one.instruction for one in found}) < plan.questions.total:
            report.warnings.append("no length-controlled win rate: it takes answers to the whole set")
            others = replace(others, gamed=None)
        report.compute(found, others)
        report.seconds = time.monotonic() - started
        _write(plan, folder, judge, report, date)
    finally:
        folder.close()
    return report


async def _answers(
    plan: Plan, models: ChatModels, folder: EvalFolder, report: Report, progress: Progress
) -> tuple[Answers, Answers]:
    """(the model's, the reference's): from files, from the folder, or asked for."""
    served: list[ChatModel] = []
    for role, endpoint in plan.endpoints.items():  # a wrong key or name is found before anything is paid;
        if endpoint.base_url is not None or resolve(endpoint.model).scheme == "openai":  # memory is taken in turn
            with flags_of(role):
                served.append(await models.open(endpoint))
    report.unpriced = chat_model.unpriced(served)
    sides = {"model": plan.outputs or {}, "reference": plan.reference or {}}
    for role, name in (("model", OUTPUTS), ("reference", REFERENCES)):
        if role in plan.endpoints:
            sides[role] = folder.kept(name)
            if not all(question.instruction in sides[role] for question in plan.questions.questions):
                with flags_of(role):
                    sides[role] = await _asked(plan, role, models, report, progress)
                folder.keep(name, sides[role].values())
    return sides["model"], sides["reference"]


async def _asked(plan: Plan, role: str, models: ChatModels, report: Report, progress: Progress) -> Answers:
    """The answers of a model; it is let go of afterwards, so that the next one has the memory."""
    config = plan.config
    model = await models.open(plan.endpoints[role])
    best_of = config.best_of if role == "model" else 1
    scorer = None
    if best_of > 1:
        name, where = config.reward
        url, variable = (where.base_url, where.api_key_env) if where else (None, None)
        with flags_of("reward"):
            scorer = await scorers.open_scorer(name, models, base_url=url, api_key_env=variable, say=progress.say)
    try:
        answerer = Answerer(model, config.answers, best_of, scorer)
        found = await answerer.every(plan.questions.questions, progress)
    finally:
        if scorer is not None:
            await scorer.close()
    await models.release(model)
    report.unanswered += Counter(answerer.failed)
    return {output.instruction: output for output in found}


async def _verdicts(
    plan: Plan, sides: tuple[Answers, Answers], models: ChatModels, report: Report, progress: Progress
) -> tuple[list[Annotation], Judge]:
    model = await models.open(plan.endpoints["judge"])
    preset = await with_logprobs(model, plan.preset)
    if preset.verdicts_only:
        report.warnings.append(
            f"{model.spec.name} gives no log probabilities: verdicts only, which is not the published {preset.name}"
        )
        progress.say(f"WARNING: {report.warnings[-1]}")
    if model.spec.prompts == "small":
        preset = preset.without_reasons()
        report.warnings.append(f"{model.spec.name} is far too small a model to judge: its verdicts mean nothing")
    judge = Judge(model, preset, both_orders=plan.config.both_orders)
    pairs = plan.pairs(*sides)
    progress.stage("judge", len(pairs), "questions")

    async def one(pair: Pair) -> list[Annotation]:
        found = await (judge.compare(pair) if preset.kind == "pairwise" else judge.score(pair, plan.alone))
        usage = models.usage
        tokens = usage.prompt_tokens + usage.completion_tokens
        progress.advance(1, f"{tokens:,} tokens" + (f", ${usage.cost:.4f}" if usage.cost else ""))
        return found

    several = await gathered((partial(one, pair) for pair in pairs), 2 * model.limiter.slots.count)
    report.verdicts, report.failed = judge.asked, judge.failed
    report.identical, report.shortened = judge.identical, judge.shortened
    return [annotation for found in several for annotation in found], judge


def _write(plan: Plan, folder: EvalFolder, judge: Judge, report: Report, date: str) -> None:
    config, preset = plan.config, judge.preset
    report.facts = {
        "preset": preset.name + (" (verdicts only)" if preset.verdicts_only else ""),
        **({"published with": preset.judge} if preset.judge else {}),
        "prompt": f"{preset.version}, from {preset.origin}",
        "judge's sampling": orjson.dumps(preset.sampling.body()).decode(),
        "judge served as": judge.model.url,
        "shown order": "both" if config.both_orders else "drawn by the instruction, as alpaca_eval does",
        "questions": f"{plan.questions.name}, {report.questions:,} of {plan.questions.total:,}, "
                     f"sha256 {plan.questions.sha256[:12]}",
        "date": date, "ultrachat": __version__,
    }  # fmt: skip
    if plan.outputs is not None and (config.outputs or Path()).resolve() != folder.path(OUTPUTS).resolve():
        kept.write_outputs(folder.path(OUTPUTS), plan.outputs.values())
    names = [name for name in (OUTPUTS, REFERENCES) if folder.path(name).exists()]
    report.files = [folder.path(name) for name in (*names, ANNOTATIONS, METRICS, REPORT, manifest.NAME)]
    kept.write_annotations(folder.path(ANNOTATIONS), report.annotations)
    _write_report(folder.folder, report)
    requests, asked, said, dollars = folder.journal.totals()
    folder.save(
        **manifest.versions(),
        config=_without_secrets(config.model_dump(mode="json", exclude_defaults=True)),
        judge={**told(config.of_judge), "sampling": preset.sampling.body(), "verdicts_only": preset.verdicts_only},
        preset=preset.name, prompts={preset.name: {"hash": preset.version, "from": preset.origin}},
        dataset=plan.questions.record(), order_rule=ORDER_RULE, date=date,
        totals={"requests": requests, "prompt_tokens": asked, "completion_tokens": said, "cost": dollars},
        report=report.record(),
    )  # fmt: skip


def _write_report(folder: Path, report: Report) -> None:
    """metrics.json and report.html."""
    with jsonl.replacing(folder / METRICS) as file:
        file.write(orjson.dumps(report.record(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    model, _, _ = kept.names(report.annotations)
    shown = page.Page(
        f"{report.suite}: {model}", report.annotations, report.metrics, report.scores, report.controlled, report.facts,
        [*report.warnings, *_incomplete(report)],
    )  # fmt: skip
    page.write(folder / REPORT, shown)


def _incomplete(report: Report) -> Sequence[str]:
    missing = [
        (report.left_out, "questions have no answer in a file"),
        (report.unanswered.total(), "questions have no answer"),
        (report.failed.total(), "verdicts could not be had"),
    ]
    return [f"{count:,} {what} and are in no figure" for count, what in missing if count]


def recomputed(config: EvalConfig, progress: Progress) -> Report:
    """All figures again from stored verdicts, and the page; nobody is asked. Written beside them, or to `output`."""
    assert config.annotations is not None
    found = kept.read_annotations(config.annotations)
    report = Report(config.suite, questions=len({one.instruction for one in found}), verdicts=len(found), stored=True)
    missing = sum(one.win is None and (one.scores is None or bool(one.generator_1)) for one in found)
    report.failed = Counter({UNREADABLE: missing} if missing else {})
    report.facts, report.warnings = _told_before(config.annotations.parent)
    report.compute(found, other_files(config, progress))
    folder = config.output or config.annotations.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error
    report.files = [folder / METRICS, folder / REPORT]
    _write_report(folder, report)
    return report


def _told_before(folder: Path) -> tuple[dict[str, str], list[str]]:
    """(facts, warnings) that the run told which left these verdicts; none of files from elsewhere."""
    try:
        told = orjson.loads((folder / METRICS).read_bytes())
        return dict(told["facts"]), list(told["warnings"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return {"ultrachat": __version__}, []


def _without_secrets(value: Any) -> Any:
    """A configuration whose URLs carry no keys."""
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    return without_secrets(value) if isinstance(value, str) and "://" in value else value
