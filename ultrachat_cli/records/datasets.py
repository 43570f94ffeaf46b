"""Names of published sets and what they mean: `configs/datasets.yaml`."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import Field, ValidationError

from ultrachat_cli import registry, yaml_lines
from ultrachat_cli.config import Frozen
from ultrachat_cli.errors import ConfigError


class DatasetFile(Frozen):
    """One file of a set, or several by a pattern."""

    path: str
    """Place in the hub repository and in the folder it is fetched to; may hold `*`."""
    url: str = ""
    """Where it is, if not on the hub."""
    sector: Literal["", "world", "writing", "materials"] = ""
    """Sector of its dialogues, where a file holds one."""
    split: str = ""
    """Name of the split."""
    rows: int | None = Field(default=None, ge=1)
    """Lines, where known; checked after fetching."""
    megabytes: float | None = Field(default=None, gt=0)
    """Size as the hub shows it."""
    sha256: str = ""
    """Checksum, where known."""


class DatasetSpec(Frozen):
    """Everything the program knows of a published set. Nothing is guessed."""

    name: str = ""
    hub: str = ""
    """organisation/name of the hub data set; empty: all files are elsewhere."""
    revision: str = "main"
    """Branch, tag or commit of it."""
    licence: str
    """Licence as its card states it."""
    rows: int = Field(ge=1)
    """Records of all files together."""
    shape: Literal["ultrachat", "messages", "sharegpt", "ultrafeedback", "benchmark", "verdicts"]
    """The three dialogue shapes; ultrafeedback: rated answers; benchmark: questions, for `eval`, `dedupe`;
    verdicts: of judges, for `eval`."""
    files: list[DatasetFile] = Field(min_length=1)
    """What belongs to it."""
    about: str = ""
    """One line."""

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return self.model_dump(exclude_defaults=True) | {"name": self.name}

    def part(self, sector: str | None = None, split: str | None = None) -> list[DatasetFile]:
        """The files of a sector or split; without either, those that make up the whole set once."""
        for asked, key in ((sector, "sector"), (split, "split")):
            known = sorted({getattr(file, key) for file in self.files} - {""})
            if asked is not None and asked not in known:
                listed = f"it has {', '.join(known)}" if known else f"its files do not tell the {key}"
                raise ConfigError(f"--{key}: dataset {self.name} has no {key} '{asked}'", listed)
        if sector is not None:
            return [file for file in self.files if file.sector == sector]
        return [file for file in self.files if not file.sector and split in (None, file.split)]


@cache
def known() -> dict[str, DatasetSpec]:
    """All entries; `ConfigError` when the shipped file is wrong."""
    path = registry.shipped("datasets.yaml")
    specs: dict[str, DatasetSpec] = {}
    for name, entry in yaml_lines.read(path).items():
        try:
            specs[name] = DatasetSpec.model_validate({**entry, "name": name})
        except ValidationError as error:
            faults = [f"{path}: {name}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ConfigError(faults) from None
    return specs


def resolve(name: str) -> DatasetSpec:
    """The entry of this name."""
    if name not in known():
        near = registry.did_you_mean(name, known())
        raise ConfigError(f"unknown dataset '{name}'{near}", "'ultrachat data ls' lists them")
    return known()[name]
