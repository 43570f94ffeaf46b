"""How fast dialogues become training examples, against the `tokenizers` package on the same texts and cores.

`python -m tests.bench.train_tokens [DIALOGUES]`: three runs of each in turn; the middle ones are told. Ours reads the
file, marks what is learned, cuts and writes; the peer tokenizes lists of finished texts and keeps nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import corpus
from ultrachat_cli.machine import cores
from ultrachat_cli.models import folders, formats, specs
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.progress import Silent
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.train.examples import Rules
from ultrachat_cli.train.tokens import tokenize

RUNS = 3
_PEER = """
import json, sys, time
from tokenizers import Tokenizer
texts = json.load(open(sys.argv[2]))
tokenizer = Tokenizer.from_file(sys.argv[1])
started = time.perf_counter()
tokens = sum(
    len(found.ids)
    for n in range(0, len(texts), 1000)
    for found in tokenizer.encode_batch_fast(texts[n : n + 1000], add_special_tokens=False)
)
print(tokens, time.perf_counter() - started)
"""


def ours(data: Path, model: Path) -> tuple[int, float]:
    """(tokens, seconds) with an empty cache, from the file to the arrays."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as the command sets it
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ULTRACHAT_CACHE"] = cache
        started = time.perf_counter()
        tokenizer = ChatTokenizer(model, "chatml")
        (found,) = tokenize([data], tokenizer, Rules(1 << 20), Silent())
        return int(found.facts["tokens"]), time.perf_counter() - started


def peer(texts: Path, model: Path) -> tuple[int, float]:
    """(tokens, seconds) of the tokenizing alone, in a process of its own and with all cores."""
    command = [sys.executable, "-c", _PEER, str(model / "tokenizer.json"), str(texts)]
    env = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    count, seconds = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split()
    return int(count), float(seconds)


def main() -> None:
    """Make the texts, measure, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    model = folders.tokenizer(specs.resolve("smollm2-135m"), print)
    with tempfile.TemporaryDirectory() as name:
        data, texts = Path(name, "data.jsonl"), Path(name, "texts.json")
        corpus.write(data, count)
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        texts.write_text(json.dumps([formats.text("chatml", Dialogue("", row["data"]).messages) for row in rows]))
        print(f"{count:,} dialogues, {data.stat().st_size >> 20} MB, {cores()} cores")
        rates: dict[str, list[float]] = {"ultrachat train": [], "tokenizers": []}
        counts = set()
        for _ in range(RUNS):
            for who, (tokens, seconds) in (("ultrachat train", ours(data, model)), ("tokenizers", peer(texts, model))):
                rates[who].append(tokens / seconds)
                counts.add(tokens)
        assert len(counts) == 1, f"not the same tokens: {counts}"
        for who, found in rates.items():
            each = ", ".join(f"{rate / 1e6:.3f}" for rate in found)
            print(f"{who:<16} {statistics.median(found) / 1e6:.3f} million tokens/s ({each})")
        print(f"ratio {statistics.median(rates['ultrachat train']) / statistics.median(rates['tokenizers']):.2f}")


if __name__ == "__main__":
    main()
