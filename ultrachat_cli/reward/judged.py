"""`ultrachat score` with a chat model as the judge: marks from 1 to 10 in place of rewards."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ultrachat_cli.backends.base import prompt_tokens
from ultrachat_cli.backends.scorers import JUDGE, JudgeScorer
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records.one_pass import checked
from ultrachat_cli.reward import asking
from ultrachat_cli.reward import estimate as estimates
from ultrachat_cli.reward.estimate import Estimate
from ultrachat_cli.reward.report import Report
from ultrachat_cli.reward.settings import ScoreConfig

_ANSWER = 4  # tokens of a mark


async def run(settings: ScoreConfig, environ: Mapping[str, str], progress: Progress | None = None) -> Report:
    """Write the dialogues with marks where `score.run` has rewards; meta.reward_model is `judge:MODEL`.

    Answers without a mark after all attempts count as failed and get none. Raises `UltraError`s of the endpoint.
    """
    progress = progress or Silent()
    settings.check_given()
    _, outputs, _ = checked(settings.inputs, settings.output)
    name = JUDGE + settings.endpoint.model
    report = Report(name)
    started = time.monotonic()
    path = asking.journal_of(outputs[0], settings, "score")
    async with asking.opened(path, settings, environ, progress.say, report) as (models, model):
        scorer = JudgeScorer(name, model)
        kept = asking.Kept("reward", "rewards", more={"reward_model": name})
        await asking.annotate(settings, scorer.mark, kept, models, report, progress)
        report.truncated = scorer.cut
    report.seconds = time.monotonic() - started
    return report


def estimate(settings: ScoreConfig) -> Estimate:
    """What `run` would ask for; asks nothing."""
    return estimates.of(settings, lambda messages, answer: prompt_tokens(JudgeScorer.task(messages, answer)), _ANSWER)
