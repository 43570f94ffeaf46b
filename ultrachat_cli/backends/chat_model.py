"""A model one can ask: registry entry, backend, limits and journal put together.

`ChatModel.ask` is the only road from a feature to a model: the answer is looked up in the journal, or asked for
within the limits and stored, before anyone sees it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from ultrachat_cli.backends import base, llamacpp, local_weights
from ultrachat_cli.backends.base import Backend, Prompt, Sampling
from ultrachat_cli.backends.embedded import EmbeddedBackend
from ultrachat_cli.backends.limits import Budget, Limiter, LimitSettings, Usage
from ultrachat_cli.backends.openai import OpenAIBackend
from ultrachat_cli.backends.scripted import ScriptedBackend
from ultrachat_cli.errors import ConfigError
from ultrachat_cli.models import formats, requantize, weights
from ultrachat_cli.models.formats_jinja import jinja
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.models.specs import OPENAI, ModelSpec, Price, resolve
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import Journal
from ultrachat_cli.records.manifest import without_secrets

Say = Callable[[str], None]
T = TypeVar("T")
ATTEMPTS = 3
"""Answers that are asked for until one can be read."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is to be found: its name, and for a served one the URL and the key's variable.

    `engine`: what runs it here; auto = llama.cpp for .gguf files, transformers for other weights. `format`: the chat
    format of a model that runs here, where it is not the one its entry or its files name.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    engine: Literal["auto", "llamacpp", "transformers"] = "auto"
    format: str = ""


@dataclass
class ChatModel:
    """One model in one role. `context`: tokens it can hold, 0 when unknown."""

    spec: ModelSpec
    backend: Backend
    limiter: Limiter
    journal: Journal | None
    price: Price | None
    context: int
    url: str
    served: bool = False
    """Whether somebody else runs it, perhaps for money."""

    async def ask(
        self, key: str, prompt: Prompt, sampling: Sampling, *, schema: Mapping[str, Any] | None = None
    ) -> Completion:
        """The answer to `prompt`, asked for once in the life of the journal under `key`; without one, a new answer."""

        async def asked() -> Completion:
            return await self.limiter.run(
                lambda: self.backend.complete(prompt, sampling, schema=schema),
                prompt=base.prompt_tokens(prompt),
                completion=sampling.max_tokens or 1024,
                price=self.price,
            )

        return await (asked() if self.journal is None else self.journal.once(key, asked))

    def key(self, kind: str, prompt: Prompt, sampling: Sampling) -> str:
        """A journal key that is another for another model, prompt or sampling."""
        digest = hashlib.sha256(repr((prompt, sampling.body())).encode()).hexdigest()[:32]
        return f"{kind}/{self.spec.name}@{self.url}/{digest}"

    async def ask_until(
        self, kind: str, prompt: Prompt, sampling: Sampling, read: Callable[[Completion], T | None],
        *, schema: Mapping[str, Any] | None = None,
    ) -> tuple[T | None, Completion]:  # fmt: skip
        """What `read` makes of the answer, and the answer; while that is None, it is asked again with another seed.

        `kind` is the beginning of the keys. When no attempt was of use, the journal gives all of them up: the next run
        asks again.
        """
        keys: list[str] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                sampling = replace(sampling, temperature=max(0.7, sampling.temperature or 0.0), seed=attempt)
            keys.append(self.key(kind, prompt, sampling))
            answer = await self.ask(keys[-1], prompt, sampling, schema=schema)
            found = read(answer)
            if found is not None:
                break
        else:
            if self.journal is not None:
                await self.journal.set_aside(keys)
        return found, answer

    def raw_turn(self, messages: base.Messages, open_role: str) -> tuple[str, tuple[str, ...]]:
        """The prompt and stop strings of a raw completion that continues with `open_role`'s turn."""
        name = self.spec.format
        return formats.text(name, [dict(m) for m in messages], open_role), (*formats.stop(name), "\n")


class ChatModels:
    """Opens models so that roles sharing an endpoint share its limits and its connections."""

    def __init__(
        self,
        settings: LimitSettings,
        journal: Journal | None,
        environ: Mapping[str, str],
        *,
        prices: Mapping[str, Price] | None = None,
        spent: float = 0.0,
        embedded_context: int = 2048,
        local: LocalSettings | None = None,
        say: Say = lambda _: None,
    ) -> None:
        """`environ`: where keys are looked up; `spent`: dollars of earlier sessions of the same run."""
        self.settings, self.usage = settings, Usage()
        self.budget = Budget(settings.max_cost, spent)
        self._journal, self._environ, self._prices, self._say = journal, environ, prices or {}, say
        self._embedded_context, self._local_settings = embedded_context, local or LocalSettings()
        self._limiters: dict[str, Limiter] = {}
        self._opened: dict[tuple[str, ...], ChatModel] = {}
        self._servers: list[llamacpp.LlamaServer] = []

    async def open(self, endpoint: Endpoint) -> ChatModel:
        """The model, ready to be asked. Everything that can be wrong with it is found here, before any work."""
        spec = resolve(endpoint.model, base_url=endpoint.base_url)
        if endpoint.format:
            spec = spec.model_copy(update={"format": endpoint.format})
        key = (spec.name, endpoint.base_url or spec.source, endpoint.api_key_env or "", endpoint.engine, spec.format)
        if key not in self._opened:
            if endpoint.base_url is None and spec.scheme == "scripted":
                self._opened[key] = self._model(spec, ScriptedBackend.open(spec.place), spec.source)
            elif endpoint.base_url is None and spec.scheme != "openai":
                local = local_weights.runs(spec, endpoint.engine)
                self._opened[key] = await (self._local(spec) if local else self._embedded(spec))
            else:
                self._opened[key] = await self._served(spec, endpoint)
        return self._opened[key]

    def _model(
        self, spec: ModelSpec, backend: Backend, url: str, *, slots: int | None = None, served: bool = False
    ) -> ChatModel:
        limiter = self._limiters.get(url)
        if limiter is None:
            limiter = self._limiters[url] = Limiter(self.settings, self.usage, self.budget, slots=slots)
        price = self._prices.get(spec.name) or spec.price
        if self.settings.max_cost is not None and price is None and served:
            raise ConfigError(
                f"--max-cost: no price is known for model '{spec.name}'",
                f"give it in dollars for a million tokens: --set 'prices.{spec.name}={{input: 1, output: 2}}'",
            )
        return ChatModel(spec, backend, limiter, self._journal, price if served else None, spec.context, url, served)

    async def _served(self, spec: ModelSpec, endpoint: Endpoint) -> ChatModel:
        url = endpoint.base_url or OPENAI
        check_url(url)
        variable = endpoint.api_key_env or ("OPENAI_API_KEY" if url == OPENAI else "")
        api_key = self._environ.get(variable, "").strip() if variable else ""
        if variable and not (api_key and api_key.isprintable()):
            problem = "holds a line break or another control character" if api_key else "is not set"
            raise ConfigError(
                f"no API key: the environment variable {variable} {problem}",
                "set it, or name another variable with --api-key-env",
            )
        if api_key and urlsplit(url).username:
            raise ConfigError(
                f"the URL {without_secrets(url)} holds a user, and there is a key in {variable} too",
                "a server takes one of them: leave the user out of the URL, or --api-key-env",
            )
        name = spec.place if spec.scheme == "openai" else spec.name
        backend = OpenAIBackend(url, name, api_key=api_key, timeout=self.settings.timeout)
        try:
            served = await backend.models()
            if served and name not in served:
                listed = ", ".join(served[:12]) + (", ..." if len(served) > 12 else "")
                raise ConfigError(f"model '{name}' is not served at {backend.shown_url}", f"it serves: {listed}")
            return self._model(spec, backend, without_secrets(url), served=True)
        except BaseException:
            await backend.close()
            raise

    async def _embedded(self, spec: ModelSpec) -> ChatModel:
        def start() -> llamacpp.LlamaServer:
            path = weights.obtain(spec, self._say)
            wanted = self.settings.concurrency
            try:
                path = requantize.faster_copy(path, weights.cache())
            except OSError as error:
                self._say(f"the faster copy could not be kept ({error}); going on without it")
            slots = llamacpp.carry(path, self._context(spec), wanted)
            if slots < wanted:
                self._say(f"{spec.name}: {slots} slots (of {wanted} asked for) are what this machine carries")
            return llamacpp.LlamaServer(path, slots=slots, context=self._context(spec), template=jinja(spec.format))

        server = await asyncio.to_thread(start)
        self._servers.append(server)
        backend = EmbeddedBackend(server, spec.name, timeout=max(600.0, self.settings.timeout))
        model = self._model(spec, backend, f"embedded:{spec.name}", slots=server.slots)
        model.context = self._context(spec)
        return model

    async def _local(self, spec: ModelSpec) -> ChatModel:
        backend = await asyncio.to_thread(
            local_weights.open_, spec, self._local_settings, self.settings.concurrency, self._say
        )
        model = self._model(spec, backend, f"local:{spec.source}", slots=backend.slots)
        model.context = backend.context
        return model

    def _context(self, spec: ModelSpec) -> int:
        return min(self._embedded_context, spec.context or self._embedded_context)

    @property
    def parallel(self) -> int:
        """Requests that can be in flight at once, over all endpoints."""
        return sum(limiter.slots.count for limiter in self._limiters.values())

    def halt(self) -> None:
        """Let no further request out; those on the wire go on."""
        for limiter in self._limiters.values():
            limiter.halt()

    async def release(self, model: ChatModel) -> None:
        """Let go of the memory of a model that transformers runs; it is opened anew when it is asked for again."""
        if model.url.startswith("local:"):
            self._opened = {key: opened for key, opened in self._opened.items() if opened is not model}
            self._limiters.pop(model.url, None)
            await model.backend.close()

    async def close(self) -> None:
        """Close connections and stop embedded servers."""
        for model in self._opened.values():
            await model.backend.close()
        for server in self._servers:
            server.close()


def check_url(url: str) -> None:
    """`ConfigError` for a base URL that is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            "the base URL is malformed: it must begin with http:// or https:// and name a host",
            "write it like http://127.0.0.1:8000/v1",
        )


def unpriced(models: list[ChatModel]) -> list[str]:
    """Names of models whose price is unknown although they are served by somebody."""
    return sorted({m.spec.name for m in models if m.price is None and m.served})
