"""The page of a run: what it says, and that nothing from a model is ever HTML. tests/browser opens it."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path

import pytest

from tests.evaluate.made import annotation, drawn
from ultrachat_cli.errors import UltraError
from ultrachat_cli.evaluate import page
from ultrachat_cli.evaluate.annotations import Annotation
from ultrachat_cli.evaluate.length_controlled import LengthControlled
from ultrachat_cli.evaluate.metrics import summary
from ultrachat_cli.evaluate.page import Page
from ultrachat_cli.evaluate.scores import scores

EVIL = "</script><img src=x onerror=alert(1)>&\"'"


def plain(rendered: str) -> str:
    """The text of the page's tables and paragraphs."""
    body = rendered.split("<body>")[1].split('<script type="application/json"')[0]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def data(rendered: str) -> dict[str, list[dict[str, object]]]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', rendered, re.DOTALL)
    loaded: dict[str, list[dict[str, object]]] = json.loads(found)
    return loaded


def test_the_headline_names_rate_interval_and_judge() -> None:
    given = drawn(80, seed=1, soft=False, nulls=True)
    metrics = summary(given)
    controlled = LengthControlled(41.25, 0.5, -1.0, 0.1, 0.2, 1.0)
    says = plain(page.render(Page("Run 1", given, metrics, controlled=controlled, facts={"prompt": "sha 12ab"})))
    assert f"{metrics.win_rate:.1f}% win rate of ours against base, judged by judge" in says
    assert f"95% interval {metrics.interval} (bootstrap" in says
    assert "length-controlled win rate 41.2%" in says
    assert f"{metrics.n_null} verdicts could not be read" in says
    assert "prompt sha 12ab" in says
    assert "helpful" in says  # a category


def test_warnings_are_said_in_plain_text() -> None:
    rendered = page.render(Page("t", [annotation(1)], summary([annotation(1)]), warnings=["a 135M judge means <b>no"]))
    assert '<p class="warning" role="note">a 135M judge means &lt;b&gt;no</p>' in rendered


def test_everything_from_outside_is_escaped() -> None:
    evil = Annotation(
        EVIL, EVIL, EVIL, EVIL, EVIL, 1.5, EVIL, category=EVIL, raw=EVIL, difficulty=EVIL, scores=(1.0, 2.0)
    )
    given = [evil, annotation(2, 2.0, category="A", scores=(3.0, 4.0))]
    rendered = page.render(Page(EVIL, given, summary(given), scores(given), facts={EVIL: EVIL}, warnings=[EVIL]))
    assert rendered.count("<script") == 2
    assert rendered.count("</script") == 2
    assert "<img" not in rendered
    row = data(rendered)["rows"][0]
    assert (row["instruction"], row["model"], row["category"]) == (EVIL, EVIL, EVIL)
    assert plain(rendered).count("onerror=alert(1)") >= 5


def test_every_instruction_is_there_with_answers_and_verdicts() -> None:
    given = [
        annotation(1, 2.0, switched=False, raw="first"), annotation(1, 1.0, switched=True, raw="second"),
        annotation(2, None, answer="x\x00\x1b[31m\u2028"), annotation(3, 1.25, scores=(math.nan, 4.0)),
    ]  # fmt: skip
    rows = data(page.render(Page("t", given, summary(given))))["rows"]
    assert [row["outcome"] for row in rows] == ["draw", "none", "loss"]
    assert [one["raw"] for one in rows[0]["verdicts"]] == ["first", "second"]  # type: ignore[attr-defined]
    assert rows[1]["model"] == "x\x00\x1b[31m\u2028"
    assert rows[2]["verdicts"][0]["scores"] == [None, 4.0]  # type: ignore[index]


def test_skills_are_charted_by_ratio_with_the_average() -> None:
    given = [annotation(n, scores=(5.0, 10.0), category="Art") for n in range(2)]
    given += [annotation(9, scores=(4.0, 2.0), category="Math")]
    says = plain(page.render(Page("t", given, summary(given), scores(given))))
    assert "Art 2 200.0 200.0% Math 1 50.0 50.0% overall 3 157.1 157.1%" in says
    assert "class n score std. error 95% interval reference" in says


def test_scores_without_a_reference_are_a_page_too() -> None:
    given = [annotation(n, None, scores=(math.nan, float(n)), category="AB"[n % 2]) for n in range(4)]
    says = plain(page.render(Page("t", given, None, scores(given))))
    assert "1.50 mean score of ours, 95% interval -0.55 to 3.55, judged by judge" in says
    assert "as a share of the reference" not in says
    assert "interval reference" not in says


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page.write(path, Page("t", [annotation(1)], summary([annotation(1)])))
    rendered = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in rendered
    assert not re.findall(r"https?://|<link(?! rel=\"icon\" href=\"data:,\")|src=|@import|fetch\(", rendered)
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UltraError, match="cannot be written"):
        page.write(tmp_path / "nowhere" / "report.html", Page("t", [annotation(1)]))
