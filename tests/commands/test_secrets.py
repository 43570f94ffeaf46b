"""Keys and passwords stay in the environment and on the wire: in no file of a run, in nothing that is printed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import EAGER, manifest
from tests.conftest import Answer, Asked, Result, Serve, Ultrachat, Web, completion, error
from tests.openai_server import Running, Voice

KEY, OTHER = "sk-secret-of-the-assistant-123", "sk-secret-of-the-user-456"


def nowhere(secret: str, folder: Path, *results: Result) -> None:
    """The secret is in no file below the folder and in no output."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    for result in results:
        assert secret not in result.stdout + result.stderr


def test_a_key_is_sent_and_kept_nowhere(ultrachat: Ultrachat, server: Serve) -> None:
    guarded = server(key=KEY)
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", guarded.url, "--api-key-env", "MY_KEY", "-n", "4", "-vv",
        env={"MY_KEY": KEY},
    )  # fmt: skip
    assert result.code == 0, result
    assert guarded.stats()["by_status"].keys() == {"200"}
    nowhere(KEY, ultrachat.folder, result)
    assert manifest(ultrachat.folder / "runs/world")["config"]["assistant"]["api_key_env"] == "MY_KEY"


def test_two_keys_for_two_servers(ultrachat: Ultrachat, server: Serve) -> None:
    mine, yours = server(key=KEY), server(key=OTHER)
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", mine.url, "--api-key-env", "MINE", "--user-model", "test-model",
        "--user-base-url", yours.url, "--set", "user.api_key_env=YOURS", "-n", "3", "--json",
        env={"MINE": KEY, "YOURS": OTHER},
    )  # fmt: skip
    assert result.code == 0, result
    assert yours.stats()["answered"] > 0
    for secret in (KEY, OTHER):
        nowhere(secret, ultrachat.folder, result)


def test_two_keys_for_one_server(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    """As for two accounts: each role is asked with its own key."""
    site = web(answering(lambda asked: None))
    ultrachat(
        "generate", "-m", "test-model", "--base-url", site.url, "--api-key-env", "MINE", "--user-model", "test-model",
        "--user-base-url", site.url, "--set", "user.api_key_env=YOURS", "-n", "2",
        env={"MINE": KEY, "YOURS": OTHER},
    )  # fmt: skip
    assert {asked.headers["Authorization"] for asked in site.asked} == {f"Bearer {KEY}", f"Bearer {OTHER}"}


def answering(fault: Callable[[Asked], tuple[int, Any, bytes] | None]) -> Answer:
    """A server that answers well but for what `fault` gives."""

    def answer(asked: Asked) -> tuple[int, Any, bytes]:
        if asked.method == "GET":
            return error(404, "no")
        voice = Voice(asked.json["seed"])
        if (reply := fault(asked)) is not None:
            return reply
        if "response_format" in asked.json:
            return completion(orjson.dumps({"items": voice.questions(10)}).decode())
        return completion(voice.sentences(30))

    return answer


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_echoes_the_key(ultrachat: Ultrachat, web: Callable[[Answer], Web], status: int) -> None:
    site = web(lambda asked: error(status, f"Incorrect API key provided: {asked.headers['Authorization'][7:]}."))
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", site.url, "--api-key-env", "MY_KEY", "-n", "2", *EAGER,
        env={"MY_KEY": KEY},
    )  # fmt: skip
    assert result.code == 1
    assert "Incorrect API key provided" in result.stderr
    nowhere(KEY, ultrachat.folder, result)


def test_an_echoed_key_is_not_kept_as_the_reason_of_a_failure(
    ultrachat: Ultrachat, web: Callable[[Answer], Web]
) -> None:
    def echo(asked: Asked) -> tuple[int, Any, bytes] | None:
        if "response_format" in asked.json or asked.json["seed"] % 9:
            return None
        return error(400, f"Not with {asked.headers['Authorization']}.")

    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", web(answering(echo)).url, "--api-key-env", "MY_KEY", "-n", "20",
        "--json", env={"MY_KEY": KEY},
    )  # fmt: skip
    assert result.code == 3, result
    nowhere(KEY, ultrachat.folder, result)


def test_credentials_in_the_url(ultrachat: Ultrachat, web: Callable[[Answer], Web]) -> None:
    site = web(answering(lambda asked: None))
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", site.url.replace("//", "//someone:pass-word@"), "-n", "2", "-vv",
        "--user-base-url", site.url.replace("//", "//someone:other-word@"),
    )  # fmt: skip
    assert result.code == 0, result
    sent = {base64.b64decode(asked.headers["Authorization"].split()[1]) for asked in site.asked}
    assert sent == {b"someone:pass-word", b"someone:other-word"}
    assert site.url in manifest(ultrachat.folder / "runs/world")["models"]["assistant"]["url"]
    for secret in ("pass-word", "other-word"):
        nowhere(secret, ultrachat.folder, result)


def test_credentials_in_the_url_of_nobody(ultrachat: Ultrachat, free_port: int) -> None:
    url = f"http://someone:pass-word@127.0.0.1:{free_port}/v1"
    result = ultrachat("generate", "-m", "test-model", "--base-url", url, "-n", "2")
    assert result.code == 1
    nowhere("pass-word", ultrachat.folder, result)


def test_credentials_in_the_url_of_a_bad_config(ultrachat: Ultrachat, steady: Running) -> None:
    """Also not where the model is not served, and where the run's other settings are refused."""
    url = steady.url.replace("//", "//someone:pass-word@")
    for arguments in (("-m", "no-such-model"), ("-m", "test-model", "--max-cost", "1")):
        result = ultrachat("generate", "--base-url", url, "-n", "2", *arguments)
        assert result.code == 2
        nowhere("pass-word", ultrachat.folder, result)


def test_a_key_with_a_line_break(ultrachat: Ultrachat, steady: Running) -> None:
    """What `export KEY="$(printf ...)"` and copied keys easily have."""
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", steady.url, "--api-key-env", "MY_KEY", "-n", "2",
        env={"MY_KEY": f"{KEY}\nmore"},
    )  # fmt: skip
    assert result.code in (1, 2)
    assert "Traceback" not in result.stderr
    assert "MY_KEY" in result.stderr
    nowhere(KEY, ultrachat.folder, result)


def test_a_key_with_spaces_around_it(ultrachat: Ultrachat, server: Serve) -> None:
    result = ultrachat(
        "generate", "-m", "test-model", "--base-url", server(key=KEY).url, "--api-key-env", "MY_KEY", "-n", "1",
        env={"MY_KEY": f"{KEY} "},
    )  # fmt: skip
    assert result.code in (0, 1)
    assert "Traceback" not in result.stderr
    nowhere(KEY, ultrachat.folder, result)
