"""Training on this CPU against TRL: `python -m tests.bench.train`.

SmolLM2-135M, two dialogues of 1,024 tokens a step, bf16, the same rows and losses. TRL runs under `--peer-python` (an
environment that has it). Rates are of the steps after the first two; the losses of the first and last are shown.
`--only ultrachat` leaves TRL out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LENGTH, PER_STEP, SKIPPED, RATE = 1024, 2, 2, 1e-5


def rows(steps: int) -> tuple[Path, dict[str, Any]]:
    """(model folder, {input_ids, labels}): dialogues of the bench corpus, cut to LENGTH tokens."""
    import numpy as np

    from tests.bench import corpus
    from ultrachat_cli.models import folders, specs
    from ultrachat_cli.models.chat_tokens import ChatTokenizer

    folder = folders.obtain(specs.resolve("smollm2-135m"), print)
    tokenizer = ChatTokenizer(folder, "chatml")
    found: dict[str, Any] = {"input_ids": [], "labels": [], "per_step": PER_STEP, "lr": RATE}
    names = corpus.vocabulary(np.random.default_rng(0))
    talks = (words for family in corpus.families(steps * PER_STEP, seed=3) for words in family)
    for dialogue in (corpus.turns(words, names) for words in talks):
        messages = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(dialogue)]
        ids, learn = tokenizer.encode([messages])[0]
        found["input_ids"].append(ids[:LENGTH].tolist())
        found["labels"].append([int(i) if keep else -100 for i, keep in zip(ids[:LENGTH], learn[:LENGTH], strict=True)])
    return folder, found


def ours(folder: Path, data: dict[str, Any], *, compiled: bool) -> dict[str, Any]:
    """The engine on these rows, a step for each PER_STEP of them."""
    import numpy as np

    from ultrachat_cli.train import processes
    from ultrachat_cli.train.batches import Batch
    from ultrachat_cli.train.engines.fsdp import Fsdp
    from ultrachat_cli.train.settings import Launch, TrainConfig

    place = processes.join(Launch(gpus=0))
    engine = Fsdp(folder, 0, TrainConfig(), place, compiled=compiled)
    losses, ends, cpu = [], [], []
    documents = [
        (np.array(ids), np.array(labels) != -100) for ids, labels in zip(data["input_ids"], data["labels"], strict=True)
    ]
    for first in range(0, len(documents), PER_STEP):
        batch = Batch.of(documents[first : first + PER_STEP])
        loss = engine.forward_backward(batch, batch.learned)
        engine.clip(1.0)
        engine.step(RATE)
        losses.append(float(loss) / batch.learned)
        ends.append(time.perf_counter())
        cpu.append(time.process_time())
    return {
        "losses": losses,
        "ends": ends,
        "cpu": cpu,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--times", type=int, default=1, help="runs of each, in turn; the middle one is told")
    parser.add_argument("--only", default="")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--as", dest="role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rows", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        os.environ["GOMP_SPINCOUNT"] = "10000"  # as `ultrachat train` sets it
        folder, data = given.rows.split("|")
        print(json.dumps(ours(Path(folder), json.loads(Path(data).read_text()), compiled=given.role == "compiled")))
        return
    folder, data = rows(given.steps)
    tokens = sum(map(len, data["input_ids"])) * PER_STEP / len(data["input_ids"])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "rows.json")
        path.write_text(json.dumps(data))
        mine = [sys.executable, "-m", "tests.bench.train", "--rows", f"{folder}|{path}", "--as"]
        peer = [given.peer_python, str(HERE / "train_trl.py"), str(folder), str(path)]
        commands = {
            "**ultrachat**, compiled": [*mine, "compiled"], "**ultrachat**": [*mine, "plain"],
            "TRL, no checkpointing": [*peer, "plain"], "TRL as it comes": [*peer, "default"],
        }  # fmt: skip
        chosen = {name: command for name, command in commands.items() if given.only in name}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for _ in range(given.times):
            for name, command in chosen.items():
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parents[1])
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| | tokens/s | CPU-s per 1,000 tokens | peak GiB | loss, first and last step |\n|---|---|---|---|---|")
    for name, runs in found.items():
        seconds = statistics.median(_middle(run["ends"]) for run in runs)
        cpu = statistics.median(_middle(run["cpu"]) for run in runs)
        peak = statistics.median(run["gib"] for run in runs)
        first, *_, last = runs[0]["losses"]
        print(f"| {name} | {tokens / seconds:.1f} | {1000 * cpu / tokens:.1f} | {peak:.2f} | {first:.4f}, {last:.4f} |")
        print(name, *(f"{tokens / _middle(run['ends']):.1f}" for run in runs), file=sys.stderr)


def _middle(ends: list[float]) -> float:
    """The median of a run's steps, the first ones left out."""
    return statistics.median(b - a for a, b in pairwise(ends[SKIPPED - 1 :]))


if __name__ == "__main__":
    main()
