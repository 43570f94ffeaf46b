"""`ultrachat explore`: options in, a map out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

O = typer.Option  # noqa: E741
MAP, VIEW, RUN = "Map", "View", "Run"


def explore(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Files, folders, runs or patterns; - for stdin.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, O("--limit", "-n", help="Draw a random sample of a larger set.", rich_help_panel=MAP)
    ] = None,
    embedding: Annotated[str | None, O(help="lexical, or an embedding model by name.", rich_help_panel=MAP)] = None,
    projection: Annotated[str | None, O(help="tsne or pca.", rich_help_panel=MAP)] = None,
    seed: Annotated[int | None, O(help="Seed of the sample and of the projection.", rich_help_panel=MAP)] = None,
    export: Annotated[
        Path | None, O("--export", "-o", help="Write FILE.html or a folder instead of serving.", rich_help_panel=VIEW)
    ] = None,
    viewer: Annotated[str | None, O(help="page, or atlas (needs a GPU).", rich_help_panel=VIEW)] = None,
    port: Annotated[int | None, O(help="Port on this machine; 0 = any free one.", rich_help_panel=VIEW)] = None,
    open_: Annotated[bool, O("--open/--no-open", help="Open the browser.", rich_help_panel=VIEW)] = True,
    config: Annotated[
        str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.", rich_help_panel=RUN)
    ] = None,
    set_: Annotated[list[str] | None, O("--set", help="Any config key.", rich_help_panel=RUN)] = None,
    json: Annotated[bool, O("--json", help="Report as JSON on stdout.", rich_help_panel=RUN)] = False,
    quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.", rich_help_panel=RUN)] = False,
) -> None:
    """See dialogues as a map in the browser: similar ones lie together.

    Colour it, search it, read a dialogue, draw round some of them and take their ids. Ctrl-C ends it.
    """
    import os
    import signal
    import sys
    import tempfile
    import webbrowser

    from ultrachat_cli import config as loader
    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.errors import DONE, INCOMPLETE
    from ultrachat_cli.explore import run
    from ultrachat_cli.explore.settings import ExploreConfig

    flags: dict[str, tuple[str, Any]] = {
        "inputs": ("FILES", inputs),
        "limit": ("--limit", limit),
        "embedding": ("--embedding", embedding),
        "projection": ("--projection", projection),
        "seed": ("--seed", seed),
        "export": ("--export", export),
        "viewer": ("--viewer", viewer),
        "port": ("--port", port),
    }
    loaded = loader.load(ExploreConfig, "explore", file=config, environ=os.environ, sets=set_ or [], flags=flags)

    with tempfile.TemporaryDirectory(prefix="ultrachat-map-") as folder:
        with interrupt.plain("interrupted before the map was finished"), Shown(quiet) as shown:
            report = run.run(loaded, Path(folder), shown)
        if report.files:
            display.report_rows(report, json)
            raise typer.Exit(DONE if report.complete else INCOMPLETE)

        def ready(url: str) -> None:
            report.url = url
            display.report_rows(report, json)
            sys.stdout.flush()
            if open_ and url:
                webbrowser.open(url)

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends serving as Ctrl-C does
        run.show(loaded.value, Path(folder), ready)
