"""`ultrachat data`: options in, report out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from ultrachat_cli.commands import data_hub, data_stats
from ultrachat_cli.commands.show_tokens import show_tokens

if TYPE_CHECKING:
    from ultrachat_cli.commands.display import Rows
    from ultrachat_cli.progress import Progress

    class Report(Rows, Protocol):
        """A report that knows whether every record was in order."""

        @property
        def complete(self) -> bool:
            """Whether nothing was amiss."""


T = TypeVar("T", bound="Report")
app = typer.Typer(help="Fetch, measure, check, filter, split, convert and share dialogue files.", no_args_is_help=True)
for _command in (data_hub.ls, data_hub.pull, data_hub.push, data_stats.stats, show_tokens):
    app.command()(_command)
O = typer.Option  # noqa: E741
Inputs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILES", help="Files, folders, runs or patterns; - for stdin.", show_default=False),
]
Output = Annotated[
    Path | None, O("--output", "-o", help="Where to: .jsonl, .jsonl.gz, .jsonl.zst, .parquet; - for stdout.")
]
Seed = Annotated[int, O(help="Seed of the draw.")]
Json = Annotated[bool, O("--json", help="Report as JSON.")]
Quiet = Annotated[bool, O("--quiet", "-q", help="No progress, errors only.")]


@app.command()
def validate(
    inputs: Inputs = None,
    limit: Annotated[int | None, O(min=0, help="Show so many problems of each kind.", show_default="all")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name every shape error by file and line; exit 3 when there are any."""
    import sys
    from functools import partial

    from ultrachat_cli.commands import display
    from ultrachat_cli.data import validate

    found: list[validate.Problem] = []
    # A progress bar takes over what is printed, which is right only where both go to the same terminal.
    show = print if sys.stdout.isatty() else partial(print, file=sys.stdout)
    report = _done(lambda shown: validate.run(inputs, found.append if json else show, limit, shown), quiet)
    if json:
        display.dump(report.record() | {"found": [vars(problem) for problem in found]})
    elif not quiet:
        display.report_rows(report, json)
    _exit(report)


@app.command()
def filter(
    inputs: Inputs = None,
    output: Output = None,
    min_rounds: Annotated[int | None, O(min=0, help="Fewest rounds.")] = None,
    max_rounds: Annotated[int | None, O(min=0, help="Most rounds.")] = None,
    min_chars: Annotated[int | None, O(min=0, help="Fewest characters of a dialogue.")] = None,
    max_chars: Annotated[int | None, O(min=0, help="Most characters of a dialogue.")] = None,
    sector: Annotated[str | None, O(help="Sectors to keep (meta.sector), comma-separated.")] = None,
    language: Annotated[str | None, O(help="Language of the user's turns, such as en.", show_default="any")] = None,
    refusals: Annotated[str, O(help="drop or keep refusals and 'as an AI'.")] = "drop",
    truecase: Annotated[bool, O("--truecase", help="Set capitals where sentences begin without.")] = False,
    allow: Annotated[
        str | None, O(help="Faults that are none here, comma-separated: loop, repeated, ...; all: simple filters only.")
    ] = None,
    min_reward: Annotated[
        float | None, O(help="Lowest meta.reward, as score writes it.", show_default="none is needed")
    ] = None,
    min_critique: Annotated[
        float | None, O(help="Lowest score of meta.critique.", show_default="none is needed")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Drop unfit dialogues: generate's filters, length, rounds, language, sector.

    Each goes to <output>.rejected.jsonl with the reason and the unfit turn. Closing rounds of mere thanks are cut off.
    """
    from ultrachat_cli.data import filter

    wanted = filter.Wanted(
        min_rounds, max_rounds, min_chars, max_chars, _listed(sector), language, refusals, truecase, _listed(allow),
        min_reward, min_critique,
    )  # fmt: skip
    _run(lambda shown: filter.run(inputs, output, wanted, shown), output, json, quiet)


@app.command()
def split(
    inputs: Inputs = None,
    output: Annotated[
        Path | None, O("--output", "-o", help="Folder for train.jsonl and validation.jsonl; with --max-tokens a file.")
    ] = None,
    validation: Annotated[float | None, O(help="Share of the validation set.", show_default="0.05")] = None,
    seed: Seed = 0,
    max_tokens: Annotated[int | None, O(help="Split longer dialogues by rounds instead.")] = None,
    tokenizer: Annotated[
        str | None, O(help="Counts the tokens: a tokenizer.json, its folder, or words (a rough count).")
    ] = None,
    overhead: Annotated[int, O(help="Tokens that the chat format adds to a turn.")] = 6,
    context: Annotated[bool, O("--context", help="Begin later chunks with the rounds before, up to half.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Split into training and validation sets, or long dialogues into chunks of --max-tokens.

    A dialogue falls on the same side in whatever file it lies. Chunks are <id>_0, <id>_1, ...; no round is lost.
    """
    from ultrachat_cli.data import chunks, split
    from ultrachat_cli.errors import ConfigError

    if max_tokens is None:
        if tokenizer or context:
            raise ConfigError("--tokenizer and --context go with --max-tokens")
        share = 0.05 if validation is None else validation
        _run(lambda shown: split.run(inputs, output, share, seed, shown), output, json, quiet)
        return
    if validation is not None:
        raise ConfigError("--validation and --max-tokens are two jobs", "run one after the other")
    limit = chunks.Limit(max_tokens, overhead, context)
    _run(lambda shown: chunks.run(inputs, output, limit, tokenizer, shown), output, json, quiet)


@app.command()
def convert(
    inputs: Inputs = None,
    output: Output = None,
    to: Annotated[str, O(help="ultrachat, messages or sharegpt; Parquet always holds messages.")] = "ultrachat",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change the shape or the container; there and back again nothing is lost."""
    from ultrachat_cli.data import convert

    _run(lambda shown: convert.run(inputs, output, to, shown), output, json, quiet)


@app.command()
def sample(
    inputs: Inputs = None,
    output: Output = None,
    count: Annotated[int | None, O("--count", "-n", help="Dialogues to draw.")] = None,
    seed: Seed = 0,
    by: Annotated[str | None, O(help="Draw equally many of each value of this key of meta, such as sector.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw dialogues at random, without replacement, in one pass."""
    from ultrachat_cli.data import sample

    _run(lambda shown: sample.run(inputs, output, count, seed, by, shown), output, json, quiet)


@app.command()
def merge(
    inputs: Inputs = None,
    output: Output = None,
    tag_source: Annotated[bool, O("--tag-source", help="Name the file in meta.source.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one file of several, with ids that stay unique.

    An id met before becomes <id>@<file>; a dialogue without one gets <file>:<line>.
    """
    from ultrachat_cli.data import merge

    _run(lambda shown: merge.run(inputs, output, tag_source, shown), output, json, quiet)


def _run(job: Callable[[Progress], Report], output: Path | None, json: bool, quiet: bool) -> None:
    """Do the job and print its report: on stderr, if at all, where stdout is the output."""
    import sys
    from contextlib import nullcontext, redirect_stdout

    from ultrachat_cli.commands import display

    report = _done(job, quiet)
    piped = output == Path("-")
    with redirect_stdout(sys.stderr) if piped else nullcontext():
        if json or not (quiet and piped):
            display.report_rows(report, json)
    _exit(report)


def _done(job: Callable[[Progress], T], quiet: bool) -> T:
    from ultrachat_cli.commands import interrupt
    from ultrachat_cli.commands.progress import Shown

    with interrupt.plain("interrupted; no file was written"), Shown(quiet) as shown:
        return job(shown)


def _exit(report: Report) -> None:
    from ultrachat_cli.errors import INCOMPLETE

    if not report.complete:
        raise typer.Exit(INCOMPLETE)


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in names.split(",")] if names else []
