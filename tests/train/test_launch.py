"""What is said of processes that did not end well."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ultrachat_cli.errors import INCOMPLETE, INTERRUPTED, UltraError
from ultrachat_cli.train import launch


def told(codes: dict[int, int], later: tuple[int, ...] = ()) -> None:
    """What `launch.run` makes of exit codes by rank, all found at the same moment but those found `later`."""
    failures = {
        rank: SimpleNamespace(exitcode=code, timestamp=10 * (rank in later), local_rank=rank)
        for rank, code in codes.items()
    }
    launch._told(Failed(failures), SimpleNamespace(stderrs={}, stdouts={}))


class Failed(Exception):
    """As torch's ChildFailedError."""

    def __init__(self, failures: dict[int, SimpleNamespace]) -> None:
        self.failures = failures


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        ({0: INTERRUPTED, 1: -9}, "process 1 was killed by signal 9"),  # the launcher then ended the first one
        ({0: -15, 1: -6}, "process 1 was killed by signal 6"),
        ({0: 1, 1: -9}, "process 1 was killed by signal 9"),
        ({1: 7, 2: -15}, "process 1 ended with 7"),
        ({0: INTERRUPTED, 1: 7}, "process 1 ended with 7"),  # the first one saved, on being asked to end
    ],
)
def test_the_process_that_failed_is_named(codes: dict[int, int], says: str) -> None:
    with pytest.raises(UltraError, match=says):
        told(codes)


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ({0: INTERRUPTED, 1: INTERRUPTED}, INTERRUPTED),
        ({0: 1, 1: INTERRUPTED}, 1),
        ({0: INTERRUPTED, 1: -15}, INTERRUPTED),
        ({0: INCOMPLETE, 1: INCOMPLETE}, INCOMPLETE),
        ({0: 2, 1: -15}, 2),
    ],
)
def test_what_the_first_process_has_said_itself_is_not_said_again(codes: dict[int, int], code: int) -> None:
    with pytest.raises(launch.Stopped) as stopped:
        told(codes)
    assert stopped.value.code == code


def test_whom_the_launcher_killed_for_not_ending_is_not_the_cause() -> None:
    with pytest.raises(UltraError, match="process 1 ended with 7"):
        told({0: -9, 1: 7}, later=(0,))
    with pytest.raises(launch.Stopped) as stopped:
        told({0: INTERRUPTED, 1: -9}, later=(1,))
    assert stopped.value.code == INTERRUPTED
