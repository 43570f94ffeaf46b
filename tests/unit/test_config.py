from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ultrachat_cli import config, registry, yaml_lines
from ultrachat_cli.config import Loaded, Span
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.generate.settings import GenerateConfig


class Loader:
    """Loads a generate config from sources given as text."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "my.yaml"

    def __call__(
        self,
        text: str | None = None,
        environ: Mapping[str, str] | None = None,
        sets: Sequence[str] = (),
        flags: Mapping[str, tuple[str, Any]] | None = None,
    ) -> Loaded[GenerateConfig]:
        if text is not None:
            self.path.write_text(text, encoding="utf-8")
        file = None if text is None else str(self.path)
        return config.load(GenerateConfig, "generate", file=file, environ=environ, sets=sets, flags=flags)

    def faults(self, *args: Any, **kwargs: Any) -> list[str]:
        """The faults of a config that must not load, with the path of the file shortened to FILE."""
        with pytest.raises(ConfigError) as caught:
            self(*args, **kwargs)
        assert caught.value.exit_code == 2
        return [fault.replace(str(self.path), "FILE") for fault in caught.value.faults]


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


FILE = {"text": "seed: 1\nlimit: 21\n"}
ENV = {"environ": {"ULTRACHAT_GENERATE__LIMIT": "22"}}
SET = {"sets": ["limit=23"]}
FLAG = {"flags": {"limit": ("--limit", 24)}}


@pytest.mark.parametrize(
    ("sources", "limit", "source"),
    [
        ({}, 20, None),
        (FILE, 21, "FILE:2"),
        (FILE | ENV, 22, "environment ULTRACHAT_GENERATE__LIMIT"),
        (FILE | ENV | SET, 23, "--set limit"),
        (FILE | ENV | SET | FLAG, 24, "--limit"),
        (FILE | FLAG, 24, "--limit"),
        (ENV | SET, 23, "--set limit"),
    ],
)
def test_the_later_source_wins_and_is_remembered(
    load: Loader, sources: dict[str, Any], limit: int, source: str | None
) -> None:
    loaded = load(**sources)
    assert loaded.value.limit == limit
    assert loaded.sources.get("limit", "").replace(str(load.path), "FILE") == (source or "")


def test_sources_name_every_value_that_is_not_a_default(load: Loader) -> None:
    loaded = load(
        "assistant:\n  model: qwen3-8b\n  temperature: 0.5\nseed: 3\n",
        environ={"ULTRACHAT_GENERATE__LIMITS__CONCURRENCY": "4"},
        sets=["assistant.temperature=0.9"],
        flags={"limit": ("--limit", 5), "seed": ("--seed", None)},
    )
    assert loaded.sources == {
        "assistant.model": f"{load.path}:2",
        "assistant.temperature": "--set assistant.temperature",
        "seed": f"{load.path}:4",
        "limits.concurrency": "environment ULTRACHAT_GENERATE__LIMITS__CONCURRENCY",
        "limit": "--limit",
    }
    assert (loaded.value.seed, loaded.value.limits.concurrency, loaded.value.assistant.temperature) == (3, 4, 0.9)


def test_one_key_of_a_section_leaves_the_others_alone(load: Loader) -> None:
    loaded = load("world:\n  questions: 3\n  related: 4\n", sets=["world.related=5"])
    assert (loaded.value.world.questions, loaded.value.world.related) == (3, 5)


def test_what_was_replaced_has_no_source_any_more(load: Loader) -> None:
    loaded = load("assistant: {extra: {top_k: 4}}\n", sets=["assistant.extra={min_p: 0.1}"])
    assert loaded.value.assistant.extra == {"min_p": 0.1}
    assert "assistant.extra.top_k" not in loaded.sources


def test_all_faults_come_at_once_each_with_its_place(load: Loader) -> None:
    text = """\
limit: many
asistant:
  model: x
world:
  questions: 0
  relatde: 3
seed: 1
seed: 2
rounds: 7-3
"""
    faults = load.faults(
        text,
        environ={"ULTRACHAT_GENERATE__FILTERS__LANGUGE": "en"},
        sets=["embedded_context=3", "nonsense", "opening.list_retries=[1"],
        flags={"limits.concurrency": ("--concurrency", 0)},
    )
    expected = [
        r"FILE:1: limit: .*integer.*'many'",
        r"FILE:2: asistant: unknown key \(did you mean 'assistant'\?\)",
        r"FILE:5: world\.questions: .*greater than or equal to 1.*0",
        r"FILE:6: world\.relatde: unknown key \(did you mean 'related'\?\)",
        r"FILE:8: duplicate key 'seed' \(first on line 7\)",
        r"FILE:9: rounds: impossible range 7-3",
        r"environment ULTRACHAT_GENERATE__FILTERS__LANGUGE: filters\.languge: unknown key .*'language'",
        r"--set embedded_context: .*512.*3",
        r"--set nonsense: write --set key=value",
        r"--set opening\.list_retries: '\[1': .*not valid YAML",
        r"--concurrency: limits\.concurrency: .*1.*0",
    ]
    for pattern in expected:
        assert [fault for fault in faults if re.match(pattern, fault)], f"{pattern} is not among {faults}"
    assert len(faults) == len(expected)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a\n- b\n", "FILE:1: a mapping of keys is expected"),
        ("just text\n", "FILE:1: a mapping of keys is expected"),
        ("limit: [1\nseed: 2\n", r"FILE:2: not valid YAML"),
        ("limit: 1\n\tseed: 2\n", r"FILE:2: not valid YAML"),
        ("limit: 1\n---\nlimit: 2\n", r"FILE:2: not valid YAML"),
        ("a: *b\n", "FILE:1: not valid YAML"),
        ("world:\n  mix: {topic: 0, meta: 0, specific: 0, general: 0}\n", r"FILE:2: world\.mix: all weights are 0"),
        ("materials: {min_chars: 9, max_chars: 3}\n", "FILE:1: materials: min_chars 9 is above max_chars 3"),
        ("prices:\n  m:\n    input: -1\n    output: 1\n", r"FILE:3: prices\.m\.input: .*-1"),
        ("materials:\n  paths:\n    - a\n    - [b]\n", r"FILE:4: materials\.paths\.1: "),
    ],
)
def test_a_fault_in_a_file_is_told_with_its_line(load: Loader, text: str, fault: str) -> None:
    faults = load.faults(text)
    assert len(faults) == 1
    assert re.match(fault, faults[0])


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_means_the_defaults(load: Loader, text: str) -> None:
    assert load(text) == Loaded(GenerateConfig(), {})


def test_a_file_that_is_not_text_is_refused(load: Loader) -> None:
    load.path.write_bytes(b"limit: 3 # \xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(GenerateConfig, "generate", file=str(load.path))


def test_the_environment_of_other_areas_is_left_alone(load: Loader) -> None:
    loaded = load(environ={"ULTRACHAT_TRAIN__LIMIT": "5", "ULTRACHAT_CACHE": "/x", "LIMIT": "7", "HOME": "/root"})
    assert loaded == Loaded(GenerateConfig(), {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E6", 1e6),
        ("-3e2", -300.0),
        ("1.5e3", 1500.0),
        ("0.7", 0.7),
        ("5", 5),
        ("-1", -1),
        ("3-7", "3-7"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("[a, 2]", ["a", 2]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("'5'", "5"),
        ("e5", "e5"),
        ("hf:org/name", "hf:org/name"),
    ],
)
def test_a_setting_means_what_it_looks_like(text: str, value: object) -> None:
    assert yaml_lines.scalar(text) == value
    assert type(yaml_lines.scalar(text)) is type(value)


def test_norwegian_is_a_language(load: Loader) -> None:
    assert load("filters: {language: no}").value.filters.language == "no"


@pytest.mark.parametrize(
    ("written", "span"),
    [
        ("5", Span(low=5, high=5)),
        ("3-7", Span(low=3, high=7)),
        ("3 - 7", Span(low=3, high=7)),
        ("'2-2'", Span(low=2, high=2)),
        ("1", Span(low=1, high=1)),
        ("null", None),
    ],
)
def test_a_range_is_a_number_or_two(load: Loader, written: str, span: Span | None) -> None:
    assert load(sets=[f"rounds={written}"]).value.rounds == span
    assert load(f"rounds: {written}").value.rounds == span


@pytest.mark.parametrize("written", ["5", "3-7"])
def test_a_range_is_written_as_it_was_read(load: Loader, written: str) -> None:
    value = load(sets=[f"rounds={written}"]).value
    assert str(value.rounds) == written
    assert value.model_dump(mode="json")["rounds"] == written


@pytest.mark.parametrize(
    "written", ["7-3", "0", "0-4", "-3", "3-", "a-b", "3-7-9", "3..7", "true", "3.5", "[3, 7]", "''"]
)
def test_a_range_that_cannot_be_is_refused(load: Loader, written: str) -> None:
    assert load.faults(sets=[f"rounds={written}"])[0].startswith("--set rounds: ")


def test_two_numbers_without_a_dash_are_no_range(load: Loader) -> None:
    assert load.faults(sets=["rounds=3 7"])


@pytest.mark.parametrize("written", ["{low: 7, high: 3}", "{low: 0, high: 3}"])
def test_an_impossible_range_given_as_a_mapping_is_refused(load: Loader, written: str) -> None:
    assert load.faults(sets=[f"rounds={written}"])


AWKWARD = [
    "no",
    "true",
    "null",
    "~",
    "5",
    "3-7",
    "",
    " x ",
    "a: b",
    "# a",
    "- a",
    "a # b",
    "'",
    '"',
    "a\nb",
    "é☃",
    "\t",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_what_show_prints_loads_to_the_same_config(load: Loader, text: str) -> None:
    value = GenerateConfig.model_validate(
        {"assistant": {"system": text, "extra": {"stop": [text], text: 1}}, "filters": {"language": text}}
    )
    assert load(config.show(Loaded(value, {}))).value == value


def test_what_show_prints_of_every_kind_of_value_loads_again(load: Loader) -> None:
    loaded = load(
        "rounds: 2-3\nworld: {subtopics: 4, mix: {topic: 1e-7}}\noutput: runs/x\nprices: {m: {input: 1, output: 2.5}}\n"
        "materials: {paths: [a.txt, b c.md]}\nlimits: {rpm: 1e30, max_cost: 0.01}\n",
        environ={"ULTRACHAT_GENERATE__SEED": "9"},
        sets=["assistant.extra={top_k: 4, stop: [a, b]}"],
    )
    assert load(config.show(loaded)).value == loaded.value


def test_show_explains_values_and_tells_their_sources(load: Loader) -> None:
    shown = config.show(load("seed: 4\n", sets=["filters.language=de"])).splitlines()
    assert f"seed: 4  # from {load.path}:1" in shown
    assert "  language: de  # from --set filters.language" in shown
    at = shown.index("  language: de  # from --set filters.language")
    assert shown[at - 1] == "  # Language of the user's turns (ISO 639-1), or empty for any."
    assert "limit: 20" in shown


@pytest.mark.parametrize("text", ["2e-5", "1e5"])
def test_text_that_looks_like_a_number_survives_show(load: Loader, text: str) -> None:
    value = GenerateConfig(output=Path(text))
    assert load(config.show(Loaded(value, {}))).value == value


@pytest.mark.parametrize("name", sorted(path.stem for path in registry.shipped("generate").glob("*.yaml")))
def test_every_shipped_config_loads_and_shows(load: Loader, name: str) -> None:
    loaded = config.load(GenerateConfig, "generate", file=name)
    assert loaded.sources
    assert load(config.show(loaded)).value == loaded.value


def test_an_unknown_name_lists_the_shipped_configs() -> None:
    with pytest.raises(ConfigError) as caught:
        config.find("generate", "dmeo")
    assert "did you mean 'demo'" in caught.value.message
    for path in registry.shipped("generate").glob("*.yaml"):
        assert path.stem in caught.value.hint


@pytest.mark.parametrize("name", ["missing.yaml", "missing.yml", "some/folder/missing.yaml"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--config {re.escape(name)}: no such file"):
        config.load(GenerateConfig, "generate", file=name)


def test_a_file_without_the_usual_ending_is_found(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("limit: 3\n")
    assert config.load(GenerateConfig, "generate", file=str(path)).value.limit == 3


def test_a_folder_does_not_hide_a_shipped_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert config.find("generate", "demo").name == "demo.yaml"


@pytest.mark.parametrize(
    "sources",
    [
        {"text": "assistant:\n  api_key: sk-very-secret\n"},
        {"environ": {"ULTRACHAT_GENERATE__ASSISTANT__API_KEY": "sk-very-secret"}},
        {"sets": ["assistant.api_key=sk-very-secret"]},
        {"text": "api_keys: {openai: sk-very-secret}\n"},
    ],
)
def test_a_key_put_where_none_belongs_is_not_repeated(load: Loader, sources: dict[str, Any]) -> None:
    faults = load.faults(**sources)
    assert "unknown key" in faults[0]
    assert "secret" not in "".join(faults)


def test_a_section_set_in_one_piece_keeps_the_source_of_its_keys(load: Loader) -> None:
    assert load(sets=["assistant={model: qwen3-8b}"]).sources == {"assistant.model": "--set assistant"}


def test_the_price_of_a_model_with_a_dot_can_be_set_as_the_hint_says(load: Loader) -> None:
    prices = load(sets=["prices.gpt-4.1={input: 1, output: 2}"]).value.prices
    assert list(prices) == ["gpt-4.1"]


def test_a_folder_may_be_called_by_a_date(load: Loader) -> None:
    assert load(sets=["output=2024-01-05"]).value.output == Path("2024-01-05")


@pytest.mark.parametrize("text", ["output: !!timestamp 2024-13-45", "output: \x01", "x: &a [*a]"])
def test_yaml_that_cannot_be_built_is_a_fault(load: Loader, text: str) -> None:
    assert load.faults(text)[0].startswith("FILE:1: ")


def test_the_lines_of_a_document_count_from_one() -> None:
    document = yaml_lines.parse("a: 1\nb:\n  c: 2\n  d:\n    - x\n    - y\n", "name")
    assert document.lines == {
        ("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 4, ("b", "d", "0"): 5, ("b", "d", "1"): 6
    }  # fmt: skip
    assert document.data == {"a": 1, "b": {"c": 2, "d": ["x", "y"]}}


def test_of_two_equal_keys_both_lines_are_told() -> None:
    document = yaml_lines.parse("a:\n  b: 1\n  c: 2\n  b: 3\n", "name")
    assert document.faults == ["name:4: duplicate key 'b' (first on line 2)"]
