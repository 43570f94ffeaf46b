from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import formats, specs
from ultrachat_cli.models.specs import ModelSpec, Price, resolve


def test_a_registry_name_means_its_entry() -> None:
    spec = resolve("ultralm-13b")
    assert (spec.name, spec.source, spec.weights, spec.base) == (
        "ultralm-13b", "hf:openbmb/UltraLM-13b", "delta", "llama-13b"
    )  # fmt: skip
    assert (spec.format, spec.context) == ("ultralm", 2048)


def test_a_registry_name_stays_itself_behind_a_base_url() -> None:
    assert resolve("llama-3.1-8b", base_url="http://localhost:8000/v1") == resolve("llama-3.1-8b")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("smollm2-135", "smollm2-135m"), ("gpt4o-mini", "gpt-4o-mini"), ("UltraLM-13B", "ultralm-13b")],
)
def test_a_typing_error_gets_the_near_name(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown model '{typed}'.*did you mean '{meant}'") as caught:
        resolve(typed)
    assert "--base-url" in caught.value.hint


@pytest.mark.parametrize("typed", ["zzzzzzzz", "openai:", "scripted:", "hf:"])
def test_a_name_that_means_nothing_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        resolve(typed)


def test_an_empty_name_is_refused_even_beside_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="unknown model"):
        resolve("")


def test_an_endpoint_model_of_the_registry_has_its_price() -> None:
    spec = resolve("openai:gpt-4o-mini")
    assert spec.price == Price(input=0.15, output=0.6)
    assert spec == resolve("gpt-4o-mini")


def test_an_endpoint_model_nobody_knows_has_none() -> None:
    spec = resolve("openai:my-own:latest")
    assert (spec.name, spec.scheme, spec.place, spec.price) == ("my-own:latest", "openai", "my-own:latest", None)


def test_openai_always_means_an_endpoint() -> None:
    assert resolve("openai:smollm2-135m").scheme == "openai"


@pytest.mark.parametrize("name", ["my-model", "org/name", "model.gguf", "hf:org/name"])
def test_with_a_base_url_any_name_is_a_served_model(name: str) -> None:
    spec = resolve(name, base_url="http://localhost:8000/v1")
    assert (spec.name, spec.source) == (name, f"openai:{name}")


@pytest.mark.parametrize(
    ("name", "embedded"), [("hf:org/name", False), ("hf:org/name/file.gguf", True), ("hf:org/name/sub/file.gguf", True)]
)
def test_a_hub_id_is_embedded_only_as_a_gguf_file(name: str, embedded: bool) -> None:
    spec = resolve(name)
    assert (spec.scheme, spec.place, spec.embedded) == ("hf", name.removeprefix("hf:"), embedded)


def test_a_gguf_file_is_found_wherever_the_program_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    spec = resolve("tiny.gguf")
    assert (spec.name, spec.source, spec.embedded) == ("tiny", f"gguf:{tmp_path / 'tiny.gguf'}", True)


def test_a_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        resolve(str(tmp_path / "none.gguf"))


def test_a_folder_must_hold_a_model(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ConfigError, match=r"no model in this folder: neither config\.json nor a \.gguf file"):
        resolve(str(tmp_path))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"exactly one \.gguf file.*found: a\.gguf, b\.gguf\)"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("./nowhere", "is the path right?"),
        ("out/of/sight", "is the path right?"),
        ("org/name", "of the hub: hf:org/name"),
    ],
)
def test_a_path_that_leads_nowhere_is_called_one(typed: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"model {typed}: no such folder or file") as caught:
        resolve(typed)
    assert hint in caught.value.hint


def test_an_unknown_chat_format_is_told_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"unknown chat format 'chatmll' \(did you mean 'chatml'\?\)"):
        ModelSpec(source="hf:a/b", format="chatmll")
    with pytest.raises(ValidationError, match=r"unknown chat format 'zzz' \(known: chatml, "):
        ModelSpec(source="hf:a/b", format="zzz")


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "a.gguf").touch()
    assert resolve(str(tmp_path)).source == f"gguf:{tmp_path / 'a.gguf'}"


def test_scripted_models_need_their_file(tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    with pytest.raises(ConfigError, match=f"no such file: {rules}"):
        resolve(f"scripted:{rules}")
    rules.write_text('{"reply": "yes"}\n')
    assert resolve(f"scripted:{rules}").place == str(rules)
    assert resolve("scripted:synthetic").scheme == "scripted"


@pytest.mark.parametrize("name", sorted(specs.known()))
def test_every_registry_entry_is_sound(name: str) -> None:
    spec = resolve(name)
    assert spec.name == name
    assert spec.place
    assert spec.scheme in ("hf", "package", "openai", "static")
    assert spec.context > 0
    assert spec.licence
    assert spec.format == formats.TOKENIZER or formats.render(spec.format, [{"role": "user", "content": "x"}])
    if spec.weights == "delta":
        assert specs.known()[spec.base].role == "base"
    else:
        assert not spec.base
    if spec.scheme == "openai":
        assert spec.price is not None
    if spec.user == "continue":
        assert spec.format in formats.FORMATS


@pytest.mark.parametrize(
    "name", ["ultralm-13b", "ultralm-65b", "ultralm-13b-v2.0", "ultrarm-13b", "ultracm-13b", "smollm2-135m"]
)
def test_the_models_of_the_project_are_known(name: str) -> None:
    assert name in specs.known()


@pytest.mark.parametrize(
    ("source", "embedded"),
    [
        ("package:dist/file.gguf", True),
        ("package:dist/folder", False),
        ("gguf:/x/y.gguf", True),
        ("hf:org/name/y.gguf", True),
        ("hf:org/name", False),
        ("openai:x", False),
        ("openai:x.gguf", False),
        ("scripted:synthetic", False),
    ],
)
def test_what_the_embedded_server_can_run(source: str, embedded: bool) -> None:
    assert ModelSpec(source=source).embedded is embedded


def test_an_unknown_chat_format_gets_the_near_name() -> None:
    with pytest.raises(ValidationError, match=r"unknown chat format 'chatlm'.*did you mean 'chatml'"):
        ModelSpec(source="hf:x/y", format="chatlm")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ModelSpec.model_validate({"source": "hf:x/y", "contxt": 3}),
        lambda: ModelSpec.model_validate({"name": "without a source"}),
        lambda: ModelSpec(source="hf:x/y", context=-1),
        lambda: Price(input=-1, output=0),
    ],
)
def test_a_wrong_entry_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValidationError):
        wrong()


@pytest.mark.parametrize(
    ("prompt", "completion", "dollars"),
    [(0, 0, 0.0), (1_000_000, 0, 0.15), (0, 1_000_000, 0.6), (2_000, 500, 0.0003 + 0.0003)],
)
def test_a_price_is_for_a_million_tokens(prompt: int, completion: int, dollars: float) -> None:
    assert Price(input=0.15, output=0.6).cost(prompt, completion) == pytest.approx(dollars)
