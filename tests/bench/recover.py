"""`ultrachat recover` against cp of the same bytes, and against its peers: `python -m tests.bench.recover`.

1.35 B parameters of fp16 in four files (2.69 GB) each for base and delta; every command in turn, `--times` times,
medians; inputs are in memory before each. Peers run under `--peer-python`: FastChat's apply_delta (the package fschat),
its --low-cpu-mem, and what UltraLM's weight_diff.py does, written out in recover_peers.py. `--only ultrachat` leaves
them out. Takes 30 GB of disk.

`--size small` tries the script. `--size 13b` is 26 GB: base and delta are files of zeros without blocks on disk, so
that there is room for the result; cp is told to write the zeros out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ULTRACHAT = str(Path(sys.executable).with_name("ultrachat"))
SIZES = {"small": (512, 1376, 4, 4), "1.35b": (2048, 5504, 24, 4), "13b": (5120, 13824, 40, 6)}
"""Hidden size, that of the MLP, layers, files."""


def warmed(command: list[str]) -> None:
    """Read what it will read, so that everything finds its input in memory alike, and nothing is left to write."""
    os.sync()
    for folder in filter(os.path.isdir, command):
        for path in Path(folder).iterdir():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def measured(command: list[str]) -> tuple[float, float]:
    """(wall seconds, peak resident MB); this process must stay small, for the peak of a child counts its parent's."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read() if process.stderr else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{said.decode()[-600:]}")
    return time.perf_counter() - begun, used.ru_maxrss / 1024


def commands(at: Path, peer: str, size: str) -> dict[str, tuple[list[str], str]]:
    """What is measured: name -> (command, folder it makes)."""
    base, delta, out = str(at / "base"), str(at / "delta"), str(at / "out")
    shards = ["--shard-size", "5GB" if size == "13b" else "700MB", "-q"]
    found = {
        "cp of the same bytes": (["cp", "-r", "--sparse=never", "--reflink=never", base, out], out),
        "import torch": ([sys.executable, "-c", "import torch"], out),
        "**ultrachat recover**": ([ULTRACHAT, "recover", "--base", base, "--delta", delta, "-o", out, *shards], out),
    }
    if size == "13b":
        return found
    made = str(at / "made")
    tuned = [ULTRACHAT, "make-delta", "--base", base, "--tuned", str(at / "tuned"), "-o", made, *shards]
    found["**ultrachat recover**, delta in fp32, SHA-256 verified"] = (
        [ULTRACHAT, "recover", "--base", base, "--delta", str(at / "kept"), "-o", out, *shards], out,
    )  # fmt: skip
    found["**ultrachat make-delta**, fp32"] = (tuned, made)
    bins = [str(at / "base-bin"), str(at / "delta-bin"), out]
    for name, role, folders in (
        ("FastChat apply_delta", "fastchat", [base, delta, out]),
        ("FastChat apply_delta --low-cpu-mem (.bin only)", "low-cpu-mem", bins),
        ("as weight_diff.py does, fp32", "weight_diff", [base, delta, out]),
    ):
        found[name] = ([peer, str(HERE / "recover_peers.py"), role, *folders], out)
    return found


def prepared(at: Path, size: str, peers: bool) -> None:
    """Make the folders, in processes that end."""
    make = [sys.executable, str(HERE / "recover_peers.py")]
    hidden, inner, layers, files = map(str, SIZES[size])
    if not (at / "delta/config.json").is_file():
        subprocess.run(
            [*make, "sparse" if size == "13b" else "pair", str(at), hidden, inner, layers, files], check=True
        )
    if size != "13b" and not (at / "kept/config.json").is_file():
        made = [ULTRACHAT, "make-delta", "--base", str(at / "base"), "--tuned", str(at / "tuned"), "-o"]
        subprocess.run([*made, str(at / "kept"), "-q", "--shard-size", "1400MB"], check=True, stdout=subprocess.DEVNULL)
    if peers and size != "13b" and not (at / "delta-bin/config.json").is_file():
        subprocess.run([*make, "bins", str(at)], check=True)


def right(at: Path, out: Path) -> Callable[[], str]:
    """Whether the result is base + delta, rounded once."""
    command = [sys.executable, str(HERE / "recover_peers.py"), "verify", str(at / "base"), str(at / "delta"), str(out)]
    return lambda: subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.35b")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", default="", help="names that contain this; cp and the import always run")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--folder", type=Path, help="where base and delta are kept; else they are removed at the end")
    given = parser.parse_args()
    at = given.folder or Path(tempfile.mkdtemp(prefix="ultrachat-recover-"))
    try:
        prepared(at, given.size, "ultrachat" not in given.only)
        every = commands(at, given.peer_python, given.size)
        chosen = {name: found for name, found in every.items() if given.only in name or name in list(every)[:2]}
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        failed: dict[str, str] = {}
        verdicts: dict[str, str] = {}
        for _ in range(given.times):
            for name, (command, made) in chosen.items():
                if name in failed:
                    continue
                if given.size != "13b":  # more than there is memory
                    warmed(command)
                try:
                    seen[name].append(measured(command))
                except RuntimeError as error:
                    failed[name] = str(error)
                if "recover" in name or "Fast" in name or "weight_diff" in name:
                    verdicts[name] = verdicts.get(name) or right(at, Path(made))()
                shutil.rmtree(made, ignore_errors=True)
        print(table(seen, verdicts))
        for name, reason in failed.items():
            print(f"\n{name} failed: {reason}", file=sys.stderr)
    finally:
        if given.folder is None:
            shutil.rmtree(at)


def table(seen: dict[str, list[tuple[float, float]]], verdicts: dict[str, str]) -> str:
    """Medians as Markdown."""
    copy, imported = (statistics.median(wall for wall, _ in runs) for runs in list(seen.values())[:2])
    lines = ["| | wall s | without import torch | against cp | peak MB | bit for bit |", "|---|---|---|---|---|---|"]
    for name, runs in seen.items():
        if not runs:
            lines.append(f"| {name} | fails | | | | |")
            continue
        wall, peak = statistics.median(wall for wall, _ in runs), max(peak for _, peak in runs)
        bare = wall - imported if name not in list(seen)[:2] else wall
        ratio = f"{bare / copy:.2f}" if name != "import torch" else ""
        lines.append(f"| {name} | {wall:.2f} | {bare:.2f} | {ratio} | {peak:,.0f} | {verdicts.get(name, '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
