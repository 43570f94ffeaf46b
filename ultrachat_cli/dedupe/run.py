"""The stages in order: unpack, scan, exact, near, semantic; then the survivors are written."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from ultrachat_cli.config import Loaded
from ultrachat_cli.dedupe import blocks, corpus, decontaminate, near, scan, workers
from ultrachat_cli.dedupe.bands import Bands
from ultrachat_cli.dedupe.blocks import Block
from ultrachat_cli.dedupe.clusters import Clusters, equal, ranking
from ultrachat_cli.dedupe.corpus import Corpus
from ultrachat_cli.dedupe.decontaminate import Benchmark
from ultrachat_cli.dedupe.outcome import Outcome, Report
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.dedupe.work import Work
from ultrachat_cli.dedupe.workers import Spread
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files

_SMALL = 8 << 20  # bytes: starting processes takes longer than the work


def run(loaded: Loaded[DedupeConfig], progress: Progress | None = None) -> Report:
    """Dedupe and decontaminate; everything but the output is found again after an interruption.

    Raises `ConfigError`, `DataError` (an input that cannot be read at all), `UltraError` (the disk), `RunLocked`.
    """
    config, progress = loaded.value, progress or Silent()
    started = time.monotonic()
    inputs = sorted(files.find(config.inputs, "inputs"))
    files.check_writable(config.target)
    if config.target.resolve() in {path.resolve() for path in inputs}:
        raise ConfigError(f"output: {config.output} is one of the inputs", "write to another file")
    if config.engine == "spark":
        from ultrachat_cli.dedupe import spark

        return spark.run(loaded, inputs, progress)
    benchmark = None
    if config.against.files:
        benchmark = Benchmark(decontaminate.load(config.against.files), config.against)
    work = Work(config, inputs, files.find(config.against.files, "against.files"))
    done = False
    try:
        sources = work.unpacked(inputs, progress)
        cut = blocks.cut(sources)
        size = sum(block.end - block.start for block in cut)
        processes = 1 if size < _SMALL else min(config.processes or os.cpu_count() or 1, len(cut))
        with workers.pool(processes) as spread:
            found = _scan(config, cut, inputs, benchmark, work, spread, progress)
            contaminated = benchmark.verdicts(found.overlaps) if benchmark else {}
            plain = [str(source.plain) for source in sources]
            clusters = _clusters(config, found, contaminated, plain, work, spread, progress)
        outcome = Outcome(loaded, sources, found, clusters, benchmark, contaminated)
        report = outcome.write(progress, time.monotonic() - started)
        done = True
        return report
    finally:
        work.close(done=done)


def _scan(
    config: DedupeConfig, cut: list[Block], inputs: list[Path], benchmark: Benchmark | None, work: Work,
    spread: Spread[int], progress: Progress,
) -> Corpus:  # fmt: skip
    pieces = [work.path(f"scan-{block.number:06}.npz") for block in cut]
    missing = [(block, piece) for block, piece in zip(cut, pieces, strict=True) if not piece.exists()]
    progress.stage("scan", sum(block.end - block.start for block, _ in missing) >> 20, "MB")
    for size in spread(partial(_scan_block, config=config, benchmark=benchmark), missing):
        progress.advance(size >> 20)
    return corpus.gather(cut, pieces, inputs, work.path("sketches.u8"))


def _scan_block(task: tuple[Block, Path], config: DedupeConfig, benchmark: Benchmark | None) -> int:
    block, piece = task
    scan.scan(block, config, benchmark).save(piece)
    return block.end - block.start


def _clusters(
    config: DedupeConfig, found: Corpus, contaminated: dict[int, list[int]], plain: list[str], work: Work,
    spread: Spread[tuple[int, np.ndarray]], progress: Progress,
) -> Clusters:  # fmt: skip
    rank = ranking(config.keep, found.length, found.score)
    clusters = Clusters.of(rank)
    least = config.min_words or (10 if config.scope == "turn" else 1)
    taking_part = np.ones(len(found), np.bool_)
    if config.against.action == "drop":  # a dialogue that goes anyway is no reason to remove another
        taking_part[list(contaminated)] = False
    items = np.flatnonzero(taking_part[found.owner])
    if config.scope == "turn":
        items = items[found.sizes[items] >= least]
    item_rank = rank[found.owner]
    if "exact" in config.method:
        progress.stage("exact", 0, "")
        links = equal(found.digests, items, item_rank)
        clusters.add(links, found.owner, "exact")
        items = np.setdiff1d(items, links[:, 0].astype(np.int64), assume_unique=True)
    if "near" in config.method:
        enough = items[found.sizes[items] >= least]
        links = _near(config, found, enough, item_rank, plain, work, spread, progress)
        clusters.add(links, found.owner, "near")
        items = np.setdiff1d(items, links[:, 0].astype(np.int64), assume_unique=True)
    if "semantic" in config.method:
        from ultrachat_cli.dedupe import semantic

        links = semantic.links(config, found, items, item_rank, plain, work, progress)
        clusters.add(links, found.owner, "semantic")
    return clusters


def _near(
    config: DedupeConfig, found: Corpus, items: np.ndarray, rank: np.ndarray, plain: list[str], work: Work,
    spread: Spread[tuple[int, np.ndarray]], progress: Progress,
) -> np.ndarray:  # fmt: skip
    if (saved := work.load("near")) is not None:
        return saved
    bands = Bands.of(config.threshold)
    groups = near.groups(found.sketches, items, bands, progress)
    progress.stage("verify", sum(map(len, groups)), "texts")
    parts = [np.empty((0, 3))]
    decide = partial(_decide, config=config, bands=bands, plain=plain)
    for size, links in spread(decide, near.tasks(groups, found.places(), found.sketches, rank)):
        parts.append(links)
        progress.advance(size)
    links = np.concatenate(parts)
    links = links[np.argsort(links[:, 0])]
    work.save("near", links)
    return links


def _decide(task: near.Task, config: DedupeConfig, bands: Bands, plain: list[str]) -> tuple[int, np.ndarray]:
    return len(task.items), near.decide(task, config, bands, plain)
