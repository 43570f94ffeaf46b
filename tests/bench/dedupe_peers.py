"""One peer's way to remove near duplicates: `dedupe_peers.py PEER IN OUT THRESHOLD`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path


def texts(source: Path) -> Iterator[tuple[bytes, str]]:
    with source.open("rb") as lines:
        for line in lines:
            yield line, "\n".join(json.loads(line)["data"])


def shingles(text: str, n: int = 5) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def gaoya(source: Path, threshold: float) -> Iterator[bytes]:
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(
        hash_size=32, jaccard_threshold=threshold, num_bands=32, band_size=4, num_hashes=128, analyzer="word",
        lowercase=True, ngram_range=(5, 5),
    )  # fmt: skip
    for number, (line, text) in enumerate(texts(source)):
        if not index.query(text):
            index.insert_document(number, text)
            yield line


def rensa(source: Path, threshold: float) -> Iterator[bytes]:
    from rensa import RMinHash, RMinHashDeduplicator

    index = RMinHashDeduplicator(threshold, 128, True, 32)
    for number, (line, text) in enumerate(texts(source)):
        sketch = RMinHash(128, 42)
        sketch.update(list(shingles(text)))
        if not index.get_duplicates(str(number), sketch):
            index.add(str(number), sketch)
            yield line


def datasketch(source: Path, threshold: float) -> Iterator[bytes]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=128)
    for number, (line, text) in enumerate(texts(source)):
        sketch = MinHash(128)
        sketch.update_batch([gram.encode() for gram in shingles(text)])
        if not index.query(sketch):
            index.insert(str(number), sketch)
            yield line


if __name__ == "__main__":
    peer, source, output, threshold = sys.argv[1:]
    with Path(output).open("wb") as out:
        out.writelines({"gaoya": gaoya, "rensa": rensa, "datasketch": datasketch}[peer](Path(source), float(threshold)))
