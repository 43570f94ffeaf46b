"""`ultrachat score` and `ultrachat critique`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ultrachat_cli.commands.display import Rows
    from ultrachat_cli.reward.report import Report

O = typer.Option  # noqa: E741
JUDGE, RUN = "Judge", "Run"
_FAREWELL = "interrupted; what was found is kept, and the same command goes on from there"
Inputs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILES", help="Files, folders, runs or patterns; - for stdin.", show_default=False),
]
Output = Annotated[
    Path | None, O("--output", "-o", help="Where to: .jsonl, .jsonl.gz, .jsonl.zst, .parquet; - for stdout.")
]
Turns = Annotated[str | None, O(help="final or all answers of a dialogue.", show_default="final")]
BaseUrl = Annotated[str | None, O(help="URL of an OpenAI-compatible server, up to /v1.", rich_help_panel=JUDGE)]
ApiKeyEnv = Annotated[str | None, O(help="Environment variable with the API key.", rich_help_panel=JUDGE)]
JournalFile = Annotated[
    Path | None, O(help="Where answers are kept.", show_default="beside the output", rich_help_panel=JUDGE)
]
Concurrency = Annotated[int | None, O("--concurrency", "-j", help="Requests in flight.", rich_help_panel=JUDGE)]
Rpm = Annotated[float | None, O(help="Requests a minute.", rich_help_panel=JUDGE)]
MaxCost = Annotated[float | None, O(help="Stop before this many US dollars.", rich_help_panel=JUDGE)]
Config = Annotated[
    str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.", rich_help_panel=RUN)
]
Set = Annotated[list[str] | None, O("--set", help="Any setting: --set limits.tpm=90000", rich_help_panel=RUN)]
DryRun = Annotated[bool, O("--dry-run", help="Show requests, tokens and cost; ask nothing.", rich_help_panel=RUN)]
Json = Annotated[bool, O("--json", help="Report as JSON.", rich_help_panel=RUN)]
Quiet = Annotated[bool, O("--quiet", "-q", help="No progress, errors only.", rich_help_panel=RUN)]


def score(
    inputs: Inputs = None,
    output: Output = None,
    model: Annotated[
        str | None, O("--model", "-m", help="Reward model: a name such as ultrarm-13b, a folder, hf:org/name.")
    ] = None,
    turns: Turns = None,
    separator: Annotated[
        int | None, O(help="Newlines between turns in UltraRM's text: 1 or 2.", show_default="2")
    ] = None,
    batch_tokens: Annotated[
        int | None, O(help="Tokens of a batch.", show_default="16384 on a GPU, 4096 on a CPU")
    ] = None,
    device: Annotated[str | None, O(help="auto, cpu, cuda or cuda:N.", show_default="auto")] = None,
    dtype: Annotated[
        str | None, O(help="float32, bfloat16 or float16.", show_default="bfloat16 on a GPU, float32 on a CPU")
    ] = None,
    judge: Annotated[
        str | None, O(help="Instead of a reward model: a chat model that marks from 1 to 10.", rich_help_panel=JUDGE)
    ] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    journal: JournalFile = None,
    concurrency: Concurrency = None,
    rpm: Rpm = None,
    max_cost: MaxCost = None,
    config: Config = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score answers with a reward model, or by a judge: meta.reward, and with --turns all meta.rewards.

    The same command goes on where a killed one stopped. Only scores of one model compare.
    """
    import os

    from ultrachat_cli import config as loader
    from ultrachat_cli.backends.scorers import JUDGE as PREFIX
    from ultrachat_cli.commands import interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.errors import ConfigError
    from ultrachat_cli.reward.settings import ScoreConfig

    if model and model.startswith(PREFIX) and judge is None:
        judge, model = model.removeprefix(PREFIX), None
    flags = _flags(inputs, output, turns, judge, base_url, api_key_env, journal, concurrency, rpm, max_cost) | {
        "model": ("--model", model), "separator": ("--separator", separator), "device": ("--device", device),
        "batch_tokens": ("--batch-tokens", batch_tokens), "dtype": ("--dtype", dtype),
    }  # fmt: skip
    settings = loader.load(ScoreConfig, "score", file=config, environ=os.environ, sets=set_ or [], flags=flags).value
    if settings.judge:
        from ultrachat_cli.reward import judged

        if dry_run:
            _shown(judged.estimate(settings), settings, json)
            return
        with Shown(quiet) as shown:
            report = interrupt.run(judged.run(settings, os.environ, shown), _FAREWELL)
    else:
        from ultrachat_cli.reward import score

        if dry_run:
            raise ConfigError("--dry-run: a reward model costs nothing to ask", "it tells of --judge only")
        with interrupt.plain(_FAREWELL), Shown(quiet) as shown:
            report = score.run(settings, shown)
    _end(report, settings, json)


def critique(
    inputs: Inputs = None,
    output: Output = None,
    model: Annotated[
        str | None, O("--model", "-m", help="Critique model, such as ultracm-13b; or any chat model.")
    ] = None,
    judge: Annotated[str | None, O(help="The same for a chat model: openai:gpt-4o-mini.")] = None,
    turns: Turns = None,
    prompt: Annotated[Path | None, O(help="File with {instruction} and {completion} in place of our prompt.")] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    journal: JournalFile = None,
    concurrency: Concurrency = None,
    rpm: Rpm = None,
    max_cost: MaxCost = None,
    config: Config = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Criticise answers: a score from 1 to 10 and feedback, in meta.critique.

    The same command again asks only for what is missing: nothing is paid for twice.
    """
    import os

    from ultrachat_cli import config as loader
    from ultrachat_cli.commands import interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.reward import critique
    from ultrachat_cli.reward.settings import CritiqueConfig

    flags = _flags(inputs, output, turns, judge, base_url, api_key_env, journal, concurrency, rpm, max_cost) | {
        "model": ("--model", model), "prompt": ("--prompt", prompt),
    }  # fmt: skip
    loaded = loader.load(CritiqueConfig, "critique", file=config, environ=os.environ, sets=set_ or [], flags=flags)
    settings = loaded.value
    if dry_run:
        _shown(critique.estimate(settings), settings, json)
        return
    with Shown(quiet) as shown:
        report = interrupt.run(critique.run(settings, os.environ, shown), _FAREWELL)
    _end(report, settings, json)


def _flags(
    inputs: list[Path] | None, output: Path | None, turns: str | None, judge: str | None, base_url: str | None,
    api_key_env: str | None, journal: Path | None, concurrency: int | None, rpm: float | None, max_cost: float | None,
) -> dict[str, tuple[str, Any]]:  # fmt: skip
    return {
        "inputs": ("FILES", inputs), "output": ("--output", output), "turns": ("--turns", turns),
        "judge": ("--judge", judge), "base_url": ("--base-url", base_url), "journal": ("--journal", journal),
        "api_key_env": ("--api-key-env", api_key_env), "limits.concurrency": ("--concurrency", concurrency),
        "limits.rpm": ("--rpm", rpm), "limits.max_cost": ("--max-cost", max_cost),
    }  # fmt: skip


def _shown(found: Rows, settings: Any, json: bool) -> None:
    """On stderr where stdout is the output."""
    import sys
    from contextlib import nullcontext, redirect_stdout

    from ultrachat_cli.commands import display

    with redirect_stdout(sys.stderr) if settings.output == Path("-") else nullcontext():
        display.report_rows(found, json)


def _end(report: Report, settings: Any, json: bool) -> None:
    from ultrachat_cli.errors import INCOMPLETE

    _shown(report, settings, json)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)
