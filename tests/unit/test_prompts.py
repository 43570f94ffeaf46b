from __future__ import annotations

from pathlib import Path

import pytest

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.generate import prompts
from ultrachat_cli.generate.prompts import Prompt, Prompts
from ultrachat_cli.generate.settings import SECTORS

NAME = "world/questions"


def parse(folder: Path, text: str) -> Prompt:
    path = folder / "prompt.md"
    path.write_text(text, encoding="utf-8")
    return prompts.parse("a/b", path)


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A folder of a user's own prompts."""
    (tmp_path / "mine" / "world").mkdir(parents=True)
    return tmp_path / "mine"


def test_a_prompt_is_a_small_chat(tmp_path: Path) -> None:
    prompt = parse(
        tmp_path,
        "pattern: ^[A-Z].*\\?$\nmax_chars: 90\n\n## system\nBe brief.\n\n## user\nPoems\n## assistant\n- one\n- two\n\n"
        "## user \n{type}: give {count}.\n\n{avoid}\n",
    )
    assert (prompt.name, prompt.pattern, prompt.max_chars) == ("a/b", "^[A-Z].*\\?$", 90)
    assert prompt.placeholders == {"type", "count", "avoid"}
    assert prompt.messages(type="Poems", count=3, avoid="") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Poems"},
        {"role": "assistant", "content": "- one\n- two"},
        {"role": "user", "content": "Poems: give 3.\n\n"},
    ]


def test_without_a_header_anything_is_allowed(tmp_path: Path) -> None:
    prompt = parse(tmp_path, "## user\nGo on.")
    assert (prompt.pattern, prompt.max_chars, prompt.placeholders) == ("", 0, set())


def test_braces_that_are_no_placeholder_stay(tmp_path: Path) -> None:
    prompt = parse(tmp_path, '## user\nAnswer {"items": ["..."]} or {} about {topic}, not {Topic} or { topic }.')
    assert prompt.placeholders == {"topic"}
    assert prompt.messages(topic="{count} \\1")[0]["content"] == (
        'Answer {"items": ["..."]} or {} about {count} \\1, not {Topic} or { topic }.'
    )


def test_a_placeholder_without_a_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="topic"):
        parse(tmp_path, "## user\n{topic}").messages(other=1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "ends in a '## user' block"),
        ("Just text", "ends in a '## user' block"),
        ("## system\nx\n", "ends in a '## user' block"),
        ("## user\nx\n## assistant\ny\n", "ends in a '## user' block"),
        ("# user\nx\n", "ends in a '## user' block"),
        ("## User\nx\n", "ends in a '## user' block"),
        ("some text\n## user\nx\n", r"prompt\.md:1: before the first block"),
        ("max_chars: 3\n\ncolour: red\n## user\nx\n", r"prompt\.md:3: before the first block"),
        ("pattern: [a-\n## user\nx\n", r"prompt\.md: "),
        ("max_chars: many\n## user\nx\n", r"prompt\.md: .*many"),
    ],
)
def test_a_wrong_prompt_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        parse(tmp_path, text)


@pytest.mark.parametrize("content", [None, b"## user\n\xff\xfe\n"])
def test_a_prompt_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "prompt.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"prompt\.md: cannot be read"):
        prompts.parse("a/b", path)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    first, same, other = (parse(tmp_path, text) for text in ("## user\na", "## user\na", "## user\na "))
    assert first.hash == same.hash
    assert first.hash != other.hash


def test_a_users_prompt_replaces_the_shipped_one(overlay: Path) -> None:
    (overlay / "world" / "questions.md").write_text("## user\nMine: {count} about {subtopic}.")
    found = Prompts(overlay)
    assert found.get(NAME).blocks == (("user", "Mine: {count} about {subtopic}."),)
    assert found.get("world/subtopics") == Prompts().get("world/subtopics")


def test_replacing_changes_the_hashes_of_its_sector_only(overlay: Path) -> None:
    (overlay / "world" / "questions.md").write_text("## user\nMine.")
    mine, shipped = Prompts(overlay), Prompts()
    changed = {name for name, value in mine.hashes(SECTORS).items() if shipped.hashes(SECTORS)[name] != value}
    assert changed == {NAME}
    assert mine.hashes(("writing",)) == shipped.hashes(("writing",))


def test_hashes_are_of_the_sectors_asked_for() -> None:
    assert {name.split("/")[0] for name in Prompts().hashes(("world", "materials"))} == {"world", "materials"}


def test_all_wrong_files_of_an_overlay_are_named_at_once(overlay: Path) -> None:
    (overlay / "world" / "question.md").write_text("## user\nx")
    (overlay / "poems.md").write_text("## user\nx")
    (overlay / "world" / "questions.md").write_text("## user\n{count} {colour} {subtopics}")
    with pytest.raises(ConfigError) as caught:
        Prompts(overlay)
    faults = sorted(fault.removeprefix(f"{overlay}/") for fault in caught.value.faults)
    assert faults == [
        "poems.md: replaces no shipped prompt",
        "world/question.md: replaces no shipped prompt (did you mean 'world/questions'?)",
        "world/questions.md: unknown placeholder {colour}",
        "world/questions.md: unknown placeholder {subtopics}",
    ]


def test_unreadable_files_of_an_overlay_are_named_with_the_others(overlay: Path) -> None:
    (overlay / "world" / "question.md").write_text("## user\nx")
    (overlay / "world" / "questions.md").write_text("no request")
    (overlay / "world" / "subtopics.md").write_text("no request either")
    with pytest.raises(ConfigError) as caught:
        Prompts(overlay)
    assert len(caught.value.faults) == 3


def test_an_overlay_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts: .*none: no such folder"):
        Prompts(tmp_path / "none")


def test_an_empty_overlay_changes_nothing(overlay: Path) -> None:
    assert Prompts(overlay).hashes(SECTORS) == Prompts().hashes(SECTORS)


@pytest.mark.parametrize("sector", SECTORS)
def test_every_sector_tells_the_user_model_who_it_is(sector: str) -> None:
    assert Prompts().get(f"{sector}/user").placeholders == {"persona"}


@pytest.mark.parametrize("name", sorted(prompts.shipped()))
def test_every_shipped_prompt_can_be_filled(name: str) -> None:
    prompt = prompts.shipped()[name]
    filled = prompt.messages(**dict.fromkeys(prompt.placeholders, "VALUE"))
    assert filled[-1]["role"] == "user"
    assert all(message["content"] for message in filled)


def test_a_variant_that_does_not_exist_is_the_plain_prompt() -> None:
    assert Prompts().get(NAME, "no such variant") == Prompts().get(NAME)
