"""The configuration of `ultrachat explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ultrachat_cli.config import Frozen

LEXICAL = "lexical"


class ExploreConfig(Frozen):
    """Which dialogues are drawn, what makes two of them neighbours, and where the map goes."""

    inputs: list[Path] = Field(min_length=1)
    """Files, folders, runs or patterns: .jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet."""
    limit: int = Field(default=50_000, ge=1)
    """Dialogues on the map; of a larger set a random sample is drawn, the same one for the same seed."""
    embedding: str = LEXICAL
    """What is compared: `lexical` (words, fitted to the set, nothing to fetch) or an embedding model by name."""
    projection: Literal["tsne", "pca"] = "tsne"
    """How the vectors become points: t-SNE keeps neighbours together, PCA is instant and coarse."""
    seed: int = 0
    """Seed of the sample and of the projection."""
    viewer: Literal["page", "atlas"] = "page"
    """`page` draws in any browser, offline; `atlas` starts the embedding-atlas package, which needs a GPU (WebGPU)."""
    export: Path | None = None
    """Write the map instead of serving it: FILE.html holds everything, a folder gets index.html and the texts."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port on the loopback interface; 0 = any free one."""
