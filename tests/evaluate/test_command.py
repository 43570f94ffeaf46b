"""`ultrachat eval` as people run it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.commands.checks import manifest, refused, weights_or_skip, when_answered
from tests.conftest import Answer, Serve, Ultrachat, Web, completion
from tests.evaluate import judges
from tests.evaluate.judges import posts
from ultrachat_cli.evaluate.plan import SUITES
from ultrachat_cli.evaluate.suites.questions import load
from ultrachat_cli.progress import Silent

Serving = Callable[[Answer], Web]
FILES = ("--outputs", "mine.json", "--reference", "theirs.json")


def test_from_answers_to_a_report(ultrachat: Ultrachat, web: Serving) -> None:
    seen = web(judges.judging(judges.longer))
    judges.pair(ultrachat.folder)
    judge = ("--judge", "test-model", "--judge-base-url", seen.url, "--judge-api-key-env", "JUDGE_KEY", "-o", "run")
    env = {"JUDGE_KEY": "sk-very-secret"}
    result = ultrachat("eval", "curated", *FILES, *judge, "--both-orders", env=env)
    assert result.code == 0, result.stderr
    for words in ("win rate", "50.00", "4 wins, 4 draws, 4 losses", "100.0% of 8 verdicts stand", "part 1"):
        assert words in result.stdout, result.stdout
    run = ultrachat.folder / "run"
    for path in run.iterdir():
        assert b"sk-very-secret" not in path.read_bytes(), path
    told = manifest(run)
    assert told["identity"]["judge"]["name"] == "test-model"
    assert told["judge"]["sampling"] == {"max_tokens": 256, "temperature": 0.0}
    assert set(told["prompts"]) == {"pairwise-score"}
    assert told["dataset"]["sha256"]
    assert "is_switched_outputs" in told["order_rule"]
    assert told["totals"]["requests"] == 16
    before = len(posts(seen))
    again = ultrachat("eval", "curated", *FILES, *judge, "--both-orders", "--json", env=env)
    assert (again.json["requests"], again.json["repeated"], len(posts(seen))) == (0, 16, before)
    assert again.json["metrics"]["win_rate"] == 50.0
    assert again.json["position_consistency"]["same"] == 8

    stored = ultrachat("eval", "curated", "--annotations", "run/annotations.json", "--json", "-o", "again")
    assert stored.code == 0, stored.stderr
    assert stored.json["metrics"] == again.json["metrics"]
    assert (ultrachat.folder / "again" / "report.html").exists()
    assert len(posts(seen)) == before

    agreed = ultrachat(
        "eval", "curated", "--annotations", "run/annotations.json", "--agreement", "again.json", "--json", "-o", "x"
    )
    refused(agreed, 2, "--agreement: again.json: no such file")
    compared = ultrachat("eval", "compare", "run", "run/annotations.json", "--json").json
    assert (compared["overall"]["difference"], compared["overall"]["n"]) == (0.0, 12)
    table = ultrachat("eval", "leaderboard", "run", "run/annotations.json", "-o", "board.csv")
    assert "mine (run)" in table.stdout
    assert (ultrachat.folder / "board.csv").read_text().startswith(",win_rate,standard_error,")
    html = ultrachat("eval", "leaderboard", "board.csv", "-o", "board.html", "--json").json
    assert len(html["entries"]) == 2
    assert (ultrachat.folder / "board.html").exists()
    refused(ultrachat("eval", "leaderboard", "run", "-o", "board.txt"), 2, ".csv or .html")
    refused(ultrachat("eval", "compare", "run", "none"), 2, "no annotations.json here")


def test_kill_9_and_ctrl_c_lose_only_what_is_in_flight(ultrachat: Ultrachat, server: Serve) -> None:
    script = ultrachat.folder / "script.jsonl"
    script.write_bytes(orjson.dumps({"match": "", "reply": judges.scores(8, 6)}))
    slow = server(delay=0.05, script=str(script))
    judges.pair(ultrachat.folder, 90)
    command = ("eval", "evol", *FILES, "--judge", "test-model", "--judge-base-url", slow.url, "-o", "run", "-j", "4")
    started = ultrachat.start(*command)
    assert when_answered(slow, 10, started)
    started.kill()
    started = ultrachat.start(*command)
    assert when_answered(slow, 25, started)
    result, _ = started.send(signal.SIGINT)
    assert result.code == 130, result
    assert "the same command goes on" in result.stderr
    assert not (ultrachat.folder / "run" / "annotations.json").exists()
    result = ultrachat(*command)
    assert result.code == 0, result.stderr
    stats = slow.stats()
    assert stats["repeats"] <= 4, "only what was in flight at the kill is asked twice"
    assert stats["answered"] <= 60 + 8
    assert ultrachat(*command, "--json").json["requests"] == 0


def test_instructions_that_do_not_match_stop_the_run(ultrachat: Ultrachat, web: Serving) -> None:
    seen = web(judges.judging(judges.longer))
    judges.pair(ultrachat.folder, 6)
    judges.outputs(ultrachat.folder / "theirs.json", ["So."] * 4, "theirs")
    command = ("eval", "curated", *FILES, "--judge", "test-model", "--judge-base-url", seen.url, "-o", "run")
    result = ultrachat(*command)
    refused(result, 2, "4 of 4 have an answer in it", "2 answers are to none", "Question 4?", "Question 5?",
            "--allow-missing")  # fmt: skip
    assert posts(seen) == []
    result = ultrachat(*command, "--allow-missing", "--json")
    assert (result.code, result.json["metrics"]["n_total"], result.json["left_out"]) == (0, 4, 0), result.stderr
    judges.outputs(ultrachat.folder / "mine.json", [f"Yes {n}." for n in range(3)], "mine")
    judges.outputs(ultrachat.folder / "theirs.json", ["So."] * 26, "theirs")
    refused(ultrachat(*command, "--restart"), 2, "3 of 26 have an answer in it", "23 questions have none", "and 3 more")
    result = ultrachat(*command, "--restart", "--allow-missing")
    assert result.code == 0, result.stderr
    assert "23 questions that a file has no answer to" in result.stdout
    assert "23 questions have no answer in a file" in (ultrachat.folder / "run" / "report.html").read_text()


def test_too_much_that_cannot_be_read_is_a_failure(ultrachat: Ultrachat, web: Serving) -> None:
    seen = web(judges.judging(lambda *_: "I cannot say."))
    judges.pair(ultrachat.folder, 6)
    result = ultrachat("eval", "curated", *FILES, "--judge", "x", "--judge-base-url", seen.url, "-o", "run")
    assert result.code == 1
    assert "100.0% of the verdicts could not be read (at most 5% may be)" in result.stderr
    assert (ultrachat.folder / "run" / "annotations.json").exists()


def test_faults_are_told_before_anybody_is_asked(ultrachat: Ultrachat) -> None:
    judges.pair(ultrachat.folder, 2)
    judge = ("--judge", "openai:x")
    for words, code, says in (
        (("curated", "--dataset", "demo"), 2, "--model or --outputs"),
        (("curated", *FILES), 2, "--judge: who judges?"),
        (("curated", "--outputs", "none.json", *judge), 2, "none.json: no such file"),
        (("curated", *FILES, *judge, "--preset", "single_score"), 2, "did you mean 'single-score'?"),
        (("curated", *FILES, *judge), 2, "with --judge-api-key-env"),
        (("curated", *FILES, "--judge", "smolm2-135m"), 2, "did you mean 'smollm2-135m'?"),
        (("curated", *FILES, "--judge", "none"), 2, "add --judge-base-url"),
        (("curated", "--model", "openai:x", "--reference", "none", *judge), 2, "add --reference-base-url"),
        (("curated", "--outputs", ".", *judge), 2, "--outputs: .: a folder; name a file in it"),
        (("curated", *FILES, *judge, "--gamed-file", "x.csv"), 2, "goes with --length-controlled"),
        (("curated", *FILES, *judge, "--reward-model", "x"), 2, "goes with --best-of"),
        (("curated", *FILES, *judge, "--length-controlled"), 1, "pull alpaca_eval_gamed; licence: cc-by-nc-4.0) and "
         "give it with --gamed-file"),
        (("curated", *FILES, "--judge", "x", "--judge-base-url", "http://u:p@127.0.0.1:9/v1", "--judge-api-key-env",
          "HOME"), 2, "holds a user, and there is a key in HOME too"),
        (("curated", "--outputs", "mine.json", "--dataset", "demo", *judge), 2, "does not fit the questions of demo"),
        (("curated", "--model", "openai:x", "--dataset", "demo", *judge), 2, "--reference: with whom"),
        (("curated", "--model", "openai:x", "--dataset", "demo", *judge, "--best-of", "4"), 2, "--reward-model"),
        (("curated", "--model", "openai:x", "--reference", "none.json", *judge), 2, "none.json: no such file"),
        (("curated", "--annotations", "mine.json"), 1, "no 'output_1'"),
        (("curated", "--annotations", "mine.json", "--limit", "3", *judge), 2, "leave out --limit, --judge"),
        (("evol", "--model", "openai:x", "--dataset", "alpaca_eval", "--reference", "openai:y", *judge), 1,
         "data pull alpaca_eval; licence: cc-by-nc-4.0"),
    ):  # fmt: skip
        refused(ultrachat("eval", *words), code, says)
    assert not (ultrachat.folder / "runs").exists() or not list((ultrachat.folder / "runs").rglob("annotations.json"))


def test_a_dry_run_tells_requests_and_cost(ultrachat: Ultrachat) -> None:
    judges.pair(ultrachat.folder)
    command = ("eval", "curated", *FILES, "--judge", "openai:gpt-4o-mini", "--dry-run", "--json")
    refused(ultrachat("eval", "evol", "--annotations", "mine.json", "--dry-run"), 2, "nobody is asked")
    found = ultrachat(*command).json
    assert (found["calls"], found["roles"]["judge"]["calls"]) == (8, 8), "identical answers are asked about by nobody"
    role = found["roles"]["judge"]
    assert found["cost"] == pytest.approx((role["prompt_tokens"] * 0.15 + role["completion_tokens"] * 0.6) / 1e6)
    assert ultrachat(*command, "--both-orders").json["calls"] == 16
    models = ("--model", "openai:gpt-4o-mini", "--reference", "smollm2-135m", "--dataset", "demo")
    found = ultrachat("eval", "evol", *models, "--judge", "openai:gpt-4.1", "--dry-run", "--json").json
    assert {name: role["calls"] for name, role in found["roles"].items()} == {"model": 12, "reference": 12, "judge": 12}
    assert found["roles"]["reference"]["cost"] == 0.0
    assert sorted(path.name for path in ultrachat.folder.iterdir()) == ["mine.json", "theirs.json"]


def test_restart_sets_the_old_run_aside(ultrachat: Ultrachat, web: Serving) -> None:
    seen = web(lambda asked: (404, {}, b"") if asked.method == "GET" else completion(judges.scores(8, 8)))
    judges.pair(ultrachat.folder)
    url = seen.url.replace("http://", "http://user:secret-in-url@")
    command = ("eval", "curated", *FILES, "--judge", "x", "--judge-base-url", url, "-o", "run")
    assert ultrachat(*command).code == 0
    for path in (ultrachat.folder / "run").iterdir():
        assert b"secret-in-url" not in path.read_bytes(), path
    refused(ultrachat(*command, "--preset", "single-score"), 2, "preset: was", "--restart")
    assert ultrachat(*command, "--preset", "single-score", "--restart").code == 1, "it says no single score"
    (aside,) = (ultrachat.folder / "run").glob("before-*")
    assert (aside / "annotations.json").exists()


@pytest.mark.embedded
@pytest.mark.usefixtures("one_core")
@pytest.mark.slow
def test_the_embedded_model_answers_and_judges(ultrachat: Ultrachat) -> None:
    weights_or_skip()
    questions = load(SUITES["curated"], "demo", "", Silent()).questions
    rows = [{"instruction": question.instruction, "output": "I do not know."} for question in questions]
    (ultrachat.folder / "others.json").write_bytes(orjson.dumps(rows))
    command = (
        "eval", "curated", "--config", "demo", "--model", "smollm2-135m", "--reference", "others.json", "--limit", "2",
        "--set", "answers.max_tokens=24", "--both-orders", "--json", "-o", "run",
    )  # fmt: skip
    result = ultrachat(*command, timeout=300)
    assert result.code == 0, result.stderr
    assert (result.json["questions"], result.json["position_consistency"]["n"]) == (2, 2)
    assert "mean nothing" in result.json["warnings"][0]
    one_judged = ("eval", "evol", "--outputs", "run/model_outputs.json", "--dataset", "demo", "--limit", "2")
    single = (*one_judged, "--judge", "smollm2-135m", "--preset", "single-score", "--json", "-o", "single")
    judges_file = orjson.loads((ultrachat.folder / "run" / "model_outputs.json").read_bytes())
    assert len(judges_file) == 2
    result = ultrachat(*single, "--allow-missing", timeout=300)
    assert result.code == 0, result.stderr
    assert 1 <= result.json["scores"]["overall"]["mean"] <= 10
    assert Path(ultrachat.folder / "single" / "report.html").exists()
    assert ultrachat(*single, "--allow-missing", timeout=300).json["requests"] == 0
