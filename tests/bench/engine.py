"""The dialogue engine on the embedded model, against llama.cpp alone answering the same requests.

The engine's requests are recorded, then replayed in the same order by `slots` workers that do nothing else: no
journal, no filters, no waiting for a dialogue's earlier turn. Each replayed answer is as long as the recorded one.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ultrachat_cli import config
from ultrachat_cli.backends.base import Prompt, Sampling
from ultrachat_cli.backends.llamacpp import LlamaServer
from ultrachat_cli.backends.openai import OpenAIBackend
from ultrachat_cli.generate import run
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.settings import GenerateConfig
from ultrachat_cli.models import requantize, specs, weights
from ultrachat_cli.records.completion import Completion

Recorded = tuple[Prompt, Sampling, Mapping[str, Any] | None, int]


def compare(slots: int) -> tuple[float, float]:
    """(engine, llama.cpp alone) in generated tokens a second."""
    return asyncio.run(_compare(slots))


async def _compare(slots: int) -> tuple[float, float]:
    recorded: list[Recorded] = []
    complete = OpenAIBackend.complete

    async def recording(
        self: OpenAIBackend, prompt: Prompt, sampling: Sampling, *, schema: Mapping[str, Any] | None = None
    ) -> Completion:
        answer = await complete(self, prompt, sampling, schema=schema)
        recorded.append((prompt, sampling, schema, answer.completion_tokens))
        return answer

    OpenAIBackend.complete = recording  # type: ignore[method-assign]
    try:
        ours = await _engine(slots)
    finally:
        OpenAIBackend.complete = complete  # type: ignore[method-assign]
    return ours, await _alone(slots, recorded)


async def _engine(slots: int) -> float:
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "limit": ("--limit", 3 * slots),
            "rounds": ("--rounds", "2"),
            "output": ("--output", Path(folder)),
            "limits.concurrency": ("--concurrency", slots),
        }
        loaded = config.load(GenerateConfig, "generate", flags=flags)
        job = asyncio.create_task(run.run(loaded, environ=os.environ, counts=counts, say=lambda _: None))
        while counts.state != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        started = time.perf_counter()
        await job
        return counts.usage.completion_tokens / (time.perf_counter() - started)


async def _alone(slots: int, recorded: list[Recorded]) -> float:
    path = requantize.faster_copy(weights.obtain(specs.resolve("smollm2-135m"), print), weights.cache())
    queue = iter(recorded)
    made = 0
    with LlamaServer(path, slots=slots, context=4096) as server:
        backend = OpenAIBackend(server.url, "smollm2-135m", timeout=600)

        async def worker() -> None:
            nonlocal made
            for prompt, sampling, schema, tokens in queue:
                exact = replace(
                    sampling, max_tokens=tokens, stop=(), extra={**sampling.extra, "ignore_eos": schema is None}
                )
                answer = await backend.complete(prompt, exact, schema=schema)
                made += answer.completion_tokens

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(slots)))
        seconds = time.perf_counter() - started
        await backend.close()
    return made / seconds
