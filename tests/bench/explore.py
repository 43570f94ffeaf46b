"""`make bench`, the map: how projections compare, and how soon 20,000 dialogues are on the screen. Markdown on stdout.

`--only projections` or `--only ready`. Projections other than our own are measured where they are installed
(`pip install pacmap umap-learn`); the times of those two are given without and with their compilation.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests import invented  # noqa: E402
from ultrachat_cli import config  # noqa: E402
from ultrachat_cli.explore import embed, project, run  # noqa: E402
from ultrachat_cli.explore.settings import ExploreConfig  # noqa: E402
from ultrachat_cli.progress import Silent  # noqa: E402

WORDS = 1100  # of a dialogue: 6 to 7 KB
Project = Callable[[np.ndarray], np.ndarray]


def kept(vectors: np.ndarray, points: np.ndarray) -> float:
    """Share of a dialogue's 15 nearest neighbours that are among its 15 nearest on the map."""
    from sklearn.neighbors import NearestNeighbors

    asked = np.random.default_rng(0).choice(len(vectors), min(1000, len(vectors)), replace=False)
    near = [NearestNeighbors(n_neighbors=16).fit(rows).kneighbors(rows[asked], return_distance=False)[:, 1:]
            for rows in (vectors, points)]  # fmt: skip
    return float(np.mean([len(set(a) & set(b)) / 15 for a, b in zip(*near, strict=True)]))


def candidates() -> dict[str, Project]:
    def pacmap(vectors: np.ndarray) -> np.ndarray:
        import pacmap as package

        return np.asarray(package.PaCMAP(random_state=0, apply_pca=False).fit_transform(vectors))

    def umap(vectors: np.ndarray) -> np.ndarray:
        import umap as package

        return np.asarray(package.UMAP(random_state=0, n_jobs=1).fit_transform(vectors))

    def published(vectors: np.ndarray) -> np.ndarray:
        from openTSNE import TSNE

        return np.asarray(TSNE(n_jobs=1, random_state=0, initialization="pca").fit(vectors))

    found: dict[str, Project] = {
        "**`tsne`**: openTSNE, 150 + 250 iterations": lambda vectors: project.project(vectors, "tsne", 0, Silent()),
        "`pca`": lambda vectors: project.project(vectors, "pca", 0, Silent()),
        "openTSNE, 250 + 500 iterations": published,
    }
    more = {"pacmap": ("PaCMAP, seeded", pacmap), "umap": ("umap-learn, seeded (one thread)", umap)}
    return found | {name: call for module, (name, call) in more.items() if importlib.util.find_spec(module)}


def projections(count: int) -> None:
    texts = ["\n".join(record["data"]) for record in invented.dialogues(count, WORDS)]
    started = time.perf_counter()
    vectors = embed.embed(texts, None, 0, Silent())
    print(f"\n### Projections of {count:,} x {vectors.shape[1]} (embedded in {time.perf_counter() - started:.1f} s)\n")
    print("| projection | s, first | s, again | neighbours kept | same map twice |\n|---|---|---|---|---|")
    for name, call in candidates().items():
        seconds, maps = [], []
        for _ in range(2):
            started = time.perf_counter()
            maps.append(call(vectors))
            seconds.append(time.perf_counter() - started)
        same = "yes" if np.array_equal(*maps) else "no"
        print(f"| {name} | {seconds[0]:.1f} | {seconds[1]:.1f} | {kept(vectors, maps[0]):.2f} | {same} |", flush=True)


def ready(count: int) -> None:
    print(f"\n### {count:,} dialogues of {WORDS} words\n")
    print("| export | read | embed | project | write | in all, s | MB | drawn after, ms | first, second search, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = invented.write(Path(folder) / "in.jsonl", count, WORDS)
        for name in ("map.html", "map"):
            target = Path(folder) / name
            flags = {"inputs": ("FILES", [source]), "export": ("--export", target)}
            report = run.run(config.load(ExploreConfig, "explore", flags=flags), Path(folder))
            files = [path for path in ([target] if target.is_file() else target.rglob("*")) if path.is_file()]
            size = sum(path.stat().st_size for path in files) / 1e6
            stages = " | ".join(f"{report.seconds[stage]:.1f}" for stage in ("read", "embed", "project", "write"))
            total = sum(report.seconds.values())
            print(f"| {name} | {stages} | {total:.1f} | {size:.0f} | {drawn(report.files[0])} |", flush=True)


def drawn(page_file: Path) -> str:
    """Milliseconds from navigation to the drawn map, and seconds of two searches, in a browser without a GPU."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import CHROMIUM, FLAGS, until

    if CHROMIUM is None:
        return "no chromium | "
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page()
        page.goto(page_file.resolve().as_uri(), wait_until="commit")
        until(page, "document.body && document.body.dataset.drawn", 60)
        milliseconds = page.evaluate("document.body.dataset.drawn")
        seconds = []
        for words in ("honey bees", "coral reefs"):
            started = time.perf_counter()
            page.fill("#search", words)
            until(page, f"String(state.terms) === '{words.replace(' ', ',')}'", 120)
            seconds.append(time.perf_counter() - started)
        return f"{milliseconds} | {seconds[0]:.1f}, {seconds[1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["projections", "ready"])
    parser.add_argument("--dialogues", type=int, default=20_000)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; chromium: {shutil.which('chromium')}")
    if given.only != "ready":
        projections(given.dialogues)
    if given.only != "projections":
        ready(given.dialogues)


if __name__ == "__main__":
    main()
