"""The books of a session: what goes into the manifest while it runs, and the report at its end."""

from __future__ import annotations

import time
from pathlib import Path

from ultrachat_cli.backends.chat_model import unpriced
from ultrachat_cli.config import Loaded
from ultrachat_cli.generate.report import Counts, Report
from ultrachat_cli.generate.run_folder import DIALOGUES, RunFolder
from ultrachat_cli.generate.settings import GenerateConfig
from ultrachat_cli.generate.setup import Stage
from ultrachat_cli.records import manifest


class Book:
    """Adds this session to those before: requests, tokens and cost are of the whole run, as the journal has them."""

    def __init__(self, loaded: Loaded[GenerateConfig], folder: RunFolder, stage: Stage, counts: Counts) -> None:
        self._loaded, self._folder, self._stage, self._counts = loaded, folder, stage, counts
        self._earlier = folder.manifest.get("sessions", [])
        self._started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def _totals(self) -> dict[str, int | float]:
        requests, prompt, completion, dollars = self._folder.journal.totals()
        return {
            "requests": requests,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cost": round(dollars, 6),
        }

    def save(self, state: str) -> None:
        """Write the manifest: running, finished, stopped or interrupted."""
        counts = self._counts
        session = {
            "started": self._started,
            "state": state,
            "seconds": round(counts.seconds, 1),
            "requests": counts.usage.requests,
        }
        self._folder.save_manifest(
            config=_without_credentials(self._loaded.value),
            config_sources=self._loaded.sources,
            versions=manifest.versions(),
            models=self._stage.described(),
            counts={
                "planned": counts.planned,
                "written": counts.written,
                "rejected": dict(counts.rejected),
                "cut": dict(counts.cut),
                "failed": dict(counts.failed),
                "near_duplicate_openings": counts.duplicates,
                **self._totals(),
            },
            sessions=[*self._earlier, session],
        )

    def report(self, more_files: list[Path], stopped: str) -> Report:
        """The end of the session."""
        counts, stage, totals = self._counts, self._stage, self._totals()
        return Report(
            sector=self._loaded.value.sector,
            folder=self._folder.folder,
            planned=counts.planned,
            written=counts.written,
            rejected=dict(counts.rejected),
            cut={reason: n for reason, n in counts.cut.items() if n},
            failed=dict(counts.failed),
            duplicates=counts.duplicates,
            requests=int(totals["requests"]),
            retries=counts.usage.retries.total(),
            repeated=self._folder.journal.repeated,
            prompt_tokens=int(totals["prompt_tokens"]),
            completion_tokens=int(totals["completion_tokens"]),
            cost=float(totals["cost"]),
            unpriced=unpriced([stage.cast.assistant, stage.cast.user, stage.opener]),
            seconds=counts.seconds,
            warnings=dict(counts.warnings),
            files=[self._folder.folder / DIALOGUES, *more_files],
            stopped=stopped,
        )


def _without_credentials(config: GenerateConfig) -> dict[str, object]:
    data = config.model_dump(mode="json")
    for role in ("assistant", "user", "opening"):
        if data[role]["base_url"]:
            data[role]["base_url"] = manifest.without_secrets(data[role]["base_url"])
    return data
