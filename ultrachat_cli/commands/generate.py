"""`ultrachat generate`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ultrachat_cli.config import Loaded
    from ultrachat_cli.generate.settings import GenerateConfig

WHAT, WHO, HOW, RUN = "What", "Models", "Limits", "Run"
O = typer.Option  # noqa: E741


def generate(
    sector: Annotated[
        str | None, O("--sector", "-s", help="world, writing, materials or all.", rich_help_panel=WHAT)
    ] = None,
    limit: Annotated[int | None, O("--limit", "-n", help="Dialogues to make.", rich_help_panel=WHAT)] = None,
    rounds: Annotated[str | None, O(help="Rounds of a dialogue, N or MIN-MAX.", rich_help_panel=WHAT)] = None,
    seed: Annotated[int | None, O(help="Seed of everything drawn.", rich_help_panel=WHAT)] = None,
    materials: Annotated[
        list[Path] | None, O(help="Texts for the materials sector: files, folders or runs.", rich_help_panel=WHAT)
    ] = None,
    entities: Annotated[Path | None, O(help="Entities for the world sector, one a line.", rich_help_panel=WHAT)] = None,
    model: Annotated[
        str | None,
        O(
            "--model",
            "-m",
            help="Assistant: a name, file.gguf, hf:org/name/file.gguf, openai:NAME.",
            rich_help_panel=WHO,
        ),
    ] = None,
    user_model: Annotated[str | None, O(help="Model that plays the user.", rich_help_panel=WHO)] = None,
    opening_model: Annotated[str | None, O(help="Model that makes the openings.", rich_help_panel=WHO)] = None,
    best_of: Annotated[
        int | None, O(help="Answers asked for at each turn; the best one stays.", rich_help_panel=WHO)
    ] = None,
    reward_model: Annotated[
        str | None, O(help="Scores them: a reward model, or judge:NAME.", rich_help_panel=WHO)
    ] = None,
    base_url: Annotated[
        str | None, O(help="URL of an OpenAI-compatible server, up to /v1.", rich_help_panel=WHO)
    ] = None,
    user_base_url: Annotated[str | None, O(help="The same for the user model.", rich_help_panel=WHO)] = None,
    api_key_env: Annotated[str | None, O(help="Environment variable with the API key.", rich_help_panel=WHO)] = None,
    concurrency: Annotated[
        int | None, O("--concurrency", "-j", help="Requests in flight.", rich_help_panel=HOW)
    ] = None,
    rpm: Annotated[float | None, O(help="Requests a minute.", rich_help_panel=HOW)] = None,
    tpm: Annotated[float | None, O(help="Tokens a minute.", rich_help_panel=HOW)] = None,
    max_cost: Annotated[float | None, O(help="Stop before this many US dollars.", rich_help_panel=HOW)] = None,
    output: Annotated[
        Path | None, O("--output", "-o", help="Run folder.", show_default="runs/<sector>", rich_help_panel=RUN)
    ] = None,
    format: Annotated[
        str | None, O("--format", help="Also write messages, sharegpt or parquet at the end.", rich_help_panel=RUN)
    ] = None,
    config: Annotated[
        str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.", rich_help_panel=RUN)
    ] = None,
    set_: Annotated[
        list[str] | None, O("--set", help="Any config key: --set user.temperature=1.0", rich_help_panel=RUN)
    ] = None,
    dry_run: Annotated[
        bool, O("--dry-run", help="Show openings, requests, tokens and cost; ask nothing.", rich_help_panel=RUN)
    ] = False,
    restart: Annotated[
        bool, O("--restart", help="Set the folder's earlier run aside and begin anew.", rich_help_panel=RUN)
    ] = False,
    yes: Annotated[bool, O("--yes", "-y", help="Do not ask.", rich_help_panel=RUN)] = False,
    json: Annotated[bool, O("--json", help="Report as JSON on stdout.", rich_help_panel=RUN)] = False,
    verbose: Annotated[
        int, O("--verbose", "-v", count=True, help="Show the newest dialogue; -vv: every one.", rich_help_panel=RUN)
    ] = 0,
    quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.", rich_help_panel=RUN)] = False,
) -> None:
    """Make multi-turn dialogues: one model plays the user, another the assistant.

    The same command again resumes: nothing is paid for twice, nothing is written twice.
    """
    flags: dict[str, tuple[str, Any]] = {
        "sector": ("--sector", sector),
        "limit": ("--limit", limit),
        "rounds": ("--rounds", rounds),
        "seed": ("--seed", seed),
        "materials.paths": ("--materials", [str(path) for path in materials] if materials else None),
        "world.entities": ("--entities", entities),
        "assistant.model": ("--model", model),
        "user.model": ("--user-model", user_model),
        "opening.model": ("--opening-model", opening_model),
        "assistant.best_of": ("--best-of", best_of),
        "assistant.reward_model": ("--reward-model", reward_model),
        "assistant.base_url": ("--base-url", base_url),
        "user.base_url": ("--user-base-url", user_base_url),
        "assistant.api_key_env": ("--api-key-env", api_key_env),
        "limits.concurrency": ("--concurrency", concurrency),
        "limits.rpm": ("--rpm", rpm),
        "limits.tpm": ("--tpm", tpm),
        "limits.max_cost": ("--max-cost", max_cost),
        "output": ("--output", output),
        "format": ("--format", format),
    }
    loaded = _load(config, set_ or [], flags)
    if dry_run:
        _plan(loaded, json)
        return
    if restart:
        _restart(loaded, yes)
    _run(loaded, json=json, verbose=verbose, quiet=quiet)


def _load(config: str | None, sets: list[str], flags: dict[str, tuple[str, Any]]) -> Loaded[GenerateConfig]:
    import os

    from ultrachat_cli import config as loader
    from ultrachat_cli.generate.settings import GenerateConfig

    return loader.load(GenerateConfig, "generate", file=config, environ=os.environ, sets=sets, flags=flags)


def _plan(loaded: Loaded[GenerateConfig], json: bool) -> None:
    import asyncio

    from ultrachat_cli.commands import display
    from ultrachat_cli.generate import estimate

    display.report_rows(asyncio.run(estimate.estimate(loaded.value)), json)


def _restart(loaded: Loaded[GenerateConfig], yes: bool) -> None:
    from ultrachat_cli.commands import display
    from ultrachat_cli.generate import run_folder

    folder = loaded.value.folder
    if (folder / "manifest.json").exists() and not yes:
        typer.confirm(f"Set the run in {folder} aside and begin anew?", abort=True, err=True)
    aside = run_folder.set_aside(folder)
    if aside:
        display.say(f"the earlier run is in {aside}")


def _run(loaded: Loaded[GenerateConfig], *, json: bool, verbose: int, quiet: bool) -> None:
    import os

    from ultrachat_cli.commands import display, generate_screen, interrupt
    from ultrachat_cli.errors import INCOMPLETE
    from ultrachat_cli.generate import run
    from ultrachat_cli.generate.report import Counts

    counts = Counts()
    with generate_screen.live(counts, verbose=verbose, quiet=quiet) as say:
        job = run.run(loaded, environ=os.environ, counts=counts, say=say)
        report = interrupt.run(job, f"interrupted; the same command resumes {loaded.value.folder}")
    display.report_rows(report, json)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)
