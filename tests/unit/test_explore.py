"""The map: what is drawn, the same every time, and a page that nothing in the data can break."""

from __future__ import annotations

import base64
import gzip
import http.client
import importlib.util
import re
import threading
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests import invented
from ultrachat_cli import config
from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.explore import atlas, embed, export, project, run, sample, serve
from ultrachat_cli.explore.colouring import NONE, OTHER, Colouring, colourings
from ultrachat_cli.explore.sample import Entry
from ultrachat_cli.explore.settings import ExploreConfig
from ultrachat_cli.models import embeddings
from ultrachat_cli.progress import Silent
from ultrachat_cli.records.dialogue import Dialogue

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> ]]> \u2028 & \" ' `${7}` <!-- texts -->"
Record = dict[str, Any]


class Heard(Silent):
    """Keeps the notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def explore(inputs: Sequence[Path], progress: Heard | None = None, **settings: Any) -> run.Report:
    flags = {key: (key, value) for key, value in settings.items()} | {"inputs": ("FILES", list(inputs))}
    return run.run(config.load(ExploreConfig, "explore", flags=flags), inputs[0].parent, progress)


def write(path: Path, records: Sequence[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def data_of(page: Path) -> Record:
    found = re.search(rb'<script type="application/json" id="map">(.*?)</script>', page.read_bytes(), re.DOTALL)
    assert found
    data: Record = orjson.loads(found[1])
    return data


def texts_of(page: Path) -> Iterator[Record]:
    """The dialogues of all chunks, from a single page or from the folder beside it."""
    inside = re.findall(rb'id="texts-\d+">([^<]*)<', page.read_bytes())
    beside = sorted(page.parent.glob("texts/*.js"), key=lambda path: int(path.stem)) if not inside else []
    for chunk in inside or [re.sub(rb'^packed\[\d+\] = "|";\n$', b"", path.read_bytes()) for path in beside]:
        yield from orjson.loads(gzip.decompress(base64.b64decode(chunk, validate=True)))


def entries(*metas: Record, data: Sequence[str] = ("How are you?", "Fine.")) -> list[Entry]:
    return [Entry(Dialogue(str(n), list(data), meta), Path("in.jsonl"), n + 1) for n, meta in enumerate(metas)]


def texts(count: int) -> list[str]:
    return ["\n".join(record["data"]) for record in invented.dialogues(count, words=80)]


def test_words_make_neighbours() -> None:
    about = ["the cat sat by the stove with a kitten", "a cat and her kitten sleep by the stove",
             "interest rates move the bond market", "the bond market fears rising interest"]  # fmt: skip
    vectors = embed.embed(about, None, 0, Silent())
    likeness = vectors @ vectors.T
    assert likeness[0].argsort()[-2] == 1
    assert likeness[2].argsort()[-2] == 3
    assert np.allclose(np.diag(likeness), 1, atol=1e-5)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_same_dialogues_make_the_same_map(method: str) -> None:
    maps = []
    for seed in (1, 1, 2):
        vectors = embed.embed(texts(300), None, seed, Silent())
        assert vectors.shape == (300, 64)
        assert vectors.dtype == np.float32
        maps.append(project.project(vectors, method, seed, Silent()))
    assert np.array_equal(maps[0], maps[1])
    assert (maps[0].min(), maps[0].max()) == (0, 1)
    assert method == "pca" or not np.array_equal(maps[0], maps[2])


def test_topics_lie_together() -> None:
    records = list(invented.dialogues(600, words=200))
    vectors = embed.embed(["\n".join(record["data"]) for record in records], None, 0, Silent())
    points = project.project(vectors, "tsne", 0, Silent())
    kinds = [record["meta"].get("type") for record in records]
    of_a_kind = [n for n, kind in enumerate(kinds) if kind]
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = distances[of_a_kind].argsort(axis=1)[:, 1]
    alike = np.mean([kinds[a] == kinds[b] for a, b in zip(of_a_kind, nearest, strict=True)])
    assert alike > 0.8  # by chance it would be 1 in 40


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("said", [["a b"], ["one", "two"], ["x y", "y z", "z x"], ["same words"] * 7, ["?!", "...", ""],
                                  ["一只猫坐着", "一只猫睡着", "利率上升", "利率", "猫", "狗"]])  # fmt: skip
def test_few_and_strange_dialogues_still_make_a_map(said: list[str], method: str) -> None:
    points = project.project(embed.embed(said, None, 0, Silent()), method, 0, Silent())
    assert points.shape == (len(said), 2)
    assert np.isfinite(points).all()


def test_many_equal_dialogues_make_a_map() -> None:
    points = project.project(np.ones((1200, 8), np.float32), "tsne", 0, Silent())
    assert np.isfinite(points).all()


def test_a_model_by_name_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        name, dimension = "two", 2

        def embed(self, batch: Sequence[str]) -> np.ndarray:
            return np.array([[len(text), 1] for text in batch], np.float32)

    monkeypatch.setattr(embeddings, "open", lambda name, say: {"two": Model()}[name])
    source = write(tmp_path / "in.jsonl", list(invented.dialogues(300, words=30)))
    report = explore([source], export=tmp_path / "map.html", embedding="two", projection="pca")
    assert report.shown == 300
    assert data_of(tmp_path / "map.html")["y"] == [0] * 300  # no spread in the second column


def test_an_unknown_model_is_refused_before_the_work(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", list(invented.dialogues(3)))
    with pytest.raises(ConfigError, match="no-such-model"):
        explore([source], embedding="no-such-model")


def test_a_larger_set_is_sampled(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{n}.jsonl", list(invented.dialogues(100, 30, n))) for n in range(3)]
    drawn = []
    for seed in (0, 0, 1):
        heard = Heard()
        report = explore(parts, heard, limit=50, seed=seed, projection="pca", export=tmp_path / "map.html")
        assert (report.shown, report.read, report.complete) == (50, 300, True)
        assert "300 dialogues: the map shows a random sample of 50" in heard.lines[0]
        data = data_of(tmp_path / "map.html")
        assert (data["read"], len(data["ids"])) == (300, 50)
        drawn.append([(data["files"][file], line) for file, line in zip(data["file"], data["lines"], strict=True)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0])
    assert len({file for file, _ in drawn[0]}) == 3


def test_each_dialogue_is_as_likely_as_any_other(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": str(n), "data": ["a", "b"]} for n in range(10)])
    counts = np.zeros(10)
    for seed in range(2000):
        for entry in sample.read([source], 3, seed, Silent()).entries:
            counts[int(entry.id)] += 1
    assert abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


@pytest.mark.parametrize("target", ["map.html", "folder"])
def test_everything_is_in_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setattr(export, "_CHUNK", 5000)
    records = [*invented.dialogues(60, 100), {"messages": [{"role": "system", "content": "Be brief."},
               {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]  # fmt: skip
    source = write(tmp_path / "in.jsonl", records)
    report = explore([source], export=tmp_path / target, projection="pca")
    page = report.files[0]
    data, rows = data_of(page), list(texts_of(page))
    assert data["ids"] == [*(record["id"] for record in records[:-1]), f"{source}:61"]
    assert data["lines"] == list(range(1, 62))
    assert [[text for _, text in row["messages"]] for row in rows[:-1]] == [record["data"] for record in records[:-1]]
    assert [row["meta"] for row in rows[:-1]] == [record["meta"] for record in records[:-1]]
    assert rows[-1]["messages"] == [["system", "Be brief."], ["user", "Hi"], ["assistant", "Hello"]]
    assert len(data["starts"]) > 5
    assert (data["starts"][0], data["starts"][-1]) == (0, 61)
    assert all(len(data[key]) == 61 for key in ("x", "y", "openings", "file"))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", list(invented.dialogues(60, 50)))
    pages = []
    for name in ("a.html", "b.html"):
        explore([source], export=tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


class Elements(HTMLParser):
    """All start tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found


def test_nothing_in_the_data_becomes_html(tmp_path: Path) -> None:
    tame = [{"id": f"d{n}", "data": ["Hi", "Hello"], "meta": {"topic": f"t{n % 2}"}} for n in range(8)]
    wild = [{"id": HOSTILE + str(n), "data": [HOSTILE] * 2, "meta": {HOSTILE: HOSTILE, "topic": f"{HOSTILE}{n % 2}"}}
            for n in range(8)]  # fmt: skip
    found = []
    for name, records in (("in.jsonl", tame), ("<b>.jsonl", wild)):
        explore([write(tmp_path / name, records)], export=tmp_path / "map.html", projection="pca")
        found.append(elements(tmp_path / "map.html"))
    assert found[0] == found[1]
    data = data_of(tmp_path / "map.html")
    assert data["title"] == "<b>.jsonl"
    assert data["ids"][3] == HOSTILE + "3"
    assert {row["messages"][0][1] for row in texts_of(tmp_path / "map.html")} == {HOSTILE}


def test_the_page_needs_no_other_place(tmp_path: Path) -> None:
    explore([write(tmp_path / "in.jsonl", list(invented.dialogues(9)))], export=tmp_path / "map.html")
    for tag, attributes in elements(tmp_path / "map.html"):
        places = {name: value for name, value in attributes.items() if name in ("src", "href", "action", "data")}
        assert places in ({}, {"href": "data:,"}), tag
    own = b"".join(path.read_bytes() for path in export.PAGE.iterdir() if path.is_file())
    assert not re.search(rb"https?://|@import|innerHTML|outerHTML|insertAdjacentHTML|\bfetch\(|eval\(", own)
    assert b"default-src 'none'" in own


def test_the_library_is_shipped_with_its_licence() -> None:
    vendor = export.PAGE / "vendor"
    assert "Apache License" in (vendor / "LICENSE").read_text(encoding="utf-8")
    assert (vendor / "echarts.min.js").stat().st_size < 600_000


def test_bad_lines_are_told_and_the_rest_is_drawn(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", list(invented.dialogues(9, 30)))
    with source.open("ab") as file:
        file.write(b'{torn\n{"data": []}\n{"data": ["a", 1]}\n')
    heard = Heard()
    report = explore([source], heard, export=tmp_path / "map.html")
    assert (report.shown, report.bad_lines, report.complete) == (9, 3, False)
    assert [line.partition(": ")[0] for line in heard.lines] == [f"{source}:{n}" for n in (10, 11, 12)]


def test_no_dialogues_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"nothing": 1}])
    with pytest.raises(UltraError, match=r"no dialogues in .*in.jsonl \(1 bad lines\)"):
        explore([source], export=tmp_path / "map.html")
    assert not (tmp_path / "map.html").exists()


def named(found: Sequence[Colouring], name: str) -> Colouring:
    return next(colouring for colouring in found if colouring.name == name)


def test_colours_come_from_the_data() -> None:
    metas = [{"sector": "world", "topic": f"t{n % 30:02}", "path": str(n), "checked": n % 2 == 0, "seed": 0}
             for n in range(100)]  # fmt: skip
    found = colourings(entries(*metas, {"sector": "writing"}))
    assert [colouring.name for colouring in found] == ["sector", "topic", "checked"]
    assert found[0].labels == ["world", "writing"]
    topic = named(found, "topic")
    assert topic.labels == [*(f"t{n:02}" for n in range(20)), OTHER, NONE]
    assert [topic.labels[code] for code in topic.codes[18:22]] == ["t18", "t19", OTHER, OTHER]
    assert topic.labels[topic.codes[-1]] == NONE
    assert named(found, "checked").labels == ["no", "yes", NONE]


def test_colours_computed_of_the_texts() -> None:
    talk = ["Tell me about the history of tea in Europe.", "Tea came by ship in the seventeenth century."]
    french = ["Raconte-moi l'histoire du thé en Europe.", "Le thé est arrivé par bateau au dix-septième siècle."]
    made = [Dialogue(str(n), talk * (n + 1)) for n in range(25)] + [Dialogue("f", french)]
    found = colourings([Entry(d, Path(f"runs/{n % 2}/in.jsonl"), n) for n, d in enumerate(made)])
    rounds = named(found, "rounds")
    assert rounds.labels == [*map(str, range(1, 20)), "20 or more"]
    assert rounds.ordered
    assert rounds.codes == [*range(20), 19, 19, 19, 19, 19, 0]
    assert named(found, "length").labels == ["0 to 500", "500 to 1,000", "1,000 to 2,000", "2,000 to 4,000"]
    assert named(found, "language").labels == ["en", "fr"]
    assert named(found, "file").labels == ["0/in.jsonl", "1/in.jsonl"]


def test_there_is_always_a_colour() -> None:
    assert [colouring.labels for colouring in colourings(entries({}, {}))] == [["dialogue"]]


def test_what_is_not_a_map_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", list(invented.dialogues(9)))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").touch()
    for target in (folder, folder / "thesis.txt"):
        with pytest.raises(ConfigError, match="export: "):
            explore([source], export=target)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_an_older_map_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_CHUNK", 1000)
    for count in (40, 6):
        source = write(tmp_path / "in.jsonl", list(invented.dialogues(count)))
        explore([source], export=tmp_path / "map", projection="pca")
        assert len(list(texts_of(tmp_path / "map" / "index.html"))) == count


@pytest.mark.parametrize(("module", "package"), [("sklearn", "scikit-learn"), ("openTSNE", "openTSNE")])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(MissingExtra, match=f"explore needs {package}") as caught:
        explore([write(tmp_path / "in.jsonl", [])])
    assert caught.value.hint == "pip install 'ultrachat-cli[explore]'"


def test_atlas_is_a_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = write(tmp_path / "in.jsonl", list(invented.dialogues(9)))
    monkeypatch.setattr(atlas.shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingExtra, match="--viewer atlas needs embedding-atlas"):
        explore([source], viewer="atlas")
    with pytest.raises(ConfigError, match="cannot be exported"):
        explore([source], viewer="atlas", export=tmp_path / "map.html")
    asked: list[list[str]] = []
    monkeypatch.setattr(atlas.shutil, "which", lambda *_, **__: "/bin/atlas")
    monkeypatch.setattr(atlas.subprocess, "run", lambda command, **_: asked.append(command) or Ended())
    explore([source], viewer="atlas")
    run.show(ExploreConfig(inputs=[source], viewer="atlas", port=7), tmp_path, lambda url: None)
    table = parquet.read_table(tmp_path / "map.parquet")
    assert {"id", "text", "x", "y", "sector"} <= set(table.column_names)
    assert table.num_rows == 9
    assert asked[0][:2] == ["/bin/atlas", str(tmp_path / "map.parquet")]
    assert asked[0][-5:] == ["--host", "127.0.0.1", "--port", "7", "--no-auto-port"]


class Ended:
    returncode = 0


def test_serving_is_for_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "index.html").write_text("here")
    servers: list[serve._Server] = []
    begin = serve._Server.serve_forever
    monkeypatch.setattr(
        serve._Server, "serve_forever", lambda self, poll_interval: servers.append(self) or begin(self, 0.02)
    )
    urls: list[str] = []
    begun = threading.Event()
    thread = threading.Thread(target=serve.serve, args=(tmp_path, 0, lambda url: (urls.append(url), begun.set())))
    thread.start()
    assert begun.wait(10)
    port = int(urls[0].rstrip("/").rpartition(":")[2])

    def status(path: str, host: str = f"127.0.0.1:{port}") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    assert status("/") == 200
    assert status("/", f"localhost:{port}") == 200
    assert status("/", "example.org") == 403  # a name that was made to point here
    assert status("/texts/") == 404
    assert status("/../in.jsonl") == 404
    with pytest.raises(UltraError, match=f"port {port} cannot be used"):
        serve.serve(tmp_path, port, pytest.fail)
    servers[0].shutdown()
    thread.join(10)
    assert urls[0].startswith("http://127.0.0.1:")
