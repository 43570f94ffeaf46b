"""The end of a run, for people, machines and the model card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Report:
    """What was trained, on what, with what outcome."""

    folder: Path
    engine: str
    steps: int
    planned: int
    stopped: bool
    first_loss: float | None
    last: dict[str, Any]
    validation: list[float]
    data: dict[str, Any]
    seconds: float
    files: list[Path] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every line of the data could be read."""
        return not self.data["bad_lines"]

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self)) | {"folder": str(self.folder), "files": list(map(str, self.files))}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "steps", f"{self.steps:,} of {self.planned:,}, {self.seconds:.1f} s, engine {self.engine}"
        if self.first_loss is not None:
            yield "loss", f"{self.first_loss:.4f} at the first step, {self.last['loss']:.4f} at the last"
        if self.validation:
            yield "validation", " -> ".join(f"{loss:.4f}" for loss in self.validation)
        if "tokens_per_second" in self.last:
            share = f", MFU {self.last['mfu']:.1%}" if "mfu" in self.last else ""
            yield "speed", f"{self.last['tokens_per_second']:,.0f} tokens/s{share}, {self.last['memory_gib']:.1f} GiB"
        yield "data", f"{self.data['dialogues']:,} dialogues, {self.data['examples']:,} examples"
        for name, count in self.data["left_out"].items():
            yield name, f"{count:,}"
        if self.data["bad_lines"]:
            yield "bad lines", f"{self.data['bad_lines']:,}"
        if self.stopped:
            yield "stopped", "saved; the same command with --resume goes on"
        yield "files", "\n".join(map(str, self.files))


def card(name: str, base: str, licence: str, settings: dict[str, Any], report: Report, versions: dict[str, str]) -> str:
    """The model card: where it comes from, how it was made, what came of it."""
    head = ["---", f"license: {licence or 'unknown'}", f"base_model: {base}", "library_name: transformers",
            "pipeline_tag: text-generation", "tags: [ultrachat, chat, sft]", "---", ""]  # fmt: skip
    optimizer = settings["optimizer"]
    rows = [
        ("base model", base), ("licence of the base", licence or "unknown"), ("engine", report.engine),
        ("dialogues", f"{report.data['dialogues']:,}"), ("examples", f"{report.data['examples']:,}"),
        ("data", ", ".join(file for source in settings["data"] for file in source["files"])),
        ("chat format", settings["format"] or "of the base model"),
        ("longest example", f"{settings['max_length']} tokens"),
        ("steps", f"{report.steps} of {settings['batch']} rows"), ("epochs", settings["epochs"]),
        ("learning rate", f"{optimizer['lr']}, {optimizer['schedule']}, warm-up {optimizer['warmup']}"),
        ("loss", f"{report.first_loss:.4f} -> {report.last['loss']:.4f}" if report.first_loss is not None else "-"),
        ("validation loss", " -> ".join(f"{loss:.4f}" for loss in report.validation) or "-"),
        ("software", ", ".join(f"{package} {version}" for package, version in versions.items())),
    ]  # fmt: skip
    table = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]
    about = f"Fine-tuned by `ultrachat train` on dialogues; loss on what the assistant says only.\n\n# {name}\n"
    return "\n".join([*head, about, *table, ""])
