"""The stages in order: unpack, scan, exact, near, semantic; then the survivors are written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ultrachat_cli import workers
from ultrachat_cli.config import Loaded
from ultrachat_cli.dedupe import corpus, decontaminate, near, scan
from ultrachat_cli.dedupe.bands import Bands
from ultrachat_cli.dedupe.clusters import Clusters, equal, ranking
from ultrachat_cli.dedupe.corpus import Corpus
from ultrachat_cli.dedupe.decontaminate import Benchmark
from ultrachat_cli.dedupe.job import Job
from ultrachat_cli.dedupe.outcome import Outcome, Report
from ultrachat_cli.dedupe.scan import Scanned
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.dedupe.work import Work
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.machine import cores
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import blocks, files, jsonl
from ultrachat_cli.records.blocks import Block
from ultrachat_cli.workers import Spread

_PRELOAD = "ultrachat_cli.dedupe.warm"
_SMALL = 8 << 20  # bytes: starting processes takes longer than the work


def run(loaded: Loaded[DedupeConfig], progress: Progress | None = None) -> Report:
    """Dedupe and decontaminate; everything but the output is found again after an interruption.

    Raises `ConfigError`, `DataError` (an input that cannot be read at all), `UltraError` (the disk), `RunLocked`.
    """
    config, progress = loaded.value, progress or Silent()
    started = time.monotonic()
    config.check_given()
    inputs = sorted(files.find(config.inputs, "inputs"))
    files.check_writable(config.target)
    if config.target.resolve() in {path.resolve() for path in inputs}:
        raise ConfigError(f"output: {config.output} is one of the inputs", "write to another file")
    if "semantic" in config.method:
        from ultrachat_cli.dedupe import semantic

        semantic.require(config)
    if config.engine == "spark":
        from ultrachat_cli.dedupe import spark

        spark.require(config)
    against = decontaminate.load(config.against.files) if config.against.files else []
    work = Work(config, inputs, files.find(config.against.files, "against.files"))
    done = False
    try:
        sources = work.unpacked(inputs, progress)
        cut = blocks.cut(sources)
        processes = _processes(config, cut)
        if processes > 1:
            workers.prepare(_PRELOAD)
        benchmark = Benchmark(against, config.against) if against else None
        if benchmark and processes > 1:
            benchmark.keep(work.folder)
        job = Job(config, benchmark, [str(source.plain) for source in sources])
        with _engine(job, cut, processes, inputs, work, progress) as engine:
            found = engine.scan()
            contaminated = benchmark.verdicts(found.overlaps) if benchmark else {}
            clusters = _clusters(job, found, contaminated, work, engine, progress)
        outcome = Outcome(loaded, sources, found, clusters, benchmark, contaminated)
        report = outcome.write(progress, time.monotonic() - started)
        done = True
        return report
    except OSError as error:
        raise jsonl.unwritable(work.folder, error) from error
    finally:
        work.close(done=done)


class Engine(Protocol):
    """Goes over all texts: the processes of this machine, or a cluster."""

    def scan(self) -> Corpus:
        """All blocks, scanned."""

    def near(self, found: Corpus, items: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """float64[k, 3] of (item, item of its cluster that ranks lowest, their Jaccard similarity), by item."""


def _processes(config: DedupeConfig, cut: list[Block]) -> int:
    """How many of this machine share the work; with Spark this one only leads."""
    size = sum(block.end - block.start for block in cut)
    return 1 if size < _SMALL or config.engine == "spark" else min(config.processes or cores(), len(cut))


@contextmanager
def _engine(
    job: Job, cut: list[Block], processes: int, inputs: list[Path], work: Work, progress: Progress
) -> Iterator[Engine]:
    if job.config.engine == "spark":
        from ultrachat_cli.dedupe import spark

        log = work.path("spark.log")
        progress.say(f"Spark {job.config.spark.master}, its log in {log}")  # where it says that it waits for workers
        with spark.session(job.config.spark, log) as session:
            yield spark.Cluster(session, job, cut, inputs, work, progress)
        return
    with workers.pool(processes, job, _PRELOAD) as spread:
        yield Local(job, cut, inputs, work, spread, progress)


@dataclass(frozen=True)
class Local:
    """The engine of one machine."""

    job: Job
    cut: list[Block]
    inputs: list[Path]
    work: Work
    spread: Spread
    progress: Progress

    def scan(self) -> Corpus:
        """See `Engine`; a block that was scanned before is not scanned again."""
        pieces = [self.work.path(f"scan-{block.number:06}.npz") for block in self.cut]
        missing = [(block, piece) for block, piece in zip(self.cut, pieces, strict=True) if not piece.exists()]
        self.progress.stage("scan", sum(block.end - block.start for block, _ in missing) >> 20, "MB")
        for size in self.spread(_scan_block, missing):
            self.progress.advance(size >> 20)
        return corpus.gather(self.cut, map(Scanned.load, pieces), self.inputs, self.work.path("sketches.u8"))

    def near(self, found: Corpus, items: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """See `Engine`."""
        groups = near.groups(found.sketches, items, Bands.of(self.job.config.threshold), self.progress)
        self.progress.stage("verify", sum(map(len, groups)), "texts")
        parts = [np.empty((0, 3))]
        for size, links in self.spread(_decide, near.tasks(groups, found.places(), found.sketches, rank)):
            parts.append(links)
            self.progress.advance(size)
        links = np.concatenate(parts)
        return links[np.argsort(links[:, 0])]


def _scan_block(task: tuple[Block, Path], job: Job) -> int:
    block, piece = task
    scan.scan(block, job.config, job.benchmark).save(piece)
    return block.end - block.start


def _clusters(
    job: Job, found: Corpus, contaminated: dict[int, list[int]], work: Work, engine: Engine, progress: Progress
) -> Clusters:
    config = job.config
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
        if (saved := work.load("near")) is None:
            saved = engine.near(found, enough, item_rank)
            work.save("near", saved)
        links = saved
        clusters.add(links, found.owner, "near")
        items = np.setdiff1d(items, links[:, 0].astype(np.int64), assume_unique=True)
    if "semantic" in config.method:
        from ultrachat_cli.dedupe import semantic

        links = semantic.links(config, found, items, item_rank, job.plain, work, progress)
        clusters.add(links, found.owner, "semantic")
    return clusters


def _decide(task: near.Task, job: Job) -> tuple[int, np.ndarray]:
    return len(task.items), near.decide(task, job.config, Bands.of(job.config.threshold), job.plain)
