"""`ultrachat score` with a reward model: order, resuming, bad lines, shapes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.commands.checks import refused, rows, when
from tests.conftest import Ultrachat
from tests.reward import tiny
from ultrachat_cli.errors import ConfigError, RunLocked
from ultrachat_cli.models.reward_model import RewardModel
from ultrachat_cli.models.specs import resolve
from ultrachat_cli.reward import score
from ultrachat_cli.reward import work as works
from ultrachat_cli.reward.settings import ScoreConfig

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.ultrarm(tmp_path_factory.mktemp("rm") / "rm")


def dialogue(n: int) -> dict[str, Any]:
    turns = [(f"Why {n}, {k}?", f"Because {'of that ' * (n * 7 % 11)}{k}.") for k in range(n % 3 + 1)]
    return {"id": str(n), "data": [text for turn in turns for text in turn], "meta": {"sector": "world"}}


def write(path: Path, records: list[Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def config(model: Path, *inputs: Path, output: Path, **more: Any) -> ScoreConfig:
    return ScoreConfig(model=str(model), inputs=list(inputs), output=output, device="cpu", **more)


def expected(model: Path, records: list[dict[str, Any]]) -> list[list[float]]:
    scorer = RewardModel.open(resolve(str(model)), device="cpu", batch_tokens=1)
    found = []
    for record in records:
        spoken = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(record["data"])]
        found.append([scorer.rewards([spoken[: n + 2]])[0] for n in range(0, len(spoken), 2)])
    return found


def test_rewards_stand_in_meta_in_the_order_of_the_lines(model: Path, tmp_path: Path) -> None:
    records = [dialogue(n) for n in range(25)]
    report = score.run(config(model, write(tmp_path / "in.jsonl", records), output=tmp_path / "out.jsonl", turns="all"))
    found = rows(tmp_path / "out.jsonl")
    wanted = expected(model, records)
    assert [row["id"] for row in found] == [row["id"] for row in records]
    assert [row["data"] for row in found] == [row["data"] for row in records]
    for row, rewards in zip(found, wanted, strict=True):
        assert row["meta"]["rewards"] == pytest.approx(rewards, abs=1e-4)
        assert row["meta"]["reward"] == row["meta"]["rewards"][-1]
        assert (row["meta"]["reward_model"], row["meta"]["sector"]) == (str(model), "world")
    every = [reward for rewards in wanted for reward in rewards]
    assert len({round(reward, 3) for reward in every}) > 20
    assert report.figures()["mean"] == pytest.approx(sum(every) / len(every), abs=1e-4)
    assert (report.complete, report.io.written, len(report.values)) == (True, 25, len(every))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.jsonl", "out.jsonl"]


def test_the_final_answer_alone_replaces_what_was_there(model: Path, tmp_path: Path) -> None:
    record = dialogue(2) | {"meta": {"reward": 99.0, "rewards": [1, 2, 3], "reward_model": "another"}}
    score.run(config(model, write(tmp_path / "in.jsonl", [record]), output=tmp_path / "out.jsonl"))
    meta = rows(tmp_path / "out.jsonl")[0]["meta"]
    assert meta == {"reward": pytest.approx(expected(model, [record])[0][-1], abs=1e-4), "reward_model": str(model)}


def test_other_shapes_stay_as_they_came(model: Path, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "So."}]  # fmt: skip
    records = [
        {"messages": messages},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
    ]
    output = tmp_path / "out.jsonl.gz"
    score.run(config(model, write(tmp_path / "in.jsonl", records), output=output))
    with gzip.open(output) as packed:
        found = [orjson.loads(line) for line in packed]
    assert found[0]["messages"] == messages
    assert "conversations" in found[1]
    # UltraRM reads no system prompt
    assert found[0]["meta"]["reward"] == pytest.approx(found[1]["meta"]["reward"], abs=1e-4)


def test_what_cannot_be_scored_is_set_aside(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [dialogue(0), {"id": "x", "data": ["alone"]}, dialogue(1)])
    source.write_bytes(source.read_bytes() + b"{torn\n")
    watched = tiny.Watched()
    report = score.run(config(model, source, output=tmp_path / "out.jsonl"), watched)
    assert (watched.stages[0], watched.done[0]) == (("score", 2, "answers"), 2)
    assert watched.note.endswith("/s")
    assert [line.split(":")[1] for line in watched.said] == ["2", "4"]
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["0", "1"]
    aside = rows(tmp_path / "out.rejected.jsonl")
    assert [(row["line"], row["reason"].split(" (")[0]) for row in aside] == [
        (2, "no answer of the assistant to judge"), (4, "not JSON"),
    ]  # fmt: skip
    assert not report.complete


def test_a_format_that_cannot_hold_a_dialogue(tmp_path: Path) -> None:
    folder = tiny.classifier(tmp_path / "rm")
    told = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    told["chat_template"] = refusing + told["chat_template"]
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(told))
    system = {"id": "s", "data": ["Why?", "So."], "meta": {"system": "Be brief."}}
    report = score.run(
        config(folder, write(tmp_path / "in.jsonl", [system, dialogue(1)]), output=tmp_path / "out.jsonl")
    )
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["1"]
    assert "no system role" in rows(tmp_path / "out.rejected.jsonl")[0]["reason"]
    assert report.io.bad_lines == 1


def test_no_dialogues_at_all(model: Path, tmp_path: Path) -> None:
    report = score.run(config(model, write(tmp_path / "in.jsonl", []), output=tmp_path / "out.jsonl"))
    assert (report.complete, report.figures(), (tmp_path / "out.jsonl").read_bytes()) == (True, {}, b"")


def test_long_dialogues_are_counted(model: Path, tmp_path: Path) -> None:
    long = {"id": "long", "data": ["Why?", "x" * 400] * 2}
    report = score.run(config(model, write(tmp_path / "in.jsonl", [long, dialogue(0)]), output=tmp_path / "out.jsonl"))
    assert report.truncated == 1
    assert any(name == "truncated" for name, _ in report.rows())


def test_killed_runs_go_on_and_end_the_same(model: Path, ultrachat: Ultrachat) -> None:
    folder = ultrachat.folder
    source = write(folder / "in.jsonl", [dialogue(n) for n in range(180)])
    options: dict[str, Any] = {"turns": "all", "batch_tokens": 300}
    whole = score.run(config(model, source, output=folder / "whole.jsonl", **options))
    command = ("score", source, "-m", model, "-o", folder / "out.jsonl", "--turns", "all", "--batch-tokens", "300")
    kept = folder / "out.jsonl.work" / "rewards"
    started = ultrachat.start(*command, "--device", "cpu")
    assert when(lambda: kept.exists() and kept.read_bytes().count(b"\n") > 5, started, 60)
    started.kill()
    assert not (folder / "out.jsonl").exists()
    kept.write_bytes(kept.read_bytes()[:-3])  # torn as by a full disk
    ours = config(model, source, output=folder / "out.jsonl", **options)
    lock = works.Work(folder / "out.jsonl.work")
    with pytest.raises(RunLocked, match="in use by another process"):
        score.run(ours)
    lock.close(done=False)
    resumed = score.run(ours)
    assert 0 < resumed.tokens < whole.tokens
    assert (folder / "out.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert resumed.values == whole.values
    assert not kept.parent.exists()


def test_finished_windows_are_not_read_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_WINDOW", 8)
    source = write(tmp_path / "in.jsonl", [dialogue(n) for n in range(30)])
    wanted = config(model, source, output=tmp_path / "out.jsonl", batch_tokens=200)
    score.run(wanted)
    whole = (tmp_path / "out.jsonl").read_bytes()

    run, calls = RewardModel.run, 0

    def fails_later(self: RewardModel, batch: Any) -> list[tuple[int, float]]:
        nonlocal calls
        calls += 1
        if calls > 9:
            raise KeyboardInterrupt
        return run(self, batch)

    (tmp_path / "out.jsonl").unlink()
    monkeypatch.setattr(RewardModel, "run", fails_later)
    with pytest.raises(KeyboardInterrupt):
        score.run(wanted)
    windows = {window for window, _ in rows(tmp_path / "out.jsonl.work/rewards")}
    assert len(windows) > 1
    monkeypatch.setattr(RewardModel, "run", run)
    watched = tiny.Watched()
    score.run(wanted, watched)
    assert (watched.stages[0], watched.done[0]) == (("score", 30, "answers"), 30)
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_work_for_other_settings_is_not_used(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [dialogue(n) for n in range(3)])
    work = works.Work(tmp_path / "out.jsonl.work")
    work.begin(["another run"])
    work.append(0, [works.Scored(0, 1, 77.0, False)])
    work.close(done=False)
    score.run(config(model, source, output=tmp_path / "out.jsonl"))
    assert all(row["meta"]["reward"] != 77.0 for row in rows(tmp_path / "out.jsonl"))


def test_faults_are_told_before_a_model_is_loaded(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [dialogue(0)])
    out = tmp_path / "out.jsonl"
    for wrong, says in (
        (ScoreConfig(output=out, inputs=[source]), "--model or --judge"),
        (ScoreConfig(model="m", judge="j", output=out, inputs=[source]), "--model or --judge"),
        (ScoreConfig(model="m", base_url="http://x/v1", output=out, inputs=[source]), "go with --judge"),
        (ScoreConfig(model="ultrarm-13", output=out, inputs=[source]), "did you mean 'ultrarm-13b'"),
        (ScoreConfig(model="ultralm-13b", output=out, inputs=[source]), "is a chat model, not a reward model"),
        (ScoreConfig(model="smollm2-135m", output=out, inputs=[source]), "is a chat model, not a reward model"),
        (ScoreConfig(model="openai:gpt-4o", output=out, inputs=[source]), "not a reward model"),
        (ScoreConfig(model=str(model), output=source, inputs=[source]), "is one of the inputs"),
    ):
        with pytest.raises(ConfigError, match=says):
            score.run(wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_command(model: Path, ultrachat: Ultrachat) -> None:
    source = write(ultrachat.folder / "in.jsonl", [dialogue(n) for n in range(4)])
    bad = ultrachat("score", source, "-m", model, "-o", "out.jsonl", "--dtype", "int8")
    refused(bad, 2, "--dtype")
    usage = ultrachat("score", "-", "-m", model, "-o", "-", "--device", "cpu", "--json", stdin=source)
    assert usage.code == 0, usage.stderr
    assert [orjson.loads(line)["id"] for line in usage.stdout.splitlines()] == ["0", "1", "2", "3"]
    assert '"answers": 4' in usage.stderr
