"""First token and speed of a conversation with SmolLM2 on this CPU: `python -m tests.bench.chat`.

The model has answered a conversation of so many tokens; then comes the next question (`first`), the same question
again (`again`) and, for the rate, a long answer. Each backend runs in a process of its own, each figure is the median
of `--repeat`. `generate`: transformers' own, which computes the whole prompt at every turn.
`--history 0 100 --tokens 8 --repeat 1` only shows that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL, CONTEXT, BESIDE = "smollm2-135m", 4096, 8
TOLD = "The river begins in the hills, runs past three towns and a mill, and is wide and slow where it meets the sea. "
QUESTIONS = ["Which towns does it pass, and what is made there?", "Tell a long story about a boat on this river."]
BACKENDS = ("ours bf16", "ours fp32", "llama.cpp", "generate bf16", "generate fp32")
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
Talk = list[dict[str, str]]


def tokenizer() -> Any:
    from ultrachat_cli.models import folders, specs
    from ultrachat_cli.models.chat_tokens import ChatTokenizer

    return ChatTokenizer(folders.obtain(specs.resolve(MODEL)), "chatml")


def history(tokens: int) -> Talk:
    """Rounds that take about so many tokens, the template included; none for 0."""
    known = tokenizer()
    talk: Talk = []
    while tokens and len(known.prompt(talk)) < tokens:
        number = len(talk) // 2 + 1
        talk += [
            {"role": "user", "content": f"Part {number}, please."},
            {"role": "assistant", "content": f"Part {number}. " + TOLD * 4},
        ]
    return talk


def asked(text: str) -> Talk:
    return [{"role": "user", "content": text}]


async def ours(backend: str, lengths: list[int], tokens: int, repeat: int) -> list[dict[str, float]]:
    from ultrachat_cli.backends.base import Sampling
    from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
    from ultrachat_cli.backends.limits import LimitSettings
    from ultrachat_cli.errors import BackendError
    from ultrachat_cli.models.placement import LocalSettings
    from ultrachat_cli.records.completion import Completion

    async def answer(model: ChatModel, talk: Talk, longest: int) -> tuple[float, float, Completion]:
        """Seconds to the first piece, tokens a second after it, the answer."""
        begun, first, last = time.perf_counter(), 0.0, None
        try:
            async for piece in model.backend.stream(talk, Sampling(longest, 0.0)):
                first = first or time.perf_counter() - begun
                last = piece
        except BackendError as error:  # a kept connection that llama.cpp was just closing
            if first or not error.retryable:
                raise
            return await answer(model, talk, longest)
        assert isinstance(last, Completion)
        rest = time.perf_counter() - begun - first
        return first, (last.completion_tokens - 1) / rest if rest > 0 else 0.0, last

    async def opened(concurrency: int) -> tuple[ChatModels, ChatModel]:
        local = LocalSettings(device="cpu", dtype=DTYPES.get(backend[-4:], "auto"))  # type: ignore[arg-type]
        limits = LimitSettings(concurrency=concurrency)
        models = ChatModels(limits, None, {}, embedded_context=CONTEXT, local=local)
        engine = "llamacpp" if backend == "llama.cpp" else "transformers"
        return models, await models.open(Endpoint(MODEL, engine=engine))

    known = {length: history(length) for length in lengths}
    models, model = await opened(1)
    found = []
    for length in lengths:
        runs = []
        for n in range(repeat + 1):
            # every run is a conversation of its own, of which nothing is known before
            talk = [{"role": "system", "content": f"Conversation {n} of {length}."}, *known[length]]
            cold, _, said = await answer(model, talk + asked(QUESTIONS[0]), 16)
            talk += [*asked(QUESTIONS[0]), {"role": "assistant", "content": said.text}, *asked(QUESTIONS[1])]
            first, _, whole = await answer(model, talk, 4)
            again, rate, _ = await answer(model, talk, tokens)
            runs.append({"cold": cold, "first": first, "again": again, "rate": rate, "prompt": whole.prompt_tokens,
                         "known": whole.cached_tokens})  # fmt: skip
        found.append(median(runs[1:]))
    await models.close()
    models, model = await opened(BESIDE)
    for row, length in zip(found, lengths, strict=True):
        talk = known[length] + asked(QUESTIONS[1])
        drawn = [Sampling(tokens, 0.8, seed=n) for n in range(BESIDE)]
        await model.backend.complete(talk, drawn[0])
        begun = time.perf_counter()
        answers = await asyncio.gather(*(model.backend.complete(talk, one) for one in drawn))
        row["beside"] = sum(one.completion_tokens for one in answers) / (time.perf_counter() - begun)
    await models.close()
    return found


def theirs(backend: str, lengths: list[int], tokens: int, repeat: int) -> list[dict[str, float]]:
    import torch
    from transformers import AutoModelForCausalLM

    from ultrachat_cli.models.folders import hushed

    known = tokenizer()
    with hushed():
        model: Any = AutoModelForCausalLM.from_pretrained(known.folder, dtype=getattr(torch, DTYPES[backend[-4:]]))

    def seconds(ids: Any, count: int) -> float:
        begun = time.perf_counter()
        model.generate(ids, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0)
        return time.perf_counter() - begun

    found = []
    for length in lengths:
        talk = [*history(length), *asked(QUESTIONS[0]), {"role": "assistant", "content": TOLD}, *asked(QUESTIONS[1])]
        ids = torch.tensor([known.prompt(talk)])
        runs = []
        for _ in range(repeat + 1):
            first, whole = seconds(ids, 1), seconds(ids, tokens + 1)
            runs.append({"cold": first, "first": first, "again": first, "rate": tokens / (whole - first),
                         "prompt": ids.shape[1], "known": 0, "beside": 0.0})  # fmt: skip
        found.append(median(runs[1:]))
    return found


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=int, nargs="+", default=[0, 500, 1000])
    parser.add_argument("--tokens", type=int, default=64, help="of the answer that the rate is taken from")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=BACKENDS, nargs="+", default=BACKENDS)
    parser.add_argument("--one", choices=BACKENDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        job: Callable[..., Any] = theirs if given.one.startswith("generate") else ours
        rows = job(given.one, given.history, given.tokens, given.repeat)
        print(json.dumps(asyncio.run(rows) if asyncio.iscoroutine(rows) else rows))
        return
    print(f"first token in ms, then tokens/s of one answer and of {BESIDE} at once")
    heads = ("prompt", "known", "cold", "first", "again")
    print(f"{'':14} {'history':>8} {' '.join(f'{head:>7}' for head in heads)} {'tok/s':>6} {f'x{BESIDE}':>6}")
    for backend in given.only:
        command = [sys.executable, "-m", "tests.bench.chat", "--one", backend, "--tokens", str(given.tokens),
                   "--repeat", str(given.repeat), "--history", *map(str, given.history)]  # fmt: skip
        done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
        for length, row in zip(given.history, json.loads(done.stdout.splitlines()[-1]), strict=True):
            times = " ".join(f"{1000 * row[key]:7.0f}" for key in ("cold", "first", "again"))
            print(f"{backend:14} {length:8} {row['prompt']:7.0f} {row['known']:7.0f} {times} {row['rate']:6.1f} "
                  f"{row['beside']:6.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
