"""The one error boundary: a broken pipe is silent only where it is stdout's."""

import subprocess
import sys

import pytest

MAIN = """
import signal, sys, time
from ultrachat_cli import cli
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
def app(**_):
    if sys.argv[1] == "other":
        raise BrokenPipeError("a worker's")
    time.sleep(0.2)
    print("x" * 100_000, flush=True)
cli.app = app
code = cli.main([])
sys.stdout = None
sys.exit(code)
"""


@pytest.mark.parametrize(("whose", "says"), [("stdout", ""), ("other", "BrokenPipeError: a worker's")])
def test_a_broken_pipe(whose: str, says: str) -> None:
    command = [sys.executable, "-c", MAIN, whose]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if whose == "stdout":
            process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(30) == 1
    assert errors.strip().endswith(says)
    assert ("Traceback" in errors) == bool(says)
