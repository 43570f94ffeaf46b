"""`ultrachat dedupe`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

O = typer.Option  # noqa: E741
WHAT, BENCHMARKS, RUN = "What counts as the same", "Benchmarks", "Run"


class Variadic(TyperCommand):
    """Lets `--against` take several files: `--against a.json b.jsonl`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before each of its values."""
        spread: list[str] = []
        inside = False
        for n, word in enumerate(args):
            inside = word == "--against" or (inside and not word.startswith("-"))
            if inside and word != "--against" and args[n - 1] != "--against":
                spread.append("--against")
            spread.append(word)
        return super().parse_args(ctx, spread)


def dedupe(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Files, folders, runs or patterns; - for stdin.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, O("--output", "-o", help="Where the survivors go: .jsonl, .jsonl.gz, .jsonl.zst, .parquet.")
    ] = None,
    method: Annotated[
        str | None, O(help="Stages, comma-separated: exact, near, semantic.", rich_help_panel=WHAT)
    ] = None,
    threshold: Annotated[float | None, O(help="Jaccard similarity of near duplicates.", rich_help_panel=WHAT)] = None,
    scope: Annotated[str | None, O(help="dialogue, opening or turn.", rich_help_panel=WHAT)] = None,
    keep: Annotated[str | None, O(help="first, longest or best of a cluster.", rich_help_panel=WHAT)] = None,
    against: Annotated[
        list[Path] | None, O(help="Benchmark files to decontaminate against.", rich_help_panel=BENCHMARKS)
    ] = None,
    rule: Annotated[
        str | None, O(help="coverage (8-grams, half of an item) or any (one 13-gram).", rich_help_panel=BENCHMARKS)
    ] = None,
    turns: Annotated[str | None, O(help="Search user, assistant or both turns.", rich_help_panel=BENCHMARKS)] = None,
    flag: Annotated[
        bool, O("--flag", help="Mark contaminated dialogues instead of dropping them.", rich_help_panel=BENCHMARKS)
    ] = False,
    engine: Annotated[str | None, O(help="local or spark.", rich_help_panel=RUN)] = None,
    master: Annotated[str | None, O(help="Spark master: local[N] or spark://host:port.", rich_help_panel=RUN)] = None,
    processes: Annotated[int | None, O("--processes", "-j", help="Worker processes.", rich_help_panel=RUN)] = None,
    config: Annotated[
        str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.", rich_help_panel=RUN)
    ] = None,
    set_: Annotated[
        list[str] | None, O("--set", help="Any config key: --set against.coverage=0.3", rich_help_panel=RUN)
    ] = None,
    json: Annotated[bool, O("--json", help="Report as JSON on stdout.", rich_help_panel=RUN)] = False,
    quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.", rich_help_panel=RUN)] = False,
) -> None:
    """Remove duplicates and benchmark overlap from dialogues, with a report of what went and why.

    A killed run goes on where it was when the same command is given again.
    """
    import os

    from ultrachat_cli import config as loader
    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.dedupe import run
    from ultrachat_cli.dedupe.settings import DedupeConfig
    from ultrachat_cli.errors import INCOMPLETE

    flags: dict[str, tuple[str, Any]] = {
        "inputs": ("FILES", inputs),
        "output": ("--output", output),
        "method": ("--method", method.split(",") if method else None),
        "threshold": ("--threshold", threshold),
        "scope": ("--scope", scope),
        "keep": ("--keep", keep),
        "against.files": ("--against", against),
        "against.rule": ("--rule", rule),
        "against.turns": ("--turns", turns),
        "against.action": ("--flag", "flag" if flag else None),
        "engine": ("--engine", engine),
        "spark.master": ("--master", master),
        "processes": ("--processes", processes),
    }
    loaded = loader.load(DedupeConfig, "dedupe", file=config, environ=os.environ, sets=set_ or [], flags=flags)
    with interrupt.plain("interrupted; the same command goes on from the last finished stage"), Shown(quiet) as shown:
        report = run.run(loaded, shown)
    display.report_rows(report, json)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)
