"""The line editor of a chat: keys, history, completion, and $EDITOR."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output as POutput
from prompt_toolkit.output import create_output
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.utils import is_dumb_terminal

from ultrachat_cli.chat import slash
from ultrachat_cli.chat.settings import ChatSampling
from ultrachat_cli.commands.chat_screen import Output
from ultrachat_cli.errors import UltraError
from ultrachat_cli.models import specs


class Terminal(Output):
    """A screen with somebody in front of it."""

    def __init__(self, *, plain: bool, quiet: bool, verbose: bool, state: Path | None) -> None:
        """`state`: the folder in which the history of lines is kept; only its owner can read it. None: nowhere."""
        super().__init__(plain=plain, quiet=quiet, verbose=verbose, talking=True)
        self.multi: Callable[[], bool] = lambda: False
        self._armed = False
        with create_app_session(output=_output(self.terminal)):
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
            )

    def _mark(self) -> StyleAndTextTuples:
        return [("bold", "» " if self.multi() else "> ")]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)

        @keys.add("enter", filter=typing)
        def _(event: KeyPressEvent) -> None:
            leaving = event.current_buffer.text.strip() in ("/multi", "/exit")
            self._new_line(event) if self.multi() and not leaving else event.current_buffer.validate_and_handle()

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
            return text.rstrip().lstrip("\n")

    @contextmanager
    def reply(self) -> Iterator[Callable[[str], None]]:
        """An answer under way, undisturbed by the keyboard."""
        with _unheard_keys(), super().reply() as show:
            yield show

    async def write(self, text: str, *, editor: bool) -> str:
        """The text as changed on a line of its own, or in $VISUAL or $EDITOR."""
        if editor:
            return await asyncio.to_thread(_edited, text)
        try:
            return await self._editing.prompt_async(default=text, handle_sigint=False)
        except (KeyboardInterrupt, EOFError):
            return ""


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


def _output(terminal: bool) -> POutput:
    """Where lines are edited: on stderr when answers go into a file, without any escape sequence on a dumb terminal."""
    out = sys.stdout if terminal else sys.stderr
    return PlainTextOutput(out) if is_dumb_terminal() else create_output(out)


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


def _history(state: Path | None) -> History:
    if state is None:
        return InMemoryHistory()
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
