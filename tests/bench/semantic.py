"""What `dedupe --method semantic` can tell apart: precision and recall on hand-written pairs, by threshold.

    python tests/bench/semantic.py [model ...]     (default: minilm minilm-static)

`semantic_pairs.tsv` holds pairs of openings that ask the same in other words, pairs on one topic that ask different
things (the hard ones: often one word apart), and unrelated pairs. A pair counts as found when its cosine reaches the
threshold; precision is over all three kinds, as if they were equally common as here, which real sets are kinder than
for unrelated pairs and harder than for same-topic ones.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from ultrachat_cli.models import embeddings

PAIRS = [line.split("\t") for line in Path(__file__).with_name("semantic_pairs.tsv").read_text().splitlines()]
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def main(models: list[str]) -> None:
    kinds = np.array([kind for kind, _, _ in PAIRS])
    print(f"{len(PAIRS)} pairs:", ", ".join(f"{np.sum(kinds == kind)} {kind}" for kind in ("same", "topic", "other")))
    for name in models:
        model = embeddings.open(name, print)
        begun = time.process_time()
        left, right = (model.embed([pair[side] for pair in PAIRS]) for side in (1, 2))
        cosine = np.sum(left * right, axis=1)
        print(f"\n{name}: {2 * len(PAIRS) / (time.process_time() - begun):,.0f} openings per CPU-second")
        for kind in ("same", "topic", "other"):
            low, median, high = np.quantile(cosine[kinds == kind], (0.05, 0.5, 0.95))
            print(f"  cosine of {kind:5}  5% {low:.2f}  median {median:.2f}  95% {high:.2f}")
        print("  threshold  precision  recall  of topic pairs  of other pairs")
        for threshold in THRESHOLDS:
            found = cosine >= threshold
            share = {kind: found[kinds == kind].mean() for kind in ("same", "topic", "other")}
            precision = found[kinds == "same"].sum() / max(1, found.sum())
            print(f"  {threshold:9}  {precision:9.2f}  {share['same']:6.2f}  {share['topic']:14.2f}", end="")
            print(f"  {share['other']:14.2f}")
        worst = np.flatnonzero(kinds != "same")[np.argsort(-cosine[kinds != "same"])[:5]]
        for n in worst:
            print(f"  {cosine[n]:.2f}  {PAIRS[n][1]} | {PAIRS[n][2]}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["minilm", "minilm-static"])
