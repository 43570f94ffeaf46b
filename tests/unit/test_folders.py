"""Model folders: fetched once, complete or absent."""

from __future__ import annotations

import fnmatch
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ultrachat_cli.errors import UltraError
from ultrachat_cli.models import folders
from ultrachat_cli.models.specs import ModelSpec

huggingface_hub = pytest.importorskip("huggingface_hub")
SPEC = ModelSpec(name="m", source="hf:org/m")
FILES = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors",
    "original/params.json", "pytorch_model.bin",
]  # fmt: skip


class Hub:
    """Takes the place of the hub's client; `fail` names the file at which it gives up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: list[str], fail: str = "", slow: float = 0.0) -> None:
        self.names, self.fail, self.slow = names, fail, slow
        self.fetched: list[str] = []
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_: names)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def download(
        self, place: str, *, local_dir: Path, allow_patterns: list[str], ignore_patterns: list[str] | None = None
    ) -> str:
        for name in self.names:
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)
            if not wanted or name in (ignore_patterns or []):
                continue
            if name == self.fail:
                raise OSError("the line went dead")
            time.sleep(self.slow)
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / name).write_text("{}")
            self.fetched.append(name)
        return str(local_dir)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path))
    return tmp_path


def test_weights_are_fetched_once_and_only_one_kind_of_them(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    hub = Hub(monkeypatch, FILES)
    said: list[str] = []
    folder = folders.obtain(SPEC, said.append)
    assert folder == cache / "hub/org/m"
    assert sorted(hub.fetched) == sorted(set(FILES) - {"README.md", "consolidated.safetensors", "pytorch_model.bin"})
    assert hub.fetched[-1] == "config.json"
    assert folders.obtain(SPEC, said.append) == folders.tokenizer(SPEC, said.append) == folder
    assert said == ["fetching m from hf:org/m"]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["model.safetensors", "other.safetensors", "pytorch_model.bin"], "model*.safetensors"),
        (["weights.safetensors", "pytorch_model.bin"], "*.safetensors"),
        (["pytorch_model-00001-of-00002.bin", "training_args.bin"], "pytorch_model*.bin"),
        (["weights.bin"], "*.bin"),
    ],
)
def test_which_files_hold_the_weights(names: list[str], pattern: str) -> None:
    assert folders._weights(names) == pattern


def test_a_folder_that_was_fetched_in_part_is_not_taken_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, FILES, fail="model-00002-of-00002.safetensors")
    with pytest.raises(UltraError, match="could not be fetched from the hub: the line went dead"):
        folders.obtain(SPEC)
    assert folders.locate(SPEC) is None
    Hub(monkeypatch, FILES)
    assert (folders.obtain(SPEC) / "model-00002-of-00002.safetensors").is_file()


def test_for_the_tokenizer_no_weights_are_fetched(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    hub = Hub(monkeypatch, FILES)
    folder = folders.tokenizer(SPEC)
    assert not any(name.endswith((".safetensors", ".bin")) for name in hub.fetched)
    assert folders.locate(SPEC) is None
    assert folders.tokenizer(SPEC) == folder
    assert folders.obtain(SPEC) != folder


def test_who_comes_second_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, FILES, slow=0.1)
    said: list[str] = []
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(folders.obtain(SPEC, said.append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(hub.fetched) == len(set(hub.fetched))
    assert sorted(said) == ["fetching m from hf:org/m", "m is fetched or rewritten by another process; waiting"]
