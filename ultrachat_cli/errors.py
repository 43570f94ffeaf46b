"""Every error a user can meet, as one tree.

UltraError                exit 1   something went wrong; message + what to do next
├── ConfigError           exit 2   nothing was started; lists every fault at once
├── DataError             exit 1   a file, and the line, that cannot be read
├── MissingExtra          exit 1   an optional package is not installed
├── RunLocked             exit 1   another process works in the same folder
├── BackendError          exit 1   a model did not answer (carries whether asking again can help)
│   └── CircuitOpen       exit 1   so many failures in a row that the run stops
└── BudgetSpent           exit 3   the next request could exceed --max-cost

Anything else that reaches `cli.main` is a bug of ours and shows a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DONE, FAILED, MISUSED, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: finished; stopped by an error; nothing was started; some records failed; interrupted."""


class UltraError(Exception):
    """What went wrong, and in `hint` what to do about it."""

    exit_code = FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(UltraError):
    """All faults of a configuration at once, each with the place it came from."""

    exit_code = MISUSED

    def __init__(self, faults: str | Sequence[str], hint: str = "") -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults), hint)


class DataError(UltraError):
    """A file that cannot be read as what it should be; `line` counts from 1, 0 for the file as a whole.

    `text` is the bad line, for the file in which such lines are kept.
    """

    def __init__(self, path: Path | str, line: int, reason: str, hint: str = "", *, text: str = "") -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}", hint)
        self.path, self.line, self.reason, self.text = path, line, reason, text

    def __reduce__(self) -> tuple[object, ...]:
        return DataError, (self.path, self.line, self.reason, self.hint), vars(self)  # from a worker to its parent


class MissingExtra(UltraError):
    """An optional package is needed: names the exact pip command."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}", f"pip install 'ultrachat-cli[{extra}]'")
        self._named = what, package, extra

    def __reduce__(self) -> tuple[object, ...]:
        return MissingExtra, self._named


class RunLocked(UltraError):
    """Another process holds the run folder."""


class BackendError(UltraError):
    """A model did not give a usable answer.

    `retryable`: the same request may succeed later; `retry_after`: seconds the server asked to wait;
    `status`: the HTTP status, 0 when there was none; `fatal`: no request to this endpoint can succeed.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        status: int = 0,
        fatal: bool = False,
        code: str = "",
    ) -> None:
        super().__init__(message, hint)
        self.retryable, self.retry_after, self.status = retryable, retry_after, status
        self.fatal, self.code = fatal, code


class CircuitOpen(BackendError):
    """The endpoint failed too often in a row: the run stops instead of burning through its plan."""


class BudgetSpent(UltraError):
    """The next request could exceed the allowed cost."""

    exit_code = INCOMPLETE
