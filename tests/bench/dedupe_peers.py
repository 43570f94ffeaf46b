"""One peer's way to remove near duplicates: `dedupe_peers.py PEER IN OUT THRESHOLD`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
        if not index.is_duplicate(str(number), sketch):
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


def text_dedup(source: Path, threshold: float) -> Iterator[bytes]:
    """Its command line, over a file with the one column it reads."""
    import datasets

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "in.jsonl")
        lines = []
        with plain.open("w") as out:
            for number, (line, text) in enumerate(texts(source)):
                lines.append(line)
                out.write(json.dumps({"text": text, "number": number}) + "\n")
        command = [sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--data_files", str(plain)]
        command += ["--split", "train", "--cache_dir", f"{folder}/cache", "--output", f"{folder}/out"]
        command += ["--column", "text", "--threshold", str(threshold), "--ngram", "5", "--num_perm", "128"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        yield from (lines[number] for number in datasets.load_from_disk(f"{folder}/out")["number"])


def datatrove(source: Path, threshold: float) -> Iterator[bytes]:
    """Its four stages in one process, with its own bands (14 of 8), which aim at 0.72: it has no threshold to set."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        lines = []
        with (folder / "in/in.jsonl").open("w") as out:
            for number, (line, text) in enumerate(texts(source)):
                lines.append(line)
                out.write(json.dumps({"text": text, "id": str(number)}) + "\n")
        settings = MinhashConfig(
            n_grams=5, hash_config=HashConfig(hash_fc="sha1")
        )  # xxhash, its default, fails with the xxhash of today
        reader = JsonlReader(str(folder / "in"))
        stages: list[tuple[int, list[Any]]] = [
            (1, [reader, MinhashDedupSignature(str(folder / "signatures"), settings)]),
            (14, [MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=settings)]),
            (1, [MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=settings)]),
            (
                1,
                [
                    reader,
                    MinhashDedupFilter(str(folder / "remove")),
                    JsonlWriter(str(folder / "out"), compression=None),
                ],
            ),
        ]
        for number, (tasks, stage) in enumerate(stages):
            logs = str(folder / f"logs-{number}")
            LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=logs).run()
        for path in sorted((folder / "out").glob("*.jsonl")):
            with path.open() as kept:
                yield from (lines[int(json.loads(row)["id"])] for row in kept)


PEERS = {"gaoya": gaoya, "rensa": rensa, "datasketch": datasketch, "text_dedup": text_dedup, "datatrove": datatrove}

if __name__ == "__main__":
    peer, source, output, threshold = sys.argv[1:]
    with Path(output).open("wb") as out:
        out.writelines(PEERS[peer](Path(source), float(threshold)))
