"""Unfit dialogues out: the filters of `generate`, and simple ones, over any file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ultrachat_cli.data.one_pass import Report, one_pass
from ultrachat_cli.data.truecase import truecase
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.filters import faults
from ultrachat_cli.filters.settings import TurnFilters
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import Dialogue

ALL, DROP, KEEP = "all", "drop", "keep"


@dataclass(frozen=True)
class Wanted:
    """Which dialogues stay. None or empty: any."""

    min_rounds: int | None = None
    max_rounds: int | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    """Characters of all turns together."""
    sectors: Collection[str] = ()
    """Values of meta.sector."""
    language: str | None = None
    """Of the user's turns."""
    refusals: str = "drop"
    """`drop` or `keep` refusals and talk of being an AI."""
    truecase: bool = False
    """Set capitals where they are missing."""
    allow: Collection[str] = ()
    """Reasons of `generate`'s filters that are none here; `all` of them."""

    def check(self) -> None:
        """`ConfigError` for what cannot be meant."""
        known = (*faults.REASONS, ALL)
        wrong = [
            f"--allow: {name}: no such reason (use {', '.join(known)})" for name in self.allow if name not in known
        ]
        for name, low, high in (
            ("rounds", self.min_rounds, self.max_rounds),
            ("chars", self.min_chars, self.max_chars),
        ):
            if low is not None and high is not None and low > high:
                wrong.append(f"--min-{name} {low} is above --max-{name} {high}")
        if self.refusals not in (DROP, KEEP):
            wrong.append(f"--refusals: {self.refusals}: use {DROP} or {KEEP}")
        if self.language is not None and not re.fullmatch("[a-z]{2,3}", self.language):
            wrong.append(f"--language: {self.language}: not a language code such as en or de")
        if wrong:
            raise ConfigError(wrong)


def run(inputs: Sequence[Path] | None, output: Path | None, wanted: Wanted, progress: Progress | None = None) -> Report:
    """Write the fit dialogues; the others go to the rejected file, each with the first reason found and the turn.

    Rounds at the end in which the user only says thanks are cut off. A dialogue that ends with the user is unfit.
    """
    wanted.check()
    settings = TurnFilters(language=wanted.language, refusals=wanted.refusals == DROP)
    cut_thanks = not {faults.POLITENESS, ALL} & set(wanted.allow)
    with one_pass("filter", inputs, output, progress) as job:
        for _, _, dialogue in job.dialogues():
            shaped = _truecased(dialogue) if wanted.truecase else dialogue
            changed = shaped.data != dialogue.data
            thanked = shaped.part(0, _before_thanks(shaped.data)) if cut_thanks else shaped
            found = _plain_fault(thanked, wanted) or _turn_fault(thanked, settings, wanted.allow)
            if found:
                job.reject(dialogue, *found)
                continue
            job.report.counts["truecased"] += changed
            job.report.counts["thanks_cut_off"] += len(thanked.data) < len(shaped.data)
            job.put(thanked)
    return job.report


def _truecased(dialogue: Dialogue) -> Dialogue:
    return replace(dialogue, data=[truecase(text) for text in dialogue.data])


def _before_thanks(data: Sequence[str]) -> int:
    """Where the rounds of mere thanks at the end begin; the opening is none."""
    end = len(data)
    while (last := (end - 1) // 2 * 2) > 0 and faults.only_polite(data[last]):
        end = last
    return end


def _plain_fault(dialogue: Dialogue, wanted: Wanted) -> tuple[str, str | None] | None:
    return next(((reason, None) for reason in _plain_faults(dialogue, wanted)), None)


def _plain_faults(dialogue: Dialogue, wanted: Wanted) -> Iterator[str]:
    if wanted.sectors and dialogue.meta.get("sector") not in wanted.sectors:
        yield "sector"
    if not dialogue.data:
        yield "empty"
    if len(dialogue.data) % 2:
        yield "no_answer"
    if not _between(dialogue.rounds, wanted.min_rounds, wanted.max_rounds):
        yield "rounds"
    if not _between(sum(map(len, dialogue.data)), wanted.min_chars, wanted.max_chars):
        yield "chars"


def _between(value: int, low: int | None, high: int | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _turn_fault(dialogue: Dialogue, settings: TurnFilters, allow: Collection[str]) -> tuple[str, str | None] | None:
    if ALL in allow:
        return None
    # generate's rule leaves the opening out, as it may be material in any language; here it is often all there is.
    opening, language = dialogue.data[0], None if "language" in allow else settings.language
    if language and faults.wrong_language(opening, language, settings.language_score):
        return "language", opening
    # Thanks in the middle of a finished dialogue are no reason to lose it.
    fault = faults.dialogue_fault(dialogue.data, settings, {*allow, faults.POLITENESS})
    return (fault[1], dialogue.data[fault[0]]) if fault else None
