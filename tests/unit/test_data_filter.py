"""`data filter`: which dialogues go, why, and what is changed in those that stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import rows
from ultrachat_cli.data import filter
from ultrachat_cli.data.filter import Wanted
from ultrachat_cli.data.truecase import truecase
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.filters import faults
from ultrachat_cli.records.one_pass import Report

Record = dict[str, Any]
ASK, SAY = "How do bees find their way home?", "They remember the sun and the landmarks around the hive."
MORE, MORE_SAID = "And on a cloudy day, what do they do?", "Polarised light is enough for them, as experiments show."
GOOD = [ASK, SAY, MORE, MORE_SAID]
GERMAN = "Wie finden die Bienen an einem bewölkten Tag eigentlich wieder nach Hause zurück?"


def filtered(folder: Path, *dialogues: list[str] | Record, **wanted: Any) -> tuple[list[Record], list[Record], Report]:
    """What stays, what goes, and the report."""
    records = [each if isinstance(each, dict) else {"id": str(n), "data": each} for n, each in enumerate(dialogues)]
    source = folder / "in.jsonl"
    source.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    report = filter.run([source], folder / "out.jsonl", Wanted(**wanted))
    rejected = folder / "out.rejected.jsonl"
    return rows(folder / "out.jsonl"), rows(rejected) if rejected.exists() else [], report


@pytest.mark.parametrize(
    ("data", "reason", "turn"),
    [
        ([], "empty", None),
        ([ASK, " \n"], "empty", " \n"),
        ([ASK], "no_answer", None),
        ([*GOOD, MORE], "no_answer", None),
        ([ASK, SAY, "Certainly! Here is a list.", MORE_SAID], "role_confusion", "Certainly! Here is a list."),
        ([ASK, "I'm sorry, but I cannot help with that."], "refusal", "I'm sorry, but I cannot help with that."),
        ([ASK, "As an AI language model, I have no hive."], "refusal", "As an AI language model, I have no hive."),
        ([ASK, SAY, MORE, SAY], "repeated", SAY),
        ([ASK, "a b c d e " * 20], "loop", "a b c d e " * 20),
        ([ASK, "Fine.<|im_end|>"], "leaked_prompt", "Fine.<|im_end|>"),
        ([ASK, SAY, "And then:", MORE_SAID], "unfinished", "And then:"),
    ],
)
def test_an_unfit_dialogue_goes_with_its_reason_and_turn(
    tmp_path: Path, data: list[str], reason: str, turn: str | None
) -> None:
    stays, goes, report = filtered(tmp_path, GOOD, data)
    assert [row["data"] for row in stays] == [GOOD]
    assert goes == [{"id": "1", "data": data, "reason": reason} | ({} if turn is None else {"turn": turn})]
    assert report.counts[f"rejected.{reason}"] == 1
    assert (report.read, report.written, report.complete) == (2, 1, True)


THANKS, WELCOME = "Thank you so much for your help!", "You're welcome! Good luck with your hive."


@pytest.mark.parametrize(
    ("data", "left"),
    [
        ([*GOOD, THANKS, WELCOME], GOOD),
        ([*GOOD, THANKS, WELCOME, "Bye!", "Goodbye, and take care of the bees."], GOOD),
        ([*GOOD, THANKS], GOOD),
        ([ASK, SAY, THANKS, WELCOME, MORE, MORE_SAID], [ASK, SAY, THANKS, WELCOME, MORE, MORE_SAID]),
        ([THANKS, WELCOME], [THANKS, WELCOME]),
        (
            [*GOOD, f"{THANKS} Do wasps do that too?", "They do."],
            [*GOOD, f"{THANKS} Do wasps do that too?", "They do."],
        ),
    ],
)
def test_thanks_at_the_end_are_cut_off(tmp_path: Path, data: list[str], left: list[str]) -> None:
    stays, goes, report = filtered(tmp_path, data)
    assert ([row["data"] for row in stays], goes) == ([left], [])
    assert report.counts["thanks_cut_off"] == (data != left)
    kept, _, _ = filtered(tmp_path, [*GOOD, THANKS, WELCOME], allow=["politeness"])
    assert kept[0]["data"] == [*GOOD, THANKS, WELCOME]


@pytest.mark.parametrize(
    ("meta", "wanted", "reason"),
    [
        ({"reward": 1.5}, {"min_reward": 1.5}, ""),
        ({"reward": 1.4}, {"min_reward": 1.5}, "reward"),
        ({"reward": -2}, {"min_reward": -2.5}, ""),
        ({}, {"min_reward": -2.5}, "no_reward"),
        ({"reward": None}, {"min_reward": -2.5}, "no_reward"),
        ({"reward": 9.0, "rewards": [0.0, 9.0, 1.0]}, {"min_reward": 8}, ""),
        ({"reward": 9.0, "rewards": [9.0, 0.0, 9.0]}, {"min_reward": 8}, "reward"),
        ({"critique": {"score": 7, "feedback": "", "model": "m"}}, {"min_critique": 7}, ""),
        ({"critique": {"score": 7, "feedback": "", "model": "m"}}, {"min_critique": 7.5}, "critique"),
        ({"critique": [{"score": 9}, {"score": 3}, {"score": 9}]}, {"min_critique": 7}, "critique"),
        ({"critique": [{"score": 9}, None, {"score": 9}]}, {"min_critique": 7}, "no_critique"),
        ({"reward": 9}, {"min_reward": 1, "min_critique": 1}, "no_critique"),
    ],
)
def test_scores_of_the_last_answer_that_stays(
    tmp_path: Path, meta: dict[str, Any], wanted: dict[str, float], reason: str
) -> None:
    record = {"id": "1", "data": [*GOOD, THANKS, WELCOME], "meta": meta}  # the last round is cut off
    stays, goes, _ = filtered(tmp_path, record, **wanted)
    assert (len(stays), [row["reason"] for row in goes]) == ((1, []) if not reason else (0, [reason]))


def test_rounds_are_counted_after_the_cut(tmp_path: Path) -> None:
    data = [ASK, SAY, THANKS, WELCOME]
    assert filtered(tmp_path, data, min_rounds=2)[1] == [{"id": "0", "data": data, "reason": "rounds"}]


@pytest.mark.parametrize(
    ("wanted", "stays"),
    [
        ({}, "abc"), ({"min_rounds": 2}, "bc"), ({"max_rounds": 2}, "ab"), ({"min_rounds": 2, "max_rounds": 2}, "b"),
        ({"min_chars": 121}, "bc"), ({"max_chars": 121}, "a"), ({"sectors": ["world"]}, "a"),
        ({"sectors": ["world", "writing"]}, "ab"), ({"sectors": ["none"]}, ""),
    ],
)  # fmt: skip
def test_simple_filters(tmp_path: Path, wanted: dict[str, Any], stays: str) -> None:
    assert len(ASK + SAY) < 121 < len("".join(GOOD))
    records: list[Record] = [
        {"id": "a", "data": [ASK, SAY], "meta": {"sector": "world"}},
        {"id": "b", "data": GOOD, "meta": {"sector": "writing"}},
        {"id": "c", "data": [*GOOD, "Who found that out?", "Karl von Frisch did, in the year 1949."]},
    ]
    assert "".join(row["id"] for row in filtered(tmp_path, *records, **wanted)[0]) == stays


def test_bounds_are_inclusive(tmp_path: Path) -> None:
    size = len(ASK + SAY)
    assert filtered(tmp_path, [ASK, SAY], min_chars=size, max_chars=size, min_rounds=1, max_rounds=1)[0]
    assert not filtered(tmp_path, [ASK, SAY], min_chars=size + 1)[0]
    assert not filtered(tmp_path, [ASK, SAY], max_chars=size - 1)[0]


def test_the_language_is_the_users_and_any_by_default(tmp_path: Path) -> None:
    dialogues = [GOOD, [GERMAN, SAY], [ASK, SAY, GERMAN, MORE_SAID], [ASK, GERMAN]]
    assert len(filtered(tmp_path, *dialogues)[0]) == 4
    stays, goes, _ = filtered(tmp_path, *dialogues, language="en")
    assert [row["id"] for row in stays] == ["0", "3"]
    assert [(row["id"], row["reason"], row["turn"]) for row in goes] == [
        ("1", "language", GERMAN),
        ("2", "language", GERMAN),
    ]
    assert [row["id"] for row in filtered(tmp_path, *dialogues, language="en", allow=["language"])[0]] == list("0123")


def test_refusals_can_be_kept(tmp_path: Path) -> None:
    data = [ASK, "I'm sorry, but I cannot help with that."]
    assert filtered(tmp_path, data, refusals="keep")[0]
    assert not filtered(tmp_path, data, refusals="drop")[0]


def test_what_is_allowed_does_not_hide_other_faults(tmp_path: Path) -> None:
    data = [ASK, "a b c d e " * 20 + "<|im_end|>"]
    for allow, reason in (([], "leaked_prompt"), (["leaked_prompt"], "loop"), (["loop"], "leaked_prompt")):
        assert filtered(tmp_path, data, allow=allow)[1][0]["reason"] == reason
    assert filtered(tmp_path, data, allow=["loop", "leaked_prompt"])[0]
    stays, goes, _ = filtered(tmp_path, data, [ASK, " "], [ASK], allow=["all"])
    assert ([row["id"] for row in stays], [row["reason"] for row in goes]) == (["0", "1"], ["no_answer"])


def test_wishes_are_checked_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        filtered(tmp_path, GOOD, min_rounds=3, max_rounds=2, min_chars=9, max_chars=1, language="English",
                 refusals="maybe", allow=["loops"])  # fmt: skip
    assert len(caught.value.faults) == 5
    assert not (tmp_path / "out.jsonl").exists()


def test_messages_keep_their_fields_when_thanks_are_cut_off(tmp_path: Path) -> None:
    spoken = [{"role": ("assistant" if n % 2 else "user"), "content": text, "weight": n}
              for n, text in enumerate([*GOOD, THANKS, WELCOME])]  # fmt: skip
    stays, _, _ = filtered(tmp_path, {"id": "m", "messages": spoken, "score": 2})
    assert stays == [{"id": "m", "messages": spoken[:4], "score": 2}]


def test_every_reason_is_a_known_one() -> None:
    assert faults.POLITENESS in faults.REASONS
    assert len(set(faults.REASONS)) == len(faults.REASONS)


@pytest.mark.parametrize(
    ("text", "cased"),
    [
        ("hello. how are you? i think i'm fine! am i?", "Hello. How are you? I think I'm fine! Am I?"),
        ("Hello. how are you?", "Hello. How are you?"),
        ("\n  so it is.\n\nno, it is not", "\n  So it is.\n\nNo, it is not"),
        ('he said no. "why not?" she asked. (it was late.)', 'He said no. "Why not?" she asked. (It was late.)'),
        ("well-known facts. don't ask", "Well-known facts. Don't ask"),
        ("It works... maybe. let i be 1.", "It works... maybe. Let i be 1."),
        ("See e.g. the cat, fig. three vs. the dog etc. and so on", None),
        ("I like J. r. tolkien", None),
        ("Buy an iPhone. iPads too. example.com is up. a/b tests. h2o is water.", None),
        ("Run `x. y` now. ```\nfoo. bar\n```", None),
        ("Hi", None), ("", None), ("...", None), ("iOS is here", None),
        ("你好。hello", None),
        ("pi is 3. 14 is not", "Pi is 3. 14 is not"),
    ],
)  # fmt: skip
def test_truecase(text: str, cased: str | None) -> None:
    assert truecase(text) == (text if cased is None else cased)


def test_truecase_takes_time_in_proportion() -> None:
    begun = time.perf_counter()
    for text in ("x" * 200_000, ". " * 100_000, "." * 200_000, "`" * 200_000, "i'" * 100_000):
        truecase(text)
    assert time.perf_counter() - begun < 5


def test_truecased_dialogues_are_counted_and_the_rejected_are_as_they_were(tmp_path: Path) -> None:
    lower = [text.lower() for text in GOOD]
    stays, goes, report = filtered(tmp_path, GOOD, lower, [lower[0], "sorry, i cannot help."], truecase=True)
    assert [row["data"] for row in stays] == [GOOD, GOOD]
    assert report.counts["truecased"] == 1
    assert goes[0]["data"] == [lower[0], "sorry, i cannot help."]


def test_several_processes_write_what_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [GOOD, [*GOOD, "Thanks!", "You are welcome."], [lower.lower() for lower in GOOD], [ASK], [GERMAN, SAY]]
    many = [[f"{n}. {data[0]}", *data[1:]] for n in range(40) for data in kinds]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = filtered(tmp_path / "one", *many, truecase=True, language="en")
    monkeypatch.setattr(filter, "_ALONE", 16)
    monkeypatch.setattr(filter, "_BATCH", 3)
    monkeypatch.setattr(filter, "cores", lambda: 2)
    two = filtered(tmp_path / "two", *many, truecase=True, language="en")
    assert one[:2] == two[:2]
    assert one[2].counts == two[2].counts
    assert one[2].counts.keys() >= {"truecased", "thanks_cut_off", "rejected.no_answer", "rejected.language"}
