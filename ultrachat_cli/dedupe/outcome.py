"""What is written at the end: the survivors, who was removed for whom, the overlap with benchmarks, the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli.config import Loaded
from ultrachat_cli.dedupe.clusters import STAGES, Clusters
from ultrachat_cli.dedupe.corpus import Corpus
from ultrachat_cli.dedupe.decontaminate import Benchmark
from ultrachat_cli.dedupe.settings import DedupeConfig
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import files, jsonl, manifest
from ultrachat_cli.records.blocks import Lines, Source, copy
from ultrachat_cli.records.dialogue import parse

CONTAMINATED = "contamination"


@dataclass(frozen=True)
class Report:
    """The end of a job."""

    read: int
    written: int
    removed: dict[str, int]
    """By stage: exact, near, semantic, contamination."""
    flagged: int
    rejected: int
    clusters: dict[int, int]
    """Cluster size -> how many, sizes from 2."""
    items: int
    items_found: int
    seconds: float
    files: list[Path] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every line could be read."""
        return not self.rejected

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        data = dict(vars(self)) | {"files": list(map(str, self.files)), "seconds": round(self.seconds, 3)}
        return data | {"clusters": {str(size): n for size, n in sorted(self.clusters.items())}}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "read", f"{self.read:,} dialogues, {self.read / max(self.seconds, 1e-9):,.0f}/s, {self.seconds:.1f} s"
        yield "kept", f"{self.written:,}"
        for stage, count in self.removed.items():
            if count:
                yield f"removed: {stage}", f"{count:,}"
        if self.items:
            yield "benchmark", f"{self.items_found:,} of {self.items:,} items found"
        if self.flagged:
            yield "flagged", f"{self.flagged:,} contaminated dialogues kept with meta.contaminated"
        if self.clusters:
            largest = max(self.clusters)
            yield "clusters", f"{sum(self.clusters.values()):,}, the largest of {largest:,}"
        if self.rejected:
            yield "bad lines", f"{self.rejected:,}"
        yield "files", "\n".join(map(str, self.files))


class Outcome:
    """The verdicts, ready to be written."""

    def __init__(
        self, loaded: Loaded[DedupeConfig], sources: list[Source], corpus: Corpus, clusters: Clusters,
        benchmark: Benchmark | None, contaminated: dict[int, list[int]],
    ) -> None:  # fmt: skip
        self._loaded, self._config = loaded, loaded.value
        self._sources, self._corpus, self._clusters, self._benchmark = sources, corpus, clusters, benchmark
        self._contaminated = contaminated
        self._survivor = clusters.settle()
        self._lines = Lines([str(source.plain) for source in sources])

    def write(self, progress: Progress, seconds: float) -> Report:
        """Everything beside the output first, then the output."""
        target, corpus = self._config.target, self._corpus
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = self._survivor == np.arange(len(corpus))
        drop = self._config.against.action == "drop"
        kept[list(self._contaminated) if drop else []] = False
        written = [target, self._write_removed(files.beside(target, "report.jsonl"), drop)]
        if self._benchmark is not None:
            written.append(self._write_overlap(files.beside(target, "contamination.jsonl")))
        written += self._write_rejected(files.beside(target, "rejected.jsonl"))
        self._write_survivors(target, kept, {} if drop else self._contaminated, progress)
        sizes = np.bincount(self._survivor, minlength=1)
        removed = {stage: int(np.sum(self._clusters.stage == n)) for n, stage in enumerate(STAGES)}
        report = Report(
            read=len(corpus), written=int(kept.sum()),
            removed=removed | {CONTAMINATED: len(self._contaminated) if drop else 0},
            flagged=0 if drop else len(self._contaminated),
            rejected=len(corpus.rejected),
            clusters={int(size): int(n) for size, n in enumerate(np.bincount(sizes)) if n and size > 1},
            items=len(self._benchmark.items) if self._benchmark else 0,
            items_found=len({item for found in self._contaminated.values() for item in found}),
            seconds=seconds, files=[*written, files.beside(target, "manifest.json")],
        )  # fmt: skip
        self._write_manifest(files.beside(target, "manifest.json"), report)
        self._lines.close()
        return report

    def _identity(self, dialogue: int) -> str:
        """The record's id, or file:line where it has none."""
        source = int(self._corpus.source[dialogue])
        start, length, line = map(int, self._corpus.place[dialogue])
        found = parse(orjson.loads(self._lines(source, start, length)))
        return found.id or f"{self._sources[source].path}:{line}"

    def _write_removed(self, path: Path, drop: bool) -> Path:
        clusters, survivor = self._clusters, self._survivor
        with jsonl.replacing(path) as out:
            contaminated = self._contaminated if drop else {}
            duplicates = np.flatnonzero(survivor != np.arange(len(survivor))).tolist()
            for dialogue in sorted([*duplicates, *contaminated]):
                row: dict[str, Any] = {"id": "", "stage": CONTAMINATED}
                if dialogue in contaminated:
                    assert self._benchmark is not None
                    row["items"] = [self._benchmark.items[item].name for item in contaminated[dialogue]]
                else:
                    kept, via = int(survivor[dialogue]), int(clusters.kept_by[dialogue])
                    row["stage"] = STAGES[clusters.stage[dialogue]]
                    row["kept"] = self._identity(kept)
                    row["similarity"] = round(float(clusters.similarity[dialogue]), 4)
                    if via != kept:  # similar to `via`, which in turn belongs to the cluster of `kept`
                        row["via"] = self._identity(via)
                row["id"] = self._identity(dialogue)
                row["file"] = str(self._sources[self._corpus.source[dialogue]].path)
                row["line"] = int(self._corpus.place[dialogue, 2])
                out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return path

    def _write_overlap(self, path: Path) -> Path:
        """For every benchmark item, the dialogue that holds most of it."""
        assert self._benchmark is not None
        rows = self._corpus.overlaps
        order = np.lexsort((rows[:, 0], -rows[:, 3], -rows[:, 2], rows[:, 1]))
        best = {int(rows[i, 1]): i for i in order[::-1]}
        by_item = Counter(item for found in self._contaminated.values() for item in found)
        with jsonl.replacing(path) as out:
            for number, item in enumerate(self._benchmark.items):
                row: dict[str, Any] = {"item": item.name, "text": item.text[:500], "dialogues": by_item[number]}
                if number in best:
                    dialogue, _, covered, similarity = rows[best[number]]
                    row |= {"best": self._identity(int(dialogue)), "covered": round(float(covered), 4)}
                    row["similarity"] = round(float(similarity), 4)
                out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return path

    def _write_rejected(self, path: Path) -> list[Path]:
        if not self._corpus.rejected:
            path.unlink(missing_ok=True)
            return []
        with jsonl.replacing(path) as out:
            for _, error, text in self._corpus.rejected:
                row = {"file": str(error.path), "line": error.line, "reason": error.reason, "text": text}
                out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return [path]

    def _write_survivors(
        self, target: Path, kept: np.ndarray, flagged: dict[int, list[int]], progress: Progress
    ) -> None:
        progress.stage("write", int(kept.sum()), "dialogues")
        if target.suffix == ".parquet":
            with files.writing(target) as put:
                for line in self._survivors(kept, flagged, progress):
                    for record in line.splitlines():
                        put(parse(orjson.loads(record)))
        else:
            with files.writing_lines(target) as put_line:
                for part in self._survivors(kept, flagged, progress):
                    put_line(part)

    def _survivors(self, kept: np.ndarray, flagged: dict[int, list[int]], progress: Progress) -> Iterator[bytes]:
        """Whole lines of the inputs as they are, many at once; flagged ones rewritten."""
        corpus = self._corpus
        for number, source in enumerate(self._sources):
            of_source = np.flatnonzero((corpus.source == number) & kept)
            marked = [d for d in of_source if int(d) in flagged] if flagged else []
            for run in np.split(of_source, np.searchsorted(of_source, np.sort([*marked, *(d + 1 for d in marked)]))):
                if len(run) == 1 and int(run[0]) in flagged:
                    yield self._flagged(int(run[0]), flagged[int(run[0])])
                else:
                    yield from copy(source.plain, _spans(corpus.place[run]))
                progress.advance(len(run))

    def _flagged(self, dialogue: int, items: list[int]) -> bytes:
        assert self._benchmark is not None
        start, length, _ = map(int, self._corpus.place[dialogue])
        record = orjson.loads(self._lines(int(self._corpus.source[dialogue]), start, length))
        names = [self._benchmark.items[item].name for item in items]
        record["meta"] = {**(record.get("meta") or {}), "contaminated": names}
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)

    def _write_manifest(self, path: Path, report: Report) -> None:
        data = {
            "config": self._config.model_dump(mode="json"),
            "config_sources": self._loaded.sources,
            "versions": manifest.versions(),
            "inputs": [str(source.path) for source in self._sources],
            "report": report.record(),
        }
        with jsonl.replacing(path) as out:
            out.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _spans(place: np.ndarray) -> list[tuple[int, int]]:
    """Adjoining lines as one (start, end)."""
    if not len(place):
        return []
    starts, ends = place[:, 0], place[:, 0] + place[:, 1]
    breaks = np.flatnonzero(starts[1:] != ends[:-1])
    firsts, lasts = np.append(0, breaks + 1), np.append(breaks, len(place) - 1)
    return [(int(starts[a]), int(ends[b])) for a, b in zip(firsts, lasts, strict=True)]
