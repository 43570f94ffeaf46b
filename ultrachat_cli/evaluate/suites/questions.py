"""What every suite is: questions by category, from a file, from the hub, or the few that are shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ultrachat_cli import yaml_lines
from ultrachat_cli.errors import ConfigError, DataError, UltraError
from ultrachat_cli.evaluate.annotations import Output
from ultrachat_cli.evaluate.fields import label
from ultrachat_cli.models import weights
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import datasets, fetch, files, jsonl
from ultrachat_cli.records.manifest import sha256

DEMO = "demo"
DEMO_FILE = Path(__file__).with_name("demo.yaml")
_INSTRUCTION = ("instruction", "question", "prompt", "data", "text")
_CATEGORY = ("category", "skill", "class")


@dataclass(frozen=True, slots=True)
class Question:
    """What both sides are asked. `dataset`: the part of the set it is from, where the set tells."""

    instruction: str
    category: str = ""
    difficulty: str = ""
    dataset: str = ""


@dataclass(frozen=True)
class Suite:
    """One evaluation. `entry`: the set's name in datasets.yaml, by preset; `preset`: how it is judged by default."""

    name: str
    about: str
    preset: str
    entry: Callable[[str], str]
    question: Callable[[Mapping[str, Any]], Question]
    """The question of a row of the published file; `KeyError` where it is none."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a run. `answers`: of a reference model, where the set holds them; `sha256`: of the file."""

    name: str
    path: Path
    sha256: str
    questions: list[Question]
    answers: list[Output] = field(default_factory=list)
    total: int = 0
    """Questions of the whole set."""
    licence: str = ""
    rows: int = 0
    """Rows of the file: more than `total` where some texts stand in it twice."""

    def limited(self, count: int | None) -> QuestionSet:
        """`count` questions, evenly spread over the set, as sets are sorted by their parts; None: all."""
        if count is None or count >= len(self.questions):
            return self
        chosen = [self.questions[n * len(self.questions) // count] for n in range(count)]
        wanted = {question.instruction for question in chosen}
        return replace(self, questions=chosen, answers=[a for a in self.answers if a.instruction in wanted])

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.name, "file": self.path.name, "sha256": self.sha256, "licence": self.licence,
            "rows": self.rows, "questions": self.total, "asked": len(self.questions),
        }  # fmt: skip


def simple(row: Mapping[str, Any]) -> Question:
    """A row of anyone's own set: an instruction (question, prompt, data, text), perhaps a category (skill, class)."""
    fields = {key.lower(): value for key, value in row.items()}
    instruction = next(fields[key] for key in _INSTRUCTION if isinstance(fields.get(key), str))
    category = next((label(fields[key]) for key in _CATEGORY if fields.get(key)), "")
    difficulty, dataset = (label(fields.get(key) or "") for key in ("difficulty", "dataset"))
    return Question(instruction, category, difficulty, dataset)


def load(suite: Suite, dataset: str | None, preset: str, progress: Progress) -> QuestionSet:
    """The questions: `demo`, a file, a name in datasets.yaml, or without either the suite's own set from the hub.

    A text that comes twice is asked once, under the first of its classes. Raises `ConfigError`, `DataError`,
    `UltraError` (with how to get the set, and its licence).
    """
    if dataset == DEMO:
        return _read(suite, DEMO, DEMO_FILE, "mit")
    name = dataset or suite.entry(preset)
    if dataset is not None and Path(dataset).is_file():
        return _read(suite, Path(dataset).name, Path(dataset))
    if name not in datasets.known() or len(datasets.resolve(name).part()) > 1:
        raise ConfigError(
            f"--dataset {name}: no such file, and no set of this name",
            f"name a file (JSON, JSONL, YAML), {DEMO}, or leave it out for {suite.entry(preset)} from the hub",
        )
    return _read(suite, name, obtain(name, progress), datasets.resolve(name).licence)


def obtain(name: str, progress: Progress, flag: str = "--dataset") -> Path:
    """The only file of a published set, fetched into the cache once. `UltraError` tells how else `flag` can be met."""
    spec = datasets.resolve(name)
    (file,) = spec.part()
    folder = weights.cache() / "datasets" / name
    if (folder / file.path).is_file():  # only checked then, without a network
        return fetch.pull(spec, [file], folder, folder, progress).files[0]
    progress.say(f"fetching {name} (licence: {spec.licence})")
    try:
        return fetch.pull(spec, [file], folder, progress=progress).files[0]
    except UltraError as error:
        raise UltraError(
            f"{name} is not here and could not be fetched: {error.message}",
            f"get it where there is a network (ultrachat data pull {name}; licence: {spec.licence}) "
            f"and give it with {flag}"
            + (f"; or try --dataset {DEMO}" if flag == "--dataset" else "")
            + (f"; {error.hint}" if error.hint.startswith("pip") else ""),
        ) from error


def _read(suite: Suite, name: str, path: Path, licence: str = "") -> QuestionSet:
    found: dict[str, Question] = {}
    answers: dict[str, Output] = {}
    number = 0
    for number, row in _rows(path):
        question = _question(suite, path, number, row)
        if not question.instruction.strip():
            raise DataError(path, number, "an empty instruction")
        found.setdefault(question.instruction, question)
        if isinstance(row, dict) and isinstance(row.get("output"), str):
            answer = Output(question.instruction, row["output"], label(row.get("generator") or "reference"))
            answers.setdefault(question.instruction, answer)
    if not found:
        raise DataError(path, 0, "holds no questions")
    questions = list(found.values())
    whole = list(answers.values()) if len(answers) == len(found) else []
    return QuestionSet(name, path, sha256(path), questions, whole, len(questions), licence, number)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix in (".yaml", ".yml"):
        rows = yaml_lines.read(path)
        if not isinstance(rows, list):
            raise DataError(path, 0, "a list of questions is expected")
        yield from enumerate(rows, start=1)
    else:
        yield from files.rows(path, jsonl.never)


def _question(suite: Suite, path: Path, number: int, row: Any) -> Question:
    if isinstance(row, str):
        return Question(row)
    if isinstance(row, dict):
        for read in (suite.question, simple):
            try:
                return read(row)
            except (KeyError, StopIteration, TypeError, AttributeError):
                continue
    raise DataError(path, number, "no instruction", f"each row needs a text called {', '.join(_INSTRUCTION)}")
