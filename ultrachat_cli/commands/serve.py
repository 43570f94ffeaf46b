"""`ultrachat serve`: a model as an endpoint of the OpenAI protocol."""

from __future__ import annotations

from typing import Annotated, Any

import typer

O = typer.Option  # noqa: E741
WHO, WHERE, LOCAL, RUN = "Model", "Address", "Local weights", "Run"


def serve(
    model: Annotated[
        str | None, O("--model", "-m", help="A name, folder, file.gguf, hf:org/name, openai:NAME.", rich_help_panel=WHO)
    ] = None,
    base_url: Annotated[
        str | None, O(help="URL of the server that has the model, up to /v1.", rich_help_panel=WHO)
    ] = None,
    api_key_env: Annotated[str | None, O(help="Variable with the key of that server.", rich_help_panel=WHO)] = None,
    host: Annotated[
        str | None, O(help="Address to listen at.", show_default="127.0.0.1", rich_help_panel=WHERE)
    ] = None,
    port: Annotated[
        int | None, O("--port", "-p", help="Port; 0 = any free one.", show_default="8000", rich_help_panel=WHERE)
    ] = None,
    client_key_env: Annotated[
        str | None, O(help="Variable with the key that clients must send.", rich_help_panel=WHERE)
    ] = None,
    engine: Annotated[str | None, O(help="auto, llamacpp or transformers.", rich_help_panel=LOCAL)] = None,
    device: Annotated[str | None, O(help="auto, cpu, cuda, cuda:1, mps, balanced.", rich_help_panel=LOCAL)] = None,
    dtype: Annotated[str | None, O(help="auto, float32, bfloat16, float16.", rich_help_panel=LOCAL)] = None,
    format: Annotated[str | None, O(help="Chat format of a model that names none.", rich_help_panel=LOCAL)] = None,
    quantize: Annotated[str | None, O(help="8bit or 4bit, on a GPU.", rich_help_panel=LOCAL)] = None,
    concurrency: Annotated[int | None, O("--concurrency", "-j", help="Answers at once.", rich_help_panel=RUN)] = None,
    config: Annotated[str | None, O("--config", "-c", help="A YAML file.", rich_help_panel=RUN)] = None,
    set_: Annotated[list[str] | None, O("--set", help="Any config key.", rich_help_panel=RUN)] = None,
    quiet: Annotated[bool, O("--quiet", "-q", help="Print nothing but the address.", rich_help_panel=RUN)] = False,
) -> None:
    """Serve a model to any OpenAI-compatible client, on this machine unless told otherwise. Ctrl-C ends it."""
    import os

    from ultrachat_cli import config as loader
    from ultrachat_cli.commands import display, interrupt
    from ultrachat_cli.serve import run
    from ultrachat_cli.serve.settings import ServeConfig

    flags: dict[str, tuple[str, Any]] = {
        "model": ("--model", model), "base_url": ("--base-url", base_url),
        "api_key_env": ("--api-key-env", api_key_env), "host": ("--host", host), "port": ("--port", port),
        "client_key_env": ("--client-key-env", client_key_env), "engine": ("--engine", engine),
        "local.device": ("--device", device), "local.dtype": ("--dtype", dtype),
        "local.quantize": ("--quantize", quantize), "format": ("--format", format),
        "limits.concurrency": ("--concurrency", concurrency),
    }  # fmt: skip
    loaded = loader.load(ServeConfig, "serve", file=config, environ=os.environ, sets=set_ or [], flags=flags)

    def ready(url: str, name: str) -> None:
        print(f"{name} is served at {url}", flush=True)

    say = (lambda _: None) if quiet else display.say
    job = run.run(loaded.value, environ=os.environ, ready=ready, say=say, warn=display.say)
    interrupt.run(job, "interrupted before anything was served")
