"""Every command, option and help line, word for word: a change of the command line is a change of the golden file.

Taken from the command tree, not from a screen, so that another version of Typer or rich does not alter it.
`python -m pytest tests/repository/test_help.py --golden` writes it anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ultrachat_cli.cli import app

GOLDEN = Path(__file__).parents[1] / "golden" / "commands.txt"


def lines(command: Any, name: str) -> Iterator[str]:
    yield f"{name}: {' '.join((command.help or '').split())}"
    for parameter in command.params:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
        yield f"    {names}: {getattr(parameter, 'help', None) or ''}".rstrip()
    for inner in getattr(command, "commands", {}).values():
        yield from lines(inner, f"{name} {inner.name}")


def test_the_command_line_is_as_recorded(request: pytest.FixtureRequest) -> None:
    shown = "\n".join(lines(typer.main.get_command(app), "ultrachat")) + "\n"
    if request.config.getoption("--golden"):
        GOLDEN.write_text(shown, encoding="utf-8")
    assert shown == GOLDEN.read_text(encoding="utf-8")
