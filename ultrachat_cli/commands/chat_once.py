"""What every chat begins and ends with, and a chat in one go: messages in, answers out."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ultrachat_cli.backends import scorers
from ultrachat_cli.backends.chat_model import ChatModels
from ultrachat_cli.chat import asking, transcript
from ultrachat_cli.chat.session import Session
from ultrachat_cli.chat.settings import ChatConfig, limits_for
from ultrachat_cli.chat.statistics import Taken
from ultrachat_cli.commands.chat_screen import Output
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models.specs import known

_EMBEDDED_CONTEXT = 8192  # tokens, unless told: what a laptop carries beside its user's programs


@dataclass(frozen=True)
class Job:
    """What the command line asked for."""

    config: ChatConfig
    environ: Mapping[str, str]
    load: str | None
    typed: Mapping[str, Any]
    """What of the config was typed on the command line: it comes before what a loaded conversation holds."""
    json: bool
    verbose: bool
    quiet: bool

    @property
    def state(self) -> Path:
        """Where lines and conversations are kept: $ULTRACHAT_STATE, or ~/.local/state/ultrachat."""
        base = self.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
        return Path(self.environ.get("ULTRACHAT_STATE") or Path(base, "ultrachat"))


@asynccontextmanager
async def opened(job: Job, screen: Output, *, keep: bool) -> AsyncIterator[Session]:
    """The session, its model and scorer open and its conversation loaded; all closed at the end.

    `keep`: whether it is kept without being asked to, as somebody at a terminal expects.
    """
    config = job.config
    if config.best_of > 1 and not config.reward_model:
        raise ConfigError(*asking.NO_SCORER)
    if config.save is not None:
        _usable(config.save)
    models = ChatModels(
        limits_for(config.limits, config.endpoint, config.best_of), None, job.environ,
        prices=config.prices,
        embedded_context=config.context or _EMBEDDED_CONTEXT,
        local=config.local,
        say=screen.say,
    )  # fmt: skip
    scorer: scorers.OpenScorer | None = None
    try:
        with screen.opening(config.model):
            model = await models.open(config.endpoint)
        if config.reward_model:
            with screen.opening(config.reward_model):
                scorer = await _scorer(config, config.reward_model, models, screen)
        kept = transcript.Kept(job.state / "chats")
        session = Session(config, models, model, screen, scorer=scorer, kept=kept, keeps=keep and config.keep)
        if job.load:
            await session.load(job.load, model="model" not in job.typed)
            typed = job.typed.get("sampling") or {}
            session.sampling = session.sampling.model_copy(update=typed)
            session.talk.system = job.typed.get("system", session.talk.system)
        yield session
    finally:
        if scorer is not None:
            await scorer.close()
        await models.close()


async def _scorer(config: ChatConfig, name: str, models: ChatModels, screen: Output) -> scorers.OpenScorer:
    base_url, api_key_env = config.reward_base_url, config.reward_api_key_env
    judge = name.removeprefix(scorers.JUDGE)
    if base_url is None and judge != name and ":" not in judge and judge not in known():
        base_url, api_key_env = config.base_url, api_key_env or config.api_key_env
    return await scorers.open_scorer(
        name, models, base_url=base_url, api_key_env=api_key_env,
        device=config.local.device, dtype=config.local.dtype, say=screen.say,
    )  # fmt: skip


def _usable(path: Path) -> None:
    try:
        target = transcript.target(str(path))
    except UltraError as error:
        raise ConfigError(f"--save {error.message}", error.hint) from None
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"--save {path}: there is no folder {target.parent}")


def messages(given: list[str]) -> list[str]:
    """What is to be said: the messages, the first with piped input after it, or that alone."""
    try:
        piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the input is not UTF-8 (byte {error.start + 1})") from None
    said = [text for text in given if text.strip()]
    if piped:
        said[:1] = [f"{said[0]}\n\n{piped}" if said else piped]
    if not said:
        raise ConfigError(
            "there is nothing to say: the input is empty",
            "echo 'a question' | ultrachat chat, --message 'a question', or a terminal to type in",
        )
    return said


async def answer(job: Job, said: list[str]) -> None:
    """Say them one after another; answers go to stdout. Raises what ends it."""
    screen = Collecting(job) if job.json else Output(plain=job.config.plain, quiet=job.quiet, verbose=job.verbose)
    async with opened(job, screen, keep=False) as session:
        for n, text in enumerate(said):
            if n and not job.json:
                print()
            taken = await session.say(text)
            if taken is None:
                raise UltraError("the answer was stopped before anything came")
            if job.json:
                sys.stdout.buffer.write(orjson.dumps(_record(session, text, taken), option=orjson.OPT_APPEND_NEWLINE))
                sys.stdout.buffer.flush()


def _record(session: Session, text: str, taken: Taken) -> dict[str, Any]:
    completion = taken.completion
    usage = {
        "prompt_tokens": sum(each.prompt_tokens for each in taken.completions) or taken.prompt,
        "completion_tokens": sum(each.completion_tokens for each in taken.completions),
        "cached_tokens": completion.cached_tokens,
        "cost": sum(each.cost for each in taken.completions),
    }
    record: dict[str, Any] = {
        "message": text,
        "reply": completion.text,
        "model": session.endpoint.model,
        "finish": completion.finish,
        "usage": usage,
        "first_token_ms": None if taken.first is None else round(taken.first * 1000, 1),
        "tokens_per_second": None if taken.rate is None else round(taken.rate, 1),
    }
    if taken.candidates:
        record["candidates"] = [{"reply": each.completion.text, "score": each.score} for each in taken.candidates]
    return record


class Collecting(Output):
    """Shows no answers: they are told as a whole."""

    def __init__(self, job: Job) -> None:
        super().__init__(plain=True, quiet=job.quiet, verbose=job.verbose)

    @contextmanager
    def reply(self) -> Iterator[Callable[[str], None]]:
        """Heard, not shown."""
        yield lambda piece: None
