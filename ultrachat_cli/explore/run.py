"""Read, embed, project, write; then the map is exported, or served until it is interrupted."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrachat_cli.config import Loaded
from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.explore import atlas, colouring, embed, export, project, sample, serve
from ultrachat_cli.explore.settings import ExploreConfig
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files

_TABLE = "map.parquet"


@dataclass
class Report:
    """The map."""

    read: int = 0
    shown: int = 0
    bad_lines: int = 0
    colours: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""
    files: list[Path] = field(default_factory=list)
    """What was exported."""
    url: str = ""
    """Where it is served."""

    @property
    def complete(self) -> bool:
        """Whether every line could be read."""
        return not self.bad_lines

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Take the time of a stage."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 2)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self)) | {"files": list(map(str, self.files))}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        drawn = f", a random sample of {self.read:,}" if self.shown < self.read else ""
        yield "dialogues", f"{self.shown:,}{drawn}"
        yield "bad lines", f"{self.bad_lines:,}" if self.bad_lines else ""
        yield "colours", ", ".join(self.colours)
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.seconds.items())
        yield "seconds", f"{sum(self.seconds.values()):.1f} ({stages})"
        yield "files", "\n".join(map(str, self.files))
        yield "map", f"{self.url} (Ctrl-C ends it)" if self.url else ""


def run(loaded: Loaded[ExploreConfig], folder: Path, progress: Progress | None = None) -> Report:
    """Make the map: where it is exported to, or in `folder` for `show`.

    Raises `ConfigError`, `DataError` (an input that cannot be read at all), `MissingExtra`, `UltraError`.
    """
    config, progress, report = loaded.value, progress or Silent(), Report()
    inputs = files.find(config.inputs, "inputs")
    _check(config)
    model = embed.opened(config.embedding, progress)
    with report.timed("read"):
        found = sample.read(inputs, config.limit, config.seed, progress)
    report.read, report.shown, report.bad_lines = found.read, len(found.entries), found.bad_lines
    if not found.entries:
        bad = f" ({found.bad_lines:,} bad lines)" if found.bad_lines else ""
        raise UltraError(f"no dialogues in {', '.join(map(str, inputs))}{bad}")
    if report.shown < report.read:
        progress.say(f"{report.read:,} dialogues: the map shows a random sample of {report.shown:,} (--limit)")
    with report.timed("embed"):
        texts = ["\n".join(entry.dialogue.data) for entry in found.entries]
        vectors = embed.embed(texts, model, config.seed, progress)
        del texts
    with report.timed("project"):
        points = project.project(vectors, config.projection, config.seed, progress)
    with report.timed("write"):
        colours = colouring.colourings(found.entries)
        report.colours = [colour.name for colour in colours]
        if config.viewer == "atlas":
            atlas.write(folder / _TABLE, found.entries, points, colours)
        else:
            title = ", ".join(dict.fromkeys(sample.as_text(Path(path.name)) for path in config.inputs))
            written = export.write(config.export or folder, found, points, colours, title, progress)
            report.files = written if config.export else []
    return report


def show(config: ExploreConfig, folder: Path, ready: Callable[[str], None]) -> None:
    """Serve the map in `folder` until it is interrupted; `ready` gets its address, empty where the viewer tells it."""
    if config.viewer == "atlas":
        ready("")
        atlas.show(folder / _TABLE, config.port)
    else:
        serve.serve(folder, config.port, ready)


def _check(config: ExploreConfig) -> None:
    """Everything that can be known to be missing before the work."""
    for package, module in (("scikit-learn", "sklearn"), ("openTSNE", "openTSNE")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra("explore", package, "explore")
    if config.viewer == "atlas":
        if config.export:
            raise ConfigError("export: the atlas viewer cannot be exported", "leave --viewer out")
        atlas.program()
    if config.export:
        export.check(config.export)
