"""`ultrachat recover` and `ultrachat make-delta`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ultrachat_cli.progress import Progress
    from ultrachat_cli.recover.report import Report

O = typer.Option  # noqa: E741
MODELS, RESULT, RUN = "Models", "Result", "Run"
Output = Annotated[Path | None, O("--output", "-o", help="Folder to make; must not exist.", rich_help_panel=RESULT)]
ShardSize = Annotated[str | None, O(help="Largest file of weights: 5GB, 500MB.", rich_help_panel=RESULT)]
Workers = Annotated[int | None, O("--workers", "-j", help="Files written at a time.", rich_help_panel=RUN)]
Unchecked = Annotated[
    bool, O("--unchecked", help="Go on though base and delta look wrong; verify nothing.", rich_help_panel=RUN)
]
DryRun = Annotated[bool, O("--dry-run", help="Check everything, write nothing.", rich_help_panel=RUN)]
Json = Annotated[bool, O("--json", help="Report as JSON on stdout.", rich_help_panel=RUN)]
Quiet = Annotated[bool, O("--quiet", "-q", help="No progress, errors only.", rich_help_panel=RUN)]


def recover(
    model: Annotated[
        str | None, typer.Argument(help="A registry name published as a delta: ultralm-13b.", show_default=False)
    ] = None,
    base: Annotated[str | None, O(help="The base: folder, name or hf:org/name.", rich_help_panel=MODELS)] = None,
    delta: Annotated[str | None, O(help="The delta: folder, name or hf:org/name.", rich_help_panel=MODELS)] = None,
    format: Annotated[str | None, O(help="Chat format, where nothing tells it.", rich_help_panel=MODELS)] = None,
    output: Output = None,
    dtype: Annotated[
        str | None, O(help="float16, bfloat16 or float32; default: as it was.", rich_help_panel=RESULT)
    ] = None,
    shard_size: ShardSize = None,
    check: Annotated[
        bool, O("--check", help="Load the result and let it answer one prompt.", rich_help_panel=RESULT)
    ] = False,
    workers: Workers = None,
    unchecked: Unchecked = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model from its base and its delta: base + delta.

    A killed run goes on from its finished files when the same command is given again.
    """
    import os

    from ultrachat_cli.recover import run
    from ultrachat_cli.recover.settings import RecoverConfig

    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # threads that wait leave the cores to others sooner

    flags = _flags(base, output, dtype, shard_size, workers, unchecked, dry_run) | {
        "model": ("MODEL", model), "delta": ("--delta", delta), "format": ("--format", format),
        "check": ("--check", check or None),
    }  # fmt: skip
    _work("recover", RecoverConfig, flags, run.recover, json, quiet)


def make_delta(
    base: Annotated[str | None, O(help="What the training began with.", rich_help_panel=MODELS)] = None,
    tuned: Annotated[str | None, O(help="The fine-tuned model: folder, name, hf:.", rich_help_panel=MODELS)] = None,
    output: Output = None,
    dtype: Annotated[
        str | None, O(help="float32 (exact for 16-bit weights), or a half of it.", rich_help_panel=RESULT)
    ] = None,
    shard_size: ShardSize = None,
    workers: Workers = None,
    unchecked: Unchecked = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a delta to publish where the base may not be: tuned - base, with checksums that recover verifies.

    A killed run goes on from its finished files when the same command is given again.
    """
    from ultrachat_cli.recover import run
    from ultrachat_cli.recover.settings import DeltaConfig

    flags = _flags(base, output, dtype, shard_size, workers, unchecked, dry_run) | {"tuned": ("--tuned", tuned)}
    _work("make-delta", DeltaConfig, flags, run.make_delta, json, quiet)


def _flags(
    base: str | None, output: Path | None, dtype: str | None, shard_size: str | None, workers: int | None,
    unchecked: bool, dry_run: bool,
) -> dict[str, tuple[str, Any]]:  # fmt: skip
    return {
        "base": ("--base", base), "output": ("--output", output), "dtype": ("--dtype", dtype),
        "shard_size": ("--shard-size", shard_size), "workers": ("--workers", workers),
        "unchecked": ("--unchecked", unchecked or None), "dry_run": ("--dry-run", dry_run or None),
    }  # fmt: skip


def _work(
    area: str,
    settings: type[Any],
    flags: dict[str, tuple[str, Any]],
    do: Callable[[Any, Progress], Report],
    json: bool,
    quiet: bool,
) -> None:
    from ultrachat_cli import config as loader
    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.commands.progress import Shown

    loaded = loader.load(settings, area, flags=flags)
    farewell = "interrupted; the same command goes on from the files that are finished"
    with interrupt.plain(farewell), Shown(quiet) as shown:
        report = do(loaded.value, shown)
    display.report_rows(report, json)
