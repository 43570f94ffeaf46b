"""BMTrain's own Python on the CPU: its source with the CUDA device's names replaced by the CPU's, and stand-ins for
what is compiled: NCCL by gloo, the Adam kernels and the search for overflow by their formulas in torch.

`python -m tests.train.bmtrain_cpu PACKAGE IN OUT JOB...` runs jobs of `tests.train.bmtrain_jobs` in one process of
several (environment as torchrun sets it).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_TYPES = {0: torch.int8, 1: torch.uint8, 2: torch.int32, 4: torch.int64, 6: torch.float16, 7: torch.float32,
          8: torch.float64, 9: torch.bfloat16}  # fmt: skip
_SUMS = {0: dist.ReduceOp.SUM, 1: dist.ReduceOp.PRODUCT, 2: dist.ReduceOp.MAX, 3: dist.ReduceOp.MIN}


def adapted(source: Path, target: Path) -> Path:
    """Copy the package `bmtrain` from its unpacked sdist with other device names; the folder to import from."""
    for path in sorted((source / "bmtrain").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\btorch\.cuda\.", "_cuda.", text)
        text = text.replace('device="cuda"', 'device="cpu"').replace(".cuda()", ".cpu()")
        text = text.replace(".is_cuda", '.device.type == "cpu"')
        text = re.sub(r"(?m)^( *)\S.*\.record_stream\(.*\)$", r"\1pass", text)
        text = text.replace("pin_memory=True", "pin_memory=False").replace(".pin_memory()", "")
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("from tests.train.bmtrain_cpu import cuda as _cuda\n" + text, encoding="utf-8")
    return target


def at(pointer: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """The memory a kernel would be given."""
    if not count:
        return torch.empty(0, dtype=dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(pointer)
    return torch.frombuffer(memory, dtype=dtype)


class _Stream:
    cuda_stream = 0

    def __init__(self, **_: Any) -> None: ...

    def wait_stream(self, _: _Stream) -> None: ...

    def record_event(self, _: _Event) -> None: ...

    def synchronize(self) -> None: ...


class _Event:
    def synchronize(self) -> None: ...


def _cuda() -> Any:
    """In place of `torch.cuda`."""
    one = _Stream()
    kinds = ["Float", "Double", "Half", "BFloat16", "Char", "Byte", "Short", "Int"]
    storages = {f"{kind}Storage": getattr(torch, f"{kind}Storage") for kind in kinds}
    return types.SimpleNamespace(
        Stream=_Stream, Event=_Event, current_stream=lambda: one, stream=lambda _: contextlib.nullcontext(),
        set_device=lambda _: None, current_device=lambda: 0, FloatTensor=torch.FloatTensor,
        get_rng_state=torch.get_rng_state, **storages,
    )  # fmt: skip


cuda = _cuda()


class Kernels(types.ModuleType):
    """In place of the compiled `bmtrain.C`."""

    ncclGetUniqueId = staticmethod(lambda: b"gloo")
    ncclCommInitRank = staticmethod(lambda _, __, ___: 1)
    ncclCommCount = staticmethod(lambda _: dist.get_world_size())
    ncclCommUserRank = staticmethod(lambda _: dist.get_rank())
    ncclGroupStart = ncclGroupEnd = staticmethod(lambda: None)
    is_bf16_supported = staticmethod(lambda: True)

    @staticmethod
    def ncclAllGather(send: int, receive: int, count: int, kind: int, _: int, __: int) -> None:
        own = at(send, count, _TYPES[kind]).clone()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        at(receive, count * len(parts), own.dtype).copy_(torch.cat(parts))

    @staticmethod
    def ncclAllReduce(send: int, receive: int, count: int, kind: int, how: int, _: int, __: int) -> None:
        own = at(send, count, _TYPES[kind]).clone()
        dist.all_reduce(own, _SUMS[how])
        at(receive, count, own.dtype).copy_(own)

    @staticmethod
    def ncclReduceScatter(send: int, receive: int, count: int, kind: int, how: int, _: int, __: int) -> None:
        every = at(send, count * dist.get_world_size(), _TYPES[kind]).clone()
        dist.all_reduce(every, _SUMS[how])
        at(receive, count, every.dtype).copy_(every[dist.get_rank() * count :][:count])

    @staticmethod
    def has_nan_inf_fp16_launcher(count: int, values: int, _: int, out: int, __: int) -> None:
        at(out, 1, torch.uint8).logical_or_((~at(values, count, torch.float16).isfinite()).any())

    @staticmethod
    def adam_cpu_fp16_launcher(count: int, p: int, p16: int, _: int, g: int, m: int, v: int, *rest: float) -> None:
        _adam(count, torch.float16, torch.float32, p, p16, g, m, v, *rest)

    @staticmethod
    def adam_bf16_launcher(count: int, p: int, p16: int, g: int, m: int, v: int, *rest: float) -> None:
        _adam(count, torch.bfloat16, torch.float32, p, p16, g, m, v, *rest[:-1])

    @staticmethod
    def adam_fp16_launcher(count: int, p: int, p16: int, g: int, m: int, v: int, *rest: float) -> None:
        """Its moments are kept times the loss scale."""
        scale = rest[4]
        m32 = at(m, count, torch.float16).float() / scale
        v32 = at(v, count, torch.float32) / scale
        _adam(count, torch.float16, torch.float32, p, p16, g, m32.data_ptr(), v32.data_ptr(), *rest[:-1])
        at(m, count, torch.float16).copy_(m32 * scale)
        at(v, count, torch.float32).copy_(v32 * scale)


def _adam(
    count: int, half: torch.dtype, full: torch.dtype, p: int, p16: int, g: int, m: int, v: int, beta1: float,
    beta2: float, eps: float, rate: float, scale: float, decay: float, correction1: float, correction2: float,
) -> None:  # fmt: skip
    slope = at(g, count, half).float() / scale
    weights, first, second = (at(pointer, count, full) for pointer in (p, m, v))
    first.mul_(beta1).add_(slope, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
    change = first / correction1 / ((second / correction2).sqrt() + eps) + decay * weights
    weights.sub_(change, alpha=rate)
    at(p16, count, half).copy_(weights)


def run(package: Path, given: Path, out: Path, jobs: list[str], world: int, seconds: float = 300) -> list[Any]:
    """What each of `world` processes returns from each job, by its name."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(world):
        shared = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        environment = {**os.environ, **{key: str(value) for key, value in shared.items()}, "CUDA_VISIBLE_DEVICES": "",
                       "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}  # fmt: skip
        command = [sys.executable, "-m", "tests.train.bmtrain_cpu", package, given, out, *jobs]
        started.append(
            subprocess.Popen(
                list(map(str, command)), env=environment, cwd=Path(__file__).parents[2], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    try:
        for rank, process in enumerate(started):
            said, _ = process.communicate(timeout=seconds)
            assert process.returncode == 0, f"process {rank} of {world}:\n{said[-6000:]}"
            assert "Initialization" not in said  # BMTrain's own words stay off stdout
    finally:
        for process in started:
            process.kill()
    return [torch.load(out / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


def main(package: str, given: str, out: str, *jobs: str) -> None:
    sys.path.insert(0, package)
    sys.modules["bmtrain.C"] = Kernels("bmtrain.C")
    from tests.train import bmtrain_jobs
    from ultrachat_cli.train import processes
    from ultrachat_cli.train.settings import Launch

    place = processes.join(Launch(gpus=0))
    found = {job: getattr(bmtrain_jobs, job)(Path(given), Path(out), place) for job in jobs}
    torch.save(found, Path(out) / f"{place.world}-{place.rank}.pt")
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
