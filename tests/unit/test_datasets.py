"""Published sets by name: the registry, and fetching with a folder or a small server in place of the network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.hub_server import running
from ultrachat_cli.data import card
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.progress import Silent
from ultrachat_cli.records import datasets, fetch
from ultrachat_cli.records.datasets import DatasetFile, DatasetSpec

LINE = b'{"data": ["a", "b"]}\n'


def spec(*files: DatasetFile) -> DatasetSpec:
    return DatasetSpec(name="test", licence="mit", rows=1, shape="ultrachat", files=list(files))


def pulled(source: Path, folder: Path, *files: DatasetFile) -> fetch.Fetched:
    return fetch.pull(spec(*files), files, folder, source)


@pytest.mark.parametrize("name", sorted(datasets.known()))
def test_every_entry_is_sound(name: str) -> None:
    entry = datasets.resolve(name)
    assert entry.licence
    assert entry.about
    assert all(bool(file.url) or entry.hub for file in entry.files)
    rows = [file.rows for file in entry.files]
    if all(rows):
        assert sum(filter(None, rows)) == entry.rows


def test_the_published_facts() -> None:
    ultrachat = datasets.resolve("ultrachat")
    assert (ultrachat.hub, ultrachat.rows) == ("stingning/ultrachat", 1_468_352)
    assert [file.path for file in ultrachat.part()] == [f"train_{n}.jsonl" for n in range(10)]
    assert [file.path for file in ultrachat.part(sector="world")] == ["ultrachat_release_230407.json"]
    assert len(ultrachat.part(sector="writing")) == 2
    assert [file.rows for file in datasets.resolve("ultrachat_200k").part(split="train_sft")] == [207_865]


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset 'ultrachat_200' \(did you mean 'ultrachat_200k'"):
        datasets.resolve("ultrachat_200")
    with pytest.raises(ConfigError, match="no sector 'world'") as caught:
        datasets.resolve("mt_bench").part(sector="world")
    assert "do not tell the sector" in caught.value.hint


def test_a_folder_stands_in_for_the_hub(tmp_path: Path) -> None:
    (tmp_path / "from" / "deep").mkdir(parents=True)
    for n in range(2):
        (tmp_path / "from" / "deep" / f"part-{n}.jsonl").write_bytes(LINE * (n + 1))
    (tmp_path / "from" / "other.json").write_bytes(b"[1, 2, 3]")
    one, two = DatasetFile(path="data/part-*", rows=3), DatasetFile(path="other.json", rows=3)
    fetched = pulled(tmp_path / "from", tmp_path / "to", one, two)
    names = [path.relative_to(tmp_path / "to").as_posix() for path in fetched.files]
    assert names == ["data/part-0.jsonl", "data/part-1.jsonl", "other.json"]
    assert fetched.counted == {"data/part-*": 3, "other.json": 3}
    before = fetched.files[0].stat().st_mtime_ns
    assert pulled(tmp_path / "from", tmp_path / "to", one, two).files[0].stat().st_mtime_ns == before


def test_a_wrong_checksum_or_number_of_records_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    (source / "a.jsonl").write_bytes(LINE)
    good = hashlib.sha256(LINE).hexdigest()
    assert pulled(source, tmp_path / "to", DatasetFile(path="a.jsonl", rows=1, sha256=good)).files
    with pytest.raises(UltraError, match=r"checksum .* is not the registry's"):
        pulled(source, tmp_path / "to", DatasetFile(path="a.jsonl", sha256="0" * 64))
    with pytest.raises(UltraError, match="1 records where the registry says 2"):
        pulled(source, tmp_path / "to", DatasetFile(path="a.jsonl", rows=2))
    with pytest.raises(ConfigError) as caught:
        pulled(source, tmp_path / "to", DatasetFile(path="b.jsonl"), DatasetFile(path="c.jsonl"))
    assert len(caught.value.faults) == 2


def test_a_download_goes_on_where_it_ended(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    data = LINE * 5000
    (tmp_path / "web" / "a.jsonl").write_bytes(data)
    with running(tmp_path / "web") as server:
        url, target = f"{server.url}/a.jsonl", tmp_path / "to" / "a.jsonl"
        server.break_after = 40_000
        with pytest.raises(UltraError, match=r"40,000 of 105,000 bytes arrived"):
            fetch.download(url, target, Silent())
        assert not target.exists()
        fetch.download(url, target, Silent())
        assert target.read_bytes() == data
        fetch.download(url, target, Silent())
        assert len(server.asked) == 2
        (tmp_path / "to" / "b.jsonl.download").write_bytes(data)
        (tmp_path / "web" / "b.jsonl").write_bytes(data)
        fetch.download(f"{server.url}/b.jsonl", tmp_path / "to" / "b.jsonl", Silent())
        assert (tmp_path / "to" / "b.jsonl").read_bytes() == data
        with pytest.raises(UltraError, match="HTTP 404"):
            fetch.download(f"{server.url}/c.jsonl", tmp_path / "to" / "c.jsonl", Silent())


Write = Callable[[str, object], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, data: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(data))
        return path

    return make


def _run(model: str, source: str) -> dict[str, object]:
    speaker = {"name": model, "source": source, "url": "http://10.0.0.7:8000/v1", "sha256": ""}
    counts = {
        "written": 1, "rejected": {"loop": 2}, "near_duplicate_openings": 3, "requests": 4, "prompt_tokens": 5,
        "completion_tokens": 6,
    }  # fmt: skip
    return {
        "kind": "generate", "config": {"sector": "world", "seed": 7, "rounds": "2-3"}, "counts": counts,
        "models": dict.fromkeys(("assistant", "user", "opening"), speaker), "identity": {},
    }  # fmt: skip


def test_a_card_tells_how_a_cleaned_set_was_made_and_nothing_of_this_machine(tmp_path: Path, write: Write) -> None:
    write("run/manifest.json", _run("smollm2-135m", "gguf:/home/me/secret/model.gguf"))
    write("run/dialogues.jsonl", {"id": "1", "data": ["a", "b"], "meta": {"sector": "world"}})
    data = write("clean.jsonl", {"id": "1", "data": ["a", "b"], "meta": {"sector": "world"}})
    against = {"files": ["/home/me/alpaca_eval.json"], "rule": "coverage", "ngram": None, "coverage": 0.5}
    config = {
        "ngram": 5, "threshold": 0.8, "scope": "dialogue", "method": ["exact", "near"],
        "semantic": {"model": "minilm", "threshold": 0.85}, "against": {**against, "similar": 0.8},
    }  # fmt: skip
    removed = {"exact": 2, "near": 3, "semantic": 0, "contamination": 4}
    report = {"read": 10, "written": 1, "removed": removed, "flagged": 0, "items": 805, "items_found": 6}
    inputs = [str(tmp_path / "run" / "dialogues.jsonl")]
    write("clean.manifest.json", {"config": config, "report": report, "inputs": inputs})
    text = card.write(card.find(data), "My set", "cc-by-4.0")
    for words in (
        "license: cc-by-4.0", "pretty_name: My set", "path: dialogues.jsonl", "1 dialogues of 1.0 rounds",
        "smollm2-135m (gguf:model.gguf, licence apache-2.0)", "2 (2 loop) rejected", "| near | Jaccard similarity of",
        "805 items of alpaca_eval.json (50% of an item's words in shared 8-grams", "6 items were found",
        "4 dialogues were dropped",
    ):  # fmt: skip
        assert words in text
    for secret in ("/home/me", str(tmp_path), "10.0.0.7"):
        assert secret not in text


def test_a_card_needs_a_manifest(tmp_path: Path, write: Write) -> None:
    with pytest.raises(ConfigError, match="no manifest lies beside it"):
        card.find(write("some.jsonl", {"data": ["a", "b"]}))
    with pytest.raises(ConfigError, match="no run folder"):
        card.find(tmp_path / "none")
