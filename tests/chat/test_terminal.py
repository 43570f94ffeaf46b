"""The chat on a real pseudo-terminal: what a person types, and what they see."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from tests.chat.streaming import Streaming, streaming
from tests.chat.terminal import Terminal
from tests.conftest import COMMAND


@pytest.fixture
def server() -> Iterator[Streaming]:
    with streaming() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, environ: dict[str, str]) -> dict[str, str]:
    """A person of the test's own."""
    (tmp_path / "home").mkdir()
    return {**environ, "HOME": str(tmp_path / "home")}


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(server: Streaming, home: dict[str, str], tmp_path: Path) -> Iterator[Open]:
    """`terminal("--option")`: a chat with the test's server."""
    with ExitStack() as stack:

        def opened(*options: str, env: dict[str, str] | None = None, **size: int) -> Terminal:
            arguments = ["-m", "any", "--base-url", server.url, *options]
            term = stack.enter_context(Terminal(arguments, {**home, **(env or {})}, tmp_path, **size))
            term.ready()
            return term

        yield opened


def last(tmp_path: Path) -> list[str]:
    """The turns of the conversation that was kept without being asked to."""
    paths = sorted(tmp_path.glob("home/.local/state/ultrachat/chats/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    turns: list[str] = orjson.loads(paths[-1].read_bytes())["data"]
    return turns


def test_a_reply_streams_as_markdown_and_statistics_follow(server: Streaming, terminal: Open) -> None:
    term = terminal()
    term.type("hello")
    server.say("# Title\n\nSome **bold", "** words and ")
    term.sees("Title", "Some bold words and")
    assert "**" not in term.text
    assert "context" not in term.text, "the answer is still under way"
    server.say("more.")
    server.end()
    term.sees("Some bold words and more.", "first token", "7 tokens · context 18")
    term.ready()
    assert server.asked[0]["messages"] == [{"role": "user", "content": "hello"}]
    term.type("/exit")
    assert term.ends() == 0
    assert "kept in " in term.text


def test_ctrl_c_stops_the_reply_and_keeps_the_part(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    term = terminal()
    term.type("hello")
    server.say("one two ", "three ")
    term.sees("one two three")
    term.press("c")
    term.sees("stopped; what came is kept")
    term.ready()
    assert server.left.wait(10), "the server is told to stop"
    server.answer("and so on")
    term.type("go on")
    term.sees("and so on", "18")
    assert [m["content"] for m in server.asked[1]["messages"]] == ["hello", "one two three ", "go on"]
    term.ready()
    term.press("d")
    assert term.ends() == 0
    assert last(tmp_path) == ["hello", "one two three ", "go on", "and so on"]


def test_ctrl_c_before_anything_came(server: Streaming, terminal: Open) -> None:
    term = terminal()
    term.type("hello")
    term.until(lambda: bool(server.asked))
    term.press("c")
    term.sees("stopped before anything came; /regen asks again")
    term.ready()
    assert server.left.wait(10), "the server is told to stop"
    server.answer("now")
    term.type("/regen")
    term.sees("\nnow")
    assert server.asked[0]["messages"] == server.asked[1]["messages"]


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_leaves(server: Streaming, terminal: Open) -> None:
    term = terminal()
    term.send(b"never sent")
    term.sees("never sent")
    term.press("c")
    term.sees("Ctrl-C again, or Ctrl-D, to leave")
    term.ready()
    server.answer("yes")
    term.type("sent")
    term.sees("\nyes", "context")
    term.ready()
    assert server.asked[0]["messages"][-1]["content"] == "sent"
    term.press("c")
    term.until(lambda: term.text.count("Ctrl-C again") == 2)
    term.ready()
    term.press("c")
    assert term.ends() == 0


def test_regen_edit_undo_history(server: Streaming, terminal: Open) -> None:
    term = terminal()
    server.answer("first answer", "second answer", "third answer", "fourth answer", "fifth answer")
    for line, answer in (("one", "first"), ("two", "second"), ("/regen", "third")):
        term.type(line)
        term.sees(f"\n{answer} answer\n")
        term.ready()
    term.type("/edit 1 uno")
    term.sees("\nfourth answer\n")
    term.ready()
    assert [m["content"] for m in server.asked[3]["messages"]] == ["uno"]
    term.type("/edit 1")
    term.until(lambda: term.current == "> uno")
    term.send(b"!\r")
    term.sees("\nfifth answer\n")
    assert [m["content"] for m in server.asked[4]["messages"]] == ["uno!"]
    term.ready()
    term.type("/history")
    term.sees("1 user   uno!", "  model  fifth answer")
    term.ready()
    term.type("/undo")
    term.sees("dropped: uno!")


def test_system_set_stats_help_and_mistakes(server: Streaming, terminal: Open) -> None:
    term = terminal()
    for line, seen in (
        ("/system Be brief.", "system  Be brief."),
        ("/set temperature 0.25", "temperature  0.25"),
        ("/set temprature 1", "did you mean 'temperature'?"),
        ("/sistem", "unknown command '/sistem' (did you mean '/system'?)"),
        ("/help", "/export FILE"),
    ):
        term.type(line)
        term.sees(seen)
        term.ready()
    server.answer("fine")
    term.type("//etc is a folder")
    term.sees("\nfine\n")
    (body,) = server.asked
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "/etc is a folder"},
    ]
    assert body["temperature"] == 0.25
    term.ready()
    term.type("/stats")
    term.sees("rounds", "11 in, 7 out")


def test_save_and_load(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    term = terminal()
    server.answer("the answer")
    term.type("/system Be kind.")
    term.sees("system  Be kind.")
    term.ready()
    term.type("the question")
    term.sees("\nthe answer\n")
    term.ready()
    term.type("/save talk")
    term.sees("saved in talk.jsonl")
    term.ready()
    term.type("/exit")
    assert term.ends() == 0
    assert "kept in" not in term.text, "it is saved"
    again = terminal("--load", "talk.jsonl")
    again.sees("1 round, with any")
    server.answer("next answer")
    again.type("and then?")
    again.sees("\nnext answer\n")
    contents = [m["content"] for m in server.asked[-1]["messages"]]
    assert contents == ["Be kind.", "the question", "the answer", "and then?"]
    again.ready()
    again.type("/load talk.jsonl#1")
    again.until(lambda: again.text.count("1 round, with any") == 2)
    again.ready()
    again.type("/load last")
    again.sees("2 rounds")


def test_a_window_that_is_resized_while_a_reply_comes(server: Streaming, terminal: Open) -> None:
    term = terminal(rows=30, columns=90)
    term.type("hello")
    sent = [f"word{n:03}" for n in range(300)]
    for n, word in enumerate(sent):
        server.say(word + (" " if n % 50 != 49 else "\n\n- "))
        if n == 100:
            term.sees("word099")
            term.resize(30, 40)
        if n == 200:
            term.sees("word199")
            term.resize(20, 120)
    server.say("the end")
    server.end()
    term.sees("the end", "context")
    term.ready()
    assert re.findall(r"word\d{3}", term.text)[-100:] == sent[200:], "what came since is all there, once, in order"
    written = re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", term.raw).decode()
    narrow = written[written.index("word110") : written.index("word190")]
    assert all(len(line.rstrip()) <= 40 for line in narrow.splitlines()[1:-1])
    server.answer("still well")
    term.type("and now?")
    term.sees("\nstill well\n")


def test_a_paste_of_several_lines_is_one_message(server: Streaming, terminal: Open) -> None:
    term = terminal()
    server.answer("read", "multi")
    term.paste("def f():\n    return 1\n")
    term.sees("return 1")
    term.type("what is this?")
    term.sees("\nread\n")
    assert server.asked[0]["messages"][0]["content"] == "def f():\n    return 1\nwhat is this?"
    term.ready()
    term.type("/multi")
    term.sees("Alt-Enter sends")
    term.ready()
    term.type("line one")
    term.sees("line one\n")
    term.send(b"line two\x1b\r")
    term.sees("\nmulti\n")
    assert server.asked[1]["messages"][-1]["content"] == "line one\nline two"
    term.ready()
    term.type("/multi")  # the way out is one key all the same
    term.sees("Alt-Enter begins a new line")


def test_lines_are_remembered_across_sessions(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    term = terminal()
    server.answer("a", "b")
    term.type("remember me")
    term.sees("context")
    term.ready()
    term.type("/exit")
    assert term.ends() == 0
    history = tmp_path / "home/.local/state/ultrachat/chat-history"
    assert history.stat().st_mode & 0o777 == 0o600
    again = terminal()
    again.send(b"\x1b[A")
    again.until(lambda: again.current == "> /exit")
    again.send(b"\x1b[A")
    again.until(lambda: again.current == "> remember me")
    again.send(b"\r")
    again.sees("\nb\n")


def test_a_server_that_goes_away_midway(server: Streaming, terminal: Open) -> None:
    term = terminal("--set", "limits.backoff=0.01")
    term.type("hello")
    server.say("half of ", "it")
    term.sees("half of")
    server.drop()
    term.sees("half of it", "error: ")
    term.ready()
    assert term.text.count("error: ") == 1
    server.answer("the whole of it")
    term.type("/regen")
    term.sees("\nthe whole of it\n")
    server.refusal = (401, {"message": "Incorrect API key", "code": "invalid_api_key"})
    term.ready()
    term.type("again")
    term.sees("HTTP 401: Incorrect API key")
    server.refusal = None
    server.answer("mended")
    term.ready()
    term.type("/regen")
    term.sees("\nmended\n")


def test_control_characters_of_a_model_do_nothing(server: Streaming, terminal: Open) -> None:
    term = terminal()
    term.type("hello")
    server.say("see\x1b[2J\x1b]0;evil\x07 \x1b", "[31mnot red\x9b5A ")
    server.end()
    term.sees("context")
    term.ready()
    assert "> hello" in term.text, "the screen was not cleared"
    assert "see␛[2J␛]0;evil␇" in term.text
    assert b"\x1b[2J" not in term.raw
    assert b"\x1b]0" not in term.raw


def test_copy_clear_editor_and_model(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\necho "from the editor" >> "$1"\n')
    editor.chmod(0o755)
    term = terminal(env={"EDITOR": str(editor)})
    server.answer("copy *me*", "edited", "keys")
    term.type("hello")
    term.sees("copy me")
    term.ready()
    term.type("/copy")
    term.sees("copied 9 characters")
    assert b"\x1b]52;c;" + base64.b64encode(b"copy *me*") + b"\x07" in term.raw
    term.ready()
    term.type("/editor begun")
    term.sees("\nedited\n")
    assert server.asked[1]["messages"][-1]["content"] == "begunfrom the editor"
    term.ready()
    term.send(b"typed \x18\x05")
    term.sees("typed from the editor")
    term.send(b"\r")
    term.sees("\nkeys\n")
    term.ready()
    term.type("/model scripted:synthetic")
    term.sees("scripted:synthetic (scripted:synthetic)")
    term.ready()
    term.type("/model nonsense-name")
    term.sees("scripted:synthetic")
    term.ready()
    term.type("/clear")
    term.sees("a new conversation; the one before is in")


def test_plain_quiet_and_no_colour(server: Streaming, terminal: Open) -> None:
    term = terminal("--plain", "--quiet")
    server.answer("some **stars**", "more *stars*")
    term.type("hello")
    term.sees("some **stars**")
    term.ready()
    assert "context" not in term.text
    colourless = terminal(env={"NO_COLOR": "1"})
    colourless.type("hello")
    colourless.sees("more stars", "context")
    colourless.ready()
    assert not re.search(rb"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|4[0-7]|38|48)[;m]", colourless.raw)


def test_best_of_n(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    judge = tmp_path / "judge.jsonl"
    judge.write_text('{"match": "better", "reply": "9"}\n{"match": "", "reply": "2"}\n')
    term = terminal("--best-of", "2", "--reward-model", f"judge:scripted:{judge}")
    term.type("/model scripted:synthetic")
    term.sees("scripted:synthetic (")
    term.ready()
    term.type("hello")
    term.sees("best of 2, score")
    term.ready()
    term.type("/best")
    term.sees("1  ", "2  ")
    term.ready()
    term.type("/best pick 2")
    term.ready()
    term.type("/exit")
    assert term.ends() == 0


def test_a_terminated_chat_keeps_what_came(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    term = terminal()
    term.type("hello")
    server.say("so far ", "so good")
    term.sees("so far")
    term.child.kill(15)
    assert term.ends() == 130
    assert last(tmp_path)[1].startswith("so far ")


def test_nothing_is_kept_where_that_is_not_wanted(server: Streaming, terminal: Open, tmp_path: Path) -> None:
    term = terminal("--set", "keep=false")
    server.answer("secret answer")
    term.type("secret question")
    term.sees("secret answer", "context")
    term.ready()
    term.type("/exit")
    assert term.ends() == 0
    assert "kept in" not in term.text
    assert not list((tmp_path / "home").rglob("*.jsonl"))
    assert not list((tmp_path / "home").rglob("chat-history"))


def test_a_dumb_terminal_gets_no_escape_sequences(server: Streaming, terminal: Open) -> None:
    term = terminal(env={"TERM": "dumb"})
    server.answer("some **bold** words\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    term.type("hello")
    term.sees("some bold words", "1  2", "context")
    term.ready()
    assert b"\x1b" not in term.raw


def test_completion_of_commands(server: Streaming, terminal: Open) -> None:
    term = terminal()
    term.send(b"/sy")
    term.sees("/system [TEXT]", "show or set the system prompt")
    term.send(b"\t")
    term.until(lambda: term.current.startswith("> /system"))
    term.send(b" Be quick.\r")
    term.sees("system  Be quick.")


def test_keys_pressed_while_an_answer_comes_are_there_for_the_next_line(server: Streaming, terminal: Open) -> None:
    term = terminal()
    term.type("hello")
    server.say("the begin")
    term.until(lambda: bool(server.asked))
    term.send(b"typed ahead")
    server.say("ning and the end ")
    server.end()
    term.sees("the beginning and the end", "context")
    term.until(lambda: term.current == "> typed ahead")


def test_answers_into_a_file_while_talking_at_the_terminal(
    server: Streaming, home: dict[str, str], tmp_path: Path
) -> None:
    command = f"exec {COMMAND} chat -m any --base-url {server.url} > answers.txt"
    with Terminal([], home, tmp_path, command=["/bin/sh", "-c", command]) as term:
        term.ready()
        server.answer("into **the** file")
        term.type("hello")
        term.sees("context")
        term.ready()
        term.press("d")
        assert term.ends() == 0
    assert (tmp_path / "answers.txt").read_text() == "into **the** file\n"
