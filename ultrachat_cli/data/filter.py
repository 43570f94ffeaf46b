"""Unfit dialogues out: the filters of `generate`, and simple ones, over any file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ultrachat_cli import workers
from ultrachat_cli.data.truecase import truecase
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.filters import faults
from ultrachat_cli.filters.settings import TurnFilters
from ultrachat_cli.machine import cores
from ultrachat_cli.progress import Progress
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.one_pass import Report, one_pass

ALL, DROP, KEEP = "all", "drop", "keep"
_BATCH = 64  # dialogues a process takes at a time
_ALONE = 1024  # dialogues for which no processes are started


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
    min_reward: float | None = None
    """Lowest meta.reward, as `score` writes it: of the last answer."""
    min_critique: float | None = None
    """Lowest score of meta.critique, as `critique` writes it: of the last answer where there are several."""

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
    with one_pass("filter", inputs, output, progress) as job:
        rest = (dialogue for _, _, dialogue in job.dialogues())
        first = list(islice(rest, _ALONE))
        processes = cores() if len(first) == _ALONE else 1
        with workers.pool(processes, wanted, __name__) as spread:
            for judged in workers.in_order(spread, _judge, _batches(chain(first, rest))):
                for one in judged:
                    if one.fault:
                        job.reject(one.dialogue, *one.fault)
                        continue
                    job.report.counts["truecased"] += one.truecased
                    job.report.counts["thanks_cut_off"] += one.thanks_cut_off
                    job.put(one.dialogue)
    return job.report


class _Judged(NamedTuple):
    """A dialogue as it is to be written, or as it came with (reason, turn)."""

    dialogue: Dialogue
    fault: tuple[str, str | None] | None = None
    truecased: bool = False
    thanks_cut_off: bool = False


def _batches(dialogues: Iterator[Dialogue]) -> Iterator[list[Dialogue]]:
    while batch := list(islice(dialogues, _BATCH)):
        yield batch


def _judge(dialogues: list[Dialogue], wanted: Wanted) -> list[_Judged]:
    settings = TurnFilters(language=wanted.language, refusals=wanted.refusals == DROP)
    cut_thanks = not {faults.POLITENESS, ALL} & set(wanted.allow)
    found = []
    for dialogue in dialogues:
        shaped = _truecased(dialogue) if wanted.truecase else dialogue
        thanked = shaped.part(0, _before_thanks(shaped.data)) if cut_thanks else shaped
        fault = _plain_fault(thanked, wanted) or _turn_fault(thanked, settings, wanted.allow)
        if fault:
            found.append(_Judged(dialogue, fault))
        else:
            thanks = len(thanked.data) < len(shaped.data)
            found.append(_Judged(thanked, None, shaped.data != dialogue.data, thanks))
    return found


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
    for name, least, found in (
        ("reward", wanted.min_reward, _reward(dialogue)),
        ("critique", wanted.min_critique, _critique(dialogue)),
    ):
        if least is None:
            continue
        if not isinstance(found, int | float):
            yield f"no_{name}"
        elif not found >= least:
            yield name


def _of_last(dialogue: Dialogue, key: str) -> Any:
    """What a list in meta, one entry an answer, says of the last answer: rounds may have been cut off since."""
    found = dialogue.meta.get(key)
    return found[dialogue.rounds - 1] if isinstance(found, list) and len(found) >= dialogue.rounds > 0 else None


def _reward(dialogue: Dialogue) -> Any:
    last = _of_last(dialogue, "rewards")
    return dialogue.meta.get("reward") if last is None else last


def _critique(dialogue: Dialogue) -> Any:
    found = dialogue.meta.get("critique")
    last = _of_last(dialogue, "critique") if isinstance(found, list) else found
    return last.get("score") if isinstance(last, dict) else None


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
