"""Training on this machine's GPUs: `python -m tests.bench.gpu` (`make bench-gpu`); nothing is downloaded.

A LLaMA of random weights (1.3 billion by default) learns from dialogues made here: tokens/s, MFU (train/flops.py says
what is counted), memory against the estimate, loss at the first and last step, for fsdp and, where it is installed,
bmtrain; then both engines on the same small model, whose losses must agree. `--self-check` does all of it in a minute
with tiny models on the CPU, so that the script is known to work before a GPU is paid for.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHAPES = {
    "1.3b": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "num_attention_heads": 16},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 26, "num_attention_heads": 24},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8},
    "tiny": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4},
}


def model(folder: Path, shape: str) -> Path:
    """A folder with random bf16 weights and a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.train import tiny

    tiny.tokenizer(folder)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(vocab_size=32000 if shape != "tiny" else 259, max_position_embeddings=4096, **SHAPES[shape])
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = LlamaForCausalLM(config)
    made.cpu().save_pretrained(folder)
    return folder


def dialogues(path: Path, count: int) -> Path:
    """The bench corpus, as text."""
    import numpy as np

    from tests.bench import corpus

    names = corpus.vocabulary(np.random.default_rng(0))
    with path.open("w") as out:
        talks = (words for family in corpus.families(count, seed=5) for words in family)
        for n, words in enumerate(talks):
            out.write(json.dumps({"id": str(n), "data": corpus.turns(words, names)}) + "\n")
    return path


def train(folder: Path, data: Path, output: Path, engine: str, *more: str) -> tuple[list[dict[str, Any]], float]:
    """(metrics of all steps, predicted GiB a process) of a run."""
    words = ["train", "--model", str(folder), "--data", str(data), "--format", "chatml", "--engine", engine,
             "--logging-step", "1", "--save-step", "0", *more]  # fmt: skip
    command = [sys.executable, "-m", "ultrachat_cli", *words, "--output", str(output)]
    estimate = subprocess.run([*command, "--dry-run", "--json"], check=True, stdout=subprocess.PIPE, text=True)
    subprocess.run([*command, "--quiet"], check=True, stdout=sys.stderr)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return rows, json.loads(estimate.stdout)["memory"]["total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1.3b")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--self-check", action="store_true")
    given = parser.parse_args()
    check = given.self_check
    engines = ["fsdp", *(["bmtrain"] if importlib.util.find_spec("bmtrain") and not check else [])]
    if check:
        given.shape, given.micro_batch, given.steps, given.gpus = "tiny", 2, 4, 0
    length = 256 if check else 2048
    world = max(1, given.gpus)
    sizes = ["--gpus", str(given.gpus), "--max-length", str(length), "--steps", str(given.steps)]
    batch = ["--micro-batch", str(given.micro_batch), "--batch", str(given.micro_batch * world)]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = dialogues(place / "data.jsonl", 40 if check else 4 * given.steps * given.micro_batch * world)
        large = model(place / "large", given.shape)
        more = (*sizes, *batch, "--set", f"precision={given.precision}", "--lr", "1e-4")
        print(
            "| engine | model | tokens/s | MFU | GiB, predicted | loss: first, last step |\n|---|---|---|---|---|---|"
        )
        for engine in engines:
            rows, predicted = train(large, data, place / engine, engine, *more)
            steady = sorted(rows[len(rows) // 2 :], key=lambda row: row["tokens_per_second"])
            middle = steady[len(steady) // 2]
            share = f"{middle['mfu']:.1%}" if "mfu" in middle else "-"
            memory = f"{max(row['memory_gib'] for row in rows):.1f}, {predicted:.1f}"
            losses = f"{rows[0]['loss']:.4f}, {rows[-1]['loss']:.4f}"
            speed = f"{middle['tokens_per_second']:,.0f}"
            print(f"| {engine} | {given.shape} | {speed} | {share} | {memory} | {losses} |", flush=True)
        small = model(place / "small", "tiny" if check else "small")
        seen: dict[str, list[float]] = {}
        for engine in engines:
            same = ["--gpus", str(given.gpus), "--max-length", "256", "--steps", "4", "--batch", "4", "--lr", "1e-3"]
            rows, _ = train(small, data, place / f"parity-{engine}", engine, *same, "--set", "precision=bf16")
            seen[engine] = [round(row["loss"], 3) for row in rows]
        for engine, losses in seen.items():
            print(f"\nlosses of the small model, {engine}: {losses}")
        apart = max(max(at) - min(at) for at in zip(*seen.values(), strict=True))
        if apart > 0.02 * max(map(max, seen.values())):
            sys.exit(f"the engines' losses are {apart:.3f} apart")


if __name__ == "__main__":
    main()
