"""What `ultrachat generate` is measured against: conversations of eight sequential requests, nothing kept, no filters.

`aiohttp`: the floor, a bare HTTP client. `sdk-post`, `sdk-create`: the openai SDK, at its leanest and as documented.
Prints one JSON line: requests, seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

Ask = Callable[[list[dict[str, str]]], Awaitable[str]]


async def converse(ask: Ask, number: int) -> None:
    messages = [{"role": "user", "content": f"Question {number}: how do rivers shape the valleys they run through?"}]
    for n in range(8):
        text = await ask(messages)
        messages.append({"role": "user" if n % 2 else "assistant", "content": text})


async def main(client: str, url: str, parallel: int, conversations: int) -> None:
    ask, close = {"aiohttp": bare, "sdk-post": sdk_post, "sdk-create": sdk_create}[client](url, parallel)
    numbers = iter(range(conversations))

    async def worker() -> None:
        for number in numbers:
            await converse(ask, number)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(parallel)))
    seconds = time.perf_counter() - started
    await close()
    print(json.dumps({"requests": conversations * 8, "seconds": seconds}))


def bare(url: str, parallel: int) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    import aiohttp
    import orjson

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def ask(messages: list[dict[str, str]]) -> str:
        body = orjson.dumps({"model": "test-model", "messages": messages, "max_tokens": 256})
        async with session.post(f"{url}/chat/completions", data=body) as response:
            answer: Any = orjson.loads(await response.read())
        return str(answer["choices"][0]["message"]["content"])

    return ask, session.close


def _sdk(url: str, parallel: int) -> Any:
    import openai

    limits = openai.DefaultAsyncHttpxClient(timeout=60)
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=limits)


def sdk_post(url: str, parallel: int) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    import orjson

    client = _sdk(url, parallel)

    async def ask(messages: list[dict[str, str]]) -> str:
        body = {"model": "test-model", "messages": messages, "max_tokens": 256}
        answer = await client.post("/chat/completions", body=body, cast_to=object)
        data: Any = answer if isinstance(answer, dict) else orjson.loads(answer)
        return str(data["choices"][0]["message"]["content"])

    return ask, client.close


def sdk_create(url: str, parallel: int) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    client = _sdk(url, parallel)

    async def ask(messages: list[dict[str, str]]) -> str:
        answer = await client.chat.completions.create(model="test-model", messages=messages, max_tokens=256)
        return str(answer.choices[0].message.content)

    return ask, client.close


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=["aiohttp", "sdk-post", "sdk-create"])
    parser.add_argument("url")
    parser.add_argument("parallel", type=int)
    parser.add_argument("conversations", type=int)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(given.client, given.url, given.parallel, given.conversations))
