"""alpaca_eval's own functions, in a process of their own: it is slow to import and warns."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ultrachat_cli.evaluate.annotations import Annotation, annotation_record

needed = pytest.mark.skipif(
    importlib.util.find_spec("alpaca_eval") is None, reason="alpaca_eval is not installed (pip install --group dev)"
)
_START = """
import importlib.util, json, logging, sys, types, warnings
if importlib.util.find_spec("pkg_resources") is None:  # gone since setuptools 81; not used by what is called here
    sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import pandas as pd
from alpaca_eval import utils
from alpaca_eval.metrics import glm_winrate, winrate
"""
_ROWS = "rows = pd.DataFrame(json.load(open(sys.argv[1])))\n"
_WIN_RATE = _START + _ROWS + "found = winrate.get_winrate(rows)"
_CONTROLLED = (
    _START
    + _ROWS
    + (
        "glm_winrate.hf_hub_download = lambda **asked: sys.argv[2]\n"
        "found = glm_winrate.get_length_controlled_winrate(rows, save_weights_dir=None)"
    )
)
_LOADED = _START + "found = utils.load_or_convert_to_dataframe(sys.argv[1]).reset_index().to_dict('records')"
_END = "\nprint(json.dumps(found, default=float))"


def win_rate(annotations: Sequence[Annotation], folder: Path) -> dict[str, float]:
    found: dict[str, float] = _run(_WIN_RATE, _given(annotations, folder))
    return found


def length_controlled(annotations: Sequence[Annotation], gamed: Path, folder: Path) -> dict[str, float]:
    found: dict[str, float] = _run(_CONTROLLED, _given(annotations, folder), str(gamed))
    return found


def loaded(path: Path) -> list[dict[str, Any]]:
    """The rows of a file as alpaca_eval reads it."""
    found: list[dict[str, Any]] = _run(_LOADED, str(path))
    return found


def _given(annotations: Sequence[Annotation], folder: Path) -> str:
    given = folder / "given.json"
    given.write_text(json.dumps([annotation_record(one) for one in annotations]), encoding="utf-8")
    return str(given)


def _run(script: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", script + _END, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
