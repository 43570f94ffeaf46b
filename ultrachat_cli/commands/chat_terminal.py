"""A chat with somebody at a terminal: the line editor, the keys, and what Ctrl-C means when."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from ultrachat_cli.chat import slash
from ultrachat_cli.chat.session import Session
from ultrachat_cli.chat.settings import ChatSampling
from ultrachat_cli.commands.chat_once import Job, opened
from ultrachat_cli.commands.chat_screen import Output
from ultrachat_cli.errors import UltraError
from ultrachat_cli.models import specs


class Terminal(Output):
    """A screen with somebody in front of it."""

    def __init__(self, *, plain: bool, quiet: bool, verbose: bool, state: Path) -> None:
        """`state`: the folder in which the history of lines is kept; only its owner can read it."""
        super().__init__(plain=plain, quiet=quiet, verbose=verbose, talking=True)
        self.multi: Callable[[], bool] = lambda: False
        self._armed = False
        self._editing: PromptSession[str] = PromptSession(
            message=self._mark,
            history=_history(state),
            multiline=True,
            prompt_continuation=lambda width, line, wrap: "· ".rjust(width),
            key_bindings=self._keys(),
            completer=_Slash(),
            complete_while_typing=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            reserve_space_for_menu=5,
            output=create_output(sys.stdout if self.terminal else sys.stderr),
        )

    def _mark(self) -> StyleAndTextTuples:
        return [("bold", "» " if self.multi() else "> ")]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)

        @keys.add("enter", filter=typing)
        def _(event: KeyPressEvent) -> None:
            self._new_line(event) if self.multi() else event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=typing)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle() if self.multi() else self._new_line(event)

        @keys.add("c-c", filter=typing)
        def _(event: KeyPressEvent) -> None:
            if self._armed and not event.current_buffer.text:
                event.app.exit(exception=EOFError)
                return
            self._armed = True
            event.app.exit(exception=KeyboardInterrupt)

        return keys

    @staticmethod
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    async def read(self) -> str | None:
        """The next message or command; None at the end. Ctrl-C clears the line, and twice in a row is the end."""
        while True:
            try:
                text = await self._editing.prompt_async(handle_sigint=False)
            except KeyboardInterrupt:
                self.say("Ctrl-C again, or Ctrl-D, to leave")
                continue
            except EOFError:
                return None
            self._armed = False
            return text.strip()

    async def write(self, text: str, *, editor: bool) -> str:
        """The text as changed on a line of its own, or in $VISUAL or $EDITOR."""
        if editor:
            return await asyncio.to_thread(_edited, text)
        try:
            return await self._editing.prompt_async(default=text, handle_sigint=False)
        except (KeyboardInterrupt, EOFError):
            return ""


async def run(job: Job) -> bool:
    """The whole chat; False when a signal ended it. What was said is kept either way."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    terminal = Terminal(plain=job.config.plain, quiet=job.quiet, verbose=job.verbose, state=job.state)
    try:
        async with opened(job, terminal, keep=True) as session:
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
        with _unheard_keys():
            await task
    except asyncio.CancelledError:
        task.cancel()
        if not given_up:
            raise
        session.screen.say("stopped")
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _unheard_keys() -> Iterator[None]:
    """Keys pressed while an answer comes do not show up in it; they are there for the next line."""
    import termios

    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, ValueError, OSError):
        yield
        return
    silent = [*before]
    silent[3] = before[3] & ~termios.ECHO
    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


def _edited(text: str) -> str:
    """What an editor makes of the text."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="ultrachat-") as folder:
        file = Path(folder, "message.md")
        file.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(command), str(file)], check=False)
        except OSError as error:
            hint = "set EDITOR to an editor that is there"
            raise UltraError(f"the editor {command} cannot be started: {error}", hint) from error
        if done.returncode:
            raise UltraError(f"the editor {command} ended with exit code {done.returncode}; nothing is sent")
        return file.read_text(encoding="utf-8")


def _history(state: Path) -> History:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = state / "chat-history"
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()  # a chat without a home folder is a chat all the same
    return FileHistory(path)


class _Slash(Completer):
    """Commands, and what can follow them."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//") or "\n" in text:
            return
        name, space, rest = text[1:].partition(" ")
        if not space:
            for known, command in slash.COMMANDS.items():
                if known.startswith(name):
                    yield Completion(
                        known, -len(name), display=f"/{known} {command.arguments}", display_meta=command.about
                    )
        elif name in ("load", "save", "export"):
            yield from self._paths.get_completions(Document(rest), complete_event)
        elif " " not in rest:
            for word in {"set": [*ChatSampling.model_fields, "best_of"], "model": _models(), "best": ["pick"]}.get(
                name, []
            ):
                if word.startswith(rest):
                    yield Completion(word, -len(rest))


def _models() -> list[str]:
    return [name for name, spec in specs.known().items() if spec.role == "chat"]
