"""`ultrachat train`: options in, report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

O = typer.Option  # noqa: E741
DATA, RUN, MACHINES, WATCH = "Data and model", "Training", "Machines", "Watch and save"


def train(
    data: Annotated[
        list[Path] | None, O("--data", "-d", help="Dialogue files, folders, runs, patterns.", rich_help_panel=DATA)
    ] = None,
    model: Annotated[
        str | None, O("--model", "-m", help="Start from: registry name, folder, hf:org/name.", rich_help_panel=DATA)
    ] = None,
    output: Annotated[
        str | None, O("--output", "-o", help="Folder for checkpoints, metrics and the model.", rich_help_panel=DATA)
    ] = None,
    format: Annotated[str | None, O(help="Chat format, where not the model's own.", rich_help_panel=DATA)] = None,
    max_length: Annotated[int | None, O(help="Longest example, in tokens.", rich_help_panel=DATA)] = None,
    validation: Annotated[float | None, O(help="Share of the dialogues to hold out.", rich_help_panel=DATA)] = None,
    config: Annotated[str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.")] = None,
    set_: Annotated[list[str] | None, O("--set", help="Any setting: --set optimizer.eps=1e-6.")] = None,
    engine: Annotated[str | None, O(help="auto, fsdp, bmtrain or accelerate.", rich_help_panel=RUN)] = None,
    epochs: Annotated[float | None, O(help="Passes over the data.", rich_help_panel=RUN)] = None,
    steps: Annotated[int | None, O(help="Stop after so many steps.", rich_help_panel=RUN)] = None,
    lr: Annotated[float | None, O(help="Highest learning rate.", rich_help_panel=RUN)] = None,
    batch: Annotated[int | None, O(help="Rows a step, over all processes.", rich_help_panel=RUN)] = None,
    micro_batch: Annotated[int | None, O(help="Rows a process computes at once.", rich_help_panel=RUN)] = None,
    seed: Annotated[int | None, O(help="Of order and new weights.", rich_help_panel=RUN)] = None,
    compile: Annotated[str | None, O(help="torch.compile: auto, on or off.", rich_help_panel=RUN)] = None,
    lora_rank: Annotated[int | None, O(help="Train adapters of this rank instead.", rich_help_panel=RUN)] = None,
    gpus: Annotated[int | None, O(help="GPUs of this node; 0: the CPU.", rich_help_panel=MACHINES)] = None,
    processes: Annotated[int | None, O(help="Processes on the CPU.", rich_help_panel=MACHINES)] = None,
    nodes: Annotated[int | None, O(help="Nodes that take part.", rich_help_panel=MACHINES)] = None,
    node_rank: Annotated[int | None, O(help="Which of them this is.", rich_help_panel=MACHINES)] = None,
    rdzv_endpoint: Annotated[str | None, O(help="host:port of node 0.", rich_help_panel=MACHINES)] = None,
    resume: Annotated[bool, O("--resume", help="Go on from the newest checkpoint.", rich_help_panel=WATCH)] = False,
    save_step: Annotated[int | None, O(help="Steps between checkpoints.", rich_help_panel=WATCH)] = None,
    logging_step: Annotated[int | None, O(help="Steps between metrics.", rich_help_panel=WATCH)] = None,
    eval_step: Annotated[int | None, O(help="Steps between validations.", rich_help_panel=WATCH)] = None,
    tensorboard: Annotated[str | None, O(help="Folder for TensorBoard.", rich_help_panel=WATCH)] = None,
    wandb: Annotated[bool, O("--wandb", help="Log to Weights & Biases.", rich_help_panel=WATCH)] = False,
    dry_run: Annotated[bool, O("--dry-run", help="Tokens, steps, memory, time; nothing is trained.")] = False,
    json: Annotated[bool, O("--json", help="Report as JSON.")] = False,
    quiet: Annotated[bool, O("--quiet", "-q", help="No progress, errors only.")] = False,
) -> None:
    """Fine-tune a chat model on dialogues.

    On this machine's GPUs, or its CPU; with --gpus, --processes or --nodes in as many processes (torchrun is inside).
    """
    import os
    import sys

    from ultrachat_cli import config as loader
    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.commands.progress import Shown
    from ultrachat_cli.errors import INCOMPLETE, INTERRUPTED, MissingExtra
    from ultrachat_cli.train.settings import TrainConfig

    flags: dict[str, tuple[str, Any]] = {
        "data": ("--data", [str(path) for path in data] if data else None),
        "model": ("--model", model), "output": ("--output", output), "format": ("--format", format),
        "max_length": ("--max-length", max_length), "evaluate.validation": ("--validation", validation),
        "engine": ("--engine", engine), "epochs": ("--epochs", epochs), "steps": ("--steps", steps),
        "optimizer.lr": ("--lr", lr), "batch": ("--batch", batch), "micro_batch": ("--micro-batch", micro_batch),
        "seed": ("--seed", seed), "compile": ("--compile", compile), "lora.rank": ("--lora-rank", lora_rank),
        "launch.gpus": ("--gpus", gpus), "launch.processes": ("--processes", processes),
        "launch.nodes": ("--nodes", nodes), "launch.node_rank": ("--node-rank", node_rank),
        "launch.rdzv_endpoint": ("--rdzv-endpoint", rdzv_endpoint), "save.every": ("--save-step", save_step),
        "log.every": ("--logging-step", logging_step), "evaluate.every": ("--eval-step", eval_step),
        "log.tensorboard": ("--tensorboard", tensorboard), "log.wandb": ("--wandb", "ultrachat" if wandb else None),
    }  # fmt: skip
    loaded = loader.load(TrainConfig, "train", file=config, environ=os.environ, sets=set_ or [], flags=flags)
    loaded.value.check_given()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # files are spread over processes instead
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # threads that wait leave the cores to others sooner
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("train", "torch and transformers", "train") from error
    from ultrachat_cli.train import launch, run

    if dry_run:
        with interrupt.plain("interrupted"), Shown(quiet) as shown:
            estimate = run.estimate(loaded, shown)
        display.report_rows(estimate, json)
        return
    first = os.environ.get("RANK", "0") == "0"
    try:
        with (
            interrupt.plain("interrupted; --resume goes on from the newest checkpoint"),
            Shown(quiet or not first) as shown,
        ):
            report = run.run(loaded, shown, resume=resume, arguments=sys.argv[1:])
    except launch.Stopped as stopped:
        raise typer.Exit(stopped.code) from None
    if report is None or not first:
        return
    display.report_rows(report, json)
    if report.stopped:
        raise typer.Exit(INTERRUPTED)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)
