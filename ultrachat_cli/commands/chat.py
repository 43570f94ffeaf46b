"""`ultrachat chat`: options in, a conversation out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

O = typer.Option  # noqa: E741
WHO, HOW, TALK, RUN = "Model", "Answers", "Conversation", "Run"


def chat(
    model: Annotated[
        str | None,
        O("--model", "-m", help="A name, folder, file.gguf, hf:org/name, openai:NAME.", rich_help_panel=WHO),
    ] = None,
    base_url: Annotated[
        str | None, O(help="URL of an OpenAI-compatible server, up to /v1.", rich_help_panel=WHO)
    ] = None,
    api_key_env: Annotated[str | None, O(help="Environment variable with the API key.", rich_help_panel=WHO)] = None,
    engine: Annotated[
        str | None, O(help="What runs local weights: auto, llamacpp or transformers.", rich_help_panel=WHO)
    ] = None,
    device: Annotated[
        str | None, O(help="For transformers: auto, cpu, cuda, cuda:1, mps.", rich_help_panel=WHO)
    ] = None,
    dtype: Annotated[
        str | None, O(help="For transformers: auto, float32, bfloat16, float16.", rich_help_panel=WHO)
    ] = None,
    quantize: Annotated[str | None, O(help="For transformers: 8bit or 4bit, on a GPU.", rich_help_panel=WHO)] = None,
    format: Annotated[
        str | None, O("--format", help="Chat format of a model that names none.", rich_help_panel=WHO)
    ] = None,
    context: Annotated[int | None, O(help="Tokens of context to use.", rich_help_panel=WHO)] = None,
    system: Annotated[str | None, O(help='System prompt; "" for none.', rich_help_panel=HOW)] = None,
    temperature: Annotated[float | None, O(help="Sampling temperature.", rich_help_panel=HOW)] = None,
    top_p: Annotated[float | None, O(help="Nucleus sampling.", rich_help_panel=HOW)] = None,
    max_tokens: Annotated[int | None, O(help="Longest answer, tokens.", rich_help_panel=HOW)] = None,
    seed: Annotated[int | None, O(help="Seed of the answers.", rich_help_panel=HOW)] = None,
    best_of: Annotated[int | None, O(help="Draw this many answers and show the best.", rich_help_panel=HOW)] = None,
    reward_model: Annotated[
        str | None, O(help="What tells the best: a reward model, or judge:MODEL.", rich_help_panel=HOW)
    ] = None,
    message: Annotated[
        list[str] | None,
        O(help="Say this and end; again: more rounds. Piped input is added to the first.", rich_help_panel=TALK),
    ] = None,
    load: Annotated[
        str | None, O(help="Go on with a conversation: FILE, FILE#ID, FILE#NUMBER or last.", rich_help_panel=TALK)
    ] = None,
    save: Annotated[Path | None, O(help="Keep the conversation in this file (.jsonl).", rich_help_panel=TALK)] = None,
    plain: Annotated[
        bool | None, O("--plain", help="Answers as they come, not as markdown.", rich_help_panel=RUN)
    ] = None,
    config: Annotated[
        str | None, O("--config", "-c", help="A YAML file, or a shipped config by name.", rich_help_panel=RUN)
    ] = None,
    set_: Annotated[list[str] | None, O("--set", help="Any config key.", rich_help_panel=RUN)] = None,
    json: Annotated[bool, O("--json", help="Each answer as a line of JSON on stdout.", rich_help_panel=RUN)] = False,
    verbose: Annotated[
        bool, O("--verbose", "-v", help="Statistics also without a terminal.", rich_help_panel=RUN)
    ] = False,
    quiet: Annotated[bool, O("--quiet", "-q", help="Answers and errors only.", rich_help_panel=RUN)] = False,
) -> None:
    """Talk with a model: here, or with --message or piped input in one go.

    /help lists what can be done while talking. What is said is kept; --load last goes on with it.
    """
    import asyncio
    import os
    import sys

    from ultrachat_cli import config as loader
    from ultrachat_cli.chat.settings import ChatConfig
    from ultrachat_cli.commands import chat_once
    from ultrachat_cli.errors import INTERRUPTED, ConfigError

    flags: dict[str, tuple[str, Any]] = {
        "model": ("--model", model),
        "base_url": ("--base-url", base_url),
        "api_key_env": ("--api-key-env", api_key_env),
        "engine": ("--engine", engine),
        "local.device": ("--device", device),
        "local.dtype": ("--dtype", dtype),
        "local.quantize": ("--quantize", quantize),
        "format": ("--format", format),
        "context": ("--context", context),
        "system": ("--system", system),
        "sampling.temperature": ("--temperature", temperature),
        "sampling.top_p": ("--top-p", top_p),
        "sampling.max_new_tokens": ("--max-tokens", max_tokens),
        "sampling.seed": ("--seed", seed),
        "best_of": ("--best-of", best_of),
        "reward_model": ("--reward-model", reward_model),
        "save": ("--save", save),
        "plain": ("--plain", plain),
    }
    loaded = loader.load(ChatConfig, "chat", file=config, environ=os.environ, sets=set_ or [], flags=flags)
    once = bool(message) or not sys.stdin.isatty()
    if json and not once:
        raise ConfigError("--json needs --message or piped input")
    typed = {key: value for key, (_, value) in flags.items() if value is not None and "." not in key}
    typed["sampling"] = {
        key: getattr(loaded.value.sampling, key)
        for key in type(loaded.value.sampling).model_fields
        if loaded.sources.get(f"sampling.{key}", "").startswith("--")
    }
    job = chat_once.Job(loaded.value, os.environ, load, typed, json, verbose, quiet)
    if once:
        from ultrachat_cli.commands import interrupt

        said = chat_once.messages(message or [])
        interrupt.run(chat_once.answer(job, said), "interrupted")
        return
    from ultrachat_cli.commands import chat_terminal

    if not asyncio.run(chat_terminal.run(job)):
        raise typer.Exit(INTERRUPTED)
