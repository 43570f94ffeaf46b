"""`ultrachat models`: what names mean, and fetching weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ultrachat_cli.models.specs import ModelSpec

app = typer.Typer(help="List, show and fetch models.", no_args_is_help=True)


def _locate(spec: ModelSpec) -> Path | None:
    from ultrachat_cli.models import embeddings, weights

    if spec.role == "embedding":
        return embeddings.locate(spec)
    return weights.locate(spec) if spec.embedded else None


@app.command("ls")
def ls(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the registry."""
    from ultrachat_cli.commands import display
    from ultrachat_cli.models import specs

    rows = []
    for spec in specs.known().values():
        here = _locate(spec) is not None if spec.embedded or spec.role == "embedding" else None
        rows.append({**spec.model_dump(exclude_defaults=True), "name": spec.name, "role": spec.role, "here": here})
    if json:
        display.dump(rows)
        return
    display.columns(
        ["name", "role", "context", "licence", "source"],
        [
            [row["name"], row["role"], str(row.get("context", "")), row.get("licence", ""),
             row["source"] + (" (here)" if row["here"] else "")]
            for row in rows
        ],
    )  # fmt: skip


@app.command("show")
def show(name: str, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show everything known of one model."""
    from ultrachat_cli.commands import display
    from ultrachat_cli.models import specs

    spec = specs.resolve(name)
    facts = spec.model_dump(exclude_none=True)
    path = _locate(spec)
    facts["file"] = str(path) if path else None
    display.facts(facts, json)


@app.command("pull")
def pull(name: str) -> None:
    """Fetch the weights of an embedded or embedding model and check them against the registry's SHA-256."""
    from ultrachat_cli.commands import display
    from ultrachat_cli.models import embeddings, specs, weights

    spec = specs.resolve(name)
    with display.working(f"{name}: fetching and checking"):
        path = (embeddings if spec.role == "embedding" else weights).pull(spec, display.say)
        digest = weights.check(spec, path)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 {digest}")
