"""Answers and verdicts, in files that alpaca_eval (0.6) reads and writes too: `model_outputs.json`, `annotations.json`.

Fields of ours that alpaca_eval lacks (category, difficulty, scores) and unknown ones of theirs go along in both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from ultrachat_cli.errors import DataError
from ultrachat_cli.evaluate.fields import DRAW, RAW, SWITCHED, Fields
from ultrachat_cli.records import files, jsonl

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Output:
    """One answer of one model. `generator`: its name; `extra`: fields of the file that mean nothing to us."""

    instruction: str
    output: str
    generator: str = ""
    dataset: str = ""
    category: str = ""
    difficulty: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One verdict: `output_1` is the reference's answer, `output_2` the model's.

    `preference`: from 1 (the reference is better) to 2 (the model is); 1.5 is a draw; None: the judge's words could not
    be read. `switched`: whether the judge saw the model's answer first; None: not known. `raw`: what the judge said.
    `scores`: of the reference and of the model, as the judge's scale has them; nan where one was not asked for.
    """

    instruction: str
    output_1: str
    output_2: str
    generator_1: str
    generator_2: str
    preference: float | None
    annotator: str
    dataset: str = ""
    category: str = ""
    switched: bool | None = None
    raw: str = ""
    scores: tuple[float, float] | None = None
    difficulty: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """What it is reported under: its category, or else the part of the set it is from."""
        return self.category or self.dataset

    @property
    def win(self) -> float | None:
        """The model's share of the win, 0 to 1; None without a verdict. A preference of 0 is an old file's draw."""
        if self.preference is None or math.isnan(self.preference):
            return None
        return (self.preference or DRAW) - 1

    @property
    def outcome(self) -> str:
        """`win`, `draw` or `loss` of the model; `none` without a verdict."""
        win = self.win
        return "none" if win is None else "win" if win > 0.5 else "loss" if win < 0.5 else "draw"


class Pair(NamedTuple):
    """Two answers to one instruction."""

    reference: Output
    model: Output


def names(annotations: Sequence[Annotation]) -> tuple[str, str, str]:
    """(model, reference, judge) as the annotations name them; several are listed."""
    sides = ({a.generator_2 for a in annotations}, {a.generator_1 for a in annotations})
    model, reference = (", ".join(sorted(side - {""})) for side in sides)
    judge = ", ".join(sorted({annotation.annotator for annotation in annotations} - {""}))
    return model or "the model", reference or "the reference", judge or "an unnamed judge"


def read_outputs(path: Path) -> list[Output]:
    """The answers in a JSON array or JSONL. `DataError` names the first row that is none, and counts the others."""
    return _rows(path, _output)


def read_annotations(path: Path) -> list[Annotation]:
    """The verdicts in a JSON array or JSONL; a preference of 0, an old file's draw, becomes 1.5.

    `DataError` names the first row that is no verdict, and counts the others.
    """
    return _rows(path, _annotation)


def write_outputs(path: Path, outputs: Iterable[Output]) -> None:
    """Write a JSON array (JSONL where the name says so), whole or not at all. `UltraError` when the disk is full."""
    _write(path, (_output_record(output) for output in outputs))


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write a JSON array (JSONL where the name says so), whole or not at all. `UltraError` when the disk is full."""
    _write(path, (annotation_record(annotation) for annotation in annotations))


def _rows(path: Path, made: Callable[[dict[str, Any]], _T]) -> list[_T]:
    found: list[_T] = []
    bad: list[tuple[int, str]] = []
    for number, record in files.rows(path, jsonl.never):
        try:
            if not isinstance(record, dict):
                raise ValueError("not an object")
            found.append(made(record))
        except ValueError as error:
            bad.append((number, str(error)))
    if bad:
        number, reason = bad[0]
        raise DataError(path, number, reason + (f" (the first of {len(bad)} bad rows)" if len(bad) > 1 else ""))
    if not found:
        raise DataError(path, 0, "holds no rows")
    return found


def _output(record: dict[str, Any]) -> Output:
    taken = Fields(record)
    return Output(
        taken.text("instruction"), taken.text("output"), taken.name("generator"), taken.name("dataset"),
        taken.name("category"), taken.name("difficulty"), taken.rest(),
    )  # fmt: skip


def _annotation(record: dict[str, Any]) -> Annotation:
    taken = Fields(record)
    return Annotation(
        taken.text("instruction"), taken.text("output_1"), taken.text("output_2"), taken.name("generator_1"),
        taken.name("generator_2"), taken.preference(), taken.name("annotator"), taken.name("dataset"),
        taken.name("category"), taken.switched(), taken.raw(), taken.scores(), taken.name("difficulty"), taken.rest(),
    )  # fmt: skip


def annotation_record(annotation: Annotation) -> dict[str, Any]:
    """The row of the file: alpaca_eval's fields always, ours where they say something."""
    row: dict[str, Any] = {
        "instruction": annotation.instruction, "output_1": annotation.output_1, "generator_1": annotation.generator_1,
        "dataset": annotation.dataset, "output_2": annotation.output_2, "generator_2": annotation.generator_2,
        "annotator": annotation.annotator, "preference": annotation.preference,
    }  # fmt: skip
    ours = {"category": annotation.category, "difficulty": annotation.difficulty, RAW: annotation.raw}
    row |= {key: value for key, value in ours.items() if value}
    if annotation.switched is not None:
        row[SWITCHED] = annotation.switched
    if annotation.scores is not None:
        row["scores"] = list(annotation.scores)  # orjson writes nan as null
    return {**annotation.extra, **row}


def _output_record(output: Output) -> dict[str, Any]:
    ours = {"category": output.category, "difficulty": output.difficulty}
    return {
        **output.extra, "dataset": output.dataset, "instruction": output.instruction, "output": output.output,
        "generator": output.generator, **{key: value for key, value in ours.items() if value},
    }  # fmt: skip


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with jsonl.replacing(path) as file, jsonl.packing(path, file) as packed:
        if ".jsonl" in path.suffixes or ".ndjson" in path.suffixes:
            for record in records:
                packed.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        else:
            packed.write(orjson.dumps(list(records), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
