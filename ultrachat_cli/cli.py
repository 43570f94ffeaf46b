"""The command table, and the one place that prints an error and chooses an exit code."""

from __future__ import annotations

import gc
import select
import signal
import sys
from typing import Annotated

import typer

from ultrachat_cli import __version__, errors
from ultrachat_cli.commands import (
    chat,
    config,
    data,
    dedupe,
    evaluate,
    explore,
    generate,
    models,
    recover,
    score,
    serve,
    train,
)

app = typer.Typer(
    name="ultrachat",
    help="Build chat models from synthetic conversations.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", no_args_is_help=False)(generate.generate)
app.command("dedupe", cls=dedupe.Variadic)(dedupe.dedupe)
app.add_typer(data.app, name="data")
app.command("explore", no_args_is_help=True)(explore.explore)
app.command("train", no_args_is_help=True)(train.train)
app.command("recover", no_args_is_help=True)(recover.recover)
app.command("make-delta", no_args_is_help=True)(recover.make_delta)
app.command("chat", no_args_is_help=False)(chat.chat)
app.command("score", no_args_is_help=True)(score.score)
app.command("critique", no_args_is_help=True)(score.critique)
app.add_typer(evaluate.app, name="eval")
app.command("serve", no_args_is_help=True)(serve.serve)
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")


def _version(shown: bool) -> None:
    if shown:
        print(f"ultrachat {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Build chat models from synthetic conversations."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (see errors.py)."""
    try:
        app(args=argv, prog_name="ultrachat")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else errors.FAILED
    except errors.UltraError as error:
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED
    except BrokenPipeError:
        if not _unread():
            raise  # another pipe: a fault, not the end of a `| head`
        return errors.FAILED
    return errors.DONE


def _unread() -> bool:
    """Whether stdout is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _show(error: errors.UltraError) -> None:
    from rich.console import Console
    from rich.text import Text

    from ultrachat_cli.commands.harmless import harmless

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text("error: ", style="bold red") + Text(harmless(error.message)))
    if error.hint:
        console.print(Text("  try: ", style="bold") + Text(harmless(error.hint)))


def run() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL) if hasattr(signal, "SIGPIPE") else None
    code = main()
    gc.freeze()  # the interpreter would look through all of torch for garbage once more: a third of a second
    sys.exit(code)
