"""The system's chromium, without GPU, WebGL or network; tests skip where there is none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis", "--disable-webgl", "--disable-webgl2"]
OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for a module: while it is open, its event loop keeps asyncio.run from every other test."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """`open_page(file or url)`: a page with its map drawn. Fails in the end on errors but the `expected`."""
    contexts, faults, allowed = [], [], []

    def open_it(place: Path | str, *, expected: str = "", **settings: Any) -> Any:
        allowed.append(expected)
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **settings)
        contexts.append(context)
        if isinstance(place, Path):
            context.set_offline(True)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(place.resolve().as_uri() if isinstance(place, Path) else place)
        until(page, "document.body.dataset.drawn")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not any(one and one in fault for one in allowed)] == []


def until(page: Any, expression: str, seconds: float = 30) -> None:
    """Wait for JavaScript to be true; playwright's own way needs eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < end, expression
        time.sleep(0.02)
