"""A real pseudo-terminal with the command in it, and what a person would see on its screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

from tests.conftest import COMMAND


class _Answering(pyte.HistoryScreen):
    """Tells the program where the cursor is, as terminals do."""

    answer: Callable[[str], None]

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Terminal:
    """`ultrachat chat ARGUMENTS`; `type` and `press` are the keyboard, `text` is the screen with its scroll-back."""

    def __init__(
        self, arguments: Sequence[str], environ: dict[str, str], folder: Path, *, rows: int = 40, columns: int = 90,
        command: Sequence[str] = (),
    ) -> None:  # fmt: skip
        env = {"TERM": "xterm-256color", **environ}
        env.pop("COLUMNS", None)
        program, *rest = command or [str(COMMAND), "chat", *arguments]
        self.child = pexpect.spawn(program, rest, env=env, cwd=str(folder), dimensions=(rows, columns), timeout=30)
        self.child.delaybeforesend = None
        self.screen = _Answering(columns, rows, history=10_000, ratio=0.5)
        self.screen.answer = lambda data: self.send(data.encode())
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.child.close(force=True)

    def send(self, data: bytes) -> None:
        self.child.send(data)

    def type(self, text: str) -> None:
        """A line, and Enter."""
        self.send(text.encode() + b"\r")

    def press(self, *keys: str) -> None:
        """c for Ctrl-C, and so on."""
        for key in keys:
            self.send(bytes([ord(key.upper()) & 0x1F]))

    def paste(self, text: str) -> None:
        """As terminals do it when the program asked for bracketed paste."""
        self.send(b"\x1b[200~" + text.encode() + b"\x1b[201~")

    def resize(self, rows: int, columns: int) -> None:
        """The kernel sends SIGWINCH."""
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def pump(self, seconds: float = 0.02) -> bool:
        """Take in what the program wrote; False at its end."""
        try:
            data = self.child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self.stream.feed(data)
        return True

    @property
    def lines(self) -> list[str]:
        """The scroll-back and the screen."""
        above = ["".join(row[n].data for n in range(self.screen.columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).strip("\n")

    def until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        end = time.monotonic() + timeout
        while not condition():
            alive = self.pump()
            assert condition() or (alive and time.monotonic() < end), f"it never came to that:\n{self.text}"

    def sees(self, *texts: str, timeout: float = 30) -> None:
        self.until(lambda: all(text in self.text for text in texts), timeout)

    def ready(self) -> None:
        """The editor waits for a line."""
        self.until(lambda: self.current == ">" or self.current == "»")

    @property
    def current(self) -> str:
        """The line the cursor is in."""
        return self.screen.display[self.screen.cursor.y].rstrip()

    def ends(self) -> int:
        """Wait for the end; the exit code."""
        self.until(lambda: not self.pump())
        self.child.wait()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)
