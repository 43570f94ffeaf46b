"""What a run will ask, found out before anybody is asked: questions, answers that are there, prompt, identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.backends import scorers
from ultrachat_cli.backends.chat_model import Endpoint
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.evaluate import length_controlled, presets
from ultrachat_cli.evaluate.annotations import Output, Pair, merge, read_outputs
from ultrachat_cli.evaluate.presets import Preset
from ultrachat_cli.evaluate.settings import EvalConfig
from ultrachat_cli.evaluate.suites import alpaca, curated, evol
from ultrachat_cli.evaluate.suites.questions import DEMO, Question, QuestionSet, Suite, load
from ultrachat_cli.models.specs import ModelSpec, resolve
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.manifest import fingerprint, sha256, without_secrets

SUITES: dict[str, Suite] = {module.SUITE.name: module.SUITE for module in (alpaca, evol, curated)}
Answers = dict[str, Output]
"""Instruction -> answer."""


@dataclass(frozen=True)
class Plan:
    """`outputs`, `reference`: answers that are there; None: they are to be asked for, or nobody is compared with."""

    config: EvalConfig
    preset: Preset
    questions: QuestionSet
    outputs: Answers | None
    reference: Answers | None
    reference_model: Endpoint | None
    identity: dict[str, Any]

    @property
    def alone(self) -> bool:
        """Whether answers are scored without any to compare them with."""
        return self.reference is None and self.reference_model is None

    @property
    def endpoints(self) -> list[Endpoint]:
        """Every chat model that will be asked."""
        config = self.config
        own = [config.of_model] if self.outputs is None else []
        reference = [self.reference_model] if self.reference_model is not None else []
        reward = [config.reward[1]] if config.best_of > 1 and config.reward[1] is not None else []
        return [*own, *reference, *reward, config.of_judge]

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
    dataset = config.dataset
    if dataset is None and file is not None and config.outputs is not None:
        dataset = str(file)  # both sides are here: what they answer is the set
    questions = load(suite, dataset, preset.name, progress)
    outputs = _answers(config.outputs, questions, config.allow_missing) if config.outputs is not None else None
    reference, reference_model = None, None
    if file is not None:
        reference = _answers(file, questions, config.allow_missing)
    elif config.reference is not None:
        reference_model = config.of_reference
    elif questions.answers and preset.kind == "pairwise":
        reference = {answer.instruction: answer for answer in questions.answers}
    if reference is None and reference_model is None and preset.kind == "pairwise":
        raise ConfigError(
            f"--reference: with whom is it compared? {questions.name} holds no answers",
            "name a file of answers or a model, or give each answer a score of its own: --preset single-score",
        )
    if config.length_controlled and (config.limit or preset.kind != "pairwise"):
        raise ConfigError("--length-controlled needs the whole set (no --limit) and a preset that compares two answers")
    if config.length_controlled:  # a wrong file is found before anything is paid
        length_controlled.read_gamed(config.gamed_file or length_controlled.gamed_from_hub())
    if config.best_of > 1 and config.reward[1] is None:
        scorers.reward_spec(config.reward[0])
    plan = Plan(config, preset, questions.limited(config.limit), outputs, reference, reference_model, {})
    return replace(plan, identity=_identity(plan, file))


def _reference_file(config: EvalConfig) -> Path | None:
    path = Path(config.reference or "")
    if config.reference and path.is_file() and path.suffix != ".gguf":
        return path
    if path.suffix in (".json", ".jsonl"):
        raise ConfigError(f"--reference: {path}: no such file")
    return None


def _answers(path: Path, questions: QuestionSet, allow_missing: bool) -> Answers:
    """The file's answers, of several to one question the first. `ConfigError` lists what does not match the set."""
    found: Answers = {}
    for output in read_outputs(path):
        found.setdefault(output.instruction, output if output.generator else replace(output, generator=_name(path)))
    asked = [Output(question.instruction, "") for question in questions.questions]
    try:
        merge(list(found.values()), asked, allow_missing)
    except ConfigError as error:
        says = f"{path} does not fit the questions of {questions.name}: {error.faults[0]}"
        raise ConfigError([says, *error.faults[1:]], error.hint) from None
    return found


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
    if plan.reference_model is not None:
        found["reference"] = told(plan.reference_model)
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
