"""`ultrachat data stats`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ultrachat_cli.data.judge import JudgeSettings

O = typer.Option  # noqa: E741
JUDGE = "Judge"


def stats(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="Files, folders, runs or patterns; - for stdin.", show_default=False),
    ] = None,
    sample: Annotated[
        int, O(min=0, help="Dialogues measured beyond rounds, in equal parts from each sector; 0: all.")
    ] = 10_000,
    seed: Annotated[int, O(help="Seed of the draw.")] = 0,
    tokenizer: Annotated[
        str | None,
        O(help="Counts the tokens: a tokenizer.json, its folder, or words.", show_default="SmolLM2's, or words"),
    ] = None,
    embedding: Annotated[
        str | None,
        O(help="Model for topic similarity: a name, a folder, hf:org/name; none.", show_default="minilm-static"),
    ] = None,
    judge: Annotated[
        str | None, O(help="Model that marks coherence and helpfulness from 1 to 10.", rich_help_panel=JUDGE)
    ] = None,
    judge_base_url: Annotated[
        str | None, O(help="URL of an OpenAI-compatible server, up to /v1.", rich_help_panel=JUDGE)
    ] = None,
    judge_api_key_env: Annotated[
        str | None, O(help="Environment variable with the API key.", rich_help_panel=JUDGE)
    ] = None,
    judge_sample: Annotated[
        int, O(min=1, help="Dialogues of the sample that are judged.", rich_help_panel=JUDGE)
    ] = 100,
    judge_journal: Annotated[
        Path | None,
        O(help="Where answers are kept.", show_default="<first file>.judge.sqlite", rich_help_panel=JUDGE),
    ] = None,
    concurrency: Annotated[int, O("--concurrency", "-j", help="Requests in flight.", rich_help_panel=JUDGE)] = 16,
    max_cost: Annotated[float | None, O(help="Stop before this many US dollars.", rich_help_panel=JUDGE)] = None,
    html: Annotated[Path | None, O(help="Also write a page that needs no network.")] = None,
    plots: Annotated[bool, O(help="Show the distributions.")] = True,
    json: Annotated[bool, O("--json", help="Report as JSON.")] = False,
    quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.")] = False,
) -> None:
    """Measure a set as the UltraChat paper does, per sector and over all: lengths, diversity and, by a judge, quality.

    Rounds are counted over all dialogues, the rest over a sample. Marks that were paid for are kept.
    """
    import os

    from ultrachat_cli.commands import charts, display, interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.data import stats
    from ultrachat_cli.errors import INCOMPLETE

    settings = None
    if judge is not None:
        settings = _judge(judge, judge_base_url, judge_api_key_env, judge_journal, inputs or [], concurrency, max_cost)
    wanted = stats.Wanted(sample, seed, tokenizer, embedding, settings, judge_sample, html)
    with interrupt.plain("interrupted; marks that were given are kept"), Shown(quiet) as shown:
        report = stats.run(inputs, wanted, os.environ, shown)
    if json:
        display.dump(report.record())
    else:
        charts.stats(report, plots=plots)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)


def _judge(
    model: str, base_url: str | None, api_key_env: str | None, journal: Path | None, inputs: list[Path],
    concurrency: int, max_cost: float | None,
) -> JudgeSettings:  # fmt: skip
    from ultrachat_cli import config as loader
    from ultrachat_cli.backends.chat_model import Endpoint
    from ultrachat_cli.backends.limits import LimitSettings
    from ultrachat_cli.data.judge import JudgeSettings
    from ultrachat_cli.errors import ConfigError
    from ultrachat_cli.records import files

    flags = {"concurrency": ("--concurrency", concurrency), "max_cost": ("--max-cost", max_cost)}
    limits = loader.load(LimitSettings, "limits", flags=flags).value
    if journal is None:
        found = files.find(inputs, "FILES")
        if not found or found[0] == files.STDIN:
            raise ConfigError("--judge-journal: where are the answers kept? name a file")
        journal = files.beside(found[0], "judge.sqlite")
    return JudgeSettings(Endpoint(model, base_url, api_key_env), journal, limits)
