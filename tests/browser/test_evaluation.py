"""The page of `ultrachat eval` in a real browser without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import OpenPage
from tests.evaluate.made import annotation
from ultrachat_cli.evaluate import page
from ultrachat_cli.evaluate.metrics import summary
from ultrachat_cli.evaluate.page import Page

pytestmark = pytest.mark.browser
EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    given = [
        annotation(n, [2.0, 1.0, 1.5, None][n % 4], category="AB"[n % 2], answer=f"answer {n}") for n in range(250)
    ]
    given.append(annotation(999, 2.0, category="*", answer=EVIL, raw=EVIL, scores=(3.0, 8.0)))
    path = tmp_path / "report.html"
    page.write(path, Page("Ours against base", given, summary(given), warnings=["a small judge means nothing"]))
    return path


def test_rows_come_by_hundreds_and_open(report: Path, open_page: OpenPage) -> None:
    shown = open_page(report)
    assert shown.locator("details").count() == 100
    assert shown.locator("#count").inner_text() == "251 of 251"
    shown.click("#more")
    shown.click("#more")
    assert shown.locator("details").count() == 251
    assert not shown.locator("#more").is_visible()
    first = shown.locator("details").first
    assert first.locator("pre").count() == 0
    first.locator("summary").click()
    assert first.locator(".instruction").inner_text() == "question 0"
    assert "answer 0" in first.locator(".model").inner_text()
    assert "no" in first.locator(".reference").inner_text()
    assert "win; preference 2.000" in first.locator(".verdict").inner_text()


def test_rows_are_filtered_by_text_category_and_outcome(report: Path, open_page: OpenPage) -> None:
    shown = open_page(report)
    shown.select_option("#category", label="B")
    assert shown.locator("#count").inner_text() == "125 of 251"
    shown.select_option("#outcome", "none")
    assert shown.locator("#count").inner_text() == "62 of 251"
    shown.fill("#search", "ANSWER 103")
    assert shown.locator("#count").inner_text() == "1 of 251"
    shown.select_option("#outcome", "*")
    shown.fill("#search", "")
    shown.select_option("#category", label="*")
    assert shown.locator("#count").inner_text() == "1 of 251"


def test_what_a_model_writes_stays_text(report: Path, open_page: OpenPage) -> None:
    shown = open_page(report)
    shown.fill("#search", "onerror")
    shown.locator("summary").click()
    assert EVIL in shown.locator(".model pre").inner_text()
    assert EVIL in shown.locator(".verdict pre").inner_text()
    assert "scores: model 8, reference 3" in shown.locator(".verdict p").inner_text()
    assert shown.title() == "Ours against base"
    assert shown.locator("img").count() == 0
    assert "a small judge means nothing" in shown.locator(".warning").first.inner_text()
