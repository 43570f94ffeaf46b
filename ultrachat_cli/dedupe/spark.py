"""The Spark engine: the same kernel on a cluster, and the local engine's result to the byte.

Every machine needs this package in the same place, and sees the inputs and the work folder `<output>.work` (in which
the driver unpacks what is not plain JSONL) under the same paths: a shared filesystem. Blocks are scanned where there is
room, and the sketches stay there. To the driver come about 70 bytes a dialogue and the final links, never pairs.

An executor that is lost while components are searched ends the job; the same command then starts with the scan.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultrachat_cli.dedupe import arrow, corpus, settings, stars
from ultrachat_cli.dedupe.bands import Bands
from ultrachat_cli.dedupe.clusters import equal
from ultrachat_cli.dedupe.corpus import Corpus
from ultrachat_cli.dedupe.scan import Scanned
from ultrachat_cli.dedupe.work import Work
from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.blocks import Block

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession  # type: ignore[import-not-found, import-untyped, unused-ignore]

    from ultrachat_cli.dedupe.job import Job


def require(config: settings.DedupeConfig) -> None:
    """`ConfigError`, `MissingExtra` or `UltraError` (no Java) before anything is read rather than after it."""
    if "semantic" in config.method:
        raise ConfigError("method: semantic runs on one machine only", "use --engine local, or leave semantic out")
    try:
        import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
        import pyarrow  # type: ignore[import-untyped]  # noqa: F401
        import pyspark  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise MissingExtra("engine spark", f"{error.name}", "spark") from error
    home = os.environ.get("JAVA_HOME")
    if not shutil.which(str(Path(home, "bin", "java")) if home else "java"):
        raise UltraError("engine spark needs Java", "install a Java runtime, version 17 or later, or set JAVA_HOME")


@contextmanager
def session(config: settings.Spark, log: Path) -> Iterator[SparkSession]:
    """A session of our own, stopped whatever happens; what Spark has to say goes to `log`.

    Raises `UltraError` for whatever fails in Spark, within the context too.
    """
    # Of pandas, only its presence is needed.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    from py4j.protocol import Py4JError  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from pyspark import SparkConf, SparkContext  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from pyspark.errors import PySparkException  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from pyspark.java_gateway import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        launch_gateway,
    )
    from pyspark.sql import SparkSession  # type: ignore[import-not-found, import-untyped, unused-ignore]

    defaults = {
        "spark.app.name": "ultrachat dedupe",
        "spark.pyspark.python": os.environ.get("PYSPARK_PYTHON", sys.executable),
        "spark.log.level": "WARN",
        "spark.ui.enabled": "false",  # it listens on all interfaces
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.maxResultSize": "0",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(arrow.BATCH),
    }
    if config.master.startswith("local"):
        defaults |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    conf = SparkConf().setMaster(config.master).setAll(list((defaults | config.conf).items()))
    on_interrupt = signal.getsignal(signal.SIGINT)
    log.write_bytes(b"")
    handler = logging.FileHandler(log)  # the bridge to Java tells the root logger of an interruption
    logging.getLogger().addHandler(handler)
    try:
        with log.open("ab") as out:
            launched: Any = launch_gateway  # untyped
            gateway = SparkContext._gateway or launched(conf, {"stdout": out, "stderr": out})
        context = SparkContext(conf=conf, gateway=gateway)
        try:
            context.pythonExec = str(conf.get("spark.pyspark.python"))
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_interrupt)  # Spark's own would fail once the session is stopped
            yield SparkSession(context)
        finally:
            context.stop()
    except (PySparkException, Py4JError, ConnectionError) as error:
        raise UltraError(f"Spark: {_reason(str(error), log)}", f"read {log}") from error
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _reason(text: str, log: Path) -> str:
    """One line of many: the cause if it is told, or what Spark called an error last, or what was thrown."""
    causes = re.findall(r"^Caused by: (?:[\w.$]+: )?(.+)", text, re.MULTILINE)
    said = r'^(?:.* ERROR (?!SparkContext:)[\w$]+: |Exception in thread "main" [\w.$]+: |Error: )(.+)'
    errors = [] if "Python worker" in text else re.findall(said, log.read_text(errors="replace"), re.MULTILINE)
    thrown = re.findall(r"^: (?:[\w.$]+: )?(.+)", text, re.MULTILINE)
    reasons: list[str] = [*causes[:1], *errors[-1:], *thrown[:1], *text.strip().splitlines()[-1:], "stopped"]
    return reasons[0]


class Cluster:
    """The engine's part of a job. Texts are numbered block << 32 | place in the block until they reach the driver."""

    def __init__(
        self, spark: SparkSession, job: Job, cut: list[Block], inputs: list[Path], work: Work, progress: Progress
    ) -> None:
        self._spark, self._cut, self._inputs, self._work, self._progress = spark, cut, inputs, work, progress
        self._bands = Bands.of(job.config.threshold)
        self._first = np.zeros(len(cut) + 1, np.int64)
        blocks = [replace(block, plain=block.plain.absolute()) for block in cut]
        job = replace(job, plain=[os.path.abspath(path) for path in job.plain])
        self._shared = spark.sparkContext.broadcast((blocks, job))
        if "spark.sql.shuffle.partitions" not in job.config.spark.conf:
            partitions = max(len(cut), spark.sparkContext.defaultParallelism)
            spark.conf.set("spark.sql.shuffle.partitions", partitions)
        self._scanned = (
            spark.range(0, len(cut), 1, len(cut))
            .mapInArrow(partial(arrow.scanned, shared=self._shared), arrow.SCANNED)
            .persist()
        )
        self._items = self._scanned.where("known is null")

    def scan(self) -> Corpus:
        """All blocks, scanned; without the sketches."""
        self._progress.stage("scan", 0, "")
        rows = self._scanned.where("known is not null").select("item", "known").toArrow().sort_by("item")
        pieces = [Scanned.load(io.BytesIO(known.as_py())) for known in rows["known"]]
        self._first = np.cumsum([0, *(len(piece.sizes) for piece in pieces)])
        return corpus.gather(self._cut, pieces, self._inputs, self._work.path("sketches.u8"))

    def near(self, found: Corpus, items: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """float64[k, 3] of (item, item of its cluster that ranks lowest, their Jaccard similarity), by item.

        Pairs are compared in two rounds, that a crowd of similar texts may cost its size and not its square: first each
        text of a bucket (equal keys in a band) with one of them, the pivot; then the pairs of a bucket that are still
        in different components. A pair left out has both texts in one component, which it cannot change. Texts that
        meet without being similar do cost for every pair: 512 bytes of sketches are moved and, where those agree in
        `least` bins, both n-gram sets (8 bytes an n-gram). A crowd just below the threshold thus costs its square.
        """
        copies = equal(found.digests, items, rank)  # similar to the same texts: one of them is compared for all
        items = np.setdiff1d(items, copies[:, 0].astype(np.int64), assume_unique=True)
        self._progress.stage("candidates", 0, "")
        buckets = self._buckets(items)
        self._progress.stage("verify", 0, "")
        similar = stars.components(self._verified(buckets.selectExpr("item as a", "pivot as b")))
        rest = self._verified(_apart(buckets, similar))
        self._progress.stage("clusters", 0, "")
        links = self._links(stars.components(similar.union(rest)), rank)
        at = np.searchsorted(links[:, 0], copies[:, 1])
        linked = np.append(links[:, 0], -1)[at] == copies[:, 1]
        copies[linked, 1:] = links[at[linked], 1:]
        links = np.concatenate([links, copies])
        return links[np.argsort(links[:, 0])]

    def _buckets(self, items: np.ndarray) -> DataFrame:
        """(band, key, item, pivot) of the items that share a key with another."""
        taking_part = np.zeros(self._first[-1], np.bool_)
        taking_part[items] = True
        shared = self._spark.sparkContext.broadcast((self._first, taking_part))
        texts = self._items.select("item", "sketch")
        keys = texts.mapInArrow(partial(arrow.keys, shared=shared, bands=self._bands), arrow.KEYS)
        pivot = "min(item) over (partition by band, key) as pivot"
        size = "count(*) over (partition by band, key) as size"
        return keys.selectExpr("*", pivot, size).where("size > 1").drop("size").persist()

    def _verified(self, candidates: DataFrame) -> DataFrame:
        """(node, root) of the candidates (a, b) that belong together."""
        found = candidates.selectExpr("least(a, b) as a", "greatest(a, b) as b").where("a < b").distinct()
        for side in ("a", "b"):
            found = found.join(self._items.selectExpr(f"item as {side}", f"sketch as sketch_{side}"), side)
        found = found.mapInArrow(partial(arrow.agreeing, least=self._bands.least), arrow.PAIRS).persist()
        found = self._similarities(found).where(f"similarity >= {self._bands.threshold}D")
        return found.selectExpr("b as node", "a as root")

    def _similarities(self, found: DataFrame) -> DataFrame:
        """(a, b, similarity) of pairs (a, b): both n-gram sets are joined to each."""
        items = found.selectExpr("explode(array(a, b)) as item").distinct()
        sets = self._items.select("item", "place").join(items, "item")
        sets = sets.mapInArrow(partial(arrow.sets, shared=self._shared), arrow.SETS).persist()
        for side in ("a", "b"):
            found = found.join(sets.selectExpr(f"item as {side}", f"grams as grams_{side}"), side)
        return found.mapInArrow(arrow.similarities, arrow.SIMILARITIES)

    def _links(self, similar: DataFrame, rank: np.ndarray) -> np.ndarray:
        import pyarrow as pa

        rows = similar.toArrow()
        node, root = (self._numbers(rows[name].to_numpy()) for name in ("node", "root"))
        if not len(node):
            return np.empty((0, 3))
        centres = np.unique(root)
        item, root = np.append(node, centres), np.append(root, centres)
        order = np.lexsort((item, rank[item], root))
        item, starts = item[order], np.flatnonzero(np.diff(root[order], prepend=-1))
        leader = np.repeat(item[starts], np.diff(np.append(starts, len(item))))
        others = item != leader
        asked = pa.table({"a": self._named(item[others]), "b": self._named(leader[others])})
        rows = self._similarities(self._spark.createDataFrame(asked)).toArrow()
        numbers = (self._numbers(rows[name].to_numpy()) for name in ("a", "b"))
        links = np.column_stack([*numbers, rows["similarity"].to_numpy()])
        return links[np.argsort(links[:, 0])]

    def _numbers(self, names: np.ndarray) -> np.ndarray:
        """The corpus's numbers of texts."""
        numbers: np.ndarray = self._first[names >> 32] + (names & 0xFFFFFFFF)
        return numbers

    def _named(self, numbers: np.ndarray) -> np.ndarray:
        block = np.searchsorted(self._first, numbers, "right") - 1
        names: np.ndarray = block << 32 | (numbers - self._first[block])
        return names


def _apart(buckets: DataFrame, similar: DataFrame) -> DataFrame:
    """The pairs (a, b) of each bucket that are in different components; not those with the pivot, which are known."""
    rooted = buckets.where("item != pivot").join(similar.withColumnRenamed("node", "item"), "item", "left")
    rooted = rooted.selectExpr("band", "key", "item", "coalesce(root, item) as root")
    trees = rooted.groupBy("band", "key", "root").agg({"item": "collect_list"}).toDF("band", "key", "root_a", "a")
    others = trees.withColumnsRenamed({"root_a": "root_b", "a": "b"})
    met = trees.join(others, ["band", "key"]).where("root_a < root_b")
    return met.selectExpr("explode(a) as a", "b").selectExpr("a", "explode(b) as b")
