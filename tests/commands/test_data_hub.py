"""`ultrachat data ls`, `pull` and `push`, with a small server in place of the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson

from tests.commands.checks import refused
from tests.conftest import Ultrachat
from tests.hub_server import running


def fine(result: object) -> str:
    assert result.code == 0, result  # type: ignore[attr-defined]
    return str(result.stdout)  # type: ignore[attr-defined]


def test_ls(ultrachat: Ultrachat) -> None:
    text = fine(ultrachat("data", "ls"))
    for words in ("ultrachat_200k", "1,468,352", "cc-by-nc-4.0", "world, writing, materials", "openbmb/UltraFeedback"):
        assert words in text
    names = [row["name"] for row in ultrachat("data", "ls", "--json").json]
    assert names[0] == "ultrachat"


def test_pull_from_a_folder(ultrachat: Ultrachat) -> None:
    source = ultrachat.folder / "mine"
    source.mkdir()
    (source / "question.jsonl").write_text('{"turns": ["a", "b"]}\n' * 80)
    result = ultrachat("data", "pull", "mt_bench", "--from", "mine")
    assert "raw/question.jsonl 80" in fine(result)
    assert "licence apache-2.0" in result.stderr
    assert (ultrachat.folder / "datasets/mt_bench/raw/question.jsonl").exists()
    (source / "question.jsonl").write_text("{}\n" * 79)
    refused(
        ultrachat("data", "pull", "mt_bench", "--from", "mine", "-o", "other", "-q"),
        1,
        "79 records",
        "registry says 80",
    )
    refused(ultrachat("data", "pull", "alpaca_eval", "--from", "mine", "-q"), 2, "no alpaca_eval.json")
    refused(ultrachat("data", "pull", "mt_bench", "--sector", "world", "-q"), 2, "no sector 'world'")


def test_pull_from_a_mirror_with_a_token(ultrachat: Ultrachat) -> None:
    folder = ultrachat.folder / "hub"
    place = folder / "tatsu-lab" / "alpaca_eval" / "alpaca_eval.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(orjson.dumps([{"instruction": str(n)} for n in range(805)]))
    with running(folder, token="hf_secret") as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        refused(
            ultrachat("data", "pull", "alpaca_eval", "-q", env=env), 1, "could not be fetched from the hub", "HF_TOKEN"
        )
        text = fine(ultrachat("data", "pull", "alpaca_eval", "-q", env={**env, "HF_TOKEN": "hf_secret"}))
        assert "alpaca_eval.json 805" in text
        gets = [line for line in hub.asked if "resolve" in line and line.startswith("GET")]
        fine(ultrachat("data", "pull", "alpaca_eval", "-q", env={**env, "HF_TOKEN": "hf_secret"}))
        assert [line for line in hub.asked if "resolve" in line and line.startswith("GET")] == gets
    got = ultrachat.folder / "datasets" / "alpaca_eval" / "alpaca_eval.json"
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(place.read_bytes()).digest()


def _run(ultrachat: Ultrachat) -> Path:
    model = ("-m", "scripted:synthetic", "--user-model", "scripted:synthetic")
    fine(ultrachat("generate", "--sector", "world", "-n", "5", "-o", "run", "-q", *model))
    return ultrachat.folder / "run" / "dialogues.jsonl"


def test_push(ultrachat: Ultrachat) -> None:
    data = _run(ultrachat)
    refused(ultrachat("data", "push", "run", "me/test"), 2, "--licence")
    card = Path(fine(ultrachat("data", "push", "run", "me/test", "--licence", "mit", "--dry-run")).strip())
    text = (ultrachat.folder / card).read_text()
    assert "5 dialogues" in text
    assert "scripted:synthetic" in text
    with running(ultrachat.folder / "hub", token="hf_secret") as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_secret"}
        assert "me/test" in fine(ultrachat("data", "push", "run", "me/test", "--licence", "mit", env=env))
        pushed = ultrachat.folder / "hub" / "me" / "test"
        assert sorted(path.name for path in pushed.iterdir()) == ["README.md", "dialogues.jsonl"]
        assert (pushed / "dialogues.jsonl").read_bytes() == data.read_bytes()
        assert (pushed / "README.md").read_text() == text
        wrong = {**env, "HF_TOKEN": "hf_other"}
        refused(ultrachat("data", "push", "run", "me/test", "--licence", "mit", env=wrong), 1, "could not be pushed")
