"""A chat with somebody at a terminal: reads, does, shows, and knows what a signal means when."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from ultrachat_cli.chat import slash
from ultrachat_cli.chat.session import Session
from ultrachat_cli.commands.chat_line import Terminal
from ultrachat_cli.commands.chat_once import Job, opened
from ultrachat_cli.errors import INTERRUPTED, UltraError


async def run(job: Job) -> bool:
    """The whole chat; False when a signal ended it. What was said is kept either way."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    state = job.state if job.config.keep else None
    terminal = Terminal(plain=job.config.plain, quiet=job.quiet, verbose=job.verbose, state=state)
    loop.add_signal_handler(signal.SIGINT, _give_up)
    try:
        async with opened(job, terminal, keep=True) as session:
            loop.remove_signal_handler(signal.SIGINT)
            context = f", context of {session.asker.context:,} tokens" if session.asker.context else ""
            terminal.say(f"{session.endpoint.model}{context} · /help lists the commands")
            if job.load:
                slash.loaded(session)
            await _talk(session, terminal)
            if kept := session.keep():
                terminal.say(f"kept in {kept}; ultrachat chat --load last goes on with it")
    except asyncio.CancelledError:
        return False
    return True


def _give_up() -> None:
    """While a model is opened, in a thread that would have to be waited for: nothing was said yet."""
    print(flush=True)
    os._exit(INTERRUPTED)


async def _talk(session: Session, terminal: Terminal) -> None:
    """Read, do, show, until the user leaves."""
    terminal.multi = lambda: session.multi
    while (text := await terminal.read()) is not None:
        if not text:
            continue
        try:
            await _interruptible(slash.run(session, text), session)
        except slash.Leave:
            return
        except UltraError as error:
            terminal.warn(error)
        terminal.gap()


async def _interruptible(job: Coroutine[Any, Any, None], session: Session) -> None:
    """Ctrl-C ends the answer under way and keeps what came, or else whatever else is being done."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(job)
    given_up = False

    def stop() -> None:
        nonlocal given_up
        if session.asker.busy:
            session.stop()
        else:
            given_up = True
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        await task
    except asyncio.CancelledError:
        task.cancel()
        if not given_up:
            raise
        session.screen.say("stopped")
    finally:
        loop.remove_signal_handler(signal.SIGINT)
