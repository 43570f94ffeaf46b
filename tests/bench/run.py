"""`make bench`: the figures of the README, as Markdown on stdout. Medians; ratios are taken within one run.

The machine must be idle: client and server share its cores. `--only NAME` runs one part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from openai_server import Options, running  # noqa: E402

ULTRACHAT = str(Path(sys.executable).with_name("ultrachat"))
DELAY = 0.2


@dataclass
class Measured:
    """One process: requests it made, seconds it says it took, processor seconds, peak memory."""

    requests: int
    seconds: float
    cpu: float
    peak_mb: float
    report: dict[str, Any]

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        return self.cpu / self.requests * 1000


def measure(command: list[str]) -> Measured:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command}: exit {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(out)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(report["requests"], report["seconds"], cpu, peak[0], report)


def _watch(pid: int, peak: list[float]) -> None:
    while (now := rss_mb(pid)) > 0:
        peak[0] = max(peak[0], now)
        time.sleep(0.1)


def rss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)
    except OSError:
        return 0.0


def generate(url: str, parallel: int, dialogues: int, *more: str) -> Measured:
    folder = tempfile.mkdtemp()
    try:
        where = ["--base-url", url, "--model", "test-model", "--output", folder, "--json", "-q"]
        size = ["--limit", str(dialogues), "--rounds", "4", "--concurrency", str(parallel)]
        return measure([ULTRACHAT, "generate", *where, *size, *more])
    finally:
        shutil.rmtree(folder)


def throughput(repeats: int) -> None:
    print(f"\n### Requests a second against a local server that answers in {DELAY * 1000:.0f} ms\n")
    print("| client | in flight | requests/s | share of ideal | CPU s per 1,000 requests | peak MB |")
    print("|---|---|---|---|---|---|")
    for parallel, dialogues in ((64, 800), (256, 3000), (1024, 8000)):
        rows: dict[str, list[Measured]] = {}
        for _ in range(repeats):
            for client in ("aiohttp", "ultrachat", "sdk-post", "sdk-create"):
                slow = client.startswith("sdk")
                with running(Options(delay=DELAY)) as server:
                    if client == "ultrachat":
                        done = generate(server.url, parallel, dialogues)
                    else:
                        conversations = max(parallel, dialogues // (8 if slow else 1))
                        script = [sys.executable, str(HERE / "clients.py"), client, server.url]
                        done = measure([*script, str(parallel), str(conversations)])
                rows.setdefault(client, []).append(done)
        for client, runs in rows.items():
            ideal = parallel / DELAY
            rate = statistics.median(run.per_second for run in runs)
            cpu = statistics.median(run.cpu_per_1000 for run in runs)
            peak = statistics.median(run.peak_mb for run in runs)
            print(f"| {client} | {parallel} | {rate:,.0f} | {rate / ideal:.2f} | {cpu:.2f} | {peak:.0f} |", flush=True)


def faults(repeats: int) -> None:
    print("\n### 5% 429 (Retry-After 1), 2% 500, 1% malformed bodies, 64 in flight\n")
    ratios = []
    for _ in range(repeats):
        with running(Options(delay=DELAY)) as server:
            clean = generate(server.url, 64, 600)
        with running(Options(delay=DELAY, p429=0.05, retry_after=1, p500=0.02, pmalformed=0.01)) as server:
            faulty = generate(server.url, 64, 600)
        assert faulty.report["written"] == 600, faulty.report
        ratios.append(faulty.seconds / clean.seconds)
    print(f"time against the fault-free run: {statistics.median(ratios):.2f}x; lost: 0", flush=True)


def memory(dialogues: int) -> None:
    print(f"\n### Memory over {dialogues:,} dialogues (scripted model, 256 in flight)\n")
    folder = tempfile.mkdtemp()
    size = ["--limit", str(dialogues), "--rounds", "2", "--concurrency", "256", "--output", folder]
    process = subprocess.Popen([ULTRACHAT, "generate", "-m", "scripted:synthetic", *size, "-q", "--json"],
                               stdout=subprocess.DEVNULL)  # fmt: skip
    marks = [dialogues // 10, dialogues // 4, dialogues // 2, dialogues * 9 // 10]
    print("| dialogues written | resident MB |\n|---|---|")
    file = Path(folder, "dialogues.jsonl")
    line_bytes = 0.0
    while process.poll() is None:
        time.sleep(0.5)
        if not file.exists():
            continue
        if not line_bytes and file.stat().st_size > 1e6:
            head = file.read_bytes()[:1_000_000]
            line_bytes = len(head) / head.count(b"\n")
        if line_bytes and marks and file.stat().st_size / line_bytes >= marks[0]:
            print(f"| {marks.pop(0):,} | {rss_mb(process.pid):.0f} |", flush=True)
    shutil.rmtree(folder)


def start_up(repeats: int) -> None:
    bare = "import typer; app = typer.Typer(); app.command('a')(lambda: None); app.command('b')(lambda: None); app()"
    times: dict[str, list[float]] = {"ultrachat": [], "bare": []}
    for _ in range(5 * repeats):
        for name, command in (("ultrachat", [ULTRACHAT, "--help"]), ("bare", [sys.executable, "-c", bare, "--help"])):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    ours, theirs = (statistics.median(times[name]) for name in ("ultrachat", "bare"))
    print("\n### Start\n")
    print(f"`ultrachat --help`: {ours:.2f} s, {ours / theirs:.2f}x a bare Typer app with rich help", flush=True)


def embedded(repeats: int) -> None:
    from engine import compare

    print("\n### The embedded model: the dialogue engine against llama.cpp alone on the same requests\n")
    print("| in flight | engine tokens/s | llama.cpp alone tokens/s | share |\n|---|---|---|---|")
    for slots in (4, 8):
        pairs = [compare(slots) for _ in range(repeats)]
        ours, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
        share = statistics.median(a / b for a, b in pairs)
        print(f"| {slots} | {ours:.0f} | {alone:.0f} | {share:.2f} |", flush=True)


def main() -> None:
    parts = {"throughput": throughput, "faults": faults, "memory": lambda _: memory(given.dialogues),
             "start": start_up, "embedded": embedded}  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(parts), action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dialogues", type=int, default=100_000, help="of the memory part")
    given = parser.parse_args()
    rows = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((row.split(":")[1].strip() for row in rows if "model name" in row), "?")
    print(f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    for name in given.only or parts:
        parts[name](given.repeats)


if __name__ == "__main__":
    main()
