"""`ultrachat eval`: options in, report out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

O = typer.Option  # noqa: E741
MODEL, JUDGE, FIGURES, RUN = "Model and reference", "Judge", "Figures", "Run"
_FAREWELL = "interrupted; what was answered is kept, and the same command goes on from there"
app = typer.Typer(help="Evaluate models: answers judged by any model, as published.", no_args_is_help=True)
Json = Annotated[bool, O("--json", help="Report as JSON.", rich_help_panel=RUN)]


def _suite(name: str, about: str) -> Callable[..., None]:
    """The command of one suite; they differ in their questions only."""

    def suite(
        model: Annotated[
            str | None, O("--model", "-m", help="Who is evaluated: name, folder, hf:, openai:.", rich_help_panel=MODEL)
        ] = None,
        outputs: Annotated[
            Path | None, O(help="Its answers, if made already: model_outputs.json.", rich_help_panel=MODEL)
        ] = None,
        base_url: Annotated[
            str | None, O(help="URL of the model's OpenAI-compatible server, up to /v1.", rich_help_panel=MODEL)
        ] = None,
        api_key_env: Annotated[str | None, O(help="Environment variable with its key.", rich_help_panel=MODEL)] = None,
        reference: Annotated[
            str | None, O(help="Compared with: a file of answers, or a model.", rich_help_panel=MODEL)
        ] = None,
        reference_base_url: Annotated[str | None, O(help="URL of its server.", rich_help_panel=MODEL)] = None,
        reference_api_key_env: Annotated[
            str | None, O(help="Environment variable with its key.", rich_help_panel=MODEL)
        ] = None,
        best_of: Annotated[
            int | None, O(help="Answers drawn for each question; the best counts.", rich_help_panel=MODEL)
        ] = None,
        reward_model: Annotated[
            str | None, O(help="What tells the best: a reward model, or judge:MODEL.", rich_help_panel=MODEL)
        ] = None,
        reward_base_url: Annotated[str | None, O(help="URL of MODEL's server.", rich_help_panel=MODEL)] = None,
        reward_api_key_env: Annotated[
            str | None, O(help="Environment variable with its key.", rich_help_panel=MODEL)
        ] = None,
        system: Annotated[str | None, O(help="System prompt of both.", rich_help_panel=MODEL)] = None,
        max_tokens: Annotated[int | None, O(help="Longest answer.", rich_help_panel=MODEL)] = None,
        dataset: Annotated[
            str | None, O(help="File of questions, or demo.", show_default="the suite's, from the hub")
        ] = None,
        limit: Annotated[int | None, O(help="Ask this many questions, spread over the set.")] = None,
        output: Annotated[
            Path | None, O("--output", "-o", help="Run folder.", show_default="runs/eval-SUITE-MODEL")
        ] = None,
        judge: Annotated[
            str | None, O(help="Any chat model: openai:NAME, a name, a folder.", rich_help_panel=JUDGE)
        ] = None,
        judge_base_url: Annotated[str | None, O(help="URL of its server.", rich_help_panel=JUDGE)] = None,
        judge_api_key_env: Annotated[
            str | None, O(help="Environment variable with its key.", rich_help_panel=JUDGE)
        ] = None,
        preset: Annotated[
            str | None,
            O(
                help="alpaca_eval_gpt4, weighted_alpaca_eval_gpt4_turbo, pairwise-score, single-score.",
                show_default="the suite's",
                rich_help_panel=JUDGE,
            ),
        ] = None,
        prompt: Annotated[Path | None, O(help="File in place of the preset's prompt.", rich_help_panel=JUDGE)] = None,
        both_orders: Annotated[
            bool | None, O("--both-orders", help="Ask twice, answers exchanged.", rich_help_panel=JUDGE)
        ] = None,
        allow_missing: Annotated[
            bool | None, O("--allow-missing", help="Leave out what one side has no answer to.", rich_help_panel=JUDGE)
        ] = None,
        annotations: Annotated[
            Path | None, O(help="Figures again from stored verdicts; nobody is asked.", rich_help_panel=FIGURES)
        ] = None,
        agreement: Annotated[
            Path | None, O(help="Another judge's annotations.json: how often both agree.", rich_help_panel=FIGURES)
        ] = None,
        length_controlled: Annotated[
            bool | None, O("--length-controlled", help="Also AlpacaEval 2's win rate.", rich_help_panel=FIGURES)
        ] = None,
        gamed_file: Annotated[
            Path | None, O(help="df_gamed.csv for it.", show_default="from the hub", rich_help_panel=FIGURES)
        ] = None,
        concurrency: Annotated[
            int | None, O("--concurrency", "-j", help="Requests in flight.", rich_help_panel=RUN)
        ] = None,
        rpm: Annotated[float | None, O(help="Requests a minute.", rich_help_panel=RUN)] = None,
        max_cost: Annotated[float | None, O(help="Stop before this many US dollars.", rich_help_panel=RUN)] = None,
        config: Annotated[
            str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.", rich_help_panel=RUN)
        ] = None,
        set_: Annotated[
            list[str] | None, O("--set", help="Any setting: --set answers.temperature=0", rich_help_panel=RUN)
        ] = None,
        restart: Annotated[
            bool, O("--restart", help="Begin anew; an earlier run is set aside.", rich_help_panel=RUN)
        ] = False,
        dry_run: Annotated[
            bool, O("--dry-run", help="Show requests, tokens and cost; ask nothing.", rich_help_panel=RUN)
        ] = False,
        json: Json = False,
        quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.", rich_help_panel=RUN)] = False,
    ) -> None:
        import os

        from ultrachat_cli import config as loader
        from ultrachat_cli.commands import display, interrupt
        from ultrachat_cli.commands.progress import Shown
        from ultrachat_cli.errors import INCOMPLETE
        from ultrachat_cli.evaluate import estimate, folder, run
        from ultrachat_cli.evaluate.settings import EvalConfig

        flags = {
            "suite": ("eval", name), "model": ("--model", model), "outputs": ("--outputs", outputs),
            "base_url": ("--base-url", base_url), "api_key_env": ("--api-key-env", api_key_env),
            "reference": ("--reference", reference), "reference_base_url": ("--reference-base-url", reference_base_url),
            "reference_api_key_env": ("--reference-api-key-env", reference_api_key_env),
            "best_of": ("--best-of", best_of), "reward_model": ("--reward-model", reward_model),
            "reward_base_url": ("--reward-base-url", reward_base_url),
            "reward_api_key_env": ("--reward-api-key-env", reward_api_key_env),
            "answers.system": ("--system", system), "answers.max_tokens": ("--max-tokens", max_tokens),
            "dataset": ("--dataset", dataset), "limit": ("--limit", limit), "output": ("--output", output),
            "judge": ("--judge", judge), "judge_base_url": ("--judge-base-url", judge_base_url),
            "judge_api_key_env": ("--judge-api-key-env", judge_api_key_env), "preset": ("--preset", preset),
            "prompt": ("--prompt", prompt), "both_orders": ("--both-orders", both_orders),
            "allow_missing": ("--allow-missing", allow_missing), "annotations": ("--annotations", annotations),
            "agreement": ("--agreement", agreement), "length_controlled": ("--length-controlled", length_controlled),
            "gamed_file": ("--gamed-file", gamed_file), "limits.concurrency": ("--concurrency", concurrency),
            "limits.rpm": ("--rpm", rpm), "limits.max_cost": ("--max-cost", max_cost),
        }  # fmt: skip
        settings = loader.load(EvalConfig, "eval", file=config, environ=os.environ, sets=set_ or [], flags=flags).value
        if dry_run:
            with Shown(quiet) as shown:
                planned = estimate.of(settings, shown)
            display.report_rows(planned, json)
            return
        with Shown(quiet) as shown:
            if restart and (aside := folder.set_aside(settings.folder)):
                shown.say(f"the earlier run is in {aside}")
            report = interrupt.run(run.run(settings, os.environ, shown), _FAREWELL)
        display.report_rows(report, json)
        report.check(settings.max_unreadable)
        if not report.complete:
            raise typer.Exit(INCOMPLETE)

    suite.__doc__ = about
    return suite


app.command("alpaca", no_args_is_help=True)(
    _suite("alpaca", "AlpacaEval 1 and 2: win rate against a baseline on 805 instructions.")
)
app.command("evol", no_args_is_help=True)(
    _suite("evol", "Evol-Instruct: 218 instructions by skill and difficulty, scores as a share of the reference's.")
)
app.command("curated", no_args_is_help=True)(
    _suite("curated", "The UltraChat paper's set in ten classes: win, tie, lose; or a score for each answer.")
)


@app.command("compare", no_args_is_help=True)
def compare(
    a: Annotated[Path, typer.Argument(help="A run folder, or its annotations.json.")],
    b: Annotated[Path, typer.Argument(help="Another one on the same questions.")],
    json: Json = False,
) -> None:
    """Compare two runs question by question: difference, interval, tests, by category."""
    from ultrachat_cli.commands import display
    from ultrachat_cli.evaluate import runs

    display.report_rows(runs.compared(a, b), json)


@app.command("leaderboard", no_args_is_help=True)
def leaderboard(
    paths: Annotated[list[Path], typer.Argument(metavar="RUNS", help="Run folders, or leaderboard.csv files.")],
    output: Annotated[Path | None, O("--output", "-o", help="Also write it: .csv or .html.")] = None,
    json: Json = False,
) -> None:
    """Put runs in one table, the best first; also as alpaca_eval's leaderboard.csv or as a page."""
    from ultrachat_cli.commands import display
    from ultrachat_cli.evaluate import runs

    found = runs.ranked(paths, output)
    if json:
        display.dump(found.record())
    else:
        display.columns(*found.table())
