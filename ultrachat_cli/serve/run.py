"""The server: one model, opened before anybody can connect, until it is interrupted."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.serve import answering, bodies
from ultrachat_cli.serve.answering import Shape, reply
from ultrachat_cli.serve.bodies import Refused
from ultrachat_cli.serve.settings import ServeConfig

Say = Callable[[str], None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PARTING = 0.3  # seconds for answers under way when the server is ended


async def run(
    config: ServeConfig, *, environ: Mapping[str, str], ready: Callable[[str, str], None], say: Say, warn: Say
) -> None:
    """Serve until cancelled. `ready` is called with the URL and the model's name once requests are answered.

    Raises `UltraError`s: a model that cannot be opened, a port that is taken, a key that is not set.
    """
    key = _client_key(config, environ)
    with _listener(config) as listener:  # taken first: opening a model may take minutes
        endpoint = Endpoint(config.model, config.base_url, config.api_key_env, config.engine, config.format or "")
        models = ChatModels(
            config.limits, None, environ, prices=config.prices, embedded_context=config.context, local=config.local,
            say=say,
        )  # fmt: skip
        try:
            model = await models.open(endpoint)
            names = frozenset({model.spec.name, config.model})
            runner = web.AppRunner(
                app(model, names, key, config.max_body), access_log=None, handler_cancellation=True,
                shutdown_timeout=_PARTING,
            )  # fmt: skip
            await runner.setup()
            try:
                await web.SockSite(runner, listener).start()
                _warn(config, key, warn)
                ready(_url(listener), model.spec.name)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if task := asyncio.current_task():
                    task.uncancel()  # this is how serving ends
            finally:
                await runner.cleanup()
        finally:
            await models.close()


def app(model: ChatModel, names: frozenset[str], key: str, max_body: int) -> web.Application:
    """The endpoint of a model that goes by `names`. `key`: what clients must send; empty = nothing."""
    begun = int(time.time())

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if key and request.path != "/health" and not _right(request, key):
                raise Refused(401, "a wrong API key, or none", code="invalid_api_key")
            return await handler(request)
        except Refused as error:
            return reply(error.body, error.status)
        except web.HTTPRequestEntityTooLarge:
            return reply(Refused(413, f"the body is larger than {max_body} bytes").body, 413)
        except web.HTTPException as error:
            message = f"{request.method} {request.path}: {error.reason.lower()}"
            return reply(Refused(error.status, message).body, error.status)

    async def health(_: web.Request) -> web.Response:
        return reply({"status": "ok"})

    async def listed(_: web.Request) -> web.Response:
        entry = {"id": model.spec.name, "object": "model", "created": begun, "owned_by": "ultrachat"}
        return reply({"object": "list", "data": [entry]})

    async def answered(request: web.Request, *, chat: bool) -> web.StreamResponse:
        asked = (bodies.chat if chat else bodies.completion)(await request.read(), names)
        shape = Shape(chat, model.spec.name)
        if asked.stream:
            return await answering.streamed(request, model, asked, shape)
        return await answering.whole(model, asked, shape)

    async def chatted(request: web.Request) -> web.StreamResponse:
        return await answered(request, chat=True)

    async def completed(request: web.Request) -> web.StreamResponse:
        return await answered(request, chat=False)

    made = web.Application(middlewares=[guarded], client_max_size=max_body)
    made.router.add_get("/health", health)
    made.router.add_get("/v1/models", listed)
    made.router.add_post("/v1/chat/completions", chatted)
    made.router.add_post("/v1/completions", completed)
    return made


def _right(request: web.Request, key: str) -> bool:
    sent = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    return hmac.compare_digest(sent.encode(), key.encode())


def _client_key(config: ServeConfig, environ: Mapping[str, str]) -> str:
    here = config.base_url is None and resolve(config.model).scheme != "openai"
    if config.api_key_env and here:
        raise ConfigError(
            f"--api-key-env is the key of an endpoint, and {config.model} runs here",
            "--client-key-env names the variable with the key that clients must send",
        )
    if config.client_key_env is None:
        return ""
    key = environ.get(config.client_key_env, "").strip()
    if not key:
        raise ConfigError(f"--client-key-env: the environment variable {config.client_key_env} is not set")
    return key


def _listener(config: ServeConfig) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UltraError(
            f"{config.host}:{config.port} cannot be used: {reason}",
            "choose another --port (0 = any free one) or --host",
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _warn(config: ServeConfig, key: str, warn: Say) -> None:
    try:
        loopback = config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not key:
        warn(
            f"anybody who reaches {config.host} may ask the model, as no key is needed; --client-key-env VAR changes it"
        )
