"""The processes of a run: who this one is, and the group they form."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.machine import cores
from ultrachat_cli.train.settings import Launch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Place:
    """This process among all: rank of world, and what it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that speaks and writes."""
        return self.rank == 0

    def total(self, values: Sequence[torch.Tensor | float]) -> list[float]:
        """Sums over all processes."""
        summed = torch.stack([torch.as_tensor(value, dtype=torch.float64).cpu() for value in values])
        dist.all_reduce(summed)
        return [float(value) for value in summed]

    def wait(self) -> None:
        """Until all processes are here."""
        dist.all_reduce(torch.zeros(1))

    def memory(self) -> float:
        """Most memory of this process so far, in GiB: of the GPU where it has one, else resident."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def launched() -> bool:
    """Whether a launcher (torchrun, ours or another) started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def join(launch: Launch) -> Place:
    """Form or enter the process group. `ConfigError` for GPUs that are not there, `UltraError` when it fails."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus_wanted(launch):
        if local >= torch.cuda.device_count():
            raise ConfigError(f"--gpus: process {local} has no GPU of its own", "start as many processes as GPUs")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, cores() // here))
        _keep_freed_memory()
    patience = timedelta(seconds=launch.timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        if launched():
            dist.init_process_group(backend, timeout=patience)
        else:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=patience)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UltraError(
            f"the {world} processes did not find each other: {reason}",
            "another run may hold the port: give another --rdzv-endpoint, or MASTER_PORT under your own torchrun",
        ) from error
    return Place(rank, world, device)


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next: handing large tensors back and faulting their pages in anew, in
    every step, takes a twelfth of it. Other C libraries go on as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter, value in ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0)):
            mallopt(parameter, value)


def gpus_wanted(launch: Launch) -> bool:
    """Whether the run is to use GPUs."""
    if launch.gpus is not None:
        return launch.gpus > 0
    return launch.processes is None and torch.cuda.device_count() > 0


def check(launch: Launch) -> None:
    """`ConfigError` when more GPUs are asked for than there are."""
    there = torch.cuda.device_count()
    if launch.gpus is not None and launch.gpus > there:
        raise ConfigError(f"--gpus: {launch.gpus} asked for, {there} found", "--gpus 0 trains on the CPU")


def leave() -> None:
    """Out of the group."""
    if dist.is_initialized():
        gc.collect()  # a model that still holds the group keeps its threads, and these abort a process that ends
        dist.destroy_process_group()
