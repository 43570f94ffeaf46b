"""The map in a real browser that has neither a GPU nor WebGL nor a network."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import invented
from tests.browser.conftest import OpenPage, until
from ultrachat_cli import config
from ultrachat_cli.explore import export, run, serve
from ultrachat_cli.explore.settings import ExploreConfig

pytestmark = pytest.mark.browser
COUNT = 2000
PICTURE = Path(__file__).with_name("map.png")
COLOURED = """(() => {
  const canvas = document.querySelector("#chart canvas");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [red, green, blue, alpha] = [data[i], data[i + 1], data[i + 2], data[i + 3]];
    coloured += alpha > 0 && Math.max(red, green, blue) - Math.min(red, green, blue) > 40;
  }
  return coloured;
})()"""
DRAWN = "chart.getOption().series.reduce((sum, one) => sum + one.data.length / 2, 0)"
SHOWN = "shownIndices().map((i) => map.ids[i])"


def explore(source: Path, target: Path, **settings: Any) -> Path:
    flags = {"inputs": ("FILES", [source]), "export": ("--export", target)}
    flags |= {key: (key, value) for key, value in settings.items()}
    return run.run(config.load(ExploreConfig, "explore", flags=flags), target.parent).files[0]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented.write(tmp_path_factory.mktemp("map") / "dialogues.jsonl", COUNT)


@pytest.fixture(scope="session")
def page_file(source: Path) -> Path:
    return explore(source, source.with_name("map.html"))


@pytest.fixture(scope="session")
def folder(source: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_CHUNK", 100_000)  # many chunks
        yield explore(source, source.with_name("map"), projection="pca").parent


@pytest.fixture(params=["page", "folder", "served"])
def place(request: pytest.FixtureRequest, page_file: Path, folder: Path) -> Iterator[Path | str]:
    """The three ways a map reaches a browser."""
    if request.param != "served":
        yield page_file if request.param == "page" else folder / "index.html"
        return
    server = serve._Server((serve.HOST, 0), lambda *args: serve._Handler(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://{serve.HOST}:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def search(page: Any, query: str) -> None:
    page.fill("#search", query)
    until(page, "String(state.terms) === String(termsOf(at('search').value))")


def pixel(page: Any, index: int) -> tuple[float, float]:
    """Where a dialogue lies on the screen."""
    box = page.locator("#chart").bounding_box()
    x, y = page.evaluate(f"chart.convertToPixel({{ xAxisIndex: 0, yAxisIndex: 0 }}, [map.x[{index}], map.y[{index}]])")
    return box["x"] + x, box["y"] + y


def drag(page: Any, corners: list[tuple[float, float]]) -> None:
    box = page.locator("#chart").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()
    until(page, "state.region")


def test_points_are_drawn(open_page: OpenPage, place: Path | str) -> None:
    page = open_page(place)
    assert page.evaluate("document.createElement('canvas').getContext('webgl')") is None
    assert page.evaluate(DRAWN) == COUNT
    assert page.evaluate(COLOURED) > 2000
    assert page.inner_text("#status") == "2,000 of 2,000 dialogues"
    assert float(page.evaluate("document.body.dataset.drawn")) < 2000


def test_a_search_narrows_them(open_page: OpenPage, place: Path | str, source: Path) -> None:
    page = open_page(place)
    before = page.evaluate(COLOURED)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    for query, terms in (("Honey  bees", ["honey", "bees"]), ('"coral reefs"', ["coral reefs"])):
        search(page, query)
        fitting = [r["id"] for r in records if all(term in "\n".join(r["data"]).lower() for term in terms)]
        assert 0 < len(fitting) < 100
        assert page.evaluate(SHOWN) == fitting
        assert page.inner_text("#status") == f"{len(fitting)} of 2,000 dialogues"
        assert page.evaluate(COLOURED) < before / 5
    search(page, "")
    assert len(page.evaluate(SHOWN)) == COUNT


def test_a_click_opens_the_dialogue(open_page: OpenPage, place: Path | str, source: Path) -> None:
    page = open_page(place)
    search(page, '"honey bees"')
    index = page.evaluate("shownIndices()[0]")
    page.mouse.click(*pixel(page, index))
    page.wait_for_selector("#messages article")
    opened = page.evaluate("state.opened")
    record = json.loads(source.read_text().splitlines()[opened])
    assert opened in page.evaluate("shownIndices()")  # never one that is not shown
    assert page.inner_text("#dialogue-id") == record["id"]
    assert page.locator("#messages article p").all_text_contents() == record["data"]
    roles = page.locator("#messages article").evaluate_all("(all) => all.map((one) => one.className)")
    assert roles == ["user", "assistant"] * (len(record["data"]) // 2)
    assert page.inner_text("#messages mark >> nth=0").lower() == "honey bees"
    page.keyboard.press("Escape")
    assert page.locator("#dialogue").is_hidden()


@pytest.mark.parametrize("tool", ["lasso", "rectangle"])
def test_a_region_exports_its_ids(open_page: OpenPage, page_file: Path, tool: str) -> None:
    page = open_page(page_file)
    page.click(f"#{tool}")
    drag(page, [(0.2, 0.2), (0.7, 0.2), (0.7, 0.8), (0.2, 0.8)] if tool == "lasso" else [(0.2, 0.2), (0.7, 0.8)])
    corners = page.evaluate(
        "[[.2, .8], [.7, .2]].map(([x, y]) => chart.convertFromPixel("
        "{ xAxisIndex: 0, yAxisIndex: 0 }, [x * box.clientWidth, y * box.clientHeight]))"
    )
    data = page.evaluate("({ x: map.x, y: map.y, ids: map.ids })")
    (left, bottom), (right, top) = corners
    edge = 0.01 * (right - left)
    rows = list(zip(data["x"], data["y"], data["ids"], strict=True))
    surely = {i for x, y, i in rows if left + edge < x < right - edge and bottom + edge < y < top - edge}
    perhaps = {i for x, y, i in rows if left - edge < x < right + edge and bottom - edge < y < top + edge}
    with page.expect_download() as txt:
        page.click("#txt")
    ids = Path(txt.value.path()).read_text().splitlines()
    assert 100 < len(ids) < COUNT
    assert surely <= set(ids) <= perhaps
    with page.expect_download() as jsonl:
        page.click("#jsonl")
    lines = [json.loads(line) for line in Path(jsonl.value.path()).read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    assert {line["file"].rpartition("/")[2] for line in lines} == {"dialogues.jsonl"}
    assert txt.value.suggested_filename == "ids.txt"
    page.click("#clear")
    assert len(page.evaluate(SHOWN)) == COUNT


def test_ids_are_copied(open_page: OpenPage, page_file: Path) -> None:
    page = open_page(page_file, permissions=["clipboard-read", "clipboard-write"])
    search(page, '"coral reefs"')
    page.click("#copy")
    until(page, "at('copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").split() == page.evaluate(SHOWN)


def test_colours_and_the_legend(open_page: OpenPage, page_file: Path) -> None:
    page = open_page(page_file)
    assert page.locator("#legend li").count() == 3
    page.uncheck("#legend li:nth-child(1) input")
    first = page.evaluate("colouring().labels[0]")
    assert not any(identity.startswith(first) for identity in page.evaluate(SHOWN))
    page.select_option("#colouring", "rounds")
    assert page.locator("#legend span").all_text_contents() == ["2", "3", "4", "5", "6", "7"]
    assert len(page.evaluate(SHOWN)) == COUNT
    page.click("#none")
    assert page.evaluate(SHOWN) == []
    page.click("#all")
    assert len(page.evaluate(SHOWN)) == COUNT


def test_everything_can_be_reached_with_the_keyboard(open_page: OpenPage, page_file: Path) -> None:
    page = open_page(page_file)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if page.evaluate("document.activeElement.closest('#list') !== null"):
            break
    wanted = {"search", "colouring", "in", "out", "whole", "lasso", "rectangle", "copy", "txt", "jsonl", "all", "none"}
    assert wanted <= set(reached)
    page.keyboard.press("Enter")
    page.wait_for_selector("#messages article")
    assert page.evaluate("state.opened") == 0
    page.locator("#next").press("Enter")
    until(page, "state.opened === 1 && at('dialogue-id').textContent === map.ids[1]")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent === map.openings[1]")


def test_the_wheel_and_the_buttons_zoom(open_page: OpenPage, page_file: Path) -> None:
    page = open_page(page_file)
    extent = "chart.getOption().dataZoom[0].end - chart.getOption().dataZoom[0].start"
    page.click("#in")
    assert page.evaluate(extent) == pytest.approx(50)
    page.mouse.move(400, 400)
    page.mouse.wheel(0, -300)
    until(page, f"{extent} < 49")
    page.click("#whole")
    assert page.evaluate(extent) == 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_texts_stay_texts(open_page: OpenPage, tmp_path: Path, scheme: str) -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b>"
    records = [{"id": f"{bad}{n}", "data": [bad, bad], "meta": {"sector": f"{bad}{n % 2}", bad: bad}} for n in range(3)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = open_page(explore(source, tmp_path / "map.html"), color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    page.click("#list button >> nth=1")
    page.wait_for_selector("#messages article")
    search(page, "bold")
    page.mouse.move(*pixel(page, 0))
    assert page.inner_text("#dialogue-id") == f"{bad}1"
    assert page.locator("#messages article p").all_text_contents() == [bad, bad]
    assert page.locator("img, b").count() == 0
    assert page.evaluate(DRAWN) == 4  # three, and the ring round the one that is read


def test_one_dialogue_is_a_map(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(explore(invented.write(tmp_path / "in.jsonl", 1), tmp_path / "map.html"))
    assert page.evaluate(DRAWN) == 1
    page.mouse.click(*pixel(page, 0))
    page.wait_for_selector("#messages article")


def test_a_missing_chunk_is_said(open_page: OpenPage, source: Path, tmp_path: Path) -> None:
    index = explore(source, tmp_path / "map", projection="pca")
    page = open_page(index, expected="ERR_FILE_NOT_FOUND")
    for chunk in (tmp_path / "map" / "texts").iterdir():
        chunk.unlink()
    page.click("#list button >> nth=0")
    page.wait_for_selector("#messages article")
    assert "texts/0.js is missing" in page.inner_text("#messages")


def test_picture(
    open_page: OpenPage, source: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture in the README; `--golden` takes it anew."""
    monkeypatch.chdir(source.parent)  # no long path in it
    page = open_page(explore(Path(source.name), Path("picture.html")))
    page.select_option("#colouring", "type")
    page.click("#list button >> nth=3")
    page.wait_for_selector("#messages article")
    picture = page.screenshot()
    if request.config.getoption("--golden"):
        PICTURE.write_bytes(picture)
    assert PICTURE.stat().st_size < 200_000
