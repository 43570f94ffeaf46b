from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.records import manifest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = {"identity": {"seed": 0, "topics": ["é", None, 1.5]}, "state": "running"}
    manifest.write(tmp_path, entries)
    assert manifest.read(tmp_path) == entries
    assert (tmp_path / "manifest.json").read_bytes().endswith(b"}\n")


def test_a_new_folder_has_none(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'"text"', b"\xff"])
def test_what_is_no_manifest_is_told_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest") as caught:
        manifest.read(tmp_path)
    assert "--restart" in caught.value.hint


def test_writing_replaces_in_one_step(tmp_path: Path) -> None:
    manifest.write(tmp_path, {"n": 1})
    before = (tmp_path / "manifest.json").stat().st_ino
    manifest.write(tmp_path, {"n": 2})
    assert (tmp_path / "manifest.json").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_what_cannot_be_written_leaves_the_old_manifest(tmp_path: Path) -> None:
    manifest.write(tmp_path, {"n": 1})
    with pytest.raises(TypeError):
        manifest.write(tmp_path, {"n": object()})
    assert manifest.read(tmp_path) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UltraError, match="cannot be written"):
        manifest.write(tmp_path / "gone", {})


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, []),
        ({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2]}, "a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: was 1, now 2"]),
        ({"a": {"b": {"c": "x"}}}, {"a": {"b": {"c": "y"}}}, ['a.b.c: was "x", now "y"']),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: was [1,2], now [2,1]"]),
        ({"a": 1}, {}, ["a: was 1, now null"]),
        ({}, {"a": 1}, ["a: was null, now 1"]),
        ({"a": {"b": 1}}, {"a": None}, ['a: was {"b":1}, now null']),
        ({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 2}, ["a: was 1, now 2", "c: was 1, now 2"]),
        ({"a": True}, {"a": "true"}, ['a: was true, now "true"']),
    ],
)
def test_differences_name_the_keys_and_both_values(old: Any, new: Any, found: list[str]) -> None:
    assert manifest.differences(old, new) == found


def test_long_values_are_shortened() -> None:
    (line,) = manifest.differences({"a": "x" * 1000}, {"a": "y"})
    assert len(line) < 120
    assert line.endswith('..., now "y"')


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("http://user:secret@host:8000/v1", "http://host:8000/v1"),
        ("http://secret@host/v1", "http://host/v1"),
        ("http://host/v1?api_key=secret&x=1", "http://host/v1"),
        ("http://host/v1#secret", "http://host/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://u:secret@[::1]/v1", "http://[::1]/v1"),
        ("http://u:sec@ret@host/v1", "http://host/v1"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_secret(url: str, shown: str) -> None:
    assert manifest.without_secrets(url) == shown


@pytest.mark.parametrize("url", ["http://u:secret@localhost:80a/v1", "http://[::1/v1", "http://host:99999/v1"])
def test_a_malformed_url_is_no_crash(url: str) -> None:
    try:
        shown = manifest.without_secrets(url)
    except UltraError as error:
        shown = str(error)
    assert "secret" not in shown


def test_fingerprints_tell_contents_apart() -> None:
    assert manifest.fingerprint(b"") == "e3b0c44298fc"
    assert manifest.fingerprint(b"a") != manifest.fingerprint(b"b")


def test_versions_are_those_of_the_software() -> None:
    found = manifest.versions()
    assert set(found) == {"ultrachat", "python", "system"}
    assert all(found.values())
    assert orjson.dumps(found)
