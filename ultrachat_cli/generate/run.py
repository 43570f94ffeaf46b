"""The run: openings become dialogues, as many at once as the slots carry, each settled exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from ultrachat_cli.backends import chat_model
from ultrachat_cli.backends.chat_model import ChatModels
from ultrachat_cli.config import Loaded
from ultrachat_cli.errors import BackendError, BudgetSpent, CircuitOpen, UltraError
from ultrachat_cli.generate import export, setup
from ultrachat_cli.generate.book import Book
from ultrachat_cli.generate.converse import Outcome, converse
from ultrachat_cli.generate.near_duplicates import OpeningIndex
from ultrachat_cli.generate.plan import Opening, ordered
from ultrachat_cli.generate.report import Counts, Report
from ultrachat_cli.generate.run_folder import REJECTED, WRITTEN, RunFolder
from ultrachat_cli.generate.settings import GenerateConfig, Sector

Say = Callable[[str], None]
_STALE = 1000  # near duplicates in a row after which a plan counts as exhausted


@dataclass
class _Quota:
    """How many dialogues of a sector are wanted, and how many places are taken.

    A dialogue starts only while (kept + failed + under way) < wanted. So no dialogue is made in vain, and the set that
    is kept (the shortest prefix of the plan with enough fit dialogues) does not depend on timing.
    """

    wanted: int
    kept: int = 0
    failed: int = 0
    under_way: int = 0
    rejected: int = 0

    @property
    def free(self) -> int:
        return self.wanted - self.kept - self.failed - self.under_way


async def run(
    loaded: Loaded[GenerateConfig], *, environ: Mapping[str, str], counts: Counts | None = None, say: Say = print
) -> Report:
    """Generate, or go on with the run that lies in the output folder.

    `environ`: where API keys are looked up; `counts`: live figures for a display; `say`: takes notices.
    Raises `UltraError`s; what was answered and settled until then is on file.
    """
    config, counts = loaded.value, counts or Counts()
    parts = setup.prepare(config, lambda error: _bad_line(counts, say, str(error)))
    folder = RunFolder(config.folder, parts.identity)
    try:
        for name, torn in folder.repaired.items():
            say(f"{config.folder / name}: cut a torn last line of {torn} bytes; its dialogue is made again")
        models = ChatModels(
            config.limits, folder.journal, environ, prices=config.prices, spent=folder.journal.totals()[3],
            embedded_context=config.embedded_context, say=say,
        )  # fmt: skip
        counts.usage = models.usage
        try:
            generation = await _Generation.open(loaded, parts, folder, models, counts, say)
            try:
                return await generation.run()
            finally:
                await generation.close()
        finally:
            await models.close()
    finally:
        folder.close()


def _bad_line(counts: Counts, say: Say, line: str) -> None:
    counts.warnings["materials lines that could not be read"] += 1
    if counts.warnings["materials lines that could not be read"] <= 20:
        say(f"skipped: {line}")


class _Generation:
    """One session of a run."""

    def __init__(
        self, loaded: Loaded[GenerateConfig], stage: setup.Stage, folder: RunFolder, models: ChatModels,
        counts: Counts, say: Say,
    ) -> None:  # fmt: skip
        self._loaded, self._config, self._stage = loaded, loaded.value, stage
        self._folder, self._models, self._counts, self._say = folder, models, counts, say
        self._index = OpeningIndex(folder.journal, self._config.filters.near_duplicate)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._stop: UltraError | None = None

    @classmethod
    async def open(
        cls, loaded: Loaded[GenerateConfig], parts: setup.Parts, folder: RunFolder, models: ChatModels,
        counts: Counts, say: Say,
    ) -> _Generation:  # fmt: skip
        """Open the models and check them against the plan."""
        stage = await setup.stage(loaded.value, parts, models, counts, say)
        unpriced = chat_model.unpriced(stage.asked)
        if unpriced:
            say(f"no price known for {', '.join(unpriced)}: tokens are counted, cost is not")
        return cls(loaded, stage, folder, models, counts, say)

    async def run(self) -> Report:
        """All sectors at once, sharing the slots; then the manifest and, if asked for, another format."""
        config, counts = self._config, self._counts
        counts.planned = config.limit
        counts.written, counts.rejected = self._folder.settled()
        counts.resumed = counts.written + counts.rejected.total()
        if counts.resumed:
            self._say(f"resuming {self._folder.folder}: {counts.written} of {config.limit} dialogues are there")
        book = Book(self._loaded, self._folder, self._stage, counts)
        book.save("running")
        counts.state = "running"
        state = "interrupted"
        try:
            share, left = divmod(config.limit, len(config.sectors))
            quotas = [(sector, _Quota(share + (n < left))) for n, sector in enumerate(config.sectors)]
            await asyncio.gather(*(self._produce(sector, quota) for sector, quota in quotas if quota.wanted))
            while self._tasks:
                await asyncio.wait(self._tasks)
            state = "stopped" if self._stop else "finished"
        finally:
            self._models.halt()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._index.save()
            await self._folder.flush()
            book.save(state)
        if self._stop is not None and not isinstance(self._stop, BudgetSpent):
            raise self._stop
        files = await asyncio.to_thread(export.export, self._folder.folder, config.format)
        return book.report(files, self._stop.message if self._stop else "")

    async def close(self) -> None:
        """Let go of what only this session holds."""
        await self._stage.close()

    async def _produce(self, sector: Sector, quota: _Quota) -> None:
        """Start dialogues of one sector, in plan order; what stops one sector stops the run."""
        ahead = 2 * self._models.parallel
        openings = ordered(self._stage.picks(sector), lambda: min(quota.free, ahead))
        try:
            async with aclosing(openings):
                await self._start_all(sector, openings, quota)
        except (CircuitOpen, BudgetSpent) as error:
            self._halt(error)
        await self._vacancy(lambda: not quota.under_way)
        if quota.free > 0 and self._stop is None:
            self._say(f"the {sector} plan holds no more openings: {quota.kept} dialogues instead of {quota.wanted}")

    async def _start_all(self, sector: Sector, openings: AsyncIterator[Opening], quota: _Quota) -> None:
        """Start a dialogue whenever a slot is idle and a place is free, until no place is left to fill."""
        slots = self._stage.cast.assistant.limiter.slots
        stale = 0
        async for opening in openings:
            identity = opening.id(self._config.seed)
            if not await self._index.novel(sector, identity, opening.likeness or opening.text):
                self._counts.duplicates += 1
                stale += 1
                if stale == _STALE:
                    self._say(f"the {sector} plan gives nothing new any more: {_STALE} near duplicates in a row")
                    return
                continue
            stale = 0
            outcome = self._folder.outcome(identity)
            quota.kept += outcome == WRITTEN
            quota.rejected += outcome not in (None, WRITTEN)
            if outcome is None:
                await self._vacancy(lambda: len(self._tasks) < self._stage.most_dialogues and self._affordable())
                await slots.idle()
                self._start(opening, quota)
                await asyncio.sleep(0)  # let it take its slot before the next look
            # No opening is asked for before there is a place for its dialogue: none is paid for in vain.
            await self._vacancy(lambda: quota.free > 0 or not quota.under_way)
            self._check_rejections(sector, quota)
            if self._stop is not None or quota.free <= 0:
                return

    def _halt(self, error: UltraError) -> None:
        """Start nothing more; the first reason is the one to report."""
        self._stop = self._stop or error
        self._ended.set()

    async def _vacancy(self, condition: Callable[[], bool]) -> None:
        """Wait, dialogue by dialogue, until the condition holds or the run stops."""
        while not condition() and self._stop is None:
            self._ended.clear()
            await self._ended.wait()

    def _affordable(self) -> bool:
        """Whether another dialogue, at the mean cost so far, leaves those under way enough of the budget."""
        if not self._tasks or self._config.limits.max_cost is None or not self._counts.settled:
            return True
        mean = self._models.usage.cost / self._counts.settled
        return self._models.budget.room > mean * (len(self._tasks) + 1)

    def _start(self, opening: Opening, quota: _Quota) -> None:
        if self._stop is not None:
            return
        quota.under_way += 1
        self._counts.in_dialogue += 1
        task = asyncio.create_task(self._dialogue(opening, quota))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dialogue(self, opening: Opening, quota: _Quota) -> None:
        try:
            self._settle(await converse(opening, self._stage.cast, self._config), quota)
        except (CircuitOpen, BudgetSpent) as error:
            self._halt(error)
        except BackendError as error:
            quota.failed += 1
            self._counts.failed[error.message] += 1
        except UltraError as error:  # the disk: nothing can be kept any more
            self._halt(error)
        finally:
            quota.under_way -= 1
            self._counts.in_dialogue -= 1
            asyncio.get_running_loop().call_soon(self._ended.set)

    def _settle(self, outcome: Outcome, quota: _Quota) -> None:
        dialogue, sector = outcome.dialogue, outcome.dialogue.meta["sector"]
        if outcome.kept:
            quota.kept += 1
            self._counts.written += 1
            self._counts.cut[outcome.reason] += bool(outcome.reason)
            self._counts.newest = dialogue.data
            if self._counts.on_kept:
                self._counts.on_kept(dialogue.data)
            self._folder.settle(dialogue.id, sector, WRITTEN, dialogue.line())
        else:
            quota.rejected += 1
            self._counts.rejected[outcome.reason] += 1
            self._folder.settle(dialogue.id, sector, outcome.reason, export.rejected_line(outcome))
        if self._folder.error is not None:
            raise self._folder.error

    def _check_rejections(self, sector: str, quota: _Quota) -> None:
        if quota.rejected > self._config.filters.give_up * quota.wanted + 20 and self._stop is None:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self._counts.rejected.most_common(4))
            self._halt(
                UltraError(
                    f"{sector}: {quota.rejected} dialogues rejected for {quota.kept} kept ({reasons})",
                    f"look into {self._folder.folder / REJECTED}; loosen 'filters', or use a more capable model",
                )
            )
