"""Several processes on one command: torch's elastic launcher, one agent a node."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import INCOMPLETE, INTERRUPTED, UltraError
from ultrachat_cli.train import processes
from ultrachat_cli.train.settings import Launch

LOGS = "logs"
_GRACE = 600  # seconds for a checkpoint after SIGTERM
_TAIL = 15  # lines of a dead process's log that are shown


class Stopped(Exception):
    """The processes ended with this exit code, having said why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def here(launch: Launch) -> int:
    """Processes of this node."""
    if processes.gpus_wanted(launch):
        import torch

        return launch.gpus or torch.cuda.device_count()
    return launch.processes or 1


def needed(launch: Launch) -> bool:
    """Whether this process is to start others, and is none of them."""
    return not processes.launched() and here(launch) * launch.nodes > 1


def run(launch: Launch, folder: Path, arguments: list[str]) -> None:
    """Run `ultrachat ARGUMENTS` in all processes; returns when all have ended well.

    Rank 0 shares this terminal, the others write to `<folder>/logs`. Raises `Stopped`, and `UltraError` for a process
    that died, with the end of its log.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, LogsDest, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    class Logs(DefaultLogsSpecs):
        """Remembers where the processes of this node write: a failure does not tell."""

        where: LogsDest

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            self.where = super().reify(envs)
            return self.where

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says is said here in one line
    count = here(launch)
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    single = launch.nodes == 1
    first_here = launch.node_rank == 0
    quiet = {local: Std.ALL for local in range(count) if local or not first_here}
    logs = Logs(str(folder / LOGS), redirects=quiet)
    settings = LaunchConfig(
        launch.nodes, launch.nodes, count,
        run_id=uuid.uuid4().hex if single else "ultrachat",
        rdzv_backend="c10d",
        rdzv_endpoint=launch.rdzv_endpoint or "localhost:0",
        rdzv_configs={} if single else {"is_host": first_here},
        max_restarts=0,
        shutdown_timeout=_GRACE,
        logs_specs=logs,
    )  # fmt: skip
    try:
        elastic_launch(settings, sys.executable)("-m", "ultrachat_cli", *arguments)
    except SignalException as error:
        raise Stopped(INTERRUPTED) from error
    except ChildFailedError as error:
        _told(error, logs.where)
    except (RuntimeError, OSError) as error:
        raise UltraError(
            f"the processes could not be started: {str(error).splitlines()[0]}",
            "give another --rdzv-endpoint if the port is taken",
        ) from error


def _told(error: Any, logs: Any) -> None:
    """What the first process that failed died of."""
    rank, failure = min(error.failures.items(), key=lambda pair: (pair[1].timestamp, _blameless(pair[1].exitcode)))
    if failure.exitcode == INTERRUPTED:
        raise Stopped(INTERRUPTED) from error
    if {found.exitcode for found in error.failures.values()} == {INCOMPLETE}:
        raise Stopped(INCOMPLETE) from error
    if rank == 0 and failure.exitcode > 0:
        raise Stopped(failure.exitcode) from error
    cause = f"was killed by signal {-failure.exitcode}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    own = (written.get(failure.local_rank) for written in (logs.stderrs, logs.stdouts))
    raise UltraError(
        f"process {rank} {cause}{_tail(*own)}",
        "--resume goes on from the newest checkpoint; if memory ran out, lower micro_batch",
    ) from error


def _blameless(code: int) -> int:
    """Of processes found dead in the same second, the least is the cause: one killed, then one that failed, missing it.

    Those that are left the launcher asks to end, and reports them too: they saved, or died of its signal.
    """
    return {INTERRUPTED: 2, -signal.SIGTERM: 3}.get(code, int(code > 0))


def _tail(*logs: str | None) -> str:
    for path in filter(None, logs):
        if text := Path(path).read_text(errors="replace").strip():
            return "; the end of its log:\n" + "\n".join(text.splitlines()[-_TAIL:])
    return ""
