"""Dedupe against its peers on the same dialogues: speed, memory, recall and precision. `--peers NAME,...` picks some.

Peers run under `--peer-python` (an environment with gaoya, rensa, datasketch, text-dedup, datatrove; those that are not
there are left out), each in the way its own documentation shows, over word 5-grams, at our threshold. The slow ones get
fewer dialogues: their rate does not grow with them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ULTRACHAT = str(Path(sys.executable).with_name("ultrachat"))
PEERS = {"gaoya": 1, "rensa": 10, "datasketch": 10, "text_dedup": 10, "datatrove": 50}  # part of the dialogues: 1/n


def corpus(count: int) -> Path:
    """Made once and kept in the temporary folder."""
    path = Path(tempfile.gettempdir(), f"ultrachat-bench-{count}.jsonl")
    if not path.with_suffix(".truth.npz").exists():
        subprocess.run([sys.executable, str(HERE / "corpus.py"), str(path), str(count)], check=True)
    return path


def measured(command: list[str]) -> tuple[float, float, float]:
    """(wall seconds, processor seconds with all descendants, peak resident MB summed over the processes)."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what its processes leave behind is waited for here
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = [0.0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], _tree_mb(process.pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    code = process.wait()
    wall = time.perf_counter() - started
    ended.set()
    thread.join()
    with suppress(ChildProcessError):
        while True:
            os.wait()
    if code:
        raise SystemExit(f"{command}: exit {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak[0]


def _tree_mb(pid: int) -> float:
    """Private memory of a process and its children: pages of mapped files can be dropped and are not counted."""
    total = 0.0
    for one in [pid, *_children(pid)]:
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
    return total


def _children(pid: int) -> list[int]:
    try:
        direct = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return direct + [grand for child in direct for grand in _children(child)]


def quality(source: Path, output: Path, threshold: float) -> tuple[float, float]:
    """(recall, precision): similar pairs not both kept; removed ones that had a similar one."""
    truth = np.load(source.with_suffix(".truth.npz"))
    pairs = truth["pairs"][truth["similarity"] >= threshold]
    with output.open("rb") as lines:
        kept = {int(json.loads(line)["id"][1:]) for line in lines}
    with source.open("rb") as lines:
        everything = sum(1 for _ in lines)
    removed = set(range(everything)) - kept
    missed = sum(int(a) in kept and int(b) in kept for a, b in pairs)
    similar = set(pairs.reshape(-1).tolist())
    return 1 - missed / max(1, len(pairs)), len(removed & similar) / max(1, len(removed))


def row(name: str, count: int, source: Path, command: list[str], output: Path, threshold: float) -> None:
    """The middle one of three runs by time; peers that get fewer dialogues run once."""
    runs = sorted(measured(command) for _ in range(3 if count >= 100_000 else 1))
    wall, cpu, peak = runs[len(runs) // 2]
    recall, precision = quality(source, output, threshold)
    cells = f"{count / cpu:,.0f} | {count / wall:,.0f} | {peak:,.0f} | {recall:.4f} | {precision:.4f}"
    print(f"| {name} | {count:,} | {threshold} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=500_000, help="0 leaves it out")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--thresholds", default="0.8,0.7")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}; load {os.getloadavg()[0]:.1f}\n")
    print("| | dialogues | threshold | docs/CPU-s | docs/s | peak MB | recall | precision |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    source = corpus(given.count)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.jsonl")
        for threshold in map(float, given.thresholds.split(",")):
            ours = [ULTRACHAT, "dedupe", "-q", "-o", str(output), "--threshold", str(threshold)]
            row("**ultrachat dedupe**", given.count, source, [*ours, str(source)], output, threshold)
            for peer in filter(None, given.peers.split(",")):
                probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{peer}') is None)"
                if subprocess.run([given.peer_python, "-c", probe], check=False).returncode == 0:
                    part = given.count // PEERS[peer]
                    script = [given.peer_python, str(HERE / "dedupe_peers.py"), peer, str(corpus(part)), str(output)]
                    row(peer, part, corpus(part), [*script, str(threshold)], output, threshold)
        _decontamination(given.count, source, output, folder)
        if given.large:
            large = corpus(given.large)
            row("**ultrachat dedupe**", given.large, large, [*ours[:-2], str(large)], output, 0.8)


def _decontamination(count: int, source: Path, output: Path, folder: str) -> None:
    """The same job with and without 20,000 items to search for."""
    items = Path(folder, "items.jsonl")
    with source.open("rb") as lines, items.open("w") as out:
        for n, line in zip(range(20_000), lines, strict=False):
            words = json.loads(line)["data"][1].split()
            draw = np.random.default_rng(n)
            draw.shuffle(words)  # words of the corpus in another order: many look-ups, few hits
            out.write(json.dumps({"instruction": " ".join(words[: draw.integers(10, 120)])}) + "\n")
    times: dict[str, list[tuple[float, float, float]]] = {"without": [], "with": []}
    for name, more in 3 * [("without", []), ("with", ["--against", str(items)])]:
        command = [ULTRACHAT, "dedupe", "-q", str(source), "-o", str(output), *more]
        times[name].append(measured(command))
    (wall, cpu, _), (wall_2, cpu_2, _) = sorted(times["without"])[1], sorted(times["with"])[1]
    more = f"{wall_2 / wall - 1:+.0%} time, {cpu_2 / cpu - 1:+.0%} processor time"
    print(f"\nDecontamination against 20,000 items: {more}\n", flush=True)


if __name__ == "__main__":
    main()
