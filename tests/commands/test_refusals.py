"""Bad input and bad surroundings: each one clear error, the right exit code, and nothing spoilt."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import EAGER, by_id, ids, manifest, refused, weights_or_skip
from tests.conftest import Answer, Asked, Serve, Ultrachat, Web, error
from tests.openai_server import Running

PROSE = "Farmers near the river grow rice in spring. They repair the old dams before the rain comes. " * 4


def served(at: Running | Web, *more: str | Path) -> tuple[str | Path, ...]:
    return ("generate", "-m", "test-model", "--base-url", at.url, "--json", "-n", "4", *more)


def lines(path: Path, *records: object) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


# Settings: exit 2, nothing asked, nothing written


SETTINGS: dict[str, tuple[list[str], list[str]]] = {
    "sector": (["--sector", "worlds"], ["--sector: ", "'world', 'writing', 'materials' or 'all'", "'worlds'"]),
    "flag's type": (["--limit", "many"], ["--limit", "integer"]),
    "rounds 0": (["--rounds", "0"], ["--rounds: impossible range 0-0"]),
    "rounds down": (["--rounds", "5-3"], ["--rounds: impossible range 5-3", "not go down"]),
    "rounds word": (["--rounds", "many"], ["'many' is neither a number nor a range such as 3-7"]),
    "config": (["--config", "worldlarge"], ["no shipped generate config of that name", "did you mean 'world-large'?"]),
    "config file": (["--config", "none.yaml"], ["--config none.yaml: no such file"]),
    "materials": (["-s", "materials", "--materials", "none.jsonl"], ["materials: none.jsonl: no such file"]),
    "kind of file": (["-s", "materials", "--materials", "a.pdf"], ["a.pdf: unknown kind of file", ".jsonl"]),
    "entities": (["--entities", "none.txt"], ["world.entities: none.txt: cannot be read"]),
    "personas": (["--set", "user.personas=none.yaml"], ["user.personas: none.yaml: no such file"]),
    "topics": (["--set", "world.topics=none.yaml"], ["world.topics: none.yaml: no such file"]),
    "prompts": (["--set", "prompts=none"], ["prompts: none: no such folder"]),
    "rules": (["-m", "scripted:none.jsonl"], ["model scripted:none.jsonl: no such file"]),
    "scheme": (["--base-url", "127.0.0.1:8000/v1"], ["base URL", "http://"]),
    "strategy": (["--set", "user.strategy=continue"], ["user.strategy: continue", "test-model"]),
}


def test_settings(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "a.pdf").touch()
    for arguments, says in SETTINGS.values():  # one by one: all would write to the same folder
        refused(ultrachat(*served(steady, *arguments)), 2, *says)
    assert steady.stats()["requests"] == 0


MODELS = {
    "smollm2-135": (2, ["unknown model 'smollm2-135' (did you mean 'smollm2-135m'?)", "models ls", "--base-url"]),
    "none.gguf": (2, ["none.gguf", "no such file"]),
    ".": (2, ["no model in this folder: neither config.json nor a .gguf file"]),
    "qwen3-8b": (1, ["qwen3-8b: Qwen/Qwen3-8B could not be fetched from the hub", "a local folder always works"]),
    "gpt-4o-mini": (2, ["OPENAI_API_KEY is not set", "--api-key-env"]),
    "openai:gpt-4o-mini": (2, ["OPENAI_API_KEY is not set", "--api-key-env"]),
    "openai:of-my-own": (2, ["OPENAI_API_KEY is not set", "--api-key-env"]),
}


def test_models_that_cannot_be_had(ultrachat: Ultrachat) -> None:
    results = ultrachat.many(*(("generate", "-m", name, "-o", f"run-{n}") for n, name in enumerate(MODELS)))
    for result, (code, says) in zip(results, MODELS.values(), strict=True):
        refused(result, code, *says)


def test_all_faults_of_the_command_line_at_once(ultrachat: Ultrachat) -> None:
    faults = {
        "user.temprature=1": "--set user.temprature: unknown key (did you mean 'temperature'?)",
        "world.mix.topics=1": "world.mix.topics: unknown key (did you mean 'topic'?)",
        "sede=1": "--set sede: unknown key (did you mean 'seed'?)",
        "seed=many": "--set seed: input should be a valid integer, ",
        "user.temperature=hot": "--set user.temperature: ",
        "opening.temperature=9": "opening.temperature: input should be less than or equal to 5, got 9",
        "materials.min_chars=9000": "materials: min_chars 9000 is above max_chars 6000",
        "filters.truncated=maybe": "filters.truncated: input should be 'reject', 'trim' or 'keep', got 'maybe'",
        "rounds=true": "rounds: write a number or a range",
        "min_rounds": "--set min_rounds: write --set key=value",
        "prompts=[1": "--set prompts: ",
    }
    flags = {
        "--limit=0": "--limit: input should be greater than or equal to 1, got 0",
        "--concurrency=0": "--concurrency: limits.concurrency: ",
        "--rpm=0": "--rpm: limits.rpm: input should be greater than 0",
        "--max-cost=-1": "--max-cost: limits.max_cost: input should be greater than 0, got -1",
        "--format=csv": "--format: input should be ",
    }
    sets = [part for fault in faults for part in ("--set", fault)]
    refused(ultrachat("generate", *sets, *flags), 2, *faults.values(), *flags.values())
    assert not (ultrachat.folder / "runs").exists()


def test_weights_that_are_all_nothing(ultrachat: Ultrachat) -> None:
    nothing = "world.mix={topic: 0, meta: 0, specific: 0, general: 0}"
    refused(ultrachat("generate", "--set", nothing), 2, "world.mix: all weights are 0")


def test_a_near_match_for_the_sector(ultrachat: Ultrachat) -> None:
    refused(ultrachat("generate", "--sector", "wrold"), 2, "did you mean 'world'?")


def test_a_file_with_many_faults(ultrachat: Ultrachat, steady: Running) -> None:
    """All of them at once, each with its line; those of the environment with its name."""
    (ultrachat.folder / "bad.yaml").write_text(
        "limit: many\nuser:\n  temprature: 1\n  top_p: 7\nlimits: {concurrency: 0}\nrounds: 5-3\nseed: 1\nseed: 2\n"
    )
    result = ultrachat(*served(steady, "-c", "bad.yaml"), env={"ULTRACHAT_GENERATE__WORDL__RELATED": "3"})
    says = [
        "bad.yaml:3: user.temprature: unknown key (did you mean 'temperature'?)", "bad.yaml:4: user.top_p: ",
        "bad.yaml:5: limits.concurrency: ", "bad.yaml:6: rounds: impossible range 5-3",
        "bad.yaml:8: duplicate key 'seed' (first on line 7)",
        "wordl: unknown key (did you mean 'world'?)",
    ]  # fmt: skip
    refused(result, 2, *says)
    assert not (ultrachat.folder / "runs").exists()


def test_an_unknown_section_is_named_with_its_source(ultrachat: Ultrachat) -> None:
    name = "ULTRACHAT_GENERATE__WORDL__RELATED"
    result = ultrachat("generate", "--set", "limts.rpm=3", env={name: "3"})
    refused(result, 2, f"environment {name}: wordl", "--set limts.rpm: limts")


def test_a_duplicate_key_in_a_section(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "bad.yaml").write_text("user:\n  top_p: 0.5\n  temperature: 1\n  top_p: 0.6\n")
    refused(ultrachat(*served(steady, "-c", "bad.yaml")), 2, "bad.yaml:4: duplicate key 'top_p' (first on line 2)")


@pytest.mark.parametrize(
    ("text", "says"),
    [("limit: [1\n", "bad.yaml:2: not valid YAML"), ("- a\n", "bad.yaml:1: a mapping"), ("just words", "bad.yaml:1: ")],
)
def test_a_file_that_is_no_mapping(ultrachat: Ultrachat, steady: Running, text: str, says: str) -> None:
    (ultrachat.folder / "bad.yaml").write_text(text)
    refused(ultrachat(*served(steady, "-c", "bad.yaml")), 2, says)


def test_an_empty_file_is_a_config(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "empty.yaml").write_text("# nothing\n")
    assert ultrachat(*served(steady, "-c", "empty.yaml")).code == 0


def test_a_file_in_another_encoding(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "bad.yaml").write_bytes("output: f\xfcr".encode("latin-1"))
    refused(ultrachat(*served(steady, "-c", "bad.yaml")), 2, "bad.yaml: cannot be read")


ODD_VALUES = {
    "a date that is none": (["--set", "seed=2001-99-99"], "--set seed"),
    "a control character": (["--set", "seed=\x07"], "--set seed"),
    "an anchor within itself": (["--set", "user.extra=&a [*a]"], "--set user.extra"),
    "a port that is none": (["--base-url", "http://127.0.0.1:port/v1"], "base URL"),
    "an open bracket": (["--base-url", "http://[::1/v1"], "base URL"),
}


def test_odd_values(ultrachat: Ultrachat, steady: Running) -> None:
    results = ultrachat.many(*(served(steady, *arguments) for arguments, _ in ODD_VALUES.values()))
    for result, (_, says) in zip(results, ODD_VALUES.values(), strict=True):
        refused(result, 2, says)


def test_a_folder_whose_name_is_no_text(ultrachat: Ultrachat, steady: Running) -> None:
    result = ultrachat(*served(steady, "-o", os.fsdecode(b"run-\xff")))
    assert "Traceback" not in result.stderr
    assert result.code in (0, 2)


LISTS = [
    ("user.personas", "- name: a\n", "persona 1: needs 'name' and 'style'"),
    ("user.personas", "{}", "a YAML list with at least one entry"),
    ("world.topics", "- [1]\n", "a list of names is expected"),
    ("world.entities", "\n# none\n", "no entity in it"),
    ("materials.templates", "text_first: ['{text}']\n", "text_first 1: must hold {text} and {instruction} once"),
    ("materials.templates", "text_first: [\n", "list-5.yaml:2: not valid YAML"),
]


def test_lists_of_the_user(ultrachat: Ultrachat, steady: Running) -> None:
    for n, (_, text, _) in enumerate(LISTS):
        (ultrachat.folder / f"list-{n}.yaml").write_text(text)
    results = ultrachat.many(
        *(served(steady, "-s", "all", "--set", f"{option}=list-{n}.yaml") for n, (option, _, _) in enumerate(LISTS))
    )
    for n, (result, (_, _, says)) in enumerate(zip(results, LISTS, strict=True)):
        refused(result, 2, f"list-{n}.yaml", says)


def test_prompts_of_the_user(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "prompts/world").mkdir(parents=True)
    for name, text in (("user", "## user\n{persono}"), ("usr", "## user\nx"), ("related", "no block")):
        (ultrachat.folder / f"prompts/world/{name}.md").write_text(text)
    result = ultrachat(*served(steady, "--set", "prompts=prompts"))
    refused(result, 2)
    (ultrachat.folder / "prompts/world/related.md").unlink()
    result = ultrachat(*served(steady, "--set", "prompts=prompts"))
    refused(result, 2, "unknown placeholder {persono}", "replaces no shipped prompt (did you mean 'world/user'?)")


# Materials


def test_bad_lines_of_materials_are_named_skipped_and_counted(ultrachat: Ultrachat, steady: Running) -> None:
    good = [orjson.dumps({"text": f"Text {n}. {PROSE}"}) for n in range(4)]
    bad = [b'{"text": "torn', b'{"txt": "x"}', b"\xff\xfe\x00", b"3", b'{"data": ["only a question"]}', b""]
    (ultrachat.folder / "texts.jsonl").write_bytes(b"\n".join([*bad, *good, b'{"text": 3}']))
    result = ultrachat(*served(steady, "-s", "materials", "--materials", "texts.jsonl", "-n", "8"))
    assert result.code == 0, result
    for line in (1, 2, 3, 4, 5, 11):
        assert f"skipped: texts.jsonl:{line}: " in result.stderr
    assert "texts.jsonl:2: no 'text' in this line" in result.stderr
    assert result.json["warnings"] == {"materials lines that could not be read": 6}
    assert len(ids(ultrachat.folder / "runs/materials")) == 8


def test_only_the_first_bad_lines_are_shown_but_all_are_counted(ultrachat: Ultrachat, steady: Running) -> None:
    lines(ultrachat.folder / "texts.jsonl", *[3] * 50, {"text": PROSE})
    result = ultrachat(*served(steady, "-s", "materials", "--materials", "texts.jsonl"))
    assert result.code == 0
    assert result.stderr.count("skipped: ") == 20
    assert result.json["warnings"] == {"materials lines that could not be read": 50}


EMPTY: dict[str, tuple[bytes, list[str]]] = {
    "empty.jsonl": (b"", ["no usable text", "the files are empty"]),
    "short.jsonl": (b'{"text": "short"}\n', ["no usable text", "1 shorter than min_chars"]),
    "bad.jsonl": (b"not JSON\n", ["no usable text", "bad.jsonl:1: not JSON"]),
    "plain.jsonl.gz": (b"not compressed", ["no usable text", "plain.jsonl.gz", "cannot be read"]),
    "cut.jsonl.gz": (gzip.compress(PROSE.encode())[:30], ["no usable text", "cut.jsonl.gz", "cannot be read"]),
    "bad.parquet": (b"PAR1 and nothing else", ["no usable text", "bad.parquet", "not readable as Parquet"]),
    "latin.txt": (("\xfcber " * 100).encode("latin-1"), ["no usable text", "latin.txt: cannot be read"]),
}


def test_materials_without_a_usable_text(ultrachat: Ultrachat, steady: Running) -> None:
    for name, (data, _) in EMPTY.items():
        (ultrachat.folder / name).write_bytes(data)
    results = ultrachat.many(*(served(steady, "-s", "materials", "--materials", name) for name in EMPTY))
    for result, (_, says) in zip(results, EMPTY.values(), strict=True):
        refused(result, 2, *says)
    assert not (ultrachat.folder / "runs").exists()


def test_a_folder_without_materials(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "texts").mkdir()
    (ultrachat.folder / "texts/picture.png").touch()
    refused(
        ultrachat(*served(steady, "-s", "materials", "--materials", "texts")), 2, "texts: no .jsonl", "in this folder"
    )


def test_a_damaged_gz_file(ultrachat: Ultrachat, steady: Running) -> None:
    """What can be read is used; the damage is reported."""
    packed = bytearray(gzip.compress(b"".join(orjson.dumps({"text": f"{n} {PROSE}"}) + b"\n" for n in range(200)), 0))
    packed[40_000:40_010] = b"\xff" * 10
    packed[65_550:65_560] = b"\xff" * 10  # the head of a stored block
    (ultrachat.folder / "texts.jsonl.gz").write_bytes(packed)
    result = ultrachat(
        *served(
            steady, "-s", "materials", "--materials", "texts.jsonl.gz", "--set", "materials.instructions=1", "-n", "200"
        )
    )
    assert result.code == 0, result
    assert "texts.jsonl.gz" in result.stderr
    assert "cannot be read" in result.stderr


# Endpoints


def test_no_key_in_the_variable_that_was_named(ultrachat: Ultrachat, steady: Running) -> None:
    environments: dict[str, dict[str, str]] = {"unset": {}, "empty": {"MY_KEY": ""}}
    for name, env in environments.items():
        result = ultrachat(*served(steady, "--api-key-env", "MY_KEY", "-o", name), env=env)
        refused(result, 2, "the environment variable MY_KEY is not set")


def test_the_key_of_openai_is_not_sent_elsewhere(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    site = web(lambda asked: error(401, "who is it?"))
    ultrachat(*served(site), env={"OPENAI_API_KEY": "sk-of-openai"})
    assert site.asked
    assert all("Authorization" not in asked.headers for asked in site.asked)


def test_an_unreachable_server(ultrachat: Ultrachat, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/v1"
    result = ultrachat("generate", "-m", "x", "--base-url", url, "-n", "1")
    refused(result, 1, f"{url}: cannot be reached", "--base-url")


def test_a_host_that_is_none(ultrachat: Ultrachat) -> None:
    result = ultrachat("generate", "-m", "x", "--base-url", "http://no-such-host.invalid/v1", "-n", "1")
    refused(result, 1, "http://no-such-host.invalid/v1: cannot be reached")


def test_a_model_that_is_not_served(ultrachat: Ultrachat, server: Serve) -> None:
    many = server(models=",".join(f"model-{n}" for n in range(20)))
    result = ultrachat(*served(many))
    refused(result, 2, "model 'test-model' is not served at ", "it serves: model-0, model-1, ", ", ...")
    assert many.stats()["requests"] == 0


def test_a_model_that_is_not_served_by_one_who_lists_nothing(
    ultrachat: Ultrachat, web: Callable[[Answer], Web]
) -> None:
    def answer(asked: Asked) -> tuple[int, Any, bytes]:
        return (
            error(404, "no") if asked.method == "GET" else error(404, "The model `x` does not exist", "model_not_found")
        )

    refused(ultrachat(*served(web(answer))), 1, "HTTP 404: The model `x` does not exist", "check --model")


def test_a_url_without_v1(ultrachat: Ultrachat, steady: Running) -> None:
    url = steady.url.removesuffix("/v1")
    refused(ultrachat(*served(steady, "--base-url", url)), 1, "HTTP 404", "usually ends in /v1")


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key(ultrachat: Ultrachat, web: Callable[[Answer], Web], status: int) -> None:
    """Found out by the list of models, or by the first request where there is none: at once, not after many tries."""
    for lists in (True, False):

        def answer(asked: Asked, lists: bool = lists) -> tuple[int, Any, bytes]:
            return error(404, "no") if asked.method == "GET" and not lists else error(status, "not with this key")

        site = web(answer)
        result = ultrachat(*served(site, "-o", f"run-{lists}", "--api-key-env", "KEY"), env={"KEY": "sk-x"})
        refused(result, 1, f"HTTP {status}: not with this key", "--api-key-env")
        assert len([asked for asked in site.asked if asked.method == "POST"]) <= 16


def test_a_web_site_that_is_no_model_server(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    site = web(lambda asked: (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><h1>Welcome to nginx!</h1>"))
    result = ultrachat(*served(site, *EAGER))
    refused(result, 1, "not a chat completion", "Welcome to nginx!", "/v1")


def test_a_server_with_too_little_context(ultrachat: Ultrachat, server: Serve) -> None:
    """Where not even a list can be asked for, its message is shown."""
    result = ultrachat(*served(server(context=20)))
    refused(result, 1, "HTTP 400", "maximum context length is 20 tokens")


def test_dialogues_that_outgrow_the_context_of_the_server_are_cut(ultrachat: Ultrachat, server: Serve) -> None:
    result = ultrachat(*served(server(context=420, words=60), "-n", "10", "--rounds", "7"))
    assert result.code == 0, result
    assert set(result.json["cut"]) == {"context"}
    assert len(ids(ultrachat.folder / "runs/world")) == 10


def test_a_known_model_with_too_little_context(ultrachat: Ultrachat, server: Serve) -> None:
    old = server(models="ultralm-13b")
    result = ultrachat("generate", "-m", "ultralm-13b", "--base-url", old.url, "-n", "1", "--rounds", "4")
    refused(result, 2, "'ultralm-13b' has a context of 2048 tokens; 2 rounds", "assistant.max_tokens")
    assert old.stats()["requests"] == 0


@pytest.mark.embedded
def test_the_embedded_model_with_too_little_context(ultrachat: Ultrachat) -> None:
    weights_or_skip()
    result = ultrachat("generate", "-n", "1", "--set", "embedded_context=600")
    refused(result, 2, "'smollm2-135m' has a context of 600 tokens", "raise embedded_context")


FIRST_TRIES = {
    "unreachable": ["--base-url", "http://127.0.0.1:1/v1"],
    "no-key": ["--api-key-env", "NO_SUCH_KEY"],
    "not-served": ["-m", "tset-model"],
    "no-price": ["--max-cost", "1"],
    "no-format": ["--set", "user.strategy=continue"],
}


def test_the_corrected_command_works_after_a_failed_first_try(ultrachat: Ultrachat, steady: Running) -> None:
    wrong = ultrachat.many(*(served(steady, "-o", case, *faulty) for case, faulty in FIRST_TRIES.items()))
    assert [result.code for result in wrong] == [1, 2, 2, 2, 2]
    right = ultrachat.many(*(served(steady, "-o", case) for case in FIRST_TRIES))
    assert [result.code for result in right] == [0] * 5, right


# Folders and disks


def test_a_file_in_the_way_of_the_folder(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "run").write_text("mine")
    for output in ("run", "run/below"):
        refused(ultrachat(*served(steady, "-o", output)), 1, f"{output}: cannot be written", "another --output")
    assert (ultrachat.folder / "run").read_text() == "mine"
    assert steady.stats()["requests"] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "run").mkdir(mode=0o555)
    refused(ultrachat(*served(steady, "-o", "run/below")), 1, "cannot be written")


def test_a_folder_in_which_something_else_lies(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "run").mkdir()
    (ultrachat.folder / "run/dialogues.jsonl").write_text('{"id": "mine"}\n')
    refused(ultrachat(*served(steady, "-o", "run")), 2, "not a run of ours", "another --output")
    assert (ultrachat.folder / "run/dialogues.jsonl").read_text() == '{"id": "mine"}\n'


@pytest.mark.parametrize(("name", "says"), [("manifest.json", "not a manifest"), ("journal.sqlite", "not a database")])
def test_a_damaged_run_folder(ultrachat: Ultrachat, steady: Running, name: str, says: str) -> None:
    assert ultrachat(*served(steady, "-o", "run")).code == 0
    for left in (ultrachat.folder / "run").glob(f"{name}*"):
        left.write_bytes(b"garbage " * 100)
    refused(ultrachat(*served(steady, "-o", "run")), 1, f"run/{name}", says)
    assert len(ids(ultrachat.folder / "run")) == 4


def limited(size: int) -> Callable[[], None]:
    """No file may grow beyond `size`: what a full disk is to a process ("File too large")."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


@pytest.mark.parametrize("size", [40_000, 110_000])
def test_no_room_for_more(ultrachat: Ultrachat, steady: Running, size: int) -> None:
    """The journal or the dialogues cannot grow: a clear error, whole lines, and later the run goes on."""
    command = served(steady, "-o", "run", "-n", "40")
    refused(ultrachat(*command, preexec=limited(size)), 1, "run/", "cannot be written")
    if (ultrachat.folder / "run/manifest.json").exists():
        before = by_id(ultrachat.folder / "run")
        assert len(before) < 40
        refused(ultrachat(*command, preexec=limited(size)), 1, "cannot be written")
        result = ultrachat(*command)
        assert (result.code, result.json["written"]) == (0, 40)
        assert before.items() <= by_id(ultrachat.folder / "run").items()


def test_no_room_to_enter_what_a_killed_run_wrote(ultrachat: Ultrachat, steady: Running) -> None:
    command = served(steady, "-o", "run")
    assert ultrachat(*command).code == 0
    before, path = by_id(ultrachat.folder / "run"), ultrachat.folder / "run/journal.sqlite"
    full = "CREATE TRIGGER full BEFORE INSERT ON settled BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    for statements in ((full, "DELETE FROM settled", "DELETE FROM outputs"), ("DROP TRIGGER full",)):
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            for statement in statements:
                db.execute(statement)
        if statements[0] == full:
            refused(ultrachat(*command), 1, f"run/{path.name}", "cannot be written", "disk is full")
    assert ultrachat(*command).code == 0
    assert by_id(ultrachat.folder / "run") == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(ultrachat: Ultrachat, steady: Running, small_disk: Path) -> None:
    command = served(steady, "-o", "disk/run", "-n", "60", "-j", "2")
    refused(ultrachat(*command), 1, "disk/run/", "cannot be written", "free")
    before = by_id(small_disk / "run")
    assert 0 < len(before) < 60
    refused(ultrachat(*command), 1, "cannot be written")
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    result = ultrachat(*command)
    assert (result.code, result.json["written"]) == (0, 60)
    assert before.items() <= by_id(small_disk / "run").items()


def test_a_folder_that_is_read_only_now(ultrachat: Ultrachat, steady: Running, small_disk: Path) -> None:
    command = served(steady, "-o", "disk/run", "-n", "2")
    assert ultrachat(*command).code == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused(ultrachat(*command), 1, "disk/run: cannot be written", "Read-only file system")
    refused(ultrachat(*command, "-o", "disk/new"), 1, "disk/new: cannot be written")


# Runs that are there already


CHANGES = [
    (
        ["--seed", "5", "--rounds", "2", "--set", "user.temperature=0.3", "--set", "world.related=3"],
        [
            "config.seed: was 0, now 5", 'config.rounds: was null, now "2"',
            "config.user.temperature: was null, now 0.3", "config.world.related: was 10, now 3",
        ],
    ),
    (["-m", "other-model"], ['config.assistant.model: was "test-model", now "other-model"']),
    (["-s", "writing"], ['config.sector: was "world", now "writing"']),
    (
        ["--entities", "mine.txt", "--set", "prompts=prompts"],
        ["config.world.entities", "lists.entities", "config.prompts", "prompts.world/user: was "],
    ),
]  # fmt: skip


def test_a_changed_config(ultrachat: Ultrachat, steady: Running) -> None:
    (ultrachat.folder / "mine.txt").write_text("boats\n")
    (ultrachat.folder / "prompts/world").mkdir(parents=True)
    (ultrachat.folder / "prompts/world/user.md").write_text("## user\nGo on. {persona}\n")
    ultrachat(*served(steady, "-o", "run", "-n", "1"))
    asked, before = steady.stats()["requests"], manifest(ultrachat.folder / "run")
    for change, says in CHANGES:
        result = ultrachat(*served(steady, "-o", "run", "-n", "1", *change))
        refused(result, 2, "run holds a run with other settings", *says, "--restart")
    assert steady.stats()["requests"] == asked
    assert manifest(ultrachat.folder / "run") == before


def test_changes_that_are_allowed(ultrachat: Ultrachat, steady: Running, server: Serve) -> None:
    """How many, how fast, where, at what price."""
    ultrachat(*served(steady, "-o", "run", "-n", "2"))
    elsewhere = server()
    result = ultrachat(
        *served(elsewhere, "-o", "run", "-n", "3", "-j", "2", "--rpm", "60000", "--tpm", "1e9", "--format", "messages",
                "--set", "prices.test-model={input: 1, output: 2}", "--max-cost", "5"),
    )  # fmt: skip
    assert (result.code, result.json["written"]) == (0, 3), result


def test_restart_sets_the_old_run_aside(ultrachat: Ultrachat, steady: Running) -> None:
    command = served(steady, "-o", "run")
    ultrachat(*command)
    old = (ultrachat.folder / "run/dialogues.jsonl").read_bytes()
    result = ultrachat(*command, "--seed", "9", "--restart", "--yes")
    assert (result.code, result.json["written"]) == (0, 4)
    (aside,) = (ultrachat.folder / "run").glob("before-*")
    assert f"the earlier run is in run/{aside.name}" in result.stderr
    assert {path.name for path in aside.iterdir()} >= {"dialogues.jsonl", "manifest.json", "journal.sqlite"}
    assert (aside / "dialogues.jsonl").read_bytes() == old
    assert not set(ids(aside)) & set(ids(ultrachat.folder / "run"))
    (ultrachat.folder / "again").mkdir()
    aside.rename(ultrachat.folder / "again/run")
    asked = steady.stats()["requests"]
    assert ultrachat(*command, cwd=ultrachat.folder / "again").code == 0, "a run set aside is still a run"
    assert steady.stats()["requests"] == asked


def test_restart_without_a_yes_and_nobody_to_ask(ultrachat: Ultrachat, steady: Running) -> None:
    ultrachat(*served(steady, "-o", "run"))
    before = (ultrachat.folder / "run/dialogues.jsonl").read_bytes()
    result = ultrachat(*served(steady, "-o", "run", "--restart"))
    assert result.code == 1
    assert "Set the run in run aside and begin anew?" in result.stderr
    assert "Traceback" not in result.stderr
    assert (ultrachat.folder / "run/dialogues.jsonl").read_bytes() == before


def test_restart_of_nothing_is_a_start(ultrachat: Ultrachat, steady: Running) -> None:
    assert ultrachat(*served(steady, "--restart")).code == 0


# Money


PRICED = ("--set", "prices.test-model={input: 1, output: 2}")


def test_a_budget_without_a_price(ultrachat: Ultrachat, steady: Running) -> None:
    result = ultrachat(*served(steady, "--max-cost", "5"))
    refused(result, 2, "no price is known for model 'test-model'", "--set 'prices.test-model={input: 1, output: 2}'")
    assert steady.stats()["requests"] == 0


def test_the_price_of_a_model_with_a_dot_in_its_name(ultrachat: Ultrachat, server: Serve) -> None:
    dotted = server(models="my-model-1.5")
    command = ("generate", "-m", "my-model-1.5", "--base-url", dotted.url, "-n", "2", "--max-cost", "5")
    result = ultrachat(*command)
    assert result.code == 2
    hint = result.stderr.partition("--set '")[2].partition("'")[0]
    assert ultrachat(*command, "--set", hint, "-o", "new").code == 0


def test_a_budget_without_a_price_for_a_known_model_served_by_somebody(ultrachat: Ultrachat, server: Serve) -> None:
    somebody = server(models="qwen3-8b")
    result = ultrachat("generate", "-m", "qwen3-8b", "--base-url", somebody.url, "-n", "2", "--max-cost", "0.000001")
    refused(result, 2, "no price is known for model 'qwen3-8b'")


def test_a_known_model_served_by_somebody_is_not_free(ultrachat: Ultrachat, server: Serve) -> None:
    somebody = server(models="qwen3-8b")
    result = ultrachat("generate", "-m", "qwen3-8b", "--base-url", somebody.url, "-n", "2", "--json")
    assert result.json["unpriced"] == ["qwen3-8b"]


def test_a_budget_stops_the_run_cleanly(ultrachat: Ultrachat, server: Serve, steady: Running) -> None:
    slow, free = server(delay=0.01), ("--opening-model", "scripted:synthetic")
    more = ("-n", "30", "-j", "8", "--rounds", "3", *PRICED, *free, "--set", "assistant.max_tokens=100")
    cost = ultrachat(*served(steady, "-o", "whole", *more)).json["cost"]
    command = served(slow, "-o", "run", *more, "--max-cost")
    first = ultrachat(*command, f"{cost / 2:.5f}")
    assert first.code == 3, first
    report = first.json
    assert 0 < report["cost"] <= cost / 2
    assert 0 < report["written"] < 30
    assert report["stopped"].startswith("stopped before --max-cost ")
    stats = slow.stats()
    assert stats["requests"] == stats["answered"], "no request was given up half-way"
    assert manifest(ultrachat.folder / "run")["sessions"][-1]["state"] == "stopped"
    again = ultrachat(*command, f"{cost / 2:.5f}")
    assert again.code == 3
    assert report["cost"] <= again.json["cost"] <= cost / 2
    last = ultrachat(*command, f"{cost * 3:.5f}")
    assert (last.code, last.json["written"]) == (0, 30)
    assert last.json["cost"] == pytest.approx(cost, rel=0.001)
    assert slow.stats()["repeats"] == 0
    assert by_id(ultrachat.folder / "run") == by_id(ultrachat.folder / "whole")


def test_a_budget_that_ends_with_a_list(ultrachat: Ultrachat, server: Serve) -> None:
    slow = server(delay=0.1)
    result = ultrachat(*served(slow, "-n", "20", "-j", "8", *PRICED, "--max-cost", "0.005"))
    assert result.code == 3
    assert result.json["stopped"].startswith("stopped before --max-cost ")
    stats = slow.stats()
    assert stats["requests"] == stats["answered"], "no request was given up half-way"


def test_nothing_answers_at_all(ultrachat: Ultrachat, server: Serve) -> None:
    for fault in ("pmalformed", "pdrop"):
        result = ultrachat(*served(server(**{fault: 1.0}), "-o", fault, *EAGER, "--set", "limits.breaker_failures=8"))
        refused(result, 1, "requests in a row failed; the last: http://127.0.0.1:")


def test_rate_limited_for_ever(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    """A quota that is used up is no rate limit: the run ends at once."""
    site = web(
        lambda asked: error(404, "no") if asked.method == "GET" else error(429, "Quota used up.", "insufficient_quota")
    )
    refused(ultrachat(*served(site)), 1, "HTTP 429: Quota used up.")


def test_an_answer_that_never_ends_in_time(ultrachat: Ultrachat, server: Serve) -> None:
    hanging = server(delay=600)
    result = ultrachat(*served(hanging, *EAGER, "--set", "limits.timeout=0.2", "--set", "limits.breaker_failures=4"))
    refused(result, 1, "no answer within 0.2 s")


def test_a_rule_that_is_none(ultrachat: Ultrachat) -> None:
    lines(ultrachat.folder / "rules.jsonl", {"match": "x", "reply": "y"}, {"match": "x"})
    refused(ultrachat("generate", "-m", "scripted:rules.jsonl", "-n", "1"), 1, "rules.jsonl:2: a rule needs a 'reply'")
    lines(ultrachat.folder / "rules.jsonl", {"match": "no such words", "reply": "y"})
    refused(
        ultrachat("generate", "-m", "scripted:rules.jsonl", "-n", "1", "-o", "b"), 1, "rules.jsonl: no rule matches"
    )


def test_an_unknown_option_and_an_unknown_command(ultrachat: Ultrachat) -> None:
    refused(ultrachat("generate", "--limits", "4"), 2, "--limits", "--limit")
    refused(ultrachat("generat"), 2, "generat", "generate")
