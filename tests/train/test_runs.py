"""Whole runs of `ultrachat train`: real processes, real torchrun, real kills."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import Result, Started, Ultrachat
from tests.train import runs, tiny
from ultrachat_cli import config
from ultrachat_cli.train import run
from ultrachat_cli.train.report import Report
from ultrachat_cli.train.settings import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_core")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("model") / "tiny", tied=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.dialogues(tmp_path_factory.mktemp("data") / "data.jsonl")


def here(*given: Path, resume: bool = False, **more: Any) -> Report:
    """A run within this process: what does not need a process of its own."""
    report = run.run(config.load(TrainConfig, "train", sets=runs.settings(*given, **more)), resume=resume)
    assert report is not None
    return report


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of one process, which others are compared with."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    here(data, model, folder)
    return folder


PAIR: dict[str, Any] = {"launch__processes": 2, "launch__gpus": "null", "save__every": 2}


@pytest.fixture(scope="module")
def pair(model: Path, data: Path, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by two processes."""
    folder = tmp_path_factory.mktemp("pair")
    done = Ultrachat(folder, environ)(*runs.command(data, model, folder / "out", **PAIR))
    assert done.code == 0, done
    return folder / "out"


def start(ultrachat: Ultrachat, *words: str) -> Started:
    """Under way, and past its first step."""
    started = ultrachat.start(*words)
    output = Path(next(word for word in words if word.startswith("output=")).removeprefix("output="))
    until(lambda: (output / "metrics.jsonl").is_file() and bool((output / "metrics.jsonl").read_text()), started)
    return started


def until(condition: Any, started: Started) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert started.alive, started.wait()
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def kill(started: Started, output: Path) -> Result:
    """All of its processes at once."""
    subprocess.run(["pkill", "-9", "-f", f"train.*output={output}"], check=False)
    return started.wait(60)


def test_two_processes_learn_what_one_learns(pair: Path, whole: Path) -> None:
    """1 x 8 micro-batches = 2 x 4."""
    one, two = runs.losses(whole), runs.losses(pair)
    assert len(one) >= 4
    assert one[-1][1] < one[0][1] - 0.3, "it learns"
    assert [step for step, *_ in two] == [step for step, *_ in one]
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in one], rel=2e-5)
    assert [norm for *_, norm in two] == pytest.approx([norm for *_, norm in one], rel=1e-3)


def test_larger_micro_batches_learn_the_same(model: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    here(data, model, tmp_path / "large", micro_batch=4)
    assert [loss for _, loss, _ in runs.losses(tmp_path / "large")] == pytest.approx(
        [loss for _, loss, _ in runs.losses(whole)], rel=2e-5
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "more", [{"launch__processes": 2, "launch__gpus": "null"}, {"activation_checkpointing": "true"}]
)
def test_compiled_it_learns_the_same(
    ultrachat: Ultrachat, model: Path, data: Path, whole: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    done = ultrachat(*runs.command(data, model, tmp_path / "out", compile="on", steps=2, **more))
    assert done.code == 0, done
    assert "compiled" in done.stderr
    found, wanted = runs.losses(tmp_path / "out"), runs.losses(whole)
    assert found[0][1:] == pytest.approx(wanted[0][1:], rel=1e-4)
    assert found[1][1] == pytest.approx(wanted[1][1], rel=1e-2), "the schedule is a shorter one"


def test_an_outer_torchrun_is_joined(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    arguments = runs.command(data, model, tmp_path / "out", steps=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ultrachat_cli"]
    done = subprocess.run(
        [*launcher, *arguments], env=ultrachat.environ, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [step for step, *_ in runs.losses(tmp_path / "out")] == [1, 2]
    assert done.stdout.count("steps") == 1, "one process reports"


def test_a_killed_run_goes_on_bit_for_bit(
    ultrachat: Ultrachat, model: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    started = start(ultrachat, *runs.command(data, model, output, save__every=2))
    until((output / "checkpoints/step-00000002").exists, started)
    assert kill(started, output).code != 0
    assert not (output / "config.json").exists(), "no model yet"
    here(data, model, output, resume=True, save__every=2)
    assert runs.losses(output) == runs.losses(whole)
    mine, right = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (output, whole))
    assert all(torch.equal(mine[name], right[name]) for name in right)


def test_two_killed_processes_go_on_as_two_and_as_one(
    ultrachat: Ultrachat, model: Path, data: Path, whole: Path, pair: Path, tmp_path: Path
) -> None:
    """At the same number of processes bit for bit, at another one to rounding."""
    output, alone = tmp_path / "killed", tmp_path / "alone"
    started = start(ultrachat, *runs.command(data, model, output, **PAIR))
    until((output / "checkpoints/step-00000002").exists, started)
    assert kill(started, output).code != 0
    shutil.copytree(output, alone)
    done = ultrachat(*runs.command(data, model, output, **PAIR), "--resume")
    assert done.code == 0, done
    assert runs.losses(output) == runs.losses(pair)
    here(data, model, alone, resume=True)
    mine, right = ([loss for _, loss, _ in runs.losses(folder)] for folder in (alone, whole))
    assert mine == pytest.approx(right, rel=2e-5)


def test_sigterm_saves_and_says_so(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    started = start(
        ultrachat,
        *runs.command(data, model, tmp_path / "out", **PAIR | {"save__every": 0}, epochs=400),
    )
    result, _ = started.send(signal.SIGTERM)
    assert result.code == 130, result
    assert len(list((tmp_path / "out/checkpoints").glob("step-*"))) == 1
    assert "--resume" in result.stdout


def test_a_process_that_dies_ends_the_run(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    started = start(ultrachat, *runs.command(data, model, output, **PAIR, epochs=400))
    found = subprocess.run(
        ["pgrep", "-f", f"ultrachat_cli train.*{output}"], capture_output=True, text=True, check=True
    )
    subprocess.run(["kill", "-9", found.stdout.split()[-1]], check=True)
    result = started.wait(60)
    assert result.code == 1, result
    assert "signal 9" in result.stderr
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_a_process_said_before_it_died_is_told(
    ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path
) -> None:
    """The second one writes to a file that no one watches."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('LOCAL_RANK') == '1':\n"
        "    os.write(2, b'this node has no disk\\n')\n    os._exit(7)\n"
    )
    ultrachat.environ["PYTHONPATH"] = str(tmp_path)
    result = ultrachat(*runs.command(data, model, tmp_path / "out", **PAIR))
    assert result.code == 1, result
    assert "process 1 ended with 7; the end of its log:\nthis node has no disk\n" in result.stderr


def test_what_was_learned_is_said(model: Path, tmp_path: Path) -> None:
    """Overfit on 20 dialogues, then asked by transformers alone: format, mask, export and template agree."""
    colours = ("red", "blue", "green", "white", "black")
    pairs = {
        f"What colour is {thing} {n}?": f"{thing} is {colours[n % 5]}." for n, thing in enumerate((runs.WORDS * 2)[:20])
    }
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"id": q, "data": [q, a]}) + "\n" for q, a in pairs.items()))
    report = here(data, model, tmp_path / "out", epochs=100, batch=4, optimizer__lr=3e-3, log__every=20)
    assert report.first_loss is not None
    assert report.last["loss"] < 0.05 < report.first_loss
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    learned = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    right = 0
    for question, answer in pairs.items():
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = learned.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
        right += tokenizer.decode(said, skip_special_tokens=True).strip() == answer
    assert right >= 19
