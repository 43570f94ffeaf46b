"""The engine accelerate: the same loss and gradients as the others, for any causal model; the legacy GPT-J recipe."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
)

from tests.commands.checks import refused
from tests.conftest import Started, Ultrachat
from tests.train import runs, tiny
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.train import loss, processes
from ultrachat_cli.train.batches import IGNORED, Batch
from ultrachat_cli.train.engines.accelerated import Accelerated
from ultrachat_cli.train.engines.fsdp import Fsdp
from ultrachat_cli.train.examples import Rules, encode
from ultrachat_cli.train.flops import Cost
from ultrachat_cli.train.processes import Place
from ultrachat_cli.train.settings import Launch, TrainConfig

EXACT = TrainConfig(precision="fp32", batch=2)
SMALL = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}
OTHERS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **SMALL),
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=2, **SMALL),
    "opt": OPTConfig(
        hidden_size=32, word_embed_proj_dim=16, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0,
        do_layer_norm_before=False, **SMALL,
    ),
    "granite": GraniteConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        logits_scaling=3.0, **SMALL,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """This process alone."""
    from accelerate.state import AcceleratorState, GradientState

    yield processes.join(Launch(gpus=0))
    processes.leave()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def made(folder: Path, config: PreTrainedConfig) -> Path:
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def documents(*sizes: int, vocabulary: int = 250) -> Batch:
    draw = np.random.default_rng(5)
    return Batch.of([(draw.integers(5, vocabulary, size), np.arange(size) > size // 3) for size in sizes])


def gradients(engine: Accelerated | Fsdp) -> dict[str, torch.Tensor]:
    found = {}
    for name, weight in engine.learner.named_parameters():
        grad = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
        assert grad is not None, name
        found[name.removeprefix("model.")] = grad
    return found


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_the_bias_of_a_head_counts_in_loss_and_gradient(chunk: int) -> None:
    torch.manual_seed(0)
    leaves = torch.randn(50, 16), torch.randn(99, 16), torch.randn(99)
    hidden, weight, bias = (leaf.requires_grad_() for leaf in leaves)
    labels = torch.randint(0, 99, (50,))
    labels[::3] = IGNORED
    found = loss.summed(hidden, weight, labels, chunk, bias=bias)
    wanted = cross_entropy(hidden @ weight.T + bias, labels, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(found, wanted)
    mine = torch.autograd.grad(found * 0.37, (hidden, weight, bias))
    torch.testing.assert_close(mine, torch.autograd.grad(wanted * 0.37, (hidden, weight, bias)))


def test_a_bias_is_learned_where_nothing_else_is() -> None:
    hidden, weight, bias = torch.randn(4, 8), torch.randn(9, 8), torch.zeros(9, requires_grad=True)
    labels = torch.tensor([1, IGNORED, 3, 8])
    (mine,) = torch.autograd.grad(loss.summed(hidden, weight, labels, bias=bias), bias)
    wanted = cross_entropy(hidden @ weight.T + bias, labels, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(mine, *torch.autograd.grad(wanted, bias))


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_are_those_of_fsdp(place: Place, tmp_path: Path, tied: bool) -> None:
    folder = tiny.llama(tmp_path / "model", tied=tied)
    mine, other = (kind(folder, 0, EXACT, place, compiled=False) for kind in (Accelerated, Fsdp))
    batches = [documents(40, 3, 25), documents(1, 60)]
    learned = sum(batch.learned for batch in batches)
    for batch in batches:
        assert float(mine.forward_backward(batch, learned)) == pytest.approx(
            float(other.forward_backward(batch, learned)), rel=1e-5
        )
    torch.testing.assert_close(gradients(mine), gradients(other), rtol=1e-4, atol=1e-7)
    whole = {name: grad.clone() for name, grad in gradients(other).items()}
    assert other.clip(1e9) == pytest.approx(other.clip(0), rel=1e-6), "no limit"
    torch.testing.assert_close(gradients(other), whole, rtol=0, atol=0)
    limit = other.clip(0) / 2
    assert mine.clip(limit) == pytest.approx(other.clip(limit), rel=1e-5)
    torch.testing.assert_close(gradients(mine), gradients(other), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradients(other), {name: grad / 2 for name, grad in whole.items()}, rtol=1e-4, atol=0)
    assert mine.step(1e-3)
    assert other.step(1e-3)
    for (name, weight), (same, right) in zip(mine.tensors(), other.tensors(), strict=True):
        assert name == same
        torch.testing.assert_close(weight, right, msg=name)
    assert float(mine.loss(batches[0])) == pytest.approx(float(other.loss(batches[0])), rel=1e-5)
    assert mine.answer([5, 6, 7], 5, None) == other.answer([5, 6, 7], 5, None)


@pytest.mark.parametrize("name", ["gptj", *OTHERS])
def test_any_causal_model_learns_what_transformers_says_of_each_document(
    place: Place, tmp_path: Path, name: str
) -> None:
    """With or without rotary positions, biases of the head, projections, scaled logits."""
    folder = tiny.gptj(tmp_path / name) if name == "gptj" else made(tmp_path / name, OTHERS[name])
    engine = Accelerated(folder, 0, EXACT, place, compiled=False)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    engine.learner.eval()  # without dropout
    batch = documents(40, 3, 25)
    total = torch.zeros(())
    for start, end in zip([0, *batch.ends], batch.ends, strict=False):
        logits = plain(torch.tensor(batch.ids[start:end])[None]).logits[0]
        labels = torch.tensor(batch.labels[start:end])
        total = total + cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    found = engine.forward_backward(batch, 1)
    total.backward()
    torch.testing.assert_close(found, total.detach())
    right = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    torch.testing.assert_close(gradients(engine), right, rtol=1e-3, atol=1e-4)
    said = plain.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False, eos_token_id=-1)
    assert engine.answer([5, 6, 7], 5, None) == said[0, 3:].tolist()


def test_new_tokens_begin_as_the_average_one(place: Place, tmp_path: Path) -> None:
    for folder in (tiny.gptj(tmp_path / "gptj"), made(tmp_path / "gpt2", OTHERS["gpt2"])):
        before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for name, weight in Accelerated(folder, 303, EXACT, place, compiled=False).tensors():
            old = before[name]
            torch.testing.assert_close(weight[: len(old)], old)
            if "wte" in name or "lm_head" in name:
                assert len(weight) == 303
                torch.testing.assert_close(weight[len(old) :], old.mean(0).expand(303 - len(old), *old.shape[1:]))


def steps(engine: Accelerated, numbers: range) -> None:
    for n in numbers:
        batches = [documents(20 + n, 9), documents(30 - n)]
        for batch in batches:
            engine.forward_backward(batch, sum(one.learned for one in batches))
        engine.clip(1.0)
        engine.step(1e-3)


def test_a_checkpoint_goes_on_bit_for_bit_dropout_and_all(place: Place, tmp_path: Path) -> None:
    folder = made(tmp_path / "gpt2", OTHERS["gpt2"])
    engine, other = (Accelerated(folder, 0, EXACT, place, compiled=False) for _ in range(2))
    assert engine.learner.model.config.resid_pdrop > 0
    steps(engine, range(2))
    (saved := tmp_path / "saved").mkdir()
    engine.save(saved)
    steps(engine, range(2, 4))
    other.load(saved)
    torch.manual_seed(99)
    steps(other, range(2, 4))
    for (name, mine), (_, right) in zip(other.tensors(), engine.tensors(), strict=True):
        assert torch.equal(mine, right), name


def test_a_torn_checkpoint_is_refused(place: Place, tmp_path: Path) -> None:
    engine = Accelerated(tiny.gptj(tmp_path / "gptj"), 0, EXACT, place, compiled=False)
    with pytest.raises(UltraError, match="not a checkpoint of this model"):
        engine.load(tmp_path)
    steps(engine, range(1))
    engine.save(tmp_path)
    wider = Accelerated(tmp_path / "gptj", 300, EXACT, place, compiled=False)
    with pytest.raises(UltraError, match="another size"):
        wider.load(tmp_path)
    whole = (tmp_path / "optimizer.pt").read_bytes()
    (tmp_path / "optimizer.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UltraError, match="not a checkpoint of this model"):
        engine.load(tmp_path)


def test_a_model_that_is_not_whole_is_refused(place: Place, tmp_path: Path) -> None:
    folder = tiny.gptj(tmp_path / "gptj")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "n_layer": 3}))
    with pytest.raises(UltraError, match=r"weights: transformer\.h\.2\.\S+ is missing"):
        Accelerated(folder, 0, EXACT, place, compiled=False)
    (folder / "config.json").write_text(json.dumps({**told, "model_type": "none-such"}))
    with pytest.raises(UltraError, match="not a model"):
        Accelerated(folder, 0, EXACT, place, compiled=False)


def test_fp16_needs_a_gpu(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        Accelerated(tmp_path, 0, TrainConfig(precision="fp16"), place, compiled=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a GPU")
def test_a_step_that_overflows_in_fp16_is_skipped_and_says_so(tmp_path: Path) -> None:
    place = processes.join(Launch(gpus=1))
    try:
        config = TrainConfig(precision="fp16", batch=1)
        engine = Accelerated(tiny.gptj(tmp_path / "gptj"), 0, config, place, compiled=False)
        batch = documents(40, 25)
        before = {name: tensor.clone() for name, tensor in engine.tensors()}
        engine.forward_backward(batch, batch.learned)
        engine._weights[0].grad[0] = float("inf")  # type: ignore[index]
        engine.clip(1.0)
        assert not engine.step(1e-3)
        assert all(torch.equal(before[name], tensor) for name, tensor in engine.tensors())
        engine.forward_backward(batch, batch.learned)
        assert np.isfinite(engine.clip(1.0))
        assert engine.step(1e-3)
    finally:
        processes.leave()


def test_cost_counts_the_weights_of_gpt_models(tmp_path: Path) -> None:
    """All matrices; without norms, biases and tables of positions."""
    for n_inner in (None, 100):
        for kind in ("gptj", "gpt2"):
            config: Any = AutoConfig.for_model(kind, vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_inner=n_inner)
            model = AutoModelForCausalLM.from_config(config)
            wide = [
                weight.numel()
                for name, weight in model.named_parameters()
                if weight.ndim == 2 and not any(table in name for table in ("wte", "wpe", "lm_head"))
            ]
            assert Cost.of(config).inner == sum(wide)
            assert Cost.of(config).head == 300 * 64


SAID = ["Hi there", "Hello!", "Why is\nthe sky blue?", "Scattering."]


def legacy(folder: Path, max_length: int, said: list[str]) -> tuple[list[tuple[str, str]], Counter[str]]:
    """(text, learned) of every example."""
    tokenizer = ChatTokenizer(tiny.gptj(folder), "gptj-legacy")
    counts: Counter[str] = Counter()
    examples = encode([Dialogue("d", said)], tokenizer, Rules(max_length, examples="turn"), counts)[0]

    def decoded(ids: np.ndarray) -> str:
        return str(tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False))

    return [(decoded(one.ids), decoded(one.ids[one.learn])) for one in examples], counts


def test_the_legacy_recipe_makes_one_example_of_each_answer(tmp_path: Path) -> None:
    assert legacy(tmp_path / "m", 2048, SAID)[0] == [
        ("User: Hi there\nAssistant: Hello!<|endoftext|>", " Hello!<|endoftext|>"),
        (
            "User: Hi there\n\nAssistant: Hello!\n\nUser: Why is\nthe sky blue?\nAssistant: Scattering.<|endoftext|>",
            " Scattering.<|endoftext|>",
        ),
    ]


def test_the_legacy_recipe_cuts_beginnings_and_ends_at_half_of_the_room(tmp_path: Path) -> None:
    found, counts = legacy(tmp_path / "m", 40, SAID)
    assert found[1] == ("sky blue?\nAssistant: Scattering.<|endoftext|>", " Scattering.<|endoftext|>")
    assert len("sky blue?\nAssistant:") == 20
    long, more = legacy(tmp_path / "n", 40, ["Hi", "word " * 20])
    assert long == [("User: Hi\nAssistant: " + ("word " * 20)[:19], " " + ("word " * 20)[:19])]
    assert (counts["beginnings cut"], more["answers cut"]) == (2, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.gptj(tmp_path_factory.mktemp("model") / "gptj")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.dialogues(tmp_path_factory.mktemp("data") / "data.jsonl")


def command(data: Path, model: Path, output: Path, *more: str) -> list[str]:
    return [
        "train", "--config", "gptj-legacy", "--data", str(data), "--model", str(model), "--output", str(output),
        "--gpus", "0", "--logging-step", "1", *more,
    ]  # fmt: skip


class Alone(Ultrachat):
    """The command on one core: where cores are busy, threads that wait for each other make a tiny model crawl."""

    def start(self, *args: str | Path, **options: Any) -> Started:
        core = random.choice(list(os.sched_getaffinity(0)))
        return super().start(*args, **{**options, "preexec": lambda: os.sched_setaffinity(0, {core})})


@pytest.fixture
def alone(ultrachat: Ultrachat, tmp_path: Path) -> Ultrachat:
    """Also with a cache of the test's own."""
    environ = {**ultrachat.environ, "ULTRACHAT_CACHE": str(tmp_path / "cache")}
    return Alone(ultrachat.folder, environ, ultrachat.started)


@pytest.mark.slow
def test_the_legacy_recipe_from_end_to_end(alone: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    done = alone(*command(data, model, tmp_path / "out", "--epochs", "4", "--json", "--set", "precision=fp32"))
    assert done.code == 0, done
    assert done.json["engine"] == "accelerate"
    told = json.loads((tmp_path / "out/manifest.json").read_text())
    assert told["config"]["evaluate"]["validation"] == 0.2
    held, seen = told["data"]["held_out"], told["data"]["examples"]
    turns = sum(len(json.loads(line)["data"]) // 2 for line in data.read_text().splitlines())
    assert held + seen == turns
    assert 0.1 < held / turns < 0.3

    found = runs.rows(tmp_path / "out")
    steps = [row for row in found if "loss" in row]
    assert len(steps) == -(-seen * 4 // 2) > 100
    for row in steps:  # still warming up, by optimizer steps
        assert row["lr"] == pytest.approx(5e-5 * row["step"] / 200)
    assert steps[-1]["loss"] < steps[0]["loss"]
    evaluated = [row["step"] for row in found if "validation_loss" in row]
    assert evaluated == [0, 50, 100, len(steps)]
    kept = sorted(path.name for path in (tmp_path / "out/checkpoints").iterdir())
    assert kept == ["step-00000100", f"step-{len(steps):08}"]

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    learned = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    begun = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert not torch.equal(learned.lm_head.bias, begun.lm_head.bias)
    asked = [{"role": "user", "content": "Tell me"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == (
        "User: Tell me\nAssistant:"
    )
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert learned.generate(**ids, max_new_tokens=3).shape[1] == ids["input_ids"].shape[1] + 3


@pytest.mark.slow
def test_torchrun_makes_no_difference_but_in_time(alone: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    """1 process x 8 micro-batches = 2 x 4; the last step is a short one."""
    more = ("--batch", "8", "--micro-batch", "1", "--epochs", "1", "--lr", "1e-3", "--set", "precision=fp32")
    more = (*more, "--set", "optimizer.warmup=0")
    assert alone(*command(data, model, tmp_path / "one", *more)).code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ultrachat_cli"]
    done = subprocess.run(
        [*launcher, *command(data, model, tmp_path / "two", *more)],
        env=alone.environ, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (runs.losses(tmp_path / name) for name in ("one", "two"))
    assert json.loads((tmp_path / "one/manifest.json").read_text())["data"]["examples"] % 8 in range(1, 7)
    assert len(one) >= 5
    assert one[-1][1] < one[0][1] - 0.3, "it learns"
    assert [step for step, *_ in two] == [step for step, *_ in one]
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in one], rel=1e-5)
    assert [norm for *_, norm in two] == pytest.approx([norm for *_, norm in one], rel=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(alone: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    more = ("--batch", "4", "--epochs", "2", "--save-step", "3", "--eval-step", "0", "--lr", "1e-3")
    assert alone(*command(data, model, tmp_path / "whole", *more)).code == 0
    started = alone.start(*command(data, model, tmp_path / "killed", *more))
    saved = tmp_path / "killed/checkpoints/step-00000006"
    while not saved.exists():
        assert started.alive
    started.kill()
    assert not (tmp_path / "killed/config.json").exists()
    done = alone(*command(data, model, tmp_path / "killed", *more, "--resume"))
    assert done.code == 0, done
    assert runs.rows(tmp_path / "killed")[0] == runs.rows(tmp_path / "whole")[0]
    assert runs.losses(tmp_path / "killed") == runs.losses(tmp_path / "whole")
    mine, right = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("killed", "whole"))
    assert all(torch.equal(mine[name], right[name]) for name in right)


@pytest.mark.slow
def test_what_cannot_be_is_refused_before_a_step(alone: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    made(short, GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=32, **{**SMALL, "vocab_size": 257}))
    tiny.tokenizer(short, ("<|endoftext|>",), "<|endoftext|>")
    chatml = tiny.llama(tmp_path / "llama", layers=1)
    out = tmp_path / "out"
    results = alone.many(
        command(data, short, out, "-q"),
        command(data, model, out, "-q", "--set", "precision=fp16"),
        command(data, model, out, "-q", "--lora-rank", "4"),
        command(data, model, out, "-q", "--batch", "3"),
        command(data, model, out, "-q", "--set", "format=llama-3"),
    )
    says = ["the model has places for 32", "fp16 needs a GPU", "lora", "batch must be a multiple of 2", "<|eot_id|>"]
    for result, words in zip(results, says, strict=True):
        refused(result, 2, words)
    (chatml / "model.safetensors").unlink()
    refused(alone(*command(data, chatml, out, "-q")), 1, "not a model")
    assert not (out / "config.json").exists()
    assert LlamaConfig.from_pretrained(chatml).num_hidden_layers == 1
