"""The kernel as functions over Arrow batches: what the Spark engine runs on its executors (`DataFrame.mapInArrow`)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ultrachat_cli.dedupe import near, pairs, scan
from ultrachat_cli.dedupe.bands import Bands
from ultrachat_cli.dedupe.kernel import BINS
from ultrachat_cli.records.blocks import Lines

if TYPE_CHECKING:
    from pyspark import Broadcast  # type: ignore[import-not-found, import-untyped, unused-ignore]

BATCH = 1000
"""Rows of a batch: with two n-gram sets in each, some 20 MB."""
SCANNED = "item long, place binary, sketch binary, known binary"
KEYS = "band int, key long, item long"
PAIRS = "a long, b long"
SETS = "item long, grams binary"
SIMILARITIES = "a long, b long, similarity double"
_Batches = Iterator[Any]  # of pyarrow.RecordBatch


def scanned(batches: _Batches, shared: Broadcast[Any]) -> _Batches:
    """Numbers of blocks -> a row for each text, after one with everything else that is known of the block."""
    import pyarrow as pa  # type: ignore[import-untyped]

    blocks, job = shared.value
    for number in (number for batch in batches for number in batch["id"].to_pylist()):
        found = scan.scan(blocks[number], job.config, job.benchmark)
        known = io.BytesIO()
        replace(found, sketches=found.sketches[:0]).dump(known)
        yield _batch(item=[number << 32], place=[None], sketch=[None], known=[known.getvalue()])
        owner = found.item_dialogue
        which = np.arange(len(owner)) - np.searchsorted(owner, owner)
        source = np.full(len(owner), blocks[number].source)
        place = np.column_stack([source, found.place[owner, :2], which])
        for start in range(0, len(owner), BATCH):
            items = range(start, min(start + BATCH, len(owner)))
            yield _batch(
                item=[number << 32 | i for i in items],
                place=[place[i].tobytes() for i in items],
                sketch=[found.sketches[i].tobytes() for i in items],
                known=pa.nulls(len(items), pa.binary()),
            )


def keys(batches: _Batches, shared: Broadcast[Any], bands: Bands) -> _Batches:
    """Texts -> the keys of all bands of each one that takes part."""
    first, taking_part = shared.value
    for batch in batches:
        item = batch["item"].to_numpy()
        chosen = taking_part[first[item >> 32] + (item & 0xFFFFFFFF)]
        sketches = _sketches(batch["sketch"])[chosen]
        rows = np.arange(len(sketches))
        found = [pairs.band_keys(sketches, rows, start, bands.rows).view(np.int64) for start in bands.starts]
        yield _batch(
            band=np.repeat(np.arange(len(found), dtype=np.int32), len(rows)),
            key=np.concatenate(found),
            item=np.tile(item[chosen], len(found)),
        )


def agreeing(batches: _Batches, least: int) -> _Batches:
    """Pairs with both sketches -> those that agree in `least` bins."""
    for batch in batches:
        same = np.sum(_sketches(batch["sketch_a"]) == _sketches(batch["sketch_b"]), axis=1) >= least
        yield _batch(a=batch["a"].to_numpy()[same], b=batch["b"].to_numpy()[same])


def sets(batches: _Batches, shared: Broadcast[Any]) -> _Batches:
    """Places of texts -> their n-gram sets."""
    _, job = shared.value
    lines = Lines(job.plain)
    try:
        for batch in batches:
            places = [np.frombuffer(place, np.int64) for place in batch["place"].to_pylist()]
            grams = [near.shingles(place, job.config, lines).tobytes() for place in places]
            yield _batch(item=batch["item"], grams=grams)
    finally:
        lines.close()


def similarities(batches: _Batches) -> _Batches:
    """Pairs with both n-gram sets -> their Jaccard similarity."""
    for batch in batches:
        both = zip(batch["grams_a"].to_pylist(), batch["grams_b"].to_pylist(), strict=True)
        grams = [np.frombuffer(grams, np.uint64) for pair in both for grams in pair]
        flat = np.concatenate([np.empty(0, np.uint64), *grams])
        bounds = np.cumsum([0, *map(len, grams)])
        found = [pairs.similarity(flat, bounds, i, i + 1) for i in range(0, len(grams), 2)]
        yield _batch(a=batch["a"], b=batch["b"], similarity=np.array(found, np.float64))


def _sketches(column: Any) -> np.ndarray:
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, BINS)


def _batch(**columns: Any) -> Any:
    import pyarrow as pa

    kinds = {"place": pa.binary(), "sketch": pa.binary(), "known": pa.binary(), "grams": pa.binary()}
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, kinds.get(name))
        for name, values in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
