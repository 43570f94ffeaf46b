"""All scanned blocks as one: about 60 bytes a dialogue in memory; the sketches (256 bytes) stay on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ultrachat_cli.dedupe import kernel
from ultrachat_cli.dedupe.scan import Scanned
from ultrachat_cli.errors import DataError
from ultrachat_cli.records.blocks import Block


@dataclass(frozen=True)
class Corpus:
    """n dialogues, m compared texts. See `Scanned`; source int32[n] is the input's number, line numbers are the file's.

    item_first int64[n + 1]: the texts of dialogue d are item_first[d] ... item_first[d + 1] - 1.
    """

    source: np.ndarray
    place: np.ndarray
    length: np.ndarray
    score: np.ndarray
    owner: np.ndarray
    item_first: np.ndarray
    sketches: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    overlaps: np.ndarray
    rejected: list[tuple[int, DataError, str]]
    """(source, what is wrong and where, the line's text)."""

    def places(self) -> np.ndarray:
        """int64[m, 4]: where each text is: source, start and length of its line, and which of the line's texts."""
        owner = self.owner
        which = np.arange(len(owner)) - self.item_first[owner]
        return np.column_stack([self.source[owner], self.place[owner, 0], self.place[owner, 1], which])

    def __len__(self) -> int:
        return len(self.source)


def gather(blocks: list[Block], pieces: Iterable[Scanned], names: list[Path], sketch_file: Path) -> Corpus:
    """All pieces together; the sketches, if they have any, go to `sketch_file`, from which they are mapped."""
    parts: dict[str, list[np.ndarray]] = {}
    rejected: list[tuple[int, DataError, str]] = []
    dialogues = items = lines = 0
    with sketch_file.open("wb") as sketches:
        for n, (block, found) in enumerate(zip(blocks, pieces, strict=True)):
            if n and blocks[n - 1].source != block.source:
                lines = 0
            found.place[:, 2] += lines
            found.overlaps[:, 0] += dialogues
            sketches.write(found.sketches.tobytes())
            columns = {
                "source": np.full(len(found.place), block.source, np.int32), "place": found.place,
                "length": found.length, "score": found.score, "owner": found.item_dialogue + dialogues,
                "digests": found.digests, "sizes": found.sizes, "overlaps": found.overlaps,
            }  # fmt: skip
            for name, column in columns.items():
                parts.setdefault(name, []).append(column)
            rejected += [
                (block.source, DataError(names[block.source], lines + line, reason), text)
                for line, reason, text in found.rejected
            ]
            dialogues += len(found.place)
            items += len(found.sketches)
            lines += found.lines
    merged = {name: np.concatenate(columns) for name, columns in parts.items()}
    shape = (items, kernel.BINS)
    mapped = np.asarray(np.memmap(sketch_file, np.uint8, "r", shape=shape)) if items else np.empty(shape, np.uint8)
    first = np.searchsorted(merged["owner"], np.arange(dialogues + 1))
    return Corpus(item_first=first, sketches=mapped, rejected=rejected, **merged)
