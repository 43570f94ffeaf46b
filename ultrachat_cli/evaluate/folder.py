"""A run is a folder: answers, verdicts, metrics, report, manifest, and the journal of all that was asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.evaluate.annotations import Output, read_outputs, write_outputs
from ultrachat_cli.records import lock, manifest
from ultrachat_cli.records.journal import Journal
from ultrachat_cli.records.lock import FolderLock

OUTPUTS, REFERENCES, ANNOTATIONS = "model_outputs.json", "reference_outputs.json", "annotations.json"
METRICS, REPORT, JOURNAL = "metrics.json", "report.html", "journal.sqlite"


class EvalFolder:
    """Opens, goes on with and refuses. Nobody else works in it meanwhile."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """`identity`: what makes two runs the same. Raises `RunLocked`, `ConfigError` (another run lives here)."""
        self.folder = folder
        self._lock = FolderLock(folder)
        try:
            self.manifest = manifest.read(folder) or {}
            self.journal = Journal(folder / JOURNAL)
        except BaseException:
            self._lock.release()
            raise
        if self.manifest and self.manifest.get("kind") != "eval":
            self.close()
            raise ConfigError(
                f"{folder} holds another kind of run ({self.manifest.get('kind')})", "use another --output"
            )
        changed = manifest.differences(self.manifest.get("identity", {}), identity)
        if self.manifest and changed and self.journal.totals()[0]:  # an attempt that asked nobody binds nobody
            self.close()
            raise ConfigError(
                [f"{folder} holds a run with other settings:", *(f"  {line}" for line in changed)],
                "use another --output, the old settings, or --restart (the old run is set aside, not deleted)",
            )
        self.save(kind="eval", identity=identity)

    def path(self, name: str) -> Path:
        """Where a file of the run is."""
        return self.folder / name

    def keep(self, name: str, outputs: Iterable[Output]) -> None:
        """Write the answers of a model, all of them."""
        write_outputs(self.path(name), outputs)
        answered = self.manifest.get("answered", {}) | {name: manifest.sha256(self.path(name))}
        self.save(answered=answered)

    def kept(self, name: str) -> dict[str, Output]:
        """Instruction -> answer, as `keep` left them: a model that runs here need not be loaded for them again."""
        path = self.path(name)
        if not path.is_file() or self.manifest.get("answered", {}).get(name) != manifest.sha256(path):
            return {}
        return {output.instruction: output for output in read_outputs(path)}

    def save(self, **entries: Any) -> None:
        """Update the manifest in one step."""
        self.manifest |= entries
        manifest.write(self.folder, self.manifest)

    def close(self) -> None:
        """Let the next process in; the journal is flushed before."""
        self.journal.close()
        self._lock.release()


def set_aside(folder: Path) -> Path | None:
    """Move an earlier run's files into `before-<time>/` (--restart)."""
    journal = (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm")
    return lock.set_aside(folder, (OUTPUTS, REFERENCES, ANNOTATIONS, METRICS, REPORT, manifest.NAME, *journal))
