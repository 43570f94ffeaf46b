"""`ultrachat train` from outside: estimates, refusals, what it leaves."""

import json
import resource
import signal
from pathlib import Path

import pytest

from tests.commands.checks import refused
from tests.conftest import Ultrachat
from tests.train import runs, tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_core")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return runs.dialogues(tmp_path / "data.jsonl", 20)


def test_a_dry_run_tells_what_it_would_take(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    done = ultrachat(*runs.command(data, model, tmp_path / "out"), "--dry-run", "--json")
    assert done.code == 0, done
    told = json.loads(done.stdout)
    assert told["data"]["dialogues"] == 20
    assert told["steps"] == -(-3 * told["packed_rows"] // 8)
    assert told["accumulation"] == 8
    assert 0.5 < told["fill"] <= 1
    assert told["memory"]["total"] > 0
    assert not (tmp_path / "out/config.json").exists()


def test_a_dry_run_for_gpus_needs_none(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    arguments = runs.command(data, model, tmp_path / "out", launch__gpus=4)
    done = ultrachat(*arguments, "--dry-run")
    assert done.code == 0, done
    assert "4 process(es)" in done.stdout
    refused(ultrachat(*arguments), 2, "4 asked for, 0 found", "--gpus 0")


def test_what_a_run_leaves(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    """A model with its card, its template and its registry entry; metrics; TensorBoard; the report."""
    with data.open("a") as out:
        out.write('{"id": "torn", "data": ["a"\n')
    boards = tmp_path / "boards"
    done = ultrachat(
        *runs.command(data, model, tmp_path / "out", evaluate__validation=0.2, evaluate__samples=1),
        "--tensorboard", str(boards), "--json",
    )  # fmt: skip
    assert done.code == 3, done
    report = json.loads(done.stdout)
    assert report["data"]["bad_lines"] == 1
    assert f"{data}:21: not JSON" in done.stderr
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json",
        "README.md", "ultrachat.json", "metrics.jsonl", "manifest.json", "checkpoints", "rejected.jsonl",
    }  # fmt: skip
    assert json.loads((out / "ultrachat.json").read_text())["format"] == "chatml"
    assert "| loss |" in (out / "README.md").read_text()
    assert list(boards.glob("events.*"))
    rows = runs.rows(out)
    validated = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validated] == [0, report["steps"]]
    assert validated[-1]["validation_loss"] < validated[0]["validation_loss"]
    assert validated[0]["samples"][0]["user"]
    again = ultrachat(*runs.command(data, model, out))
    refused(again, 2, "holds a run", "--resume")
    told = ultrachat("models", "show", str(out), "--json")
    assert json.loads(told.stdout)["format"] == "chatml"


def test_adapters_learn_and_are_merged(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    done = ultrachat(*runs.command(data, model, tmp_path / "out", lora__rank=4))
    assert done.code == 0, done
    assert runs.losses(tmp_path / "out")[-1][1] < runs.losses(tmp_path / "out")[0][1]
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name].bfloat16())}
    assert changed
    assert all("_proj" in name for name in changed)


def test_a_full_disk_keeps_the_older_checkpoint(ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    small = tmp_path / "small"
    assert ultrachat(*runs.command(data, model, small, save__every=1, steps=2, save__keep=1)).code == 0
    size = max(path.stat().st_size for path in (small / "checkpoints").rglob("*") if path.is_file())

    def ignoring() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    kept = sorted(path.name for path in (small / "checkpoints").iterdir())
    done = ultrachat(
        *runs.command(data, model, small, save__every=1, steps=4, save__keep=1), "--resume", preexec=ignoring
    )
    assert done.code == 1, done
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (small / "checkpoints").glob("step-*[0-9]")) == kept


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"data": "none.jsonl"}, 2, ["none.jsonl: no such file"]),
        ({"model": "smollm-135m"}, 2, ["unknown model", "did you mean 'smollm2-135m'"]),
        ({"model": "ultralm-13b"}, 2, ["delta", "recover"]),
        ({"model": "ultrarm-13b"}, 2, ["reward model"]),
        ({"format": "chatlm"}, 2, ["unknown chat format"]),
        ({"format": "ultralm"}, 2, ["ends an answer with </s>"]),
        ({"batch": 3, "micro_batch": 2}, 2, ["multiple of 2"]),
        ({"optimizer.rate": 1}, 2, ["optimizer.rate: unknown key"]),
        ({"launch.nodes": 2}, 2, ["rdzv_endpoint"]),
        ({"engine": "bmtrain"}, 2, ["GPU"]),
        ({"optimizer.lr": 1e12}, 1, ["lower optimizer.lr"]),
    ],
)
def test_what_cannot_be_meant_is_refused(
    ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path, settings: dict[str, object], code: int,
    says: list[str],
) -> None:  # fmt: skip
    chosen = {"data": data, "model": model, **settings}
    done = ultrachat(*runs.command(output=tmp_path / "out", **{k.replace(".", "__"): v for k, v in chosen.items()}))  # type: ignore[arg-type]
    refused(done, code, *says)


def test_data_without_anything_to_learn(ultrachat: Ultrachat, model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    refused(ultrachat(*runs.command(empty, model, tmp_path / "out")), 1, "nothing to learn")


def test_a_tokenizer_of_another_model(ultrachat: Ultrachat, data: Path, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    refused(ultrachat(*runs.command(data, folder, tmp_path / "out")), 2, "belongs to another model")


def test_a_folder_that_cannot_be_written(ultrachat: Ultrachat, model: Path, data: Path) -> None:
    refused(ultrachat(*runs.command(data, model, Path("/proc/out"))), 1, "cannot be written")


def test_other_data_or_settings_are_no_continuation(
    ultrachat: Ultrachat, model: Path, data: Path, tmp_path: Path
) -> None:
    assert ultrachat(*runs.command(data, model, tmp_path / "out", steps=1)).code == 0
    other = ultrachat(*runs.command(data, model, tmp_path / "out", steps=2, seed=7), "--resume")
    refused(other, 2, "other data", "manifest.json")
