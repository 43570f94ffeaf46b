"""What a run will ask, found out before anybody is asked: questions, answers that are there, prompt, identity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.backends import scorers
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.evaluate import presets
from ultrachat_cli.evaluate.annotations import Output, Pair, read_outputs
from ultrachat_cli.evaluate.presets import Preset
from ultrachat_cli.evaluate.report import OtherFiles, other_files
from ultrachat_cli.evaluate.settings import EvalConfig
from ultrachat_cli.evaluate.suites import alpaca, curated, evol
from ultrachat_cli.evaluate.suites.questions import DEMO, Question, QuestionSet, Suite, load
from ultrachat_cli.models.specs import ModelSpec, resolve
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.manifest import fingerprint, sha256, without_secrets

SUITES: dict[str, Suite] = {module.SUITE.name: module.SUITE for module in (alpaca, evol, curated)}
Answers = dict[str, Output]
"""Instruction -> answer."""
ROLES = {"model": "--model", "reference": "--reference", "reward": "--reward-model", "judge": "--judge"}
"""What chat models are asked for here -> the flag that names one."""
_LISTED = 20  # unmatched instructions shown of each side
_SHOWN = 100  # characters of each


@dataclass(frozen=True)
class Plan:
    """`outputs`, `reference`: answers that are there; None: they are to be asked for, or nobody is compared with.

    `endpoints`: every chat model that will be asked, by its role.
    """

    config: EvalConfig
    preset: Preset
    questions: QuestionSet
    outputs: Answers | None
    reference: Answers | None
    endpoints: dict[str, Endpoint]
    others: OtherFiles
    identity: dict[str, Any]

    @property
    def alone(self) -> bool:
        """Whether answers are scored without any to compare them with."""
        return self.reference is None and "reference" not in self.endpoints

    @property
    def left_out(self) -> int:
        """Questions that a file has no answer to (--allow-missing)."""
        files = [answers for answers in (self.outputs, self.reference) if answers is not None]
        return sum(any(one.instruction not in answers for answers in files) for one in self.questions.questions)

    def pairs(self, outputs: Answers, reference: Answers) -> list[Pair]:
        """Both sides of every question that both have an answer to, in the set's order, under its categories."""
        found = []
        for question in self.questions.questions:
            model = outputs.get(question.instruction)
            other = Output(question.instruction, "") if self.alone else reference.get(question.instruction)
            if model is not None and other is not None:
                found.append(Pair(_labelled(other, question), _labelled(model, question)))
        return found


def prepare(config: EvalConfig, progress: Progress) -> Plan:
    """Read and check everything the run depends on. Raises `ConfigError`, `DataError`, `MissingExtra`, `UltraError`."""
    config.check_given()
    suite = SUITES[config.suite]
    preset = presets.load(
        config.preset or ("pairwise-score" if config.dataset == DEMO else suite.preset), config.prompt
    )
    file = _reference_file(config)
    endpoints = _endpoints(config, file)
    dataset = config.dataset
    if dataset is None and file is not None and config.outputs is not None:
        dataset = str(file)  # both sides are here: what they answer is the set
    questions = load(suite, dataset, preset.name, progress)
    outputs = _answers(config.outputs, questions, config.allow_missing) if config.outputs is not None else None
    reference = None
    if file is not None:
        reference = _answers(file, questions, config.allow_missing)
    elif "reference" not in endpoints and questions.answers and preset.kind == "pairwise":
        reference = {answer.instruction: answer for answer in questions.answers}
    if reference is None and "reference" not in endpoints and preset.kind == "pairwise":
        raise ConfigError(
            f"--reference: with whom is it compared? {questions.name} holds no answers",
            "name a file of answers or a model, or give each answer a score of its own: --preset single-score",
        )
    if config.length_controlled and (config.limit or preset.kind != "pairwise"):
        raise ConfigError("--length-controlled needs the whole set (no --limit) and a preset that compares two answers")
    others = other_files(config, progress)  # a wrong file is found before anything is paid
    asked = {question.instruction for question in questions.questions}
    if others.verdicts is not None and not any(one.instruction in asked for one in others.verdicts):
        raise ConfigError(f"--agreement: {config.agreement}: has no verdict on any question of {questions.name}")
    plan = Plan(config, preset, questions.limited(config.limit), outputs, reference, endpoints, others, {})
    return replace(plan, identity=_identity(plan, file))


def _reference_file(config: EvalConfig) -> Path | None:
    path = Path(config.reference or "")
    if config.reference and path.is_file() and path.suffix != ".gguf":
        return path
    if path.suffix in (".json", ".jsonl"):
        raise ConfigError(f"--reference: {path}: no such file")
    return None


def _endpoints(config: EvalConfig, file: Path | None) -> dict[str, Endpoint]:
    found = {"model": config.of_model} if config.model is not None else {}
    if config.reference is not None and file is None:
        found["reference"] = config.of_reference
    if config.best_of > 1:
        name, endpoint = config.reward
        if endpoint is not None:
            found["reward"] = endpoint
        else:
            scorers.reward_spec(name)
    found["judge"] = config.of_judge
    for role, endpoint in found.items():
        with flags_of(role):
            resolve(endpoint.model, base_url=endpoint.base_url)
    return found


@contextmanager
def flags_of(role: str) -> Iterator[None]:
    """Advice in errors names the flags of this role: --judge-base-url where a backend says --base-url."""
    try:
        yield
    except UltraError as error:
        if role != "model":
            hint = re.sub("--(?=base-url|api-key-env)", f"--{role}-", error.hint)
            error.hint = re.sub(r"--model\b", ROLES[role], hint)
        raise


def _answers(path: Path, questions: QuestionSet, allow_missing: bool) -> Answers:
    """The file's answers, of several to one question the first. `ConfigError` lists what does not match the set."""
    found: Answers = {}
    for output in read_outputs(path):
        found.setdefault(output.instruction, output if output.generator else replace(output, generator=_name(path)))
    asked = dict.fromkeys(question.instruction for question in questions.questions)
    alone, left = [text for text in asked if text not in found], [text for text in found if text not in asked]
    common = len(asked) - len(alone)
    if (alone or left) and not (allow_missing and common):
        says = (
            f"{path} does not fit the questions of {questions.name}: {common:,} of {len(asked):,} have an answer in it"
        )
        faults = [*_listed("questions have none", alone), *_listed("answers are to none of the questions", left)]
        hint = "instructions must agree to the character" + (": --allow-missing leaves these out" if common else "")
        raise ConfigError([says, *faults], hint)
    return found


def _listed(what: str, instructions: Sequence[str]) -> list[str]:
    if not instructions:
        return []
    shown = [text[:_SHOWN] + ("..." if len(text) > _SHOWN else "") for text in instructions[:_LISTED]]
    more = [f"  and {len(instructions) - _LISTED:,} more"] if len(instructions) > _LISTED else []
    return [f"{len(instructions):,} {what}:", *(f"  {orjson.dumps(text).decode()}" for text in shown), *more]


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "model_outputs" and path.parent.name else path.stem


def _labelled(output: Output, question: Question) -> Output:
    return replace(
        output, dataset=question.dataset or output.dataset, category=question.category or output.category,
        difficulty=question.difficulty or output.difficulty,
    )  # fmt: skip


def _identity(plan: Plan, file: Path | None) -> dict[str, Any]:
    """What makes two runs the same; how many questions are asked, and how fast, does not."""
    config = plan.config
    found: dict[str, Any] = {
        "suite": config.suite, "dataset": plan.questions.sha256, "preset": plan.preset.name,
        "prompt": plan.preset.version, "both_orders": config.both_orders, "judge": told(config.of_judge),
    }  # fmt: skip
    if config.outputs is not None:
        found["outputs"] = sha256(config.outputs)
    else:
        found |= {"model": told(config.of_model), "answers": config.answers.model_dump(mode="json")}
    if config.best_of > 1:
        name, endpoint = config.reward
        found |= {"best_of": config.best_of, "reward_model": told(endpoint) if endpoint else name}
    if "reference" in plan.endpoints:
        found["reference"] = told(plan.endpoints["reference"])
    elif file is not None:
        found["reference"] = sha256(file)
    return found


def told(endpoint: Endpoint) -> dict[str, Any]:
    """A model by what tells it from others, without secrets: name, place, and for files their state."""
    spec = resolve(endpoint.model, base_url=endpoint.base_url)
    found: dict[str, Any] = {"name": spec.name, "source": spec.source}
    if endpoint.base_url is not None:
        found["url"] = without_secrets(endpoint.base_url)
    if state := _state(spec):
        found["files"] = state
    return found


def _state(spec: ModelSpec) -> str:
    """Changes when a local model is trained anew; reading gigabytes for a checksum would cost more than the run."""
    path = Path(spec.place)
    if spec.scheme not in ("folder", "gguf") or not path.exists():
        return ""
    files: Iterable[Path] = sorted(path.iterdir()) if path.is_dir() else [path]
    kept: Sequence[Any] = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return fingerprint(orjson.dumps(kept))
