"""`ultrachat data ls`, `pull` and `push`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

O = typer.Option  # noqa: E741
Json = Annotated[bool, O("--json", help="As JSON.")]
Quiet = Annotated[bool, O("--quiet", "-q", help="No progress, errors only.")]


def ls(json: Json = False) -> None:
    """List the published sets that are known by name."""
    from ultrachat_cli.commands import display
    from ultrachat_cli.records import datasets

    rows = [spec.record() for spec in datasets.known().values()]
    if json:
        display.dump(rows)
        return
    lines = []
    for row in rows:
        size = sum(file.get("megabytes", 0) for file in row["files"])
        parts = dict.fromkeys(file.get("sector") or file.get("split", "") for file in row["files"])
        lines.append([row["name"], f"{row['rows']:,}", f"{size:,.0f}" if size else "", row["licence"],
                      row.get("hub", "-"), ", ".join(filter(None, parts))])  # fmt: skip
    display.columns(["name", "rows", "MB", "licence", "hub", "parts"], lines)


def pull(
    name: Annotated[str, typer.Argument(help="A name from 'ultrachat data ls'.")],
    sector: Annotated[str | None, O(help="Only this sector, where files tell: world, writing, materials.")] = None,
    split: Annotated[str | None, O(help="Only this split, such as train_sft.")] = None,
    output: Annotated[Path | None, O("--output", "-o", help="Folder.", show_default="datasets/<name>")] = None,
    source: Annotated[Path | None, O("--from", help="A local folder in place of the network.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a published set and check it; what was interrupted goes on. HF_ENDPOINT and HF_TOKEN are honoured."""
    import os

    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.records import datasets, fetch

    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the bars are huggingface_hub's own
    spec = datasets.resolve(name)
    wanted = spec.part(sector, split)
    if not quiet:
        display.say(f"{name}: licence {spec.licence}")
    with interrupt.plain("interrupted; the same command goes on"), Shown(quiet) as shown:
        fetched = fetch.pull(spec, wanted, output or Path("datasets", name), source, shown)
    display.report_rows(fetched, json)


def push(
    path: Annotated[Path, typer.Argument(help="A run folder, or an output of dedupe.")],
    repository: Annotated[str, typer.Argument(help="organisation/name on the hub.")],
    licence: Annotated[str | None, O(help="Licence of the set, as the hub writes it: mit, cc-by-4.0, ...")] = None,
    title: Annotated[str | None, O(help="Title of the card.", show_default="name of the repository")] = None,
    private: Annotated[bool, O("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, O("--dry-run", help="Write the card beside the data; no network.")] = False,
) -> None:
    """Put dialogues on the hub as a data set, with a card written from the manifests of generate and dedupe."""
    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.data import card, hub
    from ultrachat_cli.errors import ConfigError
    from ultrachat_cli.records import files, jsonl

    if licence is None:
        raise ConfigError("--licence: whoever uses the set must know it", "for example --licence cc-by-4.0")
    made = card.find(path)
    text = card.write(made, title or repository.rpartition("/")[2], licence)
    if dry_run:
        target = files.beside(made.data, "card.md")
        with jsonl.replacing(target) as file:
            file.write(text.encode())
        print(target)
        return
    with interrupt.plain("interrupted; the same command goes on"), display.working(f"pushing {made.data}"):
        url = hub.push(made.data, card.name_of(made.data), text, repository, private=private)
    print(url)
