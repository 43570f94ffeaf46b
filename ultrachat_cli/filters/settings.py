"""The settings of the filters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ultrachat_cli.config import Frozen


class TurnFilters(Frozen):
    """What makes a turn unfit."""

    language: str | None = "en"
    """Language of the user's turns (ISO 639-1), or empty for any."""
    language_score: float = Field(default=0.6, ge=0, le=1)
    """Certainty at which another language counts as wrong."""
    truncated: Literal["reject", "trim", "keep"] = "reject"
    """An assistant turn cut off by max_tokens: bad, trimmed to its last whole sentence, or kept."""
    repeated: float = Field(default=0.85, gt=0, le=1)
    """Share of a turn's word 4-grams already said by the same side from which it counts as a repetition."""
    loop: float = Field(default=0.5, gt=0, le=1)
    """Share of word 4-grams a turn may repeat within itself."""
    max_user_chars: int = Field(default=2000, ge=1)
    """A longer follow-up is taken for an answer (role confusion)."""
    refusals: bool = True
    """Drop refusals and 'as an AI' talk."""
