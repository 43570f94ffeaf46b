"""alpaca_eval's own functions, in a process of their own: it is slow to import and warns."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ultrachat_cli.evaluate.annotations import Annotation, annotation_record

needed = pytest.mark.skipif(
    importlib.util.find_spec("alpaca_eval") is None, reason="alpaca_eval is not installed (pip install --group dev)"
)
_START = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import pandas as pd
from alpaca_eval.metrics import glm_winrate, winrate
rows = pd.DataFrame(json.load(open(sys.argv[1])))
"""
_WIN_RATE = _START + "found = winrate.get_winrate(rows)"
_CONTROLLED = _START + (
    "glm_winrate.hf_hub_download = lambda **asked: sys.argv[2]\n"
    "found = glm_winrate.get_length_controlled_winrate(rows, save_weights_dir=None)"
)
_END = "\nprint(json.dumps({key: float(value) for key, value in found.items()}))"


def win_rate(annotations: Sequence[Annotation], folder: Path) -> dict[str, float]:
    return _run(_WIN_RATE, annotations, folder)


def length_controlled(annotations: Sequence[Annotation], gamed: Path, folder: Path) -> dict[str, float]:
    return _run(_CONTROLLED, annotations, folder, str(gamed))


def _run(script: str, annotations: Sequence[Annotation], folder: Path, *more: str) -> dict[str, float]:
    given = folder / "given.json"
    given.write_text(json.dumps([annotation_record(one) for one in annotations]), encoding="utf-8")
    command = [sys.executable, "-c", script + _END, str(given), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
