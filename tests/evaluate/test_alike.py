"""The same judge asked by alpaca_eval itself and by us: the same requests, the same verdicts, to the last digit."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import Answer, Asked, Reply, Web, completion
from tests.evaluate import judges, peer
from tests.evaluate.judges import posts
from ultrachat_cli.evaluate import run
from ultrachat_cli.evaluate.settings import EvalConfig

pytestmark = [pytest.mark.slow, peer.needed]
SCRIPT = """
import importlib.metadata, importlib.util, json, sys, types
if importlib.util.find_spec("pkg_resources") is None:  # gone since setuptools 81
    stub = sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
    stub.get_distribution, stub.DistributionNotFound = importlib.metadata.distribution, ImportError
from alpaca_eval import evaluate
mine, theirs, preset, out = sys.argv[1:]
board, annotations = evaluate(
    model_outputs=mine, reference_outputs=theirs, annotators_config=preset, is_return_instead_of_print=True,
    precomputed_leaderboard=None, is_overwrite_leaderboard=True, output_path=None, is_cache_leaderboard=False,
    fn_metric="get_winrate", caching_path=None,
)
told = {column: float(board[column].iloc[0]) for column in ("win_rate", "standard_error", "discrete_win_rate")}
verdicts = {row["instruction"]: row["preference"] for row in annotations}
json.dump({"board": told, "preferences": verdicts}, open(out, "w"))
"""


def judged_by(request: Asked) -> Reply:
    """An opinion that depends on all that is asked, as a ranking or as probabilities, whichever is wanted."""
    if request.method == "GET":
        return 404, {}, b""
    body = request.json
    digest = hashlib.sha256(shown(request)).digest()
    if body.get("logprobs"):
        reply = judges.with_logprobs("M", {"m": -0.01 - digest[0] / 50, "M": -0.01 - digest[1] / 50, "The": -9.0})
        return reply[0], reply[1], orjson.dumps(_whole(orjson.loads(reply[2])))
    one, two = (1, 2) if digest[0] % 2 else (2, 1)
    text = f"[{{'model': 'model_1', 'rank': {one}}}, {{'model': 'model_2', 'rank': {two}}}]"
    status, headers, told = completion(text)
    return status, headers, orjson.dumps(_whole(orjson.loads(told)))


def shown(request: Asked) -> bytes:
    """The messages, whatever the order of their fields."""
    return orjson.dumps([(message["role"], message["content"]) for message in request.json["messages"]])


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    """With the fields that the openai package expects."""
    usage = {"total_tokens": 12, **body["usage"]}
    return {"id": "x", "created": 1, "object": "chat.completion", **body, "usage": usage}


@pytest.mark.parametrize(
    ("preset", "judge"),
    [("alpaca_eval_gpt4", "gpt-4"), ("weighted_alpaca_eval_gpt4_turbo", "gpt-4-1106-preview")],
)
def test_verdicts_are_those_of_alpaca_eval(
    web: Callable[[Answer], Web], tmp_path: Path, preset: str, judge: str
) -> None:
    site = web(judged_by)
    mine, theirs = judges.pair(tmp_path, 30)
    out = tmp_path / "out.json"
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": site.url,
        "HF_HUB_OFFLINE": "1", "IS_ALPACA_EVAL_2": "False",
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, str(mine), str(theirs), preset, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = orjson.loads(out.read_bytes())
    asked = {shown(request) for request in posts(site)}
    site.asked.clear()

    config = EvalConfig(
        suite="alpaca", outputs=mine, reference=str(theirs), judge=judge, judge_base_url=site.url, preset=preset,
        output=tmp_path / "run",
    )  # fmt: skip
    report = asyncio.run(run.run(config, {}))
    own = {one.instruction: one.preference for one in report.annotations}
    assert own == pytest.approx(found["preferences"], abs=1e-12)
    assert len(set(own.values())) > 2
    probes = {shown(request) for request in posts(site)} - asked
    assert len(probes) == (preset == "weighted_alpaca_eval_gpt4_turbo"), "the same prompts, to the character"
    assert report.metrics is not None
    for name, value in found["board"].items():
        assert math.isclose(getattr(report.metrics, name), value, abs_tol=1e-9), name
