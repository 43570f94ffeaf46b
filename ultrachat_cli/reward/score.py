"""`ultrachat score` with a reward model: answers in batches of about the same length, dialogues out in order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultrachat_cli.backends import scorers
from ultrachat_cli.models import folders
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files, jsonl
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.records.one_pass import checked, make_room, one_pass
from ultrachat_cli.reward import answers
from ultrachat_cli.reward.report import Report
from ultrachat_cli.reward.settings import ScoreConfig, Turns
from ultrachat_cli.reward.work import Scored, Work

if TYPE_CHECKING:
    from ultrachat_cli.models.reward_model import RewardModel
    from ultrachat_cli.models.reward_text import Encoded

_WINDOW = 1024
"""Dialogues whose answers are sorted by length together: enough for batches without much padding."""


def run(settings: ScoreConfig, progress: Progress | None = None) -> Report:
    """Write the dialogues with meta.reward (the last answer's), meta.reward_model and, of all turns, meta.rewards.

    The same call goes on where a killed one stopped, and the output is the same to the byte (on as many threads: sums
    are then made in the same order). Raises `ConfigError`, `RunLocked`, and what opening the model raises.
    """
    progress = progress or Silent()
    settings.check_given()
    sources, outputs, _ = checked(settings.inputs, settings.output)
    name = settings.model or ""
    spec = scorers.reward_spec(name)
    with ExitStack() as stack:
        if outputs[0] == files.STDIN:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            make_room(outputs[0].parent)
            folder = outputs[0].with_name(outputs[0].name + ".work")
        work = Work(folder)
        done = False
        try:
            if files.STDIN in sources:
                sources = [_spooled(path, folder) for path in sources]
            from ultrachat_cli.models.reward_model import RewardModel

            model = RewardModel.open(
                spec, device=settings.device, dtype=settings.dtype, separator=settings.separator,
                batch_tokens=settings.batch_tokens, say=progress.say,
            )  # fmt: skip
            weights = folders.locate(spec)
            if not work.begin(_identity(sources, settings, model, weights)):
                progress.say(f"{folder}: begun for other inputs or settings; begun anew")
            report = Report(name)
            _score(sources, settings, model, work, report, progress)
            _write(sources, outputs[0], settings, work, report, progress)
            done = True
        finally:
            work.close(done=done)
    return report


def _spooled(path: Path, folder: Path) -> Path:
    """Stdin as a file, as it is read more than once; other paths as they are."""
    if path != files.STDIN:
        return path
    copy = folder / "stdin.jsonl"
    with jsonl.replacing(copy) as file:
        for _, line in jsonl.lines(path):
            file.write(line)
    return copy


def _identity(sources: Sequence[Path], settings: ScoreConfig, model: RewardModel, weights: Path | None) -> list[Any]:
    """What must be equal for rewards to be used again: they depend, in the last digits, on the batches too."""
    kinds = (".json", ".safetensors", ".bin", ".jinja", ".model")
    parts = sorted(path for path in (weights.iterdir() if weights else []) if path.suffix in kinds)
    how = [settings.turns, settings.separator, model.batch_tokens, str(model.device), str(model.dtype), _WINDOW]
    return [settings.model, *how, [_state(path) for path in parts], [_state(path) for path in sources]]


def _state(path: Path) -> list[str | int]:
    found = path.stat()
    if path.name == "stdin.jsonl":  # written anew each time: by its content
        import hashlib

        with path.open("rb") as file:
            return [hashlib.file_digest(file, "sha256").hexdigest(), found.st_size]
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _dialogues(sources: Sequence[Path]) -> Iterator[Dialogue]:
    """The dialogues as `one_pass` numbers them; bad lines are told when the output is written."""
    for path in sources:
        for _, dialogue in files.dialogues(path, lambda _: None):
            yield dialogue


class _Item(NamedTuple):
    """An answer to score."""

    dialogue: int
    place: int
    encoded: Encoded


def _score(
    sources: Sequence[Path], settings: ScoreConfig, model: RewardModel, work: Work, report: Report, progress: Progress
) -> None:
    known, reached = _resumed(work)
    total = sum(len(answers.places(dialogue, settings.turns)) for dialogue in _dialogues(sources))
    progress.stage("score", total, "answers")
    numbered = enumerate(_dialogues(sources))
    begun = time.monotonic()
    window = 0
    while dialogues := list(islice(numbered, _WINDOW)):
        if window < reached:
            progress.advance(sum(len(answers.places(dialogue, settings.turns)) for _, dialogue in dialogues))
        else:
            items, refused = _items(dialogues, settings.turns, model)
            if fresh := [one for one in refused if (one.dialogue, one.place) not in known]:
                work.append(window, fresh)
            progress.advance(len(refused))
            _window(window, items, model, work, known, report, progress, begun)
            known = set()
        window += 1
    report.seconds = time.monotonic() - begun


def _resumed(work: Work) -> tuple[set[tuple[int, int]], int]:
    """(answers known of the last window begun, its number): all before it are finished."""
    reached: tuple[set[tuple[int, int]], int] = set(), 0
    for window, scored in work.windows():
        reached = {(one.dialogue, one.place) for one in scored}, window
    return reached


def _items(
    dialogues: Sequence[tuple[int, Dialogue]], turns: Turns, model: RewardModel
) -> tuple[list[_Item], list[Scored]]:
    """The answers of a window as ids, and those that the model's format cannot hold."""
    items: list[_Item] = []
    refused: list[Scored] = []
    for number, dialogue in dialogues:
        for place in answers.places(dialogue, turns):
            try:
                items.append(_Item(number, place, model.encode(dialogue.part(0, place + 1).messages)))
            except ValueError as error:
                refused.append(Scored(number, place, str(error), False))
    return items, refused


def _window(
    window: int, items: list[_Item], model: RewardModel, work: Work, known: set[tuple[int, int]], report: Report,
    progress: Progress, begun: float,
) -> None:  # fmt: skip
    for batch in model.batches([item.encoded for item in items]):
        mine = [items[n] for row in batch for n, _ in row.reads]
        if not all((item.dialogue, item.place) in known for item in mine):
            rewards = dict(model.run(batch))
            work.append(
                window,
                [
                    Scored(items[n].dialogue, items[n].place, reward, items[n].encoded.cut)
                    for n, reward in sorted(rewards.items())
                ],
            )
            report.tokens += sum(len(row.ids) for row in batch)
        speed = report.tokens / max(time.monotonic() - begun, 1e-9)
        progress.advance(len(mine), f"{report.tokens:,} tokens, {speed:,.0f}/s")


def _write(
    sources: Sequence[Path], output: Path, settings: ScoreConfig, work: Work, report: Report, progress: Progress
) -> None:
    """The second pass: dialogues as they come, each with its rewards."""
    windows = work.windows()
    with one_pass("write", sources, output, progress) as job:
        scored: dict[int, list[Scored]] = {}
        reached = -1
        for number, (path, line, dialogue) in enumerate(job.dialogues()):
            while reached < number // _WINDOW:
                reached, rows = next(windows, (number // _WINDOW, []))
                scored = {}
                for one in sorted(rows, key=lambda one: (one.dialogue, one.place)):
                    scored.setdefault(one.dialogue, []).append(one)
            mine = scored.get(number, [])
            reasons = [one.reward for one in mine if isinstance(one.reward, str)]
            if not mine or reasons:
                job.bad(path, line, dialogue, reasons[0] if reasons else answers.NO_ANSWER)
                continue
            rewards = [one.reward for one in mine if not isinstance(one.reward, str)]
            report.values.extend(rewards)
            report.truncated += sum(one.cut for one in mine)
            name = {"reward_model": report.model}
            job.put(answers.annotated(dialogue, rewards, settings.turns, "reward", "rewards", **name))
    report.io = job.report
