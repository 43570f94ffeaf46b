"""Names and what they mean: near matches for typing errors, and the places where shipped files lie."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(*parts: str) -> Path:
    """A file of `configs/`: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "configs"
    return (inside if inside.is_dir() else _PACKAGE.parent / "configs").joinpath(*parts)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known name is near."""
    near = get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
