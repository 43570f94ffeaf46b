"""`ultrachat config`: list, print and check configurations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ultrachat_cli.config import Frozen

app = typer.Typer(help="List, show and check configs.", no_args_is_help=True)
AREAS = {
    "generate": "generate.settings:GenerateConfig",
    "dedupe": "dedupe.settings:DedupeConfig",
    "train": "train.settings:TrainConfig",
    "recover": "recover.settings:RecoverConfig",
    "make-delta": "recover.settings:DeltaConfig",
    "chat": "chat.settings:ChatConfig",
    "serve": "serve.settings:ServeConfig",
    "explore": "explore.settings:ExploreConfig",
    "score": "reward.settings:ScoreConfig",
    "critique": "reward.settings:CritiqueConfig",
    "eval": "evaluate.settings:EvalConfig",
}


def _model(area: str) -> type[Frozen]:
    from importlib import import_module

    from ultrachat_cli.errors import ConfigError
    from ultrachat_cli.registry import did_you_mean

    if area not in AREAS:
        raise ConfigError(f"unknown config area '{area}'{did_you_mean(area, AREAS)}", f"areas: {', '.join(AREAS)}")
    module, _, name = AREAS[area].partition(":")
    found: type[Frozen] = getattr(import_module(f"ultrachat_cli.{module}"), name)
    return found


@app.command("ls")
def ls() -> None:
    """List the shipped configs."""
    from ultrachat_cli import registry

    for area in AREAS:
        for path in sorted(registry.shipped(area).glob("*.yaml")):
            lines = path.read_text(encoding="utf-8").splitlines()
            print(f"{f'{area}/{path.stem}':<24} {lines[0].lstrip('# ') if lines else ''}")


@app.command("show")
def show(
    area: str,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="A YAML file, or a shipped config by name.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
) -> None:
    """Print the effective config, every key with its meaning and where its value comes from."""
    from ultrachat_cli import config as loader

    print(loader.show(loader.load(_model(area), area, file=config, environ=os.environ, sets=set_ or [])), end="")


@app.command("check")
def check(file: Path, area: Annotated[str, typer.Option(help="Which command the file is for.")] = "generate") -> None:
    """Check a config file; lists every fault with its line."""
    from ultrachat_cli import config as loader

    loader.load(_model(area), area, file=str(file))
    print(f"{file}: good")
