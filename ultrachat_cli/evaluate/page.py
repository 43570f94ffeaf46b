"""A run as one HTML file to read: the figures, and every instruction with both answers and the verdict.

It fetches nothing. Texts of models and judges go in as JSON with `<` escaped, and the script shows them as text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.evaluate import orders, tables
from ultrachat_cli.evaluate.annotations import Annotation, names
from ultrachat_cli.evaluate.length_controlled import LengthControlled
from ultrachat_cli.evaluate.metrics import Metrics
from ultrachat_cli.evaluate.scores import Scores
from ultrachat_cli.records import jsonl


@dataclass(frozen=True)
class Page:
    """What is shown. `metrics` None: only scores were given. `warnings`: what a reader must know, said at the top.

    `facts`: how it was made (judge, prompt, sampling, dates, versions), in this order.
    """

    title: str
    annotations: Sequence[Annotation]
    metrics: Metrics | None = None
    scores: Scores | None = None
    controlled: LengthControlled | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def write(path: Path, page: Page) -> None:
    """Write the page. `UltraError` when the disk does not take it."""
    with jsonl.replacing(path) as file:
        file.write(render(page).encode())


def render(page: Page) -> str:
    """The page as HTML."""
    return tables.document(page.title, "\n".join(_body(page)))


def _body(page: Page) -> Iterator[str]:
    yield f"<h1>{escape(page.title)}</h1>"
    for warning in page.warnings:
        yield f'<p class="warning" role="note">{escape(warning)}</p>'
    yield _headline(page) + '<p><a href="#answers">The answers</a> are below the figures.</p>'
    if page.metrics is not None:
        yield "<h2>Wins, draws and losses</h2>" + tables.outcomes(page.metrics)
    if page.scores is not None:
        yield "<h2>Scores</h2>" + tables.scores(page.scores)
        if page.scores.compared and page.scores.rows:
            yield "<h2>Score of the model as a share of the reference's</h2>" + tables.ratios(page.scores)
    yield "<h2>How it was made</h2>" + tables.facts(_facts(page))
    yield (tables.FOLDER / "answers.html").read_text(encoding="utf-8")
    data = orjson.dumps(_data(page.annotations)).replace(b"<", b"\\u003c").decode()
    yield f'<script type="application/json" id="data">{data}</script>'
    yield "<script>\n" + (tables.FOLDER / "answers.js").read_text(encoding="utf-8") + "</script>"


def _headline(page: Page) -> str:
    model, reference, judge = map(escape, names(page.annotations))
    if page.metrics is None:
        if page.scores is None:
            return f'<p class="headline">no verdicts on {model}, judged by {judge}</p>'
        line = page.scores.overall
        spread = f"95% interval {line.interval.shown(2)}"
        figure = f"<strong>{tables.number(line.mean, 2)}</strong>"
        return f'<p class="headline">{figure} mean score of {model}, {spread}, judged by {judge}</p>'
    found = page.metrics
    says = [
        f"win rate of {model} against {reference}, judged by {judge}",
        f"95% interval {found.interval} ({found.interval.method})",
        f"standard error {tables.number(found.standard_error, 2)}",
        f"{found.n_wins:,} wins, {found.n_draws:,} draws, {found.n_wins_base:,} losses of {found.n_total:,}",
    ]
    if page.controlled is not None:
        says.append(f"length-controlled win rate {tables.number(page.controlled.win_rate)}%")
    if found.n_null:
        says.append(f"{found.n_null:,} verdicts could not be read and are in no figure")
    figure = f"{tables.number(found.win_rate)}%" if found.n_total else "-"
    return f'<p class="headline"><strong>{figure}</strong> ' + "<br>".join(says) + "</p>"


def _facts(page: Page) -> Iterator[tuple[str, str]]:
    yield from zip(("model", "reference", "judge"), names(page.annotations), strict=True)
    if page.metrics is not None:
        yield (
            "discrete win rate",
            f"{tables.number(page.metrics.discrete_win_rate)}% ({page.metrics.discrete_interval})",
        )
        yield "mean length", f"{page.metrics.avg_length:,} characters an answer"
    consistency = orders.consistency(page.annotations)
    if consistency is not None:
        yield "both orders", str(consistency)
    yield from page.facts.items()


def _data(annotations: Sequence[Annotation]) -> dict[str, Any]:
    model, reference, _ = names(annotations)
    pairs = orders.pairs(annotations)
    whole = orders.averaged(annotations)
    return {
        "model": model, "reference": reference,
        "rows": [
            {
                "instruction": one.instruction, "reference": one.output_1, "model": one.output_2,
                "category": mean.group, "difficulty": one.difficulty, "outcome": mean.outcome,
                "verdicts": [_verdict(verdict) for verdict in (one, other) if verdict is not None],
            }
            for (one, other), mean in zip(pairs, whole, strict=True)
        ],
    }  # fmt: skip


def _verdict(annotation: Annotation) -> dict[str, Any]:
    return {
        "outcome": annotation.outcome, "preference": annotation.preference, "switched": annotation.switched,
        "scores": annotation.scores, "raw": annotation.raw, "note": annotation.extra.get("note", ""),
    }  # fmt: skip
