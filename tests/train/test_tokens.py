"""From dialogue files to the cached arrays of examples."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests.train.vocabularies import LLAMA3, byte_level
from ultrachat_cli import workers
from ultrachat_cli.errors import DataError, UltraError
from ultrachat_cli.models.chat_tokens import ChatTokenizer, Encoded, stretches
from ultrachat_cli.models.formats import TOKENIZER
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.train import examples, pieces, tokens
from ultrachat_cli.train.examples import Rules
from ultrachat_cli.train.tokens import Tokens, tokenize

RULES = Rules(512)
WORDS = ["river", "the", "and", "stop", "music", "paper", "gold", "winter", "</s>", "é", "\n"]


class Told:
    """A progress that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[int] = []

    def stage(self, what: str, total: int, unit: str) -> None:
        self.stages.append(total)

    def advance(self, units: int = 1, note: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChatTokenizer:
    return ChatTokenizer(byte_level(tmp_path / "model"), "chatml")


def dialogues(count: int, seed: int = 0, longest: int = 12) -> list[dict[str, Any]]:
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(0, longest)))

    return [{"id": f"{seed}-{n}", "data": [text() for _ in range(2 * draw.randint(1, 4))]} for n in range(count)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(b"".join(row if isinstance(row, bytes) else orjson.dumps(row) + b"\n" for row in rows))
    return path


def expected(rows: list[dict[str, Any]], tokenizer: ChatTokenizer, rules: Rules = RULES) -> list[Encoded]:
    """The examples, one dialogue after another, without files and processes."""
    found = (examples.encode([Dialogue(row["id"], row["data"])], tokenizer, rules, Counter())[0] for row in rows)
    return [example for own in found for example in own]


def same(found: Tokens, wanted: list[Encoded]) -> None:
    assert len(found) == len(wanted)
    assert found.facts["tokens"] == sum(len(one.ids) for one in wanted)
    for n, one in enumerate(wanted):
        ids, learn = found.example(n)
        assert ids.tolist() == one.ids.tolist()
        assert learn.tolist() == one.learn.tolist()
        assert found.learned[n] == np.count_nonzero(one.learn[1:])


def test_a_file_becomes_the_examples_of_its_dialogues(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    rows = dialogues(150)
    (found,) = tokenize([write(tmp_path / "a.jsonl", rows)], tokenizer, RULES, Told())
    same(found, expected(rows, tokenizer))
    assert found.ids.dtype == np.uint16
    assert found.facts["counts"] == {"dialogues": 150}
    assert len(set(found.keys.tolist())) == 150
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "ends.npy", "facts.json", "ids.npy", "keys.npy", "learn.npy", "learned.npy", "lock",
    ]  # fmt: skip


def test_several_processes_and_blocks_give_the_same(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dialogues(300)
    monkeypatch.setattr(tokens, "_BLOCK", 3000)
    monkeypatch.setattr(tokens, "_ALONE", 0)
    told = Told()
    (found,) = tokenize([write(tmp_path / "a.jsonl", rows)], tokenizer, RULES, told)
    same(found, expected(rows, tokenizer))
    assert told.stages == [sum(len(orjson.dumps(row)) + 1 for row in rows) >> 10]
    assert not list(found.folder.glob("*-*"))


def none_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Iterator[None]:
        raise AssertionError("work was begun although all is there")

    monkeypatch.setattr(workers, "pool", refuse)


def test_the_second_time_everything_is_there(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dialogues(50)
    path = write(tmp_path / "a.jsonl", rows)
    (first,) = tokenize([path], tokenizer, RULES, Told())
    none_may_start(monkeypatch)
    (second,) = tokenize([path], tokenizer, RULES, Told())
    assert second.folder == first.folder
    same(second, expected(rows, tokenizer))
    path.rename(tmp_path / "b.jsonl")
    (renamed,) = tokenize([tmp_path / "b.jsonl"], tokenizer, RULES, Told())
    assert renamed.folder == first.folder
    (copied,) = tokenize([write(tmp_path / "c.jsonl", rows)], tokenizer, RULES, Told())
    assert copied.folder == first.folder


def test_known_content_is_not_read_again(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", dialogues(5))
    tokenize([path], tokenizer, RULES, Told())

    def refuse(*_: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(tokens.hashlib, "file_digest", refuse)
    tokenize([path], tokenizer, RULES, Told())


@pytest.mark.parametrize(
    "change", ["content", "same size and time", "rules", "tokenizer", "format", "template", "shape"]
)
def test_what_decides_about_ids_makes_a_new_entry(tmp_path: Path, tokenizer: ChatTokenizer, change: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": "1", "data": ["a", "river"]}])
    rules, model = RULES, tmp_path / "model"
    (before,) = tokenize([path], tokenizer, rules, Told())
    if change == "content":
        write(path, [{"id": "1", "data": ["a", "rivers"]}])
    elif change == "same size and time":
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        write(path, [{"id": "1", "data": ["b", "river"]}])
        os.utime(path, ns=times)
    elif change == "rules":
        rules = Rules(512, system="Be brief.")
    elif change == "tokenizer":
        byte_level(model, more=1)
    elif change == "format":
        byte_level(tmp_path / "other", LLAMA3, bos=LLAMA3[0])
        model, tokenizer = tmp_path / "other", ChatTokenizer(tmp_path / "other", "llama-3")
    elif change == "template":
        (model / "chat_template.jinja").write_text("")
    elif change == "shape":
        path = path.rename(tmp_path / "a.json.gz")
        path.write_bytes(gzip.compress(b"[" + orjson.dumps({"id": "1", "data": ["a", "river"]}) + b"]"))
    (after,) = tokenize([path], ChatTokenizer(model, tokenizer.format), rules, Told())
    assert after.folder != before.folder
    assert len(after) == 1


def test_bad_lines_are_told_by_file_and_line(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = dialogues(40)
    rows: list[Any] = [*good]
    roles = "turn 1 is by 'assistant' where 'user' should speak"
    bad = {
        3: (b'{"data": ["a", \n', "not JSON (unexpected end of data)"),
        4: (b"\n", ""),
        11: (b'{"data": ["a\rb", "c"]}\n', "not JSON (unexpected control character in string)"),
        12: (b'{"data": []}\n', "no turns"),
        27: (b"[1]\n", "not a JSON object"),
        28: (b" \t\r\n", ""),
        29: (b'{"messages": [{"role": "assistant", "content": "x"}]}\n', roles),
        44: (b'{"data": ["a", 1]}\n', "'data' holds something other than text"),
        49: (b'{"data": ["\xff", "c"]}', "not JSON (str is not valid UTF-8: surrogates not allowed)"),
    }
    for number, (line, _) in sorted(bad.items()):
        rows.insert(number - 1, line)
    path = write(tmp_path / "a.jsonl", [row if isinstance(row, bytes) else orjson.dumps(row) + b"\n" for row in rows])
    wanted = [(number, reason) for number, (_, reason) in bad.items() if reason]
    for block, alone in ((1 << 20, 1 << 20), (500, 0)):
        monkeypatch.setattr(tokens, "_BLOCK", block)
        monkeypatch.setattr(tokens, "_ALONE", alone)
        monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / f"cache-{block}"))
        told = Told()
        out = tmp_path / "rejected.jsonl"
        (found,) = tokenize([path], tokenizer, RULES, told, out)
        assert told.said == [f"{path}:{number}: {reason}" for number, reason in wanted]
        kept = [orjson.loads(line) for line in out.read_bytes().splitlines()]
        assert [(row["line"], row["reason"]) for row in kept] == wanted
        assert kept[0] == {
            "file": str(path), "line": 3, "reason": "not JSON (unexpected end of data)", "text": '{"data": ["a", ',
        }  # fmt: skip
        same(found, expected(good, tokenizer))
        out.unlink()
    tokenize([path], tokenizer, RULES, told, tmp_path / "no folder" / "rejected.jsonl")
    assert not (tmp_path / "no folder").exists()


def test_what_the_template_cannot_hold_is_put_aside_alone(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].split('</think>')[-1] "
        "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = ChatTokenizer(byte_level(tmp_path / "model", template=template), TOKENIZER)
    good = dialogues(100)
    rows = [*good[:70], {"id": "x", "data": ["a", "<think>b</think>c"]}, *good[70:]]
    told = Told()
    (found,) = tokenize([write(tmp_path / "a.jsonl", rows)], tokenizer, RULES, told)
    assert told.said == [f"{tmp_path}/a.jsonl:71: the chat template alters what is said; name a format instead"]
    same(found, expected(good, tokenizer))
    assert found.facts["counts"] == {"dialogues": 100}


@pytest.mark.parametrize(("more", "kind"), [(0, np.uint16), (70_000, np.uint32)])
def test_ids_take_two_bytes_where_they_fit(tmp_path: Path, more: int, kind: type) -> None:
    tokenizer = ChatTokenizer(byte_level(tmp_path / "big", more=more), "chatml")
    rows = dialogues(20)
    (found,) = tokenize([write(tmp_path / "a.jsonl", rows)], tokenizer, RULES, Told())
    assert found.ids.dtype == kind
    assert (int(found.ids.max()) > 65535) == (kind is np.uint32)
    same(found, expected(rows, tokenizer))


@pytest.mark.parametrize("seed", range(8))
def test_marks_are_exact_wherever_an_example_begins(tmp_path: Path, seed: int) -> None:
    """Pieces of any length, empty ones among them, joined bit by bit."""
    draw = np.random.default_rng(seed)
    job = pieces.Job(ChatTokenizer(byte_level(tmp_path / "model"), "chatml"), RULES, False)
    places = []
    wanted: list[tuple[list[int], list[bool]]] = []
    for n in range(12):
        sizes = draw.integers(1, 23, draw.integers(0, 4)) if n % 5 else np.empty(0, np.int64)
        ids = draw.integers(0, 65536, int(sizes.sum())).astype(np.uint16)
        learn = draw.random(len(ids)) < 0.5
        told = np.frombuffer(
            orjson.dumps([3, {"dialogues": len(sizes)}, [{"line": 2, "reason": "x", "text": ""}]]), np.uint8
        )
        places.append(tmp_path / f"{n}.npz")
        np.savez(
            places[-1], ids=ids, learn=learn, sizes=sizes.astype(np.int64), learned=sizes.astype(np.int32),
            keys=sizes.astype(np.uint64), told=told,
        )  # fmt: skip
        ends = np.cumsum(sizes)
        wanted += [(ids[b - a : b].tolist(), learn[b - a : b].tolist()) for a, b in zip(sizes, ends, strict=True)]
    facts = pieces.join(places, tmp_path, job)
    found = Tokens(tmp_path)
    assert len(found) == facts["examples"] == len(wanted)
    for n, (ids, learn) in enumerate(wanted):
        assert found.example(n)[0].tolist() == ids
        assert found.example(n)[1].tolist() == learn
    assert [row["line"] for row in facts["rejected"]] == [3 * n + 2 for n in range(12)]


def test_nothing_at_all_is_kept_too(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    for rows in ([], [b"\n\n"], [b"{\n"], [{"id": "1", "data": ["only a question"]}]):
        (found,) = tokenize([write(tmp_path / "a.jsonl", rows)], tokenizer, RULES, Told())
        assert len(found) == 0
        assert found.facts["tokens"] == 0
    assert found.facts["counts"] == {"dialogues": 1, "nothing to learn": 1}


SCRIPT = """
import sys, time
from pathlib import Path
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.train import pieces, tokens
from ultrachat_cli.train.examples import Rules

class Told:
    def stage(self, what, total, unit): print("stage", total, flush=True)
    def advance(self, units=1, note=""): pass
    def say(self, line): print(line, flush=True)

tokens._BLOCK, slow = 2000, float(sys.argv[3])
make = pieces.make
def slowly(task, job):
    time.sleep(slow)
    return make(task, job)
pieces.make = slowly
found = tokens.tokenize([Path(sys.argv[1])], ChatTokenizer(Path(sys.argv[2]), "chatml"), Rules(512), Told())
print("done", found[0].folder, flush=True)
"""


def start(data: Path, model: Path, slow: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(data), str(model), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(count: int, cache: Path) -> list[Path]:
    end = time.monotonic() + 30
    while len(found := sorted(cache.glob("*/*.npz"))) < count:
        assert time.monotonic() < end, "no pieces came"
        time.sleep(0.01)
    return found


def test_killed_work_is_taken_up_again(tmp_path: Path, tokenizer: ChatTokenizer, cache: Path) -> None:
    rows = dialogues(100)
    path = write(tmp_path / "a.jsonl", rows)
    process = start(path, tokenizer.folder, 0.05)
    left = wait_for(2, cache)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(cache.glob("*/facts.json"))
    again = start(path, tokenizer.folder, 0)
    out, _ = again.communicate(timeout=30)
    assert again.returncode == 0
    size = path.stat().st_size - sum(int(p.stem.split("-")[1]) - int(p.stem.split("-")[0]) for p in left)
    assert int(out.split()[1]) <= size >> 10
    (found,) = tokenize([path], tokenizer, RULES, Told())
    same(found, expected(rows, tokenizer))
    assert not list(found.folder.glob("*.npz*"))


def test_a_torn_piece_is_not_used(tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process was writing has another name until it is whole."""
    path = write(tmp_path / "a.jsonl", rows := dialogues(30))
    monkeypatch.setattr(np, "savez", lambda file, **_: file.write(b"half") and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tokenize([path], tokenizer, RULES, Told())
    monkeypatch.undo()
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))
    (found,) = tokenize([path], tokenizer, RULES, Told())
    same(found, expected(rows, tokenizer))
    assert not list(found.folder.glob("*.partial"))


def test_of_two_processes_one_works_and_the_other_waits(tmp_path: Path, tokenizer: ChatTokenizer, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows := dialogues(60))
    first = start(path, tokenizer.folder, 0.05)
    wait_for(1, cache)
    told = Told()
    (found,) = tokenize([path], tokenizer, RULES, told)
    assert told.said == [f"{path} is tokenized by another process; waiting"]
    assert told.stages == []
    assert first.communicate(timeout=30)[0].splitlines()[-1] == f"done {found.folder}"
    same(found, expected(rows, tokenizer))


def test_whoever_waits_goes_on_where_the_other_was_killed(
    tmp_path: Path, tokenizer: ChatTokenizer, cache: Path
) -> None:
    path = write(tmp_path / "a.jsonl", rows := dialogues(60))
    first = start(path, tokenizer.folder, 0.2)
    wait_for(1, cache)
    second = start(path, tokenizer.folder, 0)
    assert second.stdout is not None
    assert "waiting" in second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, _ = second.communicate(timeout=30)
    assert "done" in out
    (found,) = tokenize([path], tokenizer, RULES, Told())
    same(found, expected(rows, tokenizer))


def test_a_file_that_changes_meanwhile_is_no_result(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", dialogues(30))
    make = pieces.make

    def meddled(*given: Any) -> int:
        write(path, dialogues(31, seed=1))
        return make(*given)

    monkeypatch.setattr(pieces, "make", meddled)
    with pytest.raises(DataError, match="has changed while it was read"):
        tokenize([path], tokenizer, RULES, Told())
    monkeypatch.setattr(pieces, "make", make)
    (found,) = tokenize([path], tokenizer, RULES, Told())
    same(found, expected(dialogues(31, seed=1), tokenizer))


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "messages.jsonl", "sharegpt.jsonl", "a.json", "crlf.jsonl"]
)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, tokenizer: ChatTokenizer, name: str) -> None:
    rows = dialogues(40)
    path = tmp_path / name
    if name == "a.json":
        path.write_bytes(b"  " + orjson.dumps(rows))
    elif name == "crlf.jsonl":
        path.write_bytes(b"".join(orjson.dumps(row) + b"\r\n" for row in rows))
    else:
        shape: Any = path.name.split(".")[0] if path.name.split(".")[0] in ("messages", "sharegpt") else "ultrachat"
        with files.writing(path, shape) as put:
            for row in rows:
                put(Dialogue(row["id"], row["data"]))
    (found,) = tokenize([path], tokenizer, RULES, Told())
    same(found, expected(rows, tokenizer))
    assert not (found.folder / "plain.jsonl").exists()


def test_system_messages_stand_before_the_dialogue(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    own = {"messages": [{"role": "system", "content": "stop"}, *Dialogue("", ["a", "b"]).messages]}
    (found,) = tokenize(
        [write(tmp_path / "a.jsonl", [own, {"data": ["a", "b"]}])], tokenizer, Rules(64, system="the"), Told()
    )
    for n, system in enumerate(("stop", "the")):
        messages = [{"role": "system", "content": system}, *Dialogue("", ["a", "b"]).messages]
        assert found.example(n)[0].tolist() == tokenizer.encode([messages])[0].ids.tolist()


def test_what_cannot_be_read_is_told(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(UltraError, match="stdin"):
        tokenize([Path("-")], tokenizer, RULES, Told())
    with pytest.raises(DataError, match="cannot be read: No such file"):
        tokenize([tmp_path / "none.jsonl"], tokenizer, RULES, Told())
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"data": ["a", "b"]}\n' * 1000)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        tokenize([torn], tokenizer, RULES, Told())


# Long dialogues


def rounds_learned(dialogue: Dialogue, tokenizer: ChatTokenizer, system: str = "") -> list[list[int]]:
    """What is learned of each round where it stands alone."""
    found = []
    for n in range(0, len(dialogue.data), 2):
        messages = dialogue.part(n, n + 2).messages
        head = [{"role": "system", "content": system}] if system else []
        encoded = tokenizer.encode([[*head, *messages]])[0]
        found.append(encoded.ids[encoded.learn].tolist())
    return found


@pytest.mark.parametrize("kind", ["chatml", "llama-3", TOKENIZER])
@pytest.mark.parametrize("seed", range(25))
def test_a_split_dialogue_loses_nothing(tmp_path: Path, kind: str, seed: int) -> None:
    """Every learned token of every round is in exactly one chunk, in order, but for rounds that are too long alone."""
    template = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nand the river<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    special = LLAMA3 if kind == "llama-3" else ("<|im_start|>", "<|im_end|>")
    tokenizer = ChatTokenizer(byte_level(tmp_path, special, bos=special[0], template=template), kind)
    draw = random.Random(seed)
    system = draw.choice(["", "stop the river"])
    data = [" ".join(draw.choices(WORDS, k=draw.randint(0, 60))) for _ in range(2 * draw.randint(1, 12))]
    dialogue = Dialogue("x", data)
    counts: Counter[str] = Counter()
    rules = Rules(draw.choice([120, 200, 400]), system=system)
    (chunks,) = examples.encode([dialogue], tokenizer, rules, counts)
    assert all(len(chunk.ids) <= rules.max_length for chunk in chunks)
    found = [token for chunk in chunks for token in chunk.ids[chunk.learn].tolist()]
    alone = rounds_learned(dialogue, tokenizer, system)
    head = [{"role": "system", "content": system}] if system else []
    fits = [
        len(tokenizer.encode([[*head, *dialogue.part(2 * n, 2 * n + 2).messages]])[0].ids) <= rules.max_length
        for n in range(len(alone))
    ]
    assert counts["single rounds cut at the end"] == fits.count(False)
    if all(fits):
        assert found == [token for tokens in alone for token in tokens]
    else:
        assert sum(len(tokens) for tokens, fit in zip(alone, fits, strict=True) if fit) <= len(found)
    if len(alone) > 1 and all(fits):  # no chunk could have taken in the next one's first round
        sizes = [len(stretches(chunk)) for chunk in chunks]
        assert sum(sizes) == len(alone)
        at = 0
        for size in sizes[:-1]:
            longer = dialogue.part(2 * at, 2 * (at + size + 1)).messages
            assert len(tokenizer.encode([[*head, *longer]])[0].ids) > rules.max_length
            at += size


def test_truncated_dropped_and_hopeless_dialogues_are_counted(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    long = Dialogue("1", ["the river"] + ["river " * 30] * 3)
    short = Dialogue("2", ["the", "river"])
    whole = tokenizer.encode([long.messages])[0]
    counts: Counter[str] = Counter()
    cut, kept = examples.encode([long, short], tokenizer, Rules(64, overlong="truncate"), counts)
    assert cut[0].ids.tolist() == whole.ids[:64].tolist()
    assert cut[0].learn.tolist() == whole.learn[:64].tolist()
    assert len(kept) == 1
    assert counts == {"cut at the end": 1}
    counts.clear()
    assert [len(x) for x in examples.encode([long, short], tokenizer, Rules(64, overlong="drop"), counts)] == [0, 1]
    assert counts == {"dropped: too long": 1}
    counts.clear()
    hopeless = Dialogue("3", ["the river " * 50, "stop"])
    assert examples.encode([hopeless], tokenizer, Rules(64), counts) == [[]]
    assert counts == {"split": 1, "single rounds cut at the end": 1, "nothing to learn": 1}


def test_an_example_for_each_turn(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    dialogue = Dialogue("1", ["the", "river", "and", "stop"])
    counts: Counter[str] = Counter()
    (found,) = examples.encode([dialogue], tokenizer, Rules(64, examples="turn"), counts)
    assert len(found) == 2
    for n, example in enumerate(found):
        whole = tokenizer.encode([dialogue.messages[: 2 * n + 2]])[0]
        assert example.ids.tolist() == whole.ids.tolist()
        assert stretches(example) == stretches(whole)[-1:]
        assert tokenizer.backend.decode(example.ids[example.learn].tolist(), skip_special_tokens=False) in (
            "river<|im_end|>", "stop<|im_end|>",
        )  # fmt: skip
    assert counts.total() == 0


def test_a_turns_context_and_answer_have_half_of_the_room_each(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    dialogue = Dialogue("1", ["the river " * 20, "stop", "and", "river " * 40])
    counts: Counter[str] = Counter()
    first, second = examples.encode([dialogue], tokenizer, Rules(40, examples="turn"), counts)[0]
    assert counts == {"beginnings cut": 2, "answers cut": 1}
    assert stretches(first) == [(20, 22)]
    assert stretches(second) == [(20, 40)]
    whole = tokenizer.encode([dialogue.messages])[0]
    start = stretches(whole)[-1][0]
    assert second.ids.tolist() == whole.ids[start - 20 : start + 20].tolist()
