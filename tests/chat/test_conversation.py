"""What was said, changed, and put into lines of files."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ultrachat_cli.chat import transcript
from ultrachat_cli.chat.conversation import Conversation, Round
from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.records.dialogue import Dialogue, parse


def talk(*texts: str, system: str = "") -> Conversation:
    rounds = [Round(texts[n], texts[n + 1] if n + 1 < len(texts) else None) for n in range(0, len(texts), 2)]
    return Conversation(system, rounds)


def roles(conversation: Conversation, skip: int = 0) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages(skip)]


def test_messages_are_led_by_the_system_prompt_whatever_is_skipped() -> None:
    said = talk("a", "b", "c", "d", "e", system="S")
    assert roles(said)[:3] == [("system", "S"), ("user", "a"), ("assistant", "b")]
    assert roles(said, 2) == [("system", "S"), ("user", "e")]
    assert roles(talk("a")) == [("user", "a")]


def test_a_new_question_takes_the_place_of_one_that_got_no_answer() -> None:
    said = talk("a", "b", "c")
    replaced = said.ask("d")
    assert replaced is not None
    assert replaced.user == "c"
    assert [each.user for each in said.rounds] == ["a", "d"]
    said.rounds[-1].answer = "e"
    assert said.ask("f") is None


def test_edit_drops_the_answer_and_what_follows() -> None:
    said = talk("a", "b", "c", "d", "e", "f")
    said.edit(2, "C")
    assert [(each.user, each.answer) for each in said.rounds] == [("a", "b"), ("C", None)]
    for number in (0, 3):
        with pytest.raises(UltraError, match=f"no round {number}"):
            said.edit(number, "x")


def test_undo_and_again() -> None:
    said = talk("a", "b", "c", "d")
    said.again()
    assert said.pending is not None
    assert said.undo().user == "c"
    assert said.undo().user == "a"
    with pytest.raises(UltraError, match="nothing to undo"):
        said.undo()
    with pytest.raises(UltraError, match="nothing was said"):
        said.again()


@pytest.mark.parametrize("texts", [("a", "b"), ("a", "b", "c"), ("a",), ("a", "", "ü\n\u2028", "d")])
@pytest.mark.parametrize("system", ["", "Be\nbrief."])
def test_a_line_and_back_is_the_same(texts: tuple[str, ...], system: str) -> None:
    said = talk(*texts, system=system)
    if said.rounds[0].answer is not None:
        said.rounds[0].facts = {"finish": "interrupted", "tokens": 3}
    line = said.dialogue({"model": "m", "sampling": {"seed": 1}}).line()
    record = orjson.loads(line)
    assert len(record["data"]) % 2 == 0, "what is in data alternates and ends with the model"
    back = Conversation.of(parse(record))
    assert (back.id, back.system, back.rounds) == (said.id, said.system, said.rounds)
    assert back.dialogue({"model": "m", "sampling": {"seed": 1}}).line() == line


def test_dialogues_of_others_are_conversations_too() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}]
    said = Conversation.of(parse({"messages": messages}))
    assert said.system == "S"
    assert said.pending is not None
    assert Conversation.of(Dialogue("x", ["a", "b", "c"])).pending is not None


# files


def test_save_puts_the_line_in_place_of_the_one_with_its_id(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    other = b'{"id":"other", "data":["x","y"]}'
    path.write_bytes(other + b"\n" + talk("a", "b").dialogue({}).line() + other[:-1] + b', "more": 1}')
    said = Conversation.of(transcript.read(f"{path}#2")[0])
    said.ask("c")
    said.rounds[-1].answer = "d"
    transcript.save(path, said.dialogue({}))
    lines = path.read_bytes().splitlines()
    assert [lines[0], lines[2]] == [other, other[:-1] + b', "more": 1}']
    assert orjson.loads(lines[1])["data"] == ["a", "b", "c", "d"]
    assert list(tmp_path.iterdir()) == [path], "nothing half-written is left"


def test_save_refuses_a_file_of_something_else_and_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(UltraError, match="something other than conversations"):
        transcript.save(path, talk("a", "b").dialogue({}))
    assert path.read_text() == '{"a": 1}\n'


def test_export_adds_a_line_also_after_one_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"data":["x","y"]}')
    transcript.export(path, talk("a", "b").dialogue({}))
    transcript.export(path, talk("c", "d").dialogue({}))
    assert [orjson.loads(line)["data"] for line in path.read_bytes().splitlines()] == [
        ["x", "y"],
        ["a", "b"],
        ["c", "d"],
    ]
    with path.open("a") as file:
        file.write('{"data":["torn')
    transcript.export(path, talk("e", "f").dialogue({}))
    assert len(path.read_bytes().splitlines()) == 4, "a torn line goes, as everywhere"


def test_read_by_number_and_id_and_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "set#1.jsonl"
    path.write_text('{"data":["a","b"]}\n{"id":"two","data":["c","d"]}\n')
    assert transcript.read(str(path))[0].data == ["c", "d"], "the last one"
    assert transcript.read(f"{path}#1")[0].id == "set#1-1"
    assert transcript.read(f"{path}#two")[0].data == ["c", "d"]
    for wanted, problem in ((f"{path}#9", "no conversation '9'"), (f"{tmp_path}/none.jsonl", "no such file")):
        with pytest.raises(UltraError, match=problem):
            transcript.read(wanted)
    path.write_text("{\n")
    with pytest.raises(DataError, match=":1: not JSON"):
        transcript.read(str(path))
    path.write_text("")
    with pytest.raises(UltraError, match="holds no conversation"):
        transcript.read(str(path))


@pytest.mark.parametrize(
    ("name", "made"), [("talk", "talk.jsonl"), ("talk.jsonl", "talk.jsonl"), ("a.b.ndjson", "a.b.ndjson")]
)
def test_names_of_files(name: str, made: str) -> None:
    assert transcript.target(name).name == made


def test_names_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("talk.txt", "talk.jsonl.gz", str(tmp_path / "folder.jsonl")):
        with pytest.raises(UltraError):
            transcript.target(name)


def test_kept_conversations_are_private_and_few(tmp_path: Path) -> None:
    kept = transcript.Kept(tmp_path / "state" / "chats")
    with pytest.raises(UltraError, match="no earlier conversation"):
        kept.last()
    for n in range(105):
        said = talk("a", str(n))
        said.id = f"../{n}"
        path = kept.keep(said.dialogue({}))
    assert kept.last() == path
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    assert path.parent == kept.folder, "an id from a file cannot lead elsewhere"
    assert len(list(kept.folder.iterdir())) == 100
