"""Whether to compile, where nobody said."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ultrachat_cli.machine import cores
from ultrachat_cli.train import choose
from ultrachat_cli.train.flops import Cost
from ultrachat_cli.train.processes import Place
from ultrachat_cli.train.settings import TrainConfig

SMOLLM2 = Cost(inner=106_168_320, head=28_311_552, attended=17_280)
HOUR = cores() * 2_000_000  # tokens: about what an hour of training takes in


def compiled(tokens: int = HOUR, *, engine: Any = "fsdp", device: str = "cpu", **config: Any) -> bool:
    plan: Any = SimpleNamespace(all_tokens=tokens)
    return choose.compiled(engine, TrainConfig(**config), Place(0, 1, torch.device(device)), plan, SMOLLM2)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Python's headers are looked for, beside a compiler."""
    path = tmp_path / "compiler"
    shutil.copy("/bin/true", path)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return path


def test_on_a_cpu_long_runs_are_compiled(compiler: Path) -> None:
    assert compiled()
    assert not compiled(HOUR // 10), "it would take longer than it saves"
    assert not compiled(engine="accelerate")
    assert not compiled(compile="off")


def test_without_a_compiler_or_headers_they_are_not(compiler: Path) -> None:
    (compiler.parent / "Python.h").unlink()
    assert not compiled()
    (compiler.parent / "Python.h").touch()
    compiler.unlink()
    assert not compiled()
    assert compiled(compile="on"), "asked for: torch says what is missing"


def test_on_a_gpu_fsdp_compiles_always() -> None:
    assert compiled(1, device="cuda")
    assert not compiled(engine="bmtrain", device="cuda")


def test_the_compiler_of_this_machine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    there = shutil.which("g++") is not None and os.path.exists(sysconfig.get_path("include") + "/Python.h")
    assert compiled() == there
