"""What is found out before and while a model is loaded."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig

from tests.train import tiny
from ultrachat_cli.errors import DataError, MissingExtra, UltraError
from ultrachat_cli.models import placement, text_tokens
from ultrachat_cli.models.causal_lm import load
from ultrachat_cli.models.placement import LocalSettings, Need

pytestmark = pytest.mark.usefixtures("one_core")
CPU = LocalSettings(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("llama") / "model", tied=True)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def test_numbers_and_context(folder: Path) -> None:
    model = load(folder, CPU)
    assert model.model.dtype == torch.float32
    assert model.context == 2048
    assert load(folder, CPU, context=300).context == 300
    assert model.kv_bytes == 2 * 2 * 16 * 2 * 4  # layers, heads, width, keys and values, bytes
    assert load(folder, LocalSettings(device="cpu", dtype="bfloat16")).model.dtype == torch.bfloat16
    assert load(folder, LocalSettings(device="cpu")).model.dtype in (torch.bfloat16, torch.float32)


def test_context_is_no_longer_than_memory_carries(folder: Path) -> None:
    weights = sum(one.nbytes for one in load(folder, CPU).model.parameters())
    model = load(folder, CPU, free=lambda _: weights + 3000 * 512)
    assert model.context == 1500
    assert model.room == 1500 * 512


def test_a_13b_without_the_memory_says_what_it_would_need(tmp_path: Path) -> None:
    LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40, vocab_size=32001,
        max_position_embeddings=2048,
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(UltraError) as caught:
        load(tmp_path, CPU, name="ultralm-13b", free=lambda _: 16_000_000_000)
    message, hint = caught.value.message, caught.value.hint
    assert "ultralm-13b does not fit: 13.0 billion weights in float32 take 52.1 GB" in message
    assert "2048 tokens of conversation 3.4 GB" in message
    assert "this machine has 16.0 GB free" in message
    assert "--dtype bfloat16 (29.1 GB)" in hint
    assert "a GPU that holds it" in hint
    assert "--base-url" in hint
    assert "--quantize" not in hint  # that is for GPUs


def test_a_gpu_that_is_too_small_is_told_of_fewer_bits() -> None:
    need = Need(12_700_000_000, 330_000_000, "bfloat16", "none", 409_600)
    with pytest.raises(UltraError, match=r"GPU cuda:0 has 24\.0 GB free") as caught:
        placement.check(need, 24_000_000_000, "x", "cuda:0")
    assert "--quantize 4bit (10.1 GB)" in caught.value.hint
    placement.check(Need(need.matrices, need.others, "bfloat16", "4bit", need.kept), 24_000_000_000, "x", "cuda:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "balanced"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(UltraError, match=rf"--device {device}: this machine offers 0 CUDA GPUs"):
        load(folder, LocalSettings(device=device))


def test_a_device_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="'gpu' is no device: auto, cpu, "):
        LocalSettings(device="gpu")


def test_fewer_bits_need_a_gpu_and_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UltraError, match="--quantize is for CUDA GPUs") as caught:
        load(folder, LocalSettings(device="cpu", quantize="4bit"))
    assert ".gguf" in caught.value.hint
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(placement, "device", lambda _: "cuda:0")
    with pytest.raises(MissingExtra) as missing:
        load(folder, LocalSettings(device="cuda", dtype="bfloat16", quantize="4bit"), free=lambda _: 10**9)
    assert "ultrachat-cli[quantized]" in missing.value.hint


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UltraError, match="not a language model"):
        load(tmp_path, CPU)


def test_weights_that_are_torn(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut short") as caught:
        load(copied, CPU)
    assert caught.value.hint == "fetch the file again"


def test_weights_that_would_run_a_program(copied: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    (copied / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload()}, copied / "pytorch_model.bin")
    with pytest.raises(DataError, match="could run a program: refused"):
        load(copied, CPU)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(UltraError) as caught:
        text_tokens.load(copied)
    assert caught.value.message == f"{copied}: no tokenizer"
    (copied / "tokenizer.model").write_bytes(b"no such thing")
    with pytest.raises(UltraError, match=r"tokenizer\.model cannot be read: .*") as caught:
        text_tokens.load(copied)
    assert "\n" not in caught.value.message


def test_weights_that_are_missing(copied: Path) -> None:
    """transformers would fill in random numbers and only warn."""
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UltraError, match=r"weights are missing: model\.layers\.2\."):
        load(copied, CPU)


def test_old_files_of_weights_are_read(copied: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    before = load(copied, CPU).model.state_dict()
    (copied / "model.safetensors").unlink()
    after = load(copied, CPU).model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_generation_config_is_what_holds_unless_asked_otherwise(copied: Path) -> None:
    told = {"do_sample": True, "temperature": 0.3, "top_p": 0.8, "eos_token_id": [2, 0]}
    (copied / "generation_config.json").write_text(json.dumps(told))
    model = load(copied, CPU)
    assert model.defaults == {"temperature": 0.3, "top_p": 0.8}
    assert model.ends == {0, 2}
