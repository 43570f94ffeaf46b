"""`ultrachat eval` with a judge that takes 200 ms: `python -m tests.bench.evaluate`.

805 comparisons, 64 in flight, then the same command again, all of it from the journal. Medians of `--times`. Memory is
what is above a Python that has imported the same packages. `--peer-python`: one that has alpaca_eval, which is measured
in the same sitting with its own preset and prompt, at its default of 5 threads and at 64.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.openai_server import Options, Running, running

ULTRACHAT = str(Path(sys.executable).with_name("ultrachat"))
JUDGE, IN_FLIGHT, DELAY = "gpt-4", 64, 0.2
REPLY = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
PROMPT = """<|im_start|>user
Rank the outputs of two models for this instruction: {instruction}
model_1: {output_1}
model_2: {output_2}
<|im_end|>
"""
PACKAGES = "aiohttp, numpy, orjson, pydantic, rich.progress, sqlite3, typer, uvloop, yaml"
PEER = """
import importlib.metadata, importlib.util, json, sys, time, types
if importlib.util.find_spec("pkg_resources") is None:  # gone since setuptools 81
    stub = sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
    stub.get_distribution, stub.DistributionNotFound = importlib.metadata.distribution, ImportError
from alpaca_eval import evaluate
at = sys.argv[1]
began = time.perf_counter()
board, _ = evaluate(
    model_outputs=f"{at}/mine.json", reference_outputs=f"{at}/theirs.json", annotators_config="alpaca_eval_gpt4",
    is_return_instead_of_print=True, precomputed_leaderboard=None, is_overwrite_leaderboard=True, output_path=None,
    is_cache_leaderboard=False, fn_metric="get_winrate", caching_path=None,
)
print(json.dumps({"seconds": time.perf_counter() - began, "win_rate": float(board["win_rate"].iloc[0])}))
"""


@dataclass
class Measured:
    """One process: wall and processor seconds, peak resident MB, what it printed."""

    wall: float
    cpu: float
    peak: float
    said: dict[str, Any]


def measured(command: list[str], **environ: str) -> Measured:
    """Run it to its end; this process must stay small, for the peak of a child counts its parent's."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:  # a pipe that nobody reads meanwhile would fill
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **environ})
        assert process.stdout
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:300]}\n{said.decode()[-2000:]}")
    last = out.decode().strip() or "{}"
    found = json.loads(last if last.startswith("{") else last.splitlines()[-1])
    return Measured(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, found)


def prepared(at: Path, n: int) -> None:
    """Answers as long as UltraLM-13B's and text_davinci_003's on AlpacaEval: 1,087 and 307 characters on average."""
    draw = random.Random(0)
    words = [f"word{k}" for k in range(400)]
    for name, mean in (("mine", 1087), ("theirs", 307)):
        rows = [
            {"dataset": f"part {k % 5}", "instruction": f"Instruction {k}: tell me about number {k}?",
             "output": " ".join(draw.choices(words, k=max(3, int(draw.gauss(mean, mean / 4) / 8)))), "generator": name}
            for k in range(n)
        ]  # fmt: skip
        (at / f"{name}.json").write_text(json.dumps(rows))
    (at / "prompt.txt").write_text(PROMPT)
    (at / "script.jsonl").write_text(json.dumps({"match": "", "reply": REPLY}))


def ours(at: Path, server: Running, run: int) -> list[str]:
    return [
        ULTRACHAT, "eval", "alpaca", "--outputs", str(at / "mine.json"), "--reference", str(at / "theirs.json"),
        "--judge", JUDGE, "--judge-base-url", server.url, "--preset", "alpaca_eval_gpt4",
        "--prompt", str(at / "prompt.txt"), "-j", str(IN_FLIGHT), "-o", str(at / f"run-{run}"), "--json", "-q",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--comparisons", type=int, default=805)
    parser.add_argument("--peer-python", default="")
    given = parser.parse_args()
    n = given.comparisons
    seen: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="ultrachat-eval-") as folder:
        at = Path(folder)
        prepared(at, n)
        with running(Options(delay=DELAY, models=JUDGE, script=str(at / "script.jsonl"))) as server:
            for run in range(given.times):
                bare = measured([sys.executable, "-c", f"import {PACKAGES}"])
                seen.setdefault("Python and the packages", []).append(bare)
                first = measured(ours(at, server, run))
                again = measured(ours(at, server, run))
                assert (first.said["requests"], again.said["requests"], again.said["repeated"]) == (n, 0, n)
                seen.setdefault(f"**ultrachat eval**, {IN_FLIGHT} in flight", []).append(first)
                seen.setdefault("**ultrachat eval**, again", []).append(again)
                for threads in (5, IN_FLIGHT) if given.peer_python else ():
                    environ = {
                        "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.url, "OPENAI_API_BASE": server.url,
                        "OPENAI_MAX_CONCURRENCY": str(threads), "HF_HUB_OFFLINE": "1", "IS_ALPACA_EVAL_2": "False",
                    }  # fmt: skip
                    command = [given.peer_python, "-c", PEER, str(at)]
                    theirs = measured(command, **environ)
                    assert abs(theirs.said["win_rate"] - first.said["metrics"]["win_rate"]) < 1e-9
                    seen.setdefault(f"alpaca_eval, {threads} threads", []).append(theirs)
    print(table(seen, n))


def table(seen: dict[str, list[Measured]], n: int) -> str:
    """Medians as Markdown."""

    def of(name: str, figure: str) -> float:
        return statistics.median(float(getattr(run, figure)) for run in seen[name])

    bare, (fastest, *_) = "Python and the packages", [name for name in seen if "in flight" in name]
    lines = [
        f"{n:,} comparisons, a judge of {1000 * DELAY:.0f} ms", "",
        "| | wall s | CPU ms a comparison | peak MB | above the packages | times as long |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in seen:
        wall, cpu, peak = of(name, "wall"), of(name, "cpu"), of(name, "peak")
        above, times = peak - of(bare, "peak"), wall / of(fastest, "wall")
        each = "" if name == bare else f"{1000 * cpu / n:.2f}"
        lines.append(f"| {name} | {wall:.2f} | {each} | {peak:,.0f} | {above:,.0f} | {times:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
