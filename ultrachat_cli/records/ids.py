"""Ids of dialogues: which were seen, where one without an id comes from, and draws that depend on nothing else."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from ultrachat_cli.records import files


def digest(*parts: str | bytes) -> int:
    """A number below 2**64 that is evenly spread over all inputs and the same on every machine."""
    spread = blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        spread.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(spread.digest(), "little")


class Seen:
    """A set of texts, kept as 64-bit digests: about 80 bytes each, and two of a million alike in 1 of 10^7 sets."""

    def __init__(self) -> None:
        self._digests: set[int] = set()

    def add(self, text: str) -> bool:
        """Whether it is new."""
        before = len(self._digests)
        self._digests.add(digest(text))
        return len(self._digests) > before


def origin(path: Path) -> str:
    """A short name of a file: without suffixes; the folder's name for a run's dialogues.jsonl; `stdin`."""
    if path == files.STDIN:
        return "stdin"
    if path.name == files.RUN_FILE:
        return path.absolute().parent.name
    return files.stem(path)
