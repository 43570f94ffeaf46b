"""The README's commands are run; what it says of files and options is true."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.openai_server import Options, running
from tests.recover.folders import moved, weights
from tests.reward import tiny as rewards
from tests.train import tiny

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(("$ ultrachat ", "ultrachat "))
        for line in [line.removeprefix("$ ")]
    }
)


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_runs(command: str, tmp_path: Path) -> None:
    """Every command, as written, but for what a test cannot have: paid endpoints, many dialogues, a big model."""
    (tmp_path / "my-texts").mkdir()
    text = "Rivers shape the valleys they run through. " * 20
    (tmp_path / "my-texts" / "a.txt").write_text(text)
    (tmp_path / "c4.jsonl").write_text(json.dumps({"text": text, "url": "https://example.org/blog/rivers"}) + "\n")
    (tmp_path / "my.yaml").write_text("limit: 2\n")
    arguments = shlex.split(command)[1:]
    if arguments[0] != "generate":
        _dialogue_files(tmp_path)
    _models(tmp_path, arguments)
    if arguments[0] == "eval":
        _verdicts(tmp_path)
    if "train" in arguments and "--dry-run" not in arguments:  # as small as can be
        arguments += ["--set", "format=chatml", "--steps", "1", "--batch", "2", "--max-length", "64"]
    if "--resume" in arguments:
        first = [word for word in arguments if word != "--resume"]
        subprocess.run([str(BIN / "ultrachat"), *first], cwd=tmp_path, check=True, capture_output=True)
    if "push" in arguments:  # a card is written from what dedupe left
        subprocess.run(
            [str(BIN / "ultrachat"), "dedupe", "fit.jsonl", "-o", "clean.jsonl", "-q"], cwd=tmp_path, check=True
        )
    if arguments[0] == "explore" and "--export" not in arguments:  # it would serve until it is stopped
        arguments += ["--export", "served.html"]
    marks = tmp_path / "marks.jsonl"
    marks.write_text('{"match": "Overall Score", "reply": "Rivers do not count.\\n\\nOverall Score: 7"}\n')
    script = {"script": str(marks)} if arguments[0] == "critique" else {}
    with running(Options(models="test-model,gpt-4o-mini,my-model", **script)) as server:
        if arguments[0] == "generate" and "--dry-run" not in arguments:
            arguments = _small(arguments, server.url)
        if arguments[0] == "critique":
            arguments += ["--base-url", server.url]
        done = subprocess.run(
            [str(BIN / "ultrachat"), *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            env={"PATH": str(BIN) + ":/usr/bin:/bin", "HOME": str(Path.home()), "OPENAI_API_KEY": "test-key"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _models(folder: Path, arguments: list[str]) -> None:
    """The models it speaks of, tiny ones."""
    if "./tiny-model" in arguments:
        _tell_format(tiny.llama(folder / "tiny-model"))
    if "./reward-model" in arguments:
        rewards.ultrarm(folder / "reward-model")
    if "./llama-13b" in arguments:
        base, mine = _tell_format(tiny.llama(folder / "llama-13b")), folder / "mine"
        shutil.copytree(base, mine)
        save_file(moved(weights(base)), mine / "model.safetensors", {"format": "pt"})
    if "./mine-delta" in arguments and "make-delta" not in arguments:
        made = ["make-delta", "--base", "./llama-13b", "--tuned", "./mine", "--output", "./mine-delta"]
        subprocess.run([str(BIN / "ultrachat"), *made], cwd=folder, check=True, capture_output=True)


def _verdicts(folder: Path) -> None:
    """AlpacaEval's annotations, of two models."""
    for file, model in (("annotations.json", "mine"), ("others.json", "other")):
        common = {"generator_1": "reference", "generator_2": model, "annotator": "judge"}
        rows = [
            {
                "instruction": f"Question {n}?",
                "output_1": "a",
                "output_2": "b " * n,
                "preference": 1.0 + n % 2,
                **common,
            }
            for n in range(8)
        ]
        (folder / file).write_text(json.dumps(rows))


def _tell_format(folder: Path) -> Path:
    (folder / "ultrachat.json").write_text('{"format": "chatml"}')
    return folder


def _dialogue_files(folder: Path) -> None:
    """The files the README speaks of."""
    lines = "".join(
        json.dumps(
            {
                "id": f"{sector}-{n}",
                "data": [
                    f"What is {n} about the {sector} of rivers?",
                    f"They bend {n} times, and the {sector} with them.",
                ]
                * 3,
                "meta": {"sector": sector, "score": n, "reward": n / 10 - 9},
            }
        )
        + "\n"
        for n in range(60)
        for sector in ("world", "writing")
    )
    for name in (
        "runs/world/dialogues.jsonl",
        "runs/writing/dialogues.jsonl",
        "fit.jsonl",
        "clean.jsonl",
        "scored.jsonl",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(lines)
    (folder / "more.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "alpaca_eval.json").write_text(json.dumps([{"instruction": "What are the names of some famous actors?"}]))
    (folder / "my-folder").mkdir()
    (folder / "my-folder" / "question.jsonl").write_text(
        "".join(f'{{"question_id": {n}, "turns": ["a", "b"]}}\n' for n in range(80))
    )
    (folder / "mt_bench.jsonl").write_text(json.dumps({"turns": ["Compose a travel post.", "Rewrite it."]}) + "\n")


def _small(arguments: list[str], url: str) -> list[str]:
    """The same command against the local server, two dialogues long."""
    kept = [*arguments]
    if "--base-url" in kept:
        kept[kept.index("--base-url") + 1] = url
    else:
        kept += ["--base-url", url]
    if not any(flag in kept for flag in ("--model", "-m")):
        kept += ["--model", "test-model"]
    return [*kept, "--limit", "2", "--rounds", "2"]


def test_every_option_in_the_readme_exists() -> None:
    known = (ROOT / "tests/golden/commands.txt").read_text(encoding="utf-8")
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in known or option == "--no-deps", option
