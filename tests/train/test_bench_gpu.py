"""The GPU benchmark works before a GPU is there."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_the_self_check_passes(environ: dict[str, str]) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.bench.gpu", "--self-check"]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "| fsdp | tiny |" in done.stdout
