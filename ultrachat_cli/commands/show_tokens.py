"""`ultrachat data show-tokens`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ultrachat_cli.train.shown import Shown

O = typer.Option  # noqa: E741


def show_tokens(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="Files, folders, runs or patterns; - for stdin.", show_default=False),
    ] = None,
    model: Annotated[
        str, O("--model", "-m", help="Whose tokens: registry name, folder, hf:org/name.")
    ] = "smollm2-135m",
    format: Annotated[str | None, O(help="Chat format.", show_default="the model's own")] = None,
    max_length: Annotated[int, O(min=16, help="Longest example, in tokens.")] = 2048,
    overlong: Annotated[str, O(help="Longer dialogues: split, truncate or drop.")] = "split",
    limit: Annotated[int, O("--limit", "-n", min=0, help="Show so many dialogues; 0: all.")] = 3,
    json: Annotated[bool, O("--json", help="Ids, tokens and what is learned, as JSON.")] = False,
    quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.")] = False,
) -> None:
    """Show what `train` makes of dialogues: what the model sees and, in green or in ⟦ ⟧, what it learns.

    The last line of each counts its tokens. Exit 3 when a line is no dialogue, or none that the format can hold.
    """
    from itertools import islice

    from rich.console import Console

    from ultrachat_cli.commands import display, interrupt, progress
    from ultrachat_cli.errors import INCOMPLETE, ConfigError, DataError
    from ultrachat_cli.models import folders, specs
    from ultrachat_cli.models.chat_tokens import ChatTokenizer
    from ultrachat_cli.records import files
    from ultrachat_cli.train import shown
    from ultrachat_cli.train.examples import Rules

    paths = files.find(inputs or [], "FILES")
    if not paths:
        raise ConfigError("FILES: name dialogue files, folders, runs or patterns; - for stdin")
    if overlong not in ("split", "truncate", "drop"):
        raise ConfigError(f"--overlong: '{overlong}' is none of split, truncate, drop")
    way: Literal["split", "truncate", "drop"] = overlong  # type: ignore[assignment]
    spec = specs.resolve(model)
    bad: list[DataError] = []

    def refuse(error: DataError) -> None:
        bad.append(error)
        if not quiet:
            display.say(str(error))

    with interrupt.plain("interrupted"):
        with progress.Shown(quiet) as bars:
            tokenizer = ChatTokenizer(folders.tokenizer(spec, bars.say), format or spec.format)
        found = shown.dialogues(paths, tokenizer, Rules(max_length, way), refuse)
        if limit:
            found = islice(found, limit)
        if json:
            told = [one.record() for one in found]
            display.dump({"model": spec.name, "format": tokenizer.format, "bad_lines": len(bad), "dialogues": told})
        else:
            console = Console(highlight=False, soft_wrap=True)
            for one in found:
                _print(one, console)
    if bad:
        raise typer.Exit(INCOMPLETE)


def _print(one: Shown, console: Console) -> None:
    """Learned text in green where there are colours, between marks elsewhere; line breaks are shown and made."""
    from itertools import groupby

    from rich.text import Text

    from ultrachat_cli.commands.harmless import harmless

    coloured = console.is_terminal and not console.no_color
    for number, example in enumerate(one.examples, start=1):
        if number > 1:
            console.print(Text(f"-- {number} of {len(one.examples)} --", style="dim"))
        text = Text()
        for learned, pieces in groupby(one.pieces(example), lambda piece: piece.learned):
            text.append("⟦" if learned and not coloured else "")
            for piece in pieces:
                style = "bold " * piece.special + ("green" if learned else "cyan" if piece.special else "dim")
                text.append(harmless(piece.text).replace("\n", "↵\n"), style=style)
            text.append("⟧" if learned and not coloured else "")
        console.print(text, end="" if text.plain.endswith("\n") else "\n")
    console.print(Text(harmless(one.summary()), style="bold"))
