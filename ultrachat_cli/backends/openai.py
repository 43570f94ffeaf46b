"""Any server that speaks the OpenAI protocol, over one aiohttp connection pool.

The protocol is two JSON documents over HTTP, so the lean client is the HTTP library itself: the openai SDK costs
three to fourteen times the processor time a request (README, benchmarks) and its pool degrades with connections.
"""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from ultrachat_cli.backends.base import Messages, Prompt, Sampling
from ultrachat_cli.errors import BackendError
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.manifest import without_secrets

_RETRYABLE = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}


class OpenAIBackend:
    """One model of one endpoint. `base_url` ends before `/chat/completions` (usually in `/v1`)."""

    def __init__(self, base_url: str, model: str, *, api_key: str | None = None, timeout: float = 120) -> None:
        """`timeout`: seconds for one whole request. The key goes into a header and nowhere else."""
        self.url = base_url.rstrip("/")
        self.shown_url = without_secrets(self.url)
        self.model = model
        self._api_key = api_key
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 15))
        self._session: aiohttp.ClientSession | None = None
        self.structured = True
        """False once the server refused a JSON schema: lists are then asked for and parsed as plain text."""
        self.counts = True
        """False once the server refused to count the tokens of a stream."""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, timeout=self._timeout, proxy=_proxy(self.url)
            )
        return self._session

    async def complete(
        self, prompt: Prompt, sampling: Sampling, *, schema: Mapping[str, Any] | None = None
    ) -> Completion:
        """One answer: a string goes to /completions, messages to /chat/completions."""
        raw = isinstance(prompt, str)
        body = {"model": self.model, "prompt" if raw else "messages": prompt, **sampling.body()}
        asks_schema = schema is not None and self.structured
        if asks_schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        try:
            async with self._open().post(self._path(raw), data=orjson.dumps(body)) as response:
                answer = await response.read()
                status, headers = response.status, response.headers
        except (TimeoutError, aiohttp.ClientError) as error:
            raise self._unreachable(error) from error
        if status != 200:
            problem = self._refused(status, headers.get("Retry-After"), answer)
            if asks_schema and status in (400, 422) and _about_schema(answer):
                self.structured = False
                return await self.complete(prompt, sampling)
            raise problem
        return self._parse(answer, raw)

    def _parse(self, answer: bytes, raw: bool) -> Completion:
        try:
            data = orjson.loads(answer)
            choice = data["choices"][0]
            text = choice["text"] if raw else choice["message"]["content"]
            finish = choice.get("finish_reason") or "stop"
            if not isinstance(text, str) or (not text.strip() and finish != "length"):
                raise BackendError(f"{self.shown_url}: empty answer (finish_reason {finish})", retryable=True)
            found = _completion(text, finish, data.get("usage"), str(data.get("model") or self.model))
            return replace(found, logprobs=likeliest) if (likeliest := _likeliest(choice)) else found
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            begins = self._without_key(answer[:80].decode(errors="replace"))
            raise BackendError(
                f"{self.shown_url}: not a chat completion: {begins!r}",
                "is this the base URL of an OpenAI-compatible server (it usually ends in /v1)?",
                retryable=True,
            ) from error

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str | Completion]:
        """The answer piece by piece (server-sent events), then the whole of it; `BackendError` where it breaks off."""
        raw = isinstance(prompt, str)
        body = {"model": self.model, "prompt" if raw else "messages": prompt, "stream": True, **sampling.body()}
        if self.counts:
            body["stream_options"] = {"include_usage": True}
        heard = _Heard(self.model)
        try:
            async with self._open().post(self._path(raw), data=orjson.dumps(body)) as response:
                if response.status != 200:
                    answer = await response.read()
                    if not (self.counts and response.status in (400, 422) and b"stream_options" in answer):
                        raise self._refused(response.status, response.headers.get("Retry-After"), answer)
                    self.counts = False
                else:
                    async for line in response.content:
                        if not line.startswith(b"data:"):
                            continue
                        event = line[5:].strip()
                        if event == b"[DONE]":
                            yield heard.completion()
                            return
                        if piece := self._piece(event, heard):
                            yield piece
                    raise BackendError(f"{self.shown_url}: the answer broke off", retryable=True)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise self._unreachable(error) from error
        async for piece_or_whole in self.stream(prompt, sampling):
            yield piece_or_whole

    def _path(self, raw: bool) -> str:
        return self.url + ("/completions" if raw else "/chat/completions")

    def _piece(self, event: bytes, heard: _Heard) -> str:
        try:
            data = orjson.loads(event)
            if "error" in data:
                raise BackendError(f"{self.shown_url}: {self._without_key(_error_of(event)[0])}", retryable=True)
            return heard.take(data)
        except (orjson.JSONDecodeError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise BackendError(f"{self.shown_url}: not an event of a chat completion", retryable=True) from error

    async def count(self, messages: Messages) -> int | None:
        """Only the server could tell."""
        return None

    async def models(self) -> list[str] | None:
        """Names from /models, None when the server has no such list; `BackendError` when it cannot be reached."""
        try:
            async with self._open().get(self.url + "/models", timeout=aiohttp.ClientTimeout(total=15)) as response:
                answer = await response.read()
                if response.status in (401, 403):
                    raise self._refused(response.status, None, answer)
                if response.status != 200:
                    return None
            return [str(entry["id"]) for entry in orjson.loads(answer)["data"]]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _unreachable(self, error: BaseException) -> BackendError:
        if isinstance(error, TimeoutError):
            message = f"{self.shown_url}: no answer within {self._timeout.total:g} s"
            return BackendError(message, "raise limits.timeout or lower --concurrency", retryable=True)
        if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
            message = f"{self.shown_url}: the connection broke off before the answer was complete"
            return BackendError(message, "is the server still running?", retryable=True)
        reason = self._without_key(str(error) or type(error).__name__)
        hint = "is the server running, and is --base-url right?"
        return BackendError(f"{self.shown_url}: cannot be reached: {reason}", hint, retryable=True)

    def _without_key(self, text: str) -> str:
        """Servers like to repeat what they were sent."""
        return text.replace(self._api_key, "***") if self._api_key else text

    def _refused(self, status: int, retry_after: str | None, answer: bytes) -> BackendError:
        message, code = _error_of(answer)
        message = self._without_key(message)
        missing_model = status == 404 and ("model" in message.lower() or code == "model_not_found")
        hint = ""
        if status in (401, 403):
            hint = "check the key in the variable named by --api-key-env"
        elif missing_model:
            hint = "check --model against what the server serves"
        elif status == 404:
            hint = "is --base-url right? It usually ends in /v1"
        return BackendError(
            f"{self.shown_url}: HTTP {status}: {message}",
            hint,
            retryable=status in _RETRYABLE and code != "insufficient_quota",
            retry_after=_seconds(retry_after),
            status=status,
            fatal=status in (401, 403, 404) or code == "insufficient_quota",
            code=code,
        )


class _Heard:
    """What the events of a stream told so far."""

    def __init__(self, model: str) -> None:
        self._model, self._finish, self._usage = model, "", None
        self._pieces: list[str] = []

    def take(self, event: Mapping[str, Any]) -> str:
        """The text of one more event."""
        self._usage = event.get("usage") or self._usage
        self._model = str(event.get("model") or self._model)
        choice = (event.get("choices") or [{}])[0]
        self._finish = choice.get("finish_reason") or self._finish
        piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        self._pieces.append(piece)
        return str(piece)

    def completion(self) -> Completion:
        """The whole of it."""
        return _completion("".join(self._pieces), self._finish or "stop", self._usage, self._model)


def _completion(text: str, finish: str, usage: Mapping[str, Any] | None, model: str) -> Completion:
    usage = usage or {}
    known = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    asked, said = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return Completion(text, finish, asked, said, model, cached_tokens=int(known or 0))


def _likeliest(choice: Mapping[str, Any]) -> str | None:
    """`Completion.logprobs` of a choice, of /chat/completions or the older layout of /completions; None without."""
    told = choice.get("logprobs") or {}
    if told.get("content"):
        tops = [token.get("top_logprobs") or [] for token in told["content"]]
        tokens = [[(top["token"], top["logprob"]) for top in token] for token in tops]
    else:
        tokens = [list((token or {}).items()) for token in told.get("top_logprobs") or []]
    return orjson.dumps(tokens).decode() if any(tokens) else None


def _proxy(url: str) -> str | None:
    """The environment's proxy for this URL, looked up once (aiohttp's trust_env does so at every request)."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _error_of(answer: bytes) -> tuple[str, str]:
    """(message, code) of an OpenAI error body, or its first 200 characters."""
    try:
        error = orjson.loads(answer)["error"]
        if isinstance(error, str):
            return error[:300], ""
        return str(error.get("message"))[:300], str(error.get("code") or error.get("type") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return answer[:200].decode(errors="replace").strip() or "no message", ""


def _about_schema(answer: bytes) -> bool:
    words = answer.lower()
    return any(word in words for word in (b"response_format", b"json_schema", b"grammar", b"schema"))


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; a date is taken as unknown."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
