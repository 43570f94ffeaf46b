"""`ultrachat chat` without a terminal, as scripts use it: the installed command against real servers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.chat.streaming import streaming
from tests.commands.checks import refused
from tests.conftest import Result, Serve, Ultrachat
from tests.openai_server import Running

FAST = ("--set", "limits.backoff=0.01", "--set", "limits.max_wait=0.02")


@pytest.fixture
def rules(ultrachat: Ultrachat) -> str:
    """A scripted model that knows two questions."""
    path = ultrachat.folder / "rules.jsonl"
    path.write_text(
        '{"match": "capital", "reply": "**Paris**, of course."}\n{"match": "", "reply": "Grüße, 世界!\\nNext line."}\n'
    )
    return f"scripted:{path}"


def piped(ultrachat: Ultrachat, text: str | bytes, *args: str, **more: Any) -> Result:
    path = ultrachat.folder / "stdin"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ultrachat("chat", *args, stdin=path, **more)


def lines(result: Result) -> list[Any]:
    assert result.code == 0, result
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def test_piped_input_is_one_message_and_the_reply_is_all_there_is(ultrachat: Ultrachat, rules: str) -> None:
    result = piped(ultrachat, "two lines\nof Grüße\n", "-m", rules)
    assert result == Result(0, "Grüße, 世界!\nNext line.\n", "")
    verbose = piped(ultrachat, "what is the capital?", "-m", rules, "-v")
    assert verbose.stdout == "**Paris**, of course.\n", "no markdown is drawn in a pipe"
    assert "first token" in verbose.stderr
    assert "\x1b" not in verbose.stderr


def test_messages_are_rounds_and_json_is_a_line_for_each(ultrachat: Ultrachat, rules: str) -> None:
    result = ultrachat("chat", "-m", rules, "--message", "hello", "--message", "the capital?", "--json")
    first, second = lines(result)
    assert (first["message"], first["reply"]) == ("hello", "Grüße, 世界!\nNext line.")
    assert second["reply"] == "**Paris**, of course."
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"], "the history goes along"
    assert {"model", "usage", "first_token_ms", "tokens_per_second", "finish"} <= set(first)
    text = ultrachat("chat", "-m", rules, "--message", "hello", "--message", "the capital?").stdout
    assert text == "Grüße, 世界!\nNext line.\n\n**Paris**, of course.\n"


def test_piped_input_follows_the_first_message(ultrachat: Ultrachat, rules: str) -> None:
    result = piped(ultrachat, "the text", "-m", rules, "--message", "Summarise:", "--message", "again", "--json")
    assert [each["message"] for each in lines(result)] == ["Summarise:\n\nthe text", "again"]


def test_what_is_sent_to_a_server(ultrachat: Ultrachat) -> None:
    with streaming() as server:
        server.answer("fine, thanks")
        result = ultrachat(
            "chat", "-m", "any", "--base-url", server.url, "--system", "Be brief.", "--temperature", "0.5",
            "--top-p", "0.9", "--max-tokens", "50", "--seed", "3", "--set", "sampling.top_k=7",
            "--message", "hi", "--json",
        )  # fmt: skip
        (said,) = lines(result)
        assert (said["reply"], said["model"]) == ("fine, thanks", "any")
        assert said["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "cached_tokens": 0, "cost": 0.0}
        (body,) = server.asked
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    wanted = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 50, "seed": 3, "top_k": 7, "stream": True}
    assert {key: body.get(key) for key in wanted} == wanted


def test_pieces_are_written_as_they_come(ultrachat: Ultrachat) -> None:
    with streaming() as server:
        server.say("first ")
        running = ultrachat.start("chat", "-m", "any", "--base-url", server.url, "--message", "hi")
        assert running.process.stdout is not None
        assert running.process.stdout.read(6) == "first "
        server.say("second")
        server.end()
        assert running.wait() == Result(0, "second\n", "")


def test_settings_from_file_environment_and_command_line(ultrachat: Ultrachat, rules: str) -> None:
    (ultrachat.folder / "my.yaml").write_text("system: from the file\nsampling:\n  temperature: 0.1\n  top_p: 0.2\n")
    with streaming() as server:
        server.answer("ok")
        env = {"ULTRACHAT_CHAT__SAMPLING__TOP_P": "0.3", "ULTRACHAT_CHAT__MODEL": "any"}
        options = ("-c", "my.yaml", "--base-url", server.url, "--set", "sampling.min_p=0.4", "--message", "hi")
        assert ultrachat("chat", *options, env=env).code == 0
        (body,) = server.asked
    assert (body["temperature"], body["top_p"], body["min_p"], body["model"]) == (0.1, 0.3, 0.4, "any")
    assert body["messages"][0] == {"role": "system", "content": "from the file"}
    shown = ultrachat("config", "show", "chat", "-c", "ultralm-13b")
    assert "max_new_tokens: 2000  # from " in shown.stdout


def test_a_conversation_goes_on_from_a_file(ultrachat: Ultrachat, rules: str) -> None:
    options = ("chat", "-m", rules, "--save", "talk.jsonl", "-q")
    assert ultrachat(*options, "--message", "hello", "--temperature", "0.5").code == 0
    assert ultrachat(*options, "--load", "talk.jsonl", "--message", "the capital?").code == 0
    (record,) = [orjson.loads(line) for line in (ultrachat.folder / "talk.jsonl").read_bytes().splitlines()]
    assert record["data"] == ["hello", "Grüße, 世界!\nNext line.", "the capital?", "**Paris**, of course."]
    assert record["meta"]["sampling"] == {"temperature": 0.5}
    (said,) = lines(ultrachat("chat", "--load", "talk.jsonl#1", "--message", "x", "--json"))
    assert said["model"] == rules, "the model comes with the conversation"
    done = ultrachat("data", "validate", "talk.jsonl")
    assert done.code == 0, done


def test_what_is_typed_comes_before_what_was_saved(ultrachat: Ultrachat, rules: str) -> None:
    first = ("--temperature", "0.5", "--top-p", "0.5", "--system", "Old.")
    assert ultrachat("chat", "-m", rules, "--message", "a", "--save", "t.jsonl", *first).code == 0
    with streaming() as server:
        server.answer("ok")
        typed = ("-m", "any", "--base-url", server.url, "--temperature", "0.9", "--system", "New.")
        assert ultrachat("chat", "--load", "t.jsonl", *typed, "--message", "b").code == 0
        (body,) = server.asked
    assert (body["temperature"], body["top_p"]) == (0.9, 0.5)
    assert [m["content"] for m in body["messages"]] == ["New.", "a", "Grüße, 世界!\nNext line.", "b"]


def test_best_of_n_with_a_judge(ultrachat: Ultrachat) -> None:
    judge = ultrachat.folder / "judge.jsonl"
    judge.write_text('{"match": "", "reply": "8"}\n')
    options = ("--best-of", "3", "--reward-model", f"judge:scripted:{judge}", "--message", "hi")
    (said,) = lines(ultrachat("chat", "-m", "scripted:synthetic", *options, "--json"))
    assert len(said["candidates"]) == 3
    assert said["reply"] == said["candidates"][0]["reply"]
    assert {each["score"] for each in said["candidates"]} == {8.0}
    assert ultrachat("chat", "-m", "scripted:synthetic", *options).stdout == said["reply"] + "\n"


# refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--message", "x", "-m", "smollm2-135"), ("unknown model 'smollm2-135' (did you mean 'smollm2-135m'?)",)),
        (("-m", "scripted:synthetic"), ("there is nothing to say: the input is empty", "--message")),
        (("-m", "scripted:synthetic", "--message", " \n"), ("nothing to say",)),
        (("--message", "x", "--best-of", "4"), ("--best-of needs --reward-model", "ultrarm-13b", "judge:openai")),
        (("--message", "x", "--temperature", "-1"), ("--temperature: sampling.temperature: ", "greater than or equal")),
        (("--message", "x", "--engine", "lama"), ("--engine: input should be ", "llamacpp")),
        (("--message", "x", "--format", "chatmk"), ("--format: unknown chat format", "did you mean 'chatml'?")),
        (("--message", "x", "--set", "sampling.temprature=1"), ("unknown key (did you mean 'temperature'?)",)),
        (("--message", "x", "-c", "ultralm"), ("no shipped chat config of that name",)),
        (("--message", "x", "--save", "a.txt"), ("--save a.txt: conversations are kept as JSON lines",)),
        (("--message", "x", "--save", "no/a.jsonl"), ("--save no/a.jsonl: there is no folder no",)),
        (("--message", "x", "-m", "openai:gpt-4o-mini"), ("OPENAI_API_KEY is not set",)),
        (("--message", "x", "-m", "any", "--base-url", "localhost"), ("the base URL is malformed",)),
        (("--message", "x", "-m", "ultrarm-13b"), ("ultrarm-13b",)),
    ],
)  # fmt: skip
def test_nothing_is_started(ultrachat: Ultrachat, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused(ultrachat("chat", *arguments), 2, *says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--load", "none.jsonl"), "none.jsonl: no such file"),
        (("--load", "bad.jsonl"), "bad.jsonl:1: not JSON"),
        (("--load", "last"), "no earlier conversation is kept in"),
    ],
)
def test_conversations_that_cannot_be_loaded(ultrachat: Ultrachat, arguments: tuple[str, ...], says: str) -> None:
    (ultrachat.folder / "bad.jsonl").write_text("{\n")
    env = {"ULTRACHAT_STATE": str(ultrachat.folder / "state")}
    refused(ultrachat("chat", "-m", "scripted:synthetic", "--message", "x", *arguments, env=env), 1, says)


def test_input_that_is_not_text(ultrachat: Ultrachat) -> None:
    refused(piped(ultrachat, b"abc\xff", "-m", "scripted:synthetic"), 2, "the input is not UTF-8 (byte 4)")


def test_a_refused_key(ultrachat: Ultrachat, server: Serve) -> None:
    with_key = server(key="right")
    options = ("chat", "-m", "test-model", "--base-url", with_key.url, "--api-key-env", "KEY", "--message", "hi")
    refused(ultrachat(*options, env={"KEY": "wrong"}), 1, "HTTP 401", "--api-key-env")
    assert ultrachat(*options, env={"KEY": "right"}).code == 0


def test_a_server_that_is_not_there(ultrachat: Ultrachat, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/v1"
    result = ultrachat("chat", "-m", "x", "--base-url", url, "--message", "hi", *FAST)
    refused(result, 1, "cannot be reached", "is the server running")


def test_a_server_that_dies_midway_leaves_what_came(ultrachat: Ultrachat) -> None:
    with streaming() as server:
        server.say("as far ", "as here")
        server.drop()
        result = ultrachat("chat", "-m", "x", "--base-url", server.url, "--message", "hi", "--save", "t.jsonl", *FAST)
        assert (result.code, result.stdout) == (1, "as far as here\n")
        assert result.stderr.count("error:") == 1
        assert "broke off" in result.stderr
        assert len(server.asked) == 1, "an answer that was begun is not asked for twice"
    record = orjson.loads((ultrachat.folder / "t.jsonl").read_bytes())
    assert record["data"] == ["hi", "as far as here"]
    assert record["meta"]["turn_fields"]["1"]["finish"] == "broken off"


def test_failures_before_the_first_piece_are_tried_again(ultrachat: Ultrachat, server: Serve) -> None:
    flaky: Running = server(p500=0.5, seed=1)
    messages = [argument for n in range(4) for argument in ("--message", f"q{n}")]
    options = ("--base-url", flaky.url, *messages, "--json", *FAST, "--set", "limits.attempts=12")
    assert len(lines(ultrachat("chat", "-m", "test-model", *options))) == 4
    assert flaky.stats()["by_status"]["500"] > 0


def test_a_context_that_overflows(ultrachat: Ultrachat, server: Serve) -> None:
    small = server(context=100, words=30)
    messages = [argument for n in range(5) for argument in ("--message", f"question {n}")]
    result = ultrachat("chat", "-m", "test-model", "--base-url", small.url, *messages)
    assert result.code == 0, result
    assert "the oldest round no longer fits the context\n" in result.stderr
    assert "the oldest 2 rounds no longer fit the context\n" in result.stderr
    long = ultrachat("chat", "-m", "test-model", "--base-url", small.url, "--message", "x" * 500)
    refused(long, 1, "this message is too long for the model", "shorten it")
    told = ultrachat("chat", "-m", "test-model", "--base-url", small.url, "--context", "100", *messages)
    assert "the oldest round no longer fits the context of 100 tokens\n" in told.stderr
    assert small.stats()["by_status"]["400"] <= 8


def test_cost_is_told_where_the_price_is_known(ultrachat: Ultrachat, steady: Running) -> None:
    options = ("-m", "test-model", "--base-url", steady.url, "--message", "hi", "--json")
    price = ("--set", "prices.test-model={input: 1000000, output: 1000000}")
    (said,) = lines(ultrachat("chat", *options, *price))
    usage = said["usage"]
    assert usage["cost"] == pytest.approx(usage["prompt_tokens"] + usage["completion_tokens"])
    refused(ultrachat("chat", *options, "--set", "limits.max_cost=1"), 2, "no price is known")
    refused(ultrachat("chat", *options, *price, "--set", "limits.max_cost=0.5"), 3, "stopped before --max-cost")


def test_interrupted_in_one_go(ultrachat: Ultrachat) -> None:
    with streaming() as server:
        server.say("begun ")
        running = ultrachat.start("chat", "-m", "x", "--base-url", server.url, "--message", "hi", "--save", "t.jsonl")
        assert running.process.stdout is not None
        assert running.process.stdout.read(6) == "begun "
        result, _ = running.send(2)
        assert result.code == 130
        assert "Traceback" not in result.stderr
        assert server.left.wait(10), "the server is told"
    assert orjson.loads((ultrachat.folder / "t.jsonl").read_bytes())["data"] == ["hi", "begun "]
