"""The embedded model as a backend: the OpenAI protocol, and prompts counted to the token by llama.cpp itself."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

from ultrachat_cli.backends.base import Messages
from ultrachat_cli.backends.llamacpp import LlamaServer
from ultrachat_cli.backends.openai import OpenAIBackend


class EmbeddedBackend(OpenAIBackend):
    """What `server` of this process serves."""

    def __init__(self, server: LlamaServer, model: str, *, timeout: float) -> None:
        super().__init__(server.url, model, timeout=timeout)
        self._root = server.url.removesuffix("/v1")

    async def count(self, messages: Messages) -> int | None:
        """Tokens of the prompt; `BackendError` where the chat template refuses the messages."""
        prompt = (await self._told("/apply-template", {"messages": list(messages)}))["prompt"]
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        return len((await self._told("/tokenize", asked))["tokens"])

    async def _told(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with self._open().post(self._root + path, data=orjson.dumps(body)) as response:
                answer = await response.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise self._unreachable(error) from error
        if response.status != 200:
            raise self._refused(response.status, None, answer)
        found: dict[str, Any] = orjson.loads(answer)
        return found
