"""What clients ask for: bodies of the OpenAI protocol, checked.

https://platform.openai.com/docs/api-reference/chat/create and .../completions/create
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ultrachat_cli.backends.base import Messages, Prompt, Sampling

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "logprobs": (False, 0),
    "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "echo": (False,),
    "best_of": (1,), "suffix": ("",), "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip
"""Fields under which nothing happens at these values."""
_UNSUPPORTED = ("logprobs", "top_logprobs", "tools", "functions", "echo", "best_of", "suffix", "modalities", "audio")
"""Fields whose answer this server could not give, whatever model is behind it."""
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls", "prompt_cache_key")
"""Fields that are about the client's account and say nothing about the answer."""
_MOST_ANSWERS = 128


class Refused(Exception):
    """An answer of the protocol that is an error: HTTP status, message, the field it is about, a code."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        kind = kind or ("invalid_request_error" if status < 500 else "api_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Asked:
    """A request: prompts, each to be answered `n` times."""

    prompts: list[Prompt]
    sampling: Sampling
    n: int
    stream: bool
    usage: bool
    """Whether a stream ends with the count of tokens."""


def chat(body: bytes, served: frozenset[str]) -> Asked:
    """A body of /v1/chat/completions. Raises `Refused`; `served`: names that the model goes by."""
    fields = _fields(body, served)
    return _asked(fields, [_messages(fields.pop("messages", None))])


def completion(body: bytes, served: frozenset[str]) -> Asked:
    """A body of /v1/completions: one text or several. Raises `Refused`."""
    fields = _fields(body, served)
    prompt = fields.pop("prompt", None)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) and one for one in prompts):
        raise Refused(400, "prompt: a text that is not empty is expected, or a list of such", "prompt")
    return _asked(fields, list(prompts))


def _fields(body: bytes, served: frozenset[str]) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refused(400, "the body must be a JSON object")
    name = fields.pop("model", None)
    if not isinstance(name, str) or not name:
        raise Refused(400, f"model: a name is expected; served is {min(served, key=len)}", "model")
    if name not in served:
        message = f"the model '{name}' does not exist here; served is '{min(served, key=len)}'"
        raise Refused(404, message, "model", "model_not_found")
    return {key: value for key, value in fields.items() if value is not None and key not in _IGNORED}


def _messages(found: Any) -> Messages:
    if not isinstance(found, list) or not found:
        raise Refused(400, "messages: a list that is not empty is expected", "messages")
    messages: list[dict[str, str]] = []
    for n, message in enumerate(found):
        where = f"messages[{n}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise Refused(400, f"{where}.role: one of {', '.join(_ROLES)} is expected, not {role!r}", f"{where}.role")
        messages.append({"role": _ROLES[role], "content": _text(message.get("content"), f"{where}.content")})
    return messages


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise Refused(400, f"{where}: a text is expected, or a list of parts of type 'text'", where)


def _asked(fields: dict[str, Any], prompts: list[Prompt]) -> Asked:
    for name, neutral in _NEUTRAL.items():
        if name in fields and fields[name] in neutral:
            del fields[name]
    if refused := [name for name in _UNSUPPORTED if name in fields]:
        raise Refused(400, f"{refused[0]}: not supported by this server", refused[0], "unsupported_parameter")
    stream = _of(fields, "stream", bool, False)
    options = _of(fields, "stream_options", dict, {})
    if options and not stream:
        raise Refused(400, "stream_options: only with stream", "stream_options")
    n = _number(fields, "n", int, 1, _MOST_ANSWERS)
    tokens = [_number(fields, name, int, 1) for name in ("max_completion_tokens", "max_tokens")]
    sampling = Sampling(
        max_tokens=next((count for count in tokens if count is not None), None),
        temperature=_number(fields, "temperature", float, 0, 5),
        top_p=_number(fields, "top_p", float, 0, 1),
        seed=_number(fields, "seed", int),
        stop=_stops(fields.pop("stop", ())),
        extra=fields,
    )
    return Asked(prompts, sampling, int(n or 1), stream, bool(options.get("include_usage")))


def _of(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.pop(name, default)
    if not isinstance(value, kind):
        raise Refused(400, f"{name}: {'true or false' if kind is bool else 'an object'} is expected", name)
    return value


def _number(
    fields: dict[str, Any], name: str, kind: type[Any], low: float | None = None, high: float | None = None
) -> Any:
    if name not in fields:
        return None
    value = fields.pop(name)
    fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not fits or (low is not None and value < low) or (high is not None and value > high):
        within = f" from {low} to {high}" if high is not None else f" of at least {low}" if low is not None else ""
        what = "a whole number" if kind is int else "a number"
        raise Refused(400, f"{name}: {what}{within} is expected, not {value!r}", name)
    return kind(value)


def _stops(found: Any) -> tuple[str, ...]:
    stops = (found,) if isinstance(found, str) else tuple(found) if isinstance(found, list | tuple) else None
    if stops is None or not all(isinstance(stop, str) and stop for stop in stops):
        raise Refused(400, "stop: a text or a list of texts is expected", "stop")
    return stops
