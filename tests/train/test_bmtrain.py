"""The BMTrain engine on BMTrain's own Python (see `bmtrain_cpu`), in one process and in two, against transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from tests.train import bmtrain_cpu, tiny
from tests.train.bmtrain_jobs import CLIP, DECAY, EPS, EXTRA, RATE, WORDS, config, documents
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train import choose, install_bmtrain
from ultrachat_cli.train.batches import IGNORED, Batch
from ultrachat_cli.train.engines import bmtrain_blocks
from ultrachat_cli.train.processes import Place

slow = pytest.mark.slow
KINDS = [f"{kind} {recompute}" for kind in ("plain", "tied") for recompute in (False, True)]
HALVES = ["bf16 True", "fp16 True", "fp16 False"]


@pytest.fixture(scope="module")
def sources(request: pytest.FixtureRequest) -> Path:
    """BMTrain's sdist, unpacked; kept in pytest's cache."""
    folder: Path = request.config.cache.mkdir("bmtrain")  # type: ignore[union-attr]
    unpacked = folder / f"bmtrain-{install_bmtrain.VERSION}"
    if not (unpacked / "setup.py").is_file():
        try:
            install_bmtrain.source(folder)
        except UltraError as error:
            pytest.skip(f"BMTrain's sdist is not at hand: {error.message.splitlines()[0]}")
    return unpacked


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny LLaMAs, one with tied embeddings, of fewer words than are trained."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("plain", "tied"):
        tiny.llama(folder / kind, tied=kind == "tied", layers=3)
    return folder


@pytest.fixture(scope="module")
def ran(sources: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What the jobs return in one process and in two."""
    out = tmp_path_factory.mktemp("bmtrain")
    package = bmtrain_cpu.adapted(sources, out / "package")
    jobs = ["learning", "resuming", "overflowing", "memory"]
    return {world: bmtrain_cpu.run(package, models, out, jobs, world) for world in (1, 2)}


class Reference:
    """transformers as it comes, a document at a time, with torch's AdamW; `steps` as the jobs give them."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        self.model.resize_token_embeddings(WORDS + EXTRA, mean_resizing=False)
        with torch.no_grad():
            for module in {self.model.get_input_embeddings(), self.model.get_output_embeddings()}:
                module.weight[WORDS:] = module.weight[:WORDS].mean(0)
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
            {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, RATE, eps=EPS)
        self.before = self.weights()
        self.steps = [self._step(), self._step()]
        self.after = self.weights()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def loss(self, micro: list[Any]) -> torch.Tensor:
        total = torch.zeros(())
        for document in micro:
            labels = torch.from_numpy(Batch.of([document]).labels)
            logits = self.model(torch.from_numpy(document[0])[None], use_cache=False).logits[0]
            total = total + cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return total

    def _step(self) -> dict[str, Any]:
        learned = sum(Batch.of(micro).learned for micro in documents())
        loss = sum(self.loss(micro) for micro in documents()) / learned
        loss.backward()
        slopes = {name: p.grad.clone() for name, p in self.model.named_parameters()}
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": loss.item(), "norm": norm, "slopes": slopes}


@pytest.fixture(scope="module")
def reference(models: Path) -> dict[str, Reference]:
    return {kind: Reference(models / kind) for kind in ("plain", "tied")}


def joined(parts: list[dict[str, Any]], name: str, shape: torch.Size) -> torch.Tensor:
    """A gradient from the processes' shards."""
    whole = torch.zeros(shape.numel())
    for part in parts:
        start, slope = part["slopes"][name]
        if slope is not None:
            whole[start : start + len(slope)] = slope
    return whole.reshape(shape)


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name].float(), tensor, rtol=0, atol=tolerance, msg=lambda m, n=name: n + m)


@slow
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_updates_are_those_of_transformers(
    ran: dict[int, Any], reference: dict[str, Reference], kind: str, world: int
) -> None:
    known = reference[kind.split()[0]]
    found = [one["learning"][kind] for one in ran[world]]
    close(found[0]["before"], known.before, 1e-7)
    for number, wanted in enumerate(known.steps):
        parts = [one["steps"][number] for one in found]
        assert parts[0]["loss"] == pytest.approx(wanted["loss"], abs=2e-5)
        assert parts[0]["norm"] == pytest.approx(wanted["norm"], rel=1e-4)
        assert all(part["applied"] for part in parts)
        slopes = {name: joined(parts, name, slope.shape) for name, slope in wanted["slopes"].items()}
        close(slopes, wanted["slopes"], 1e-5)
    close(found[0]["after"], known.after, 1e-4)
    assert all(not len(tensor) for one in found[1:] for tensor in one["after"].values())


@slow
def test_two_processes_see_what_one_sees_with_accumulation(ran: dict[int, Any]) -> None:
    for kind in KINDS:
        alone, first, second = (one["learning"][kind] for one in (*ran[1], *ran[2]))
        close(first["after"], alone["after"], 1e-5)
        assert first["answer"] == second["answer"] == alone["answer"]
        assert len(alone["answer"]) == 4


@slow
@pytest.mark.parametrize("kind", ["plain", "tied"])
def test_what_is_exported_is_what_transformers_loads(
    ran: dict[int, Any], models: Path, tmp_path: Path, kind: str
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    found = ran[1][0]["learning"][f"{kind} False"]
    assert ("lm_head.weight" in found["after"]) == (kind == "plain")
    AutoConfig.from_pretrained(models / kind, vocab_size=WORDS + EXTRA).save_pretrained(tmp_path)
    save_file(found["after"], tmp_path / "model.safetensors", {"format": "pt"})
    loaded, told = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    known = Reference.__new__(Reference)
    known.model = loaded
    assert known.loss(documents()[0]).item() == pytest.approx(found["held"], rel=1e-5)


@slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_run_goes_on_bit_for_bit(ran: dict[int, Any], world: int) -> None:
    for name in ["fp32 True", *HALVES]:
        found = ran[world][0]["resuming"][name]
        assert found["again"] == found["losses"][2]
        assert found["losses"][0] > found["losses"][1] > found["losses"][2]
        assert found["straight"].keys() == found["resumed"].keys()
        for key, tensor in found["straight"].items():
            assert torch.equal(tensor, found["resumed"][key]), key


@slow
def test_the_optimizer_is_in_the_hosts_memory_in_fp16_only(ran: dict[int, Any]) -> None:
    names = {name: ran[1][0]["resuming"][name]["adam"] for name in ["fp32 True", *HALVES]}
    assert names == {
        "fp32 True": "AdamOptimizer", "bf16 True": "AdamOptimizer", "fp16 True": "AdamOffloadOptimizer",
        "fp16 False": "AdamOptimizer",
    }  # fmt: skip


@slow
def test_half_precision_learns_what_fp32_learns(ran: dict[int, Any]) -> None:
    for world in (1, 2):
        exact = ran[world][0]["resuming"]["fp32 True"]["losses"]
        for name in HALVES:
            assert ran[world][0]["resuming"][name]["losses"] == pytest.approx(exact, abs=0.03)


@slow
def test_checkpoints_that_do_not_fit_are_refused(ran: dict[int, Any]) -> None:
    for process in ran[2]:
        refused = process["resuming"]["refused"]
        assert "was made with fp32, AdamOptimizer, this is bf16" in refused["other precision"]
        assert "was made by 1 processes, these are 2" in refused["other world"]
        assert "not a checkpoint" in refused["nothing"]


@slow
@pytest.mark.parametrize("world", [1, 2])
def test_an_overflow_skips_the_step_and_halves_the_scale(ran: dict[int, Any], world: int) -> None:
    for process in ran[world]:
        found = process["overflowing"]
        assert not found["skipped"]
        assert found["scale"] == 2.0**39
        assert found["applied"]
    found = ran[world][0]["overflowing"]
    assert all(torch.equal(tensor, found["same"][name]) for name, tensor in found["before"].items())
    assert not any(torch.equal(tensor, found["after"][name]) for name, tensor in found["before"].items())


@slow
@pytest.mark.parametrize("world", [1, 2])
def test_gathered_weights_are_let_go_between_forward_and_backward(ran: dict[int, Any], world: int) -> None:
    found = ran[world][0]["memory"]
    assert found == {"forward": 3, "alive": 0, "all": 6, "chained": [True, True, False]}


def test_without_bmtrain_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bmtrain", None)
    with pytest.raises(UltraError, match="needs BMTrain") as caught:
        bmtrain_blocks.library()
    assert caught.value.hint.startswith("make bmtrain ")


def test_without_a_gpu_it_is_refused() -> None:
    place = Place(0, 1, torch.device("cpu"))
    with pytest.raises(ConfigError, match="GPUs only"):
        choose.built("bmtrain", config(), None, place, None, compiled=False)  # type: ignore[arg-type]


def test_only_the_lists_of_gpus_change_in_the_build_file(sources: Path) -> None:
    old = (sources / "CMakeLists.txt").read_text(encoding="utf-8")
    new = install_bmtrain.for_gpus(old, ["80", "90"])
    assert new.count('CUDA_ARCHITECTURES "80;90"') == 2
    assert "compute_61" not in new
    assert "sm_86" not in new
    changed = [line for line in new.splitlines() if line not in old.splitlines()]
    assert all("CUDA_ARCHITECTURES" in line or "CMAKE_CUDA_FLAGS" in line for line in changed)
    assert len(new.splitlines()) == len(old.splitlines())


def test_what_the_build_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    with pytest.raises(UltraError, match="no CUDA compiler"):
        install_bmtrain.compiler()
    (tmp_path / "include").mkdir()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "include" / "nccl.h").touch()
    (tmp_path / "lib64" / "libnccl.so.2").touch()
    monkeypatch.setenv("NCCL_ROOT_DIR", str(tmp_path))
    assert install_bmtrain.nccl() == (tmp_path / "include", tmp_path / "lib64")


def test_gpus_are_those_here_or_all_the_compiler_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nprintf 'compute_75\\ncompute_80\\ncompute_87\\ncompute_90\\n'\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert install_bmtrain.gpus_to_build_for(nvcc) == ["75", "80", "90"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda n: (9, 0))
    assert install_bmtrain.gpus_to_build_for(nvcc) == ["90"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda n: (12, 0))
    with pytest.raises(UltraError, match="compute capability 120"):
        install_bmtrain.gpus_to_build_for(nvcc)
