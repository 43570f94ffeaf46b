"""`ultrachat data stats`: read all, measure a sample, ask a judge if there is one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ultrachat_cli.data import judge, page, tokens
from ultrachat_cli.data.judge import ASPECTS, JudgeSettings
from ultrachat_cli.data.mtld import mtld
from ultrachat_cli.data.report import ALL, Columns, Report, histograms, row
from ultrachat_cli.data.sample import Groups
from ultrachat_cli.errors import ConfigError, DataError, MissingExtra, UltraError
from ultrachat_cli.models import embeddings, gguf_tokenizer, specs, weights
from ultrachat_cli.progress import Progress, Silent, say_bad_line
from ultrachat_cli.records import files
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.ids import digest

EMBEDDING = "minilm-static"
NONE = "none"
NO_SECTOR = "(none)"
_STEP = 64
_BATCH = 256  # dialogues tokenized at once
_TOKENIZER = "smollm2-135m"


@dataclass(frozen=True)
class Wanted:
    """What to measure with. None: the default, left out with the reason where it cannot be had."""

    sample: int = 10_000
    """Dialogues measured beyond rounds, in equal parts from each sector; 0 = all."""
    seed: int = 0
    tokenizer: str | None = None
    embedding: str | None = None
    judge: JudgeSettings | None = None
    judge_sample: int = 100
    html: Path | None = None


class _Read:
    """The pass over all dialogues: exact counts, and the sample."""

    def __init__(self, wanted: Wanted, progress: Progress) -> None:
        self._progress, self._wanted = progress, wanted
        self._groups = Groups(wanted.sample or 2**62)
        self.dialogues: Counter[str] = Counter()
        self.rounds: Counter[str] = Counter()
        self.bad_lines = 0

    def read(self, sources: Sequence[Path]) -> list[tuple[str, Dialogue]]:
        """(sector, dialogue) of the sample."""
        self._progress.stage("read", 0, "dialogues")
        number = 0
        for path in sources:
            for _, dialogue in files.dialogues(path, self._bad):
                number += 1
                if number % _STEP == 0:
                    self._progress.advance(_STEP)
                sector = str(dialogue.meta.get("sector") or NO_SECTOR)
                self.dialogues[sector] += 1
                self.rounds[sector] += dialogue.rounds
                key = digest(str(self._wanted.seed), dialogue.id, *dialogue.data)
                self._groups.offer(sector, (-key, -number, dialogue))
        return list(self._groups.drawn())

    def _bad(self, error: DataError) -> None:
        self.bad_lines += 1
        say_bad_line(self._progress, error.message, self.bad_lines)


def run(
    inputs: Sequence[Path] | None, wanted: Wanted, environ: Mapping[str, str], progress: Progress | None = None
) -> Report:
    """Measure; `environ`: where the judge's key is looked up. Raises `ConfigError` before anything is read."""
    if not inputs:
        raise ConfigError("FILES: name files, folders, runs or patterns, or - for stdin")
    progress = progress or Silent()
    started = time.monotonic()
    sources = files.find(inputs, "FILES")
    count, tokenizer = _counter(wanted.tokenizer)
    if wanted.embedding is not None and wanted.embedding != NONE:
        embeddings.require(wanted.embedding)
    read = _Read(wanted, progress)
    sample = read.read(sources)
    drawn = Counter(sector for sector, _ in sample)
    columns = _measured(sample, {s: read.dialogues[s] / n for s, n in drawn.items()}, count, progress)
    method = {"tokens": tokenizer, "sample": _sampled(len(sample), read.dialogues.total(), wanted.seed)}
    columns.vectors, method["topic similarity"] = _vectors(sample, wanted, progress)
    failed = 0
    if wanted.judge is not None:
        failed = _judged(sample, wanted, wanted.judge, environ, columns, method, progress)
    rows = [row(ALL, read.dialogues.total(), read.rounds.total(), columns)]
    if len(read.dialogues) > 1 or NO_SECTOR not in read.dialogues:
        rows += [row(sector, n, read.rounds[sector], columns) for sector, n in sorted(read.dialogues.items())]
    report = Report(rows, histograms(columns), read.bad_lines, method, failed, time.monotonic() - started)
    if wanted.html is not None:
        page.write(report, wanted.html, sources)
        report.files = [wanted.html]
    return report


def _counter(tokenizer: str | None) -> tuple[tokens.Count, str]:
    """What counts tokens, and its name for the report."""
    if tokenizer is not None:
        return tokens.counter(tokenizer), "words and punctuation marks" if tokenizer == tokens.WORDS else tokenizer
    found = weights.locate(specs.known()[_TOKENIZER])
    try:
        if found is None:
            raise UltraError(f"{_TOKENIZER} is not here")
        loaded = gguf_tokenizer.load(found)
    except UltraError as error:
        return tokens.counter(tokens.WORDS), f"words and punctuation marks, fewer than tokens ({error.message})"
    return (
        lambda texts: [len(found.ids) for found in loaded.encode_batch_fast(list(texts), add_special_tokens=False)],
        f"tokenizer of {_TOKENIZER}",
    )


def _sampled(size: int, total: int, seed: int) -> str:
    return "all dialogues" if size == total else f"{size:,} of {total:,} dialogues, seed {seed}; rounds of all"


def _measured(
    sample: list[tuple[str, Dialogue]], stands_for: dict[str, float], count: tokens.Count, progress: Progress
) -> Columns:
    progress.stage("measure", len(sample), "dialogues")
    n = len(sample)
    found = {name: np.zeros(n) for name in ("weight", "rounds", "utterances", "tokens", "mtld", "spoken")}
    batches = [sample[start : start + _BATCH] for start in range(0, n, _BATCH)]
    at = 0
    with ThreadPoolExecutor(1) as ahead:  # the tokenizer works without the interpreter lock, beside the loop below
        counted = ahead.map(lambda batch: count([turn for _, dialogue in batch for turn in dialogue.data]), batches)
        for batch, counts in zip(batches, counted, strict=True):
            lengths = iter(counts)
            for sector, dialogue in batch:
                measures = [value for turn in dialogue.data if (value := mtld(turn)) is not None]
                found["weight"][at], found["rounds"][at] = stands_for[sector], dialogue.rounds
                found["utterances"][at] = len(dialogue.data)
                found["tokens"][at] = sum(next(lengths) for _ in dialogue.data)
                found["mtld"][at], found["spoken"][at] = sum(measures), len(measures)
                at += 1
            progress.advance(len(batch))
    return Columns(sector=np.array([sector for sector, _ in sample], object), vectors=None, marks={}, **found)


def _vectors(sample: list[tuple[str, Dialogue]], wanted: Wanted, progress: Progress) -> tuple[np.ndarray | None, str]:
    """The vectors of the sampled dialogues; or None and why, unless the model was asked for by name."""
    name = wanted.embedding or EMBEDDING
    if name == NONE:
        return None, "left out"
    try:
        embeddings.require(name)
        model = embeddings.open(name, progress.say)
    except MissingExtra as error:
        if wanted.embedding is not None:
            raise
        return None, f"left out: {error.message} ({error.hint})"
    except UltraError as error:
        if wanted.embedding is not None:
            raise
        return None, f"left out: {error.message}"
    progress.stage("embed", len(sample), "dialogues")
    parts = [np.empty((0, model.dimension), np.float32)]
    for start in range(0, len(sample), _BATCH):
        parts.append(model.embed(["\n".join(dialogue.data) for _, dialogue in sample[start : start + _BATCH]]))
        progress.advance(len(parts[-1]))
    return np.concatenate(parts), f"mean cosine of all pairs, embedding {name}, the beginning of each dialogue"


def _judged(
    sample: list[tuple[str, Dialogue]], wanted: Wanted, settings: JudgeSettings, environ: Mapping[str, str],
    columns: Columns, method: dict[str, str], progress: Progress,
) -> int:  # fmt: skip
    """Fill in the marks of a part of the sample; how many could not be had."""
    groups = Groups(wanted.judge_sample)
    for n, (sector, dialogue) in enumerate(sample):
        groups.offer(sector, (-digest(str(wanted.seed), dialogue.id, *dialogue.data), -n, dialogue))
    chosen = {id(dialogue) for _, dialogue in groups.drawn()}
    places = [n for n, (_, dialogue) in enumerate(sample) if id(dialogue) in chosen]
    progress.stage("judge", len(ASPECTS) * len(places), "marks")
    asked = judge.judge([sample[n][1] for n in places], settings, environ, progress.advance, progress.say)
    verdicts = judge.interruptible(asked)
    for aspect, marks in verdicts.marks.items():
        columns.marks[aspect] = np.full(len(sample), np.nan)
        columns.marks[aspect][places] = [np.nan if given is None else given for given in marks]
    silent = sum(given is None for marks in verdicts.marks.values() for given in marks) - verdicts.failed
    method["judge"] = (
        f"{verdicts.judge}, {len(places):,} dialogues, 1-10; {verdicts.requests:,} requests, "
        f"{verdicts.repeated:,} answers from {settings.journal}, ${verdicts.cost:.4f}"
        + (f"; {verdicts.cut:,} dialogues cut to its context" if verdicts.cut else "")
        + (f"; {silent:,} answers without a mark" if silent else "")
        + (f"; {verdicts.failed:,} requests failed" if verdicts.failed else "")
    )
    return verdicts.failed
