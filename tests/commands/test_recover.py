"""`ultrachat recover` and `make-delta` as people run them: bad input, interruptions, full disks."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands.checks import refused, when
from tests.conftest import COMMAND, Ultrachat
from tests.recover import folders
from tests.train import tiny

ONE = {"OMP_NUM_THREADS": "1"}
"""For tiny models: test processes share the cores."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, tuned/, and a delta/ as others publish them."""
    at = tmp_path_factory.mktemp("small")
    base = folders.state()
    tuned = folders.moved(base)
    folders.folder(at / "base", base)
    folders.folder(at / "tuned", tuned)
    folders.folder(at / "delta", {name: tuned[name].float() - base[name].float() for name in base}, kind="bin")
    return at


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 MB of base/ and delta/: enough to be interrupted."""
    at = tmp_path_factory.mktemp("large")
    torch.manual_seed(1)
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(48)]
    base = {name: torch.randn(1000, 1000).half() for name in names}
    folders.folder(at / "base", base)
    folders.folder(at / "delta", {name: base[name] / 64 for name in reversed(names)}, kind="shards")
    return at


def command(at: Path, *more: str) -> tuple[str, ...]:
    return ("recover", "--base", str(at / "base"), "--delta", str(at / "delta"), "-o", "out", *more)


def test_there_and_back_with_an_answer(ultrachat: Ultrachat, tmp_path: Path) -> None:
    """The whole way: a fine-tune made a delta, recovered bit for bit, asked something."""
    tiny.llama(tmp_path / "base")
    state = {name: t.bfloat16() for name, t in load_file(tmp_path / "base/model.safetensors").items()}
    save_file(state, tmp_path / "base/model.safetensors", {"format": "pt"})
    shutil.copytree(tmp_path / "base", tmp_path / "tuned")
    save_file(folders.moved(state, 1e-3), tmp_path / "tuned/model.safetensors", {"format": "pt"})
    (tmp_path / "tuned/ultrachat.json").write_text('{"format": "chatml", "system": "Be brief."}')
    made = ultrachat("make-delta", "--base", "base", "--tuned", "tuned", "--output", "delta")
    assert made.code == 0, made
    assert "the tuned weights, bit for bit" in made.stdout
    assert "delta" in made.stdout.splitlines()[-1]
    done = ultrachat("recover", "--base", "base", "--delta", "delta", "--output", "out", "--check", "--json", env=ONE)
    assert done.code == 0, done
    assert done.json["verified"] == done.json["tensors"] == len(state)
    assert done.json["answer"] is not None
    assert "capital of France" in done.json["prompt"]
    assert folders.same(folders.weights(tmp_path / "out"), folders.weights(tmp_path / "tuned"))
    assert not list(tmp_path.glob("*.partial"))
    shown = ultrachat("recover", "--base", "base", "--delta", "delta", "--output", "out2", "-q")
    assert (shown.code, shown.stderr) == (0, "")
    assert "21 of 21 tensors by SHA-256" in shown.stdout


def test_the_answer_is_that_of_transformers(ultrachat: Ultrachat, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from ultrachat_cli.models.chat_tokens import ChatTokenizer
    from ultrachat_cli.recover.check import PROMPT

    base = folders.weights(tiny.llama(tmp_path / "base"))
    folders.folder(tmp_path / "delta", {name: t / 100 for name, t in base.items()}, words=False)
    shutil.copyfile(tmp_path / "base/config.json", tmp_path / "delta/config.json")
    done = ultrachat("recover", "--base", "base", "--delta", "delta", "-o", "out", "--format", "chatml", "--check",
                     "--json", env=ONE)  # fmt: skip
    assert done.code == 0, done
    tokenizer = ChatTokenizer(tmp_path / "out", "chatml")
    ids = torch.tensor([tokenizer.prompt([{"role": "user", "content": PROMPT}])])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    said = model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=tokenizer.end, pad_token_id=0)
    assert done.json["answer"] == tokenizer.backend.decode(said[0, ids.shape[1] :].tolist()).strip()


BASE, DELTA = ("--base", "base"), ("--delta", "delta")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 0, []),
        (BASE, 2, ["--delta is missing"]),
        ((*DELTA, "-o", "out"), 2, ["--base is missing"]),
        ((*BASE, *DELTA), 2, ["--output is missing"]),
        ((*BASE, *DELTA, "-o", "tuned"), 2, ["--output tuned exists", "nothing is overwritten"]),
        ((*BASE, *DELTA, "-o", "tuned/config.json"), 2, ["exists"]),
        (("--base", "llama-31b", *DELTA, "-o", "out"), 2, ["no such folder", "did you mean 'llama-13b'"]),
        (("--base", "./llama/", *DELTA, "-o", "out"), 2, ["--base ./llama/", "no such folder"]),
        (("--base", "empty", *DELTA, "-o", "out"), 2, ["no config.json"]),
        ((*BASE, "--delta", "nowhere", "-o", "out"), 2, ["--delta nowhere", "no such folder"]),
        (("ultralm-31b", *BASE, "-o", "out"), 2, ["did you mean 'ultralm-13b'"]),
        (("ultralm-65b", *BASE, "-o", "out"), 2, ["ultralm-65b is full weights", "nothing is to be recovered"]),
        (("ultralm-13b-v2.0", *BASE), 2, ["full weights", "--model ultralm-13b-v2.0"]),
        ((*BASE, *DELTA, "-o", "out", "--dtype", "int8"), 2, ["--dtype", "'bfloat16'"]),
        ((*BASE, *DELTA, "-o", "out", "--shard-size", "5XB"), 2, ["--shard-size", "write 5GB"]),
        ((*BASE, *DELTA, "-o", "out", "--format", "ultralmm"), 2, ["--format", "did you mean 'ultralm'"]),
        ((*BASE, *DELTA, "-o", "out", "--workers", "-1"), 2, ["--workers"]),
        (("--base", "delta", "--delta", "base", "-o", "out"), 1, ["swapped"]),
        ((*BASE, "--delta", "tuned", "-o", "out"), 1, ["is no delta"]),
        ((*BASE, "--delta", "hostile", "-o", "out"), 1, ["pytorch_model.bin", "could run a program"]),
        ((*BASE, "--delta", "short", "-o", "out"), 1, ["model.safetensors", "cut short"]),
        ((*BASE, "--delta", "old", "-o", "out"), 1, ["not a zip archive", "torch.save"]),
        ((*BASE, *DELTA, "-o", "out", "--check"), 2, ["no chat template", "--format"]),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    ultrachat: Ultrachat, small: Path, arguments: tuple[str, ...], code: int, says: list[str]
) -> None:
    at = ultrachat.folder
    for name in ("base", "tuned", "delta"):
        (at / name).symlink_to(small / name)
    (at / "empty").mkdir()
    if {"hostile", "short", "old"} & set(arguments):
        state = folders.state()
        folders.folder(at / "hostile", {}, kind="bin")
        torch.save(state | {"bomb": Bomb(at / "it-ran")}, at / "hostile/pytorch_model.bin")
        path = folders.folder(at / "short", state) / "model.safetensors"
        os.truncate(path, path.stat().st_size - 10)
        folders.folder(at / "old", state, kind="bin")
        torch.save(state, at / "old/pytorch_model.bin", _use_new_zipfile_serialization=False)
    done = ultrachat("recover", *arguments)
    if code:
        refused(done, code, *says)
        assert "  try: " in done.stderr
    assert not (at / "out").exists()
    assert not (at / "out.partial").exists()
    assert not (at / "it-ran").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def shards(at: Path) -> list[Path]:
    return sorted((at / "out.partial").glob("*.safetensors"))


def test_kill_9_and_again(ultrachat: Ultrachat, large: Path) -> None:
    """What was finished is not written again, and the end is the same to the byte."""
    again = command(large, "--shard-size", "2MB", "-j", "1", "--json")
    whole = ultrachat(*again[:-1], "--json")
    assert whole.code == 0, whole
    right = folders.contents(ultrachat.folder / "out")
    shutil.rmtree(ultrachat.folder / "out")
    started = ultrachat.start(*again)
    assert when(lambda: len(shards(ultrachat.folder)) >= 5, started)
    started.kill()
    assert not (ultrachat.folder / "out").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in shards(ultrachat.folder)}
    done = ultrachat(*again)
    assert done.code == 0, done
    assert len(kept) <= done.json["resumed"] + 1 <= 49
    assert f"{done.json['resumed']} of 48 files are there already" in done.stderr
    assert folders.contents(ultrachat.folder / "out") == right
    after = {path.name: path.stat().st_mtime_ns for path in (ultrachat.folder / "out").iterdir()}
    assert sum(after[name] == time for name, time in kept.items()) >= len(kept) - 1
    assert not (ultrachat.folder / "out.partial").exists()
    assert {key: value for key, value in done.json.items() if key not in ("seconds", "resumed")} == {
        key: value for key, value in whole.json.items() if key not in ("seconds", "resumed")
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interruption_can_be_gone_on_from(ultrachat: Ultrachat, large: Path, number: int) -> None:
    again = command(large, "--shard-size", "2MB", "-j", "1", "--json")
    started = ultrachat.start(*again)
    assert when(lambda: len(shards(ultrachat.folder)) >= 3, started)
    ended, seconds = started.send(number)
    assert ended.code == 130, ended
    assert seconds < 2
    assert "the same command goes on" in ended.stderr
    assert not (ultrachat.folder / "out").exists()
    done = ultrachat(*again)
    assert done.code == 0, done
    assert done.json["resumed"] >= 3


def limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("make", ["recover", "make-delta"])
def test_a_full_disk(ultrachat: Ultrachat, large: Path, make: str) -> None:
    """A limit on the size of files stands for the disk: the last and smaller file fits, the first does not."""
    given = ("--delta", "delta") if make == "recover" else ("--unchecked", "--tuned", "delta")
    again = (make, "--base", "base", *given, "-o", str(ultrachat.folder / "out"), "--shard-size", "20MB")
    refused(
        ultrachat(*again, preexec=limited(8_000_000), cwd=large), 1, "cannot be written", "the same command goes on"
    )
    assert not (ultrachat.folder / "out").exists()
    assert (ultrachat.folder / "out.partial/plan.json").is_file()
    done = ultrachat(*again, cwd=large)
    assert done.code == 0, done
    assert not (ultrachat.folder / "out.partial").exists()


def test_a_folder_that_cannot_be_written(ultrachat: Ultrachat, small: Path) -> None:
    (ultrachat.folder / "file").write_text("")
    where = ("recover", "--base", str(small / "base"), "--delta", str(small / "delta"), "-o", "file/out")
    refused(ultrachat(*where), 1, "cannot be written", "check the folder and its permissions")


def test_two_at_once(ultrachat: Ultrachat, large: Path) -> None:
    first = ultrachat.start(*command(large, "--shard-size", "1MB", "-j", "1"))
    assert when(lambda: bool(shards(ultrachat.folder)), first)
    first.process.send_signal(signal.SIGSTOP)
    refused(ultrachat(*command(large, "--shard-size", "1MB")), 1, "is in use by another process")
    first.process.send_signal(signal.SIGCONT)
    assert first.wait().code == 0
    assert len(list((ultrachat.folder / "out").glob("*.safetensors"))) == 48


def peak(where: Path, *given: str) -> int:
    """KB of a command's own memory at its peak; of mapped files as much is resident as the kernel likes."""
    process = subprocess.Popen(given, cwd=where, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        with suppress(OSError):
            told = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            most = max(most, int(told.get("RssAnon", "0").split()[0]))
        time.sleep(0.005)
    assert process.returncode == 0
    return most


def test_memory_does_not_grow_with_the_model(ultrachat: Ultrachat, large: Path) -> None:
    """A few chunks beyond torch, whatever the size: 192 MB go in here."""
    torch_itself = peak(ultrachat.folder, sys.executable, "-c", "import torch, safetensors.torch")
    more = ("--shard-size", "20MB", "-j", "4", "-q", "--json")
    beyond = peak(ultrachat.folder, str(COMMAND), *command(large, *more)) - torch_itself
    assert beyond < 90_000, f"{beyond} KB"


def test_settings_are_shown(ultrachat: Ultrachat) -> None:
    for area in ("recover", "make-delta"):
        shown = ultrachat("config", "show", area)
        assert shown.code == 0
        assert "shard_size: 5000000000" in shown.stdout


def test_a_delta_without_checksums_is_not_said_to_be_verified(ultrachat: Ultrachat, small: Path) -> None:
    done = ultrachat(*command(small))
    assert done.code == 0, done
    assert "no checksums" in done.stdout
    assert ultrachat.folder.joinpath("out/config.json").is_file()


def test_a_dry_run(ultrachat: Ultrachat, small: Path) -> None:
    done = ultrachat(*command(small, "--dry-run"))
    assert done.code == 0
    assert "would write" in done.stdout
    assert not (ultrachat.folder / "out").exists()
    assert json.loads(ultrachat(*command(small, "--dry-run", "--json")).stdout)["tensors"] == 6
