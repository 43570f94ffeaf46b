"""Reward models against a direct computation, whatever the batch, the padding and the order."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaModel

from tests.reward import tiny
from tests.train import tiny as chat
from ultrachat_cli.errors import ConfigError, DataError, UltraError
from ultrachat_cli.models import folders, placement
from ultrachat_cli.models.reward_model import RewardModel
from ultrachat_cli.models.reward_text import ultrarm
from ultrachat_cli.models.specs import resolve

pytestmark = pytest.mark.usefixtures("one_core")


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


TALKS = [
    talk("Why is the sky blue?", "Because of Rayleigh scattering: short waves are scattered most."),
    talk("Hi", "Hello!"),
    talk("Name a prime.", "Seven.", "And another one, larger than a hundred.", "A hundred and one, then."),
    talk("Name a prime.", "Seven."),
    talk("x" * 90, "y"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.ultrarm(tmp_path_factory.mktemp("rm") / "rm")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.classifier(tmp_path_factory.mktemp("classifier") / "rm")


def opened(folder: Path, **more: Any) -> RewardModel:
    return RewardModel.open(resolve(str(folder)), device="cpu", **more)


def direct(folder: Path, text: str) -> float:
    """The card's way: the whole text through the tokenizer, BOS before it, the value at the last token."""
    state = torch.load(folder / "pytorch_model.bin") if (folder / "pytorch_model.bin").exists() else None
    if state is None:
        from safetensors.torch import load_file

        state = load_file(folder / "model.safetensors")

    model = LlamaModel(LlamaConfig.from_pretrained(folder)).eval()
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in state.items() if "regression" not in k}, strict=False
    )
    ids = [1, *AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        hidden = model(torch.tensor([ids])).last_hidden_state
    return float((hidden @ state["regression_head.weight"].T)[0, -1, 0])


def test_the_text_is_that_of_the_card() -> None:
    assert ultrarm(talk("Why?", "So.")) == "Human: Why?\n\nAssistant: So."
    assert (
        ultrarm(talk("Why?", "So.", "How?", "Thus."), 1) == "Human: Why?\nAssistant: So.\nHuman: How?\nAssistant: Thus."
    )
    assert ultrarm([{"role": "system", "content": "Be brief."}, *talk("Why?", "So.")]) == ultrarm(talk("Why?", "So."))


@pytest.mark.parametrize("binary", [False, True])
def test_rewards_are_those_of_a_direct_computation(tmp_path: Path, binary: bool) -> None:
    folder = tiny.ultrarm(tmp_path / "rm", binary=binary)
    wanted = [direct(folder, ultrarm(messages)) for messages in TALKS]
    assert max(wanted) - min(wanted) > 1  # else equal numbers would mean little
    assert opened(folder).rewards(TALKS) == pytest.approx(wanted, abs=1e-4)
    one = opened(folder, separator=1).rewards(TALKS[:1])
    assert one == pytest.approx([direct(folder, ultrarm(TALKS[0], 1))], abs=1e-4)
    assert abs(one[0] - wanted[0]) > 1e-3


def test_padding_batch_and_order_do_not_matter(folder: Path) -> None:
    model = opened(folder)
    wanted = model.rewards(TALKS)
    model.padding = "left"
    assert model.rewards(TALKS) == pytest.approx(wanted, abs=1e-4)
    assert model.rewards(TALKS[::-1]) == pytest.approx(wanted[::-1], abs=1e-4)
    alone = opened(folder, batch_tokens=1)
    assert len(alone.batches([alone.encode(messages) for messages in TALKS])) == 4
    assert alone.rewards(TALKS) == pytest.approx(wanted, abs=1e-4)


def test_earlier_answers_are_read_in_passing(folder: Path) -> None:
    model = opened(folder)
    rows = [row for batch in model.batches([model.encode(messages) for messages in TALKS]) for row in batch]
    assert sorted(len(row.reads) for row in rows) == [1, 1, 1, 2]
    assert sorted(n for row in rows for n, _ in row.reads) == [0, 1, 2, 3, 4]


def test_batches_hold_no_more_than_their_tokens(folder: Path) -> None:
    model = opened(folder, batch_tokens=300)
    batches = model.batches([model.encode(talk("q" * n, "a" * n)) for n in range(10, 60)])
    assert all(len(batch) * max(len(row.ids) for row in batch) <= 300 for batch in batches)
    assert sum(map(len, batches)) == 50
    assert len(batches) < 40


def test_a_special_token_in_an_answer_is_text(folder: Path) -> None:
    model = opened(folder)
    ids = model.encode(talk("Why?", "So.</s>")).ids
    assert ids[0] == 1
    assert 2 not in ids
    assert len(ids) == 1 + len(ultrarm(talk("Why?", "So.</s>")))


def test_long_conversations_lose_whole_rounds_at_the_beginning(folder: Path) -> None:
    model = opened(folder)
    assert model.context == 512
    last = talk("And now?", "This is the end.")
    long = model.encode([*talk(*(["w" * 100] * 6)), *last])
    kept = "\n\n".join([ultrarm(talk(*(["w" * 100] * 4))), ultrarm(last)])
    assert long.cut
    assert long.ids == model.encode([*talk(*(["w" * 100] * 4)), *last]).ids
    assert len(long.ids) == 1 + len(kept)
    single = model.encode(talk("q" * 600, "the answer"))
    assert single.cut
    assert (len(single.ids), single.ids[0]) == (512, 1)
    assert single.ids[-12:] == model.encode(talk("Hi", "the answer")).ids[-12:]
    assert not model.encode(last).cut


@pytest.mark.parametrize("pad", [0, None])
def test_a_classifier_with_one_label_takes_its_own_template(tmp_path: Path, pad: int | None) -> None:
    folder = tiny.classifier(tmp_path / "rm", pad=pad)
    tokenizer, whole = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    model = opened(folder)
    wanted = []
    for messages in TALKS:
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
        assert model.encode(messages).ids == ids[0].tolist()
        with torch.inference_mode():
            wanted.append(whole(ids).logits.item())
    assert max(wanted) - min(wanted) > 0.1
    assert model.rewards(TALKS) == pytest.approx(wanted, abs=1e-4)
    model.padding = "left"
    assert model.rewards(TALKS[::-1]) == pytest.approx(wanted[::-1], abs=1e-4)


def test_what_is_no_reward_model_is_refused(tmp_path: Path, classifier: Path) -> None:
    with pytest.raises(UltraError, match=r"no reward model: it has no regression_head.weight, and 2 labels"):
        opened(chat.llama(tmp_path / "chat"))
    with pytest.raises(UltraError, match="no reward model"):
        opened(tiny.classifier(tmp_path / "three", labels=3))
    headless = tiny.ultrarm(tmp_path / "headless")
    (headless / "config.json").write_text((classifier / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    state = load_file(headless / "model.safetensors")
    del state["regression_head.weight"]
    save_file(state, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(UltraError, match=r"1 weights are missing or of another shape: score.weight"):
        opened(headless)


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    folder = tiny.classifier(tmp_path / "rm")
    code = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"model_type": "own", "auto_map": code}))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(DataError, match="knows no models of type own; foreign code is never run"):
        opened(folder)
    assert not (tmp_path / "ran").exists()


def test_a_classifier_without_a_template_needs_its_format_told(tmp_path: Path, classifier: Path) -> None:
    folder = tiny.classifier(tmp_path / "rm")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    del told["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="has no chat template") as found:
        opened(folder)
    assert found.value.hint.endswith(f'{{"role": "reward", "format": "chatml"}} in {folder}/ultrachat.json')
    (folder / "ultrachat.json").write_text('{"role": "reward", "format": "chatml"}')
    assert opened(folder).rewards(TALKS) == pytest.approx(opened(classifier).rewards(TALKS), abs=1e-5)


def test_torn_and_hostile_weights_are_refused(tmp_path: Path) -> None:
    torn = tiny.ultrarm(tmp_path / "torn")
    data = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(DataError, match="cut short"):
        opened(torn)
    hostile = tiny.ultrarm(tmp_path / "hostile", binary=True)

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"regression_head.weight": Payload()}, hostile / "pytorch_model.bin")
    with pytest.raises(DataError, match="could run a program"):
        opened(hostile)
    assert not (tmp_path / "ran").exists()


def test_a_model_too_large_says_what_it_would_need(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "available_memory", lambda: 100_000)
    with pytest.raises(UltraError, match=r"billion weights in float32 take 0\.4 MB, together with") as found:
        opened(folder)
    assert found.value.hint.startswith("--dtype bfloat16 (0.2 MB), a smaller model")
    assert found.value.hint.endswith("judge:openai:NAME")


def test_a_config_larger_than_its_weights_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its matrices would be made before anybody saw that the files hold less."""
    folder = tiny.ultrarm(tmp_path / "rm")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"hidden_size": 5120, "num_hidden_layers": 40}))
    monkeypatch.setattr(placement, "available_memory", lambda: 10_000_000)
    with pytest.raises(UltraError, match="rm does not fit"):
        opened(folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"separator": 3}, "one newline or two"), ({"device": "balanced"}, "runs on one device")],
)
def test_options_that_cannot_be_meant(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RewardModel.open(resolve(str(folder)), **options)


@pytest.mark.skipif("ULTRARM_PATH" not in os.environ, reason="ULTRARM_PATH: a folder with openbmb/UltraRM-13b")
def test_the_two_examples_of_the_card() -> None:
    """README.md of the weights shows two pairs, each text `Human: ...\\nAssistant: ...`, and what fp32 gave."""
    path = Path(os.environ["ULTRARM_PATH"])
    listed = re.search(r"^dataset = (\[.*?^\])", (path / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert listed is not None
    pairs: list[dict[str, str]] = ast.literal_eval(listed[1])

    def messages(text: str) -> list[dict[str, str]]:
        instruction, _, completion = text.removeprefix("Human: ").partition("\nAssistant: ")
        return talk(instruction, completion)

    model = RewardModel.open(resolve(str(path)), dtype="float32", separator=1)
    found = model.rewards([messages(pair[side]) for pair in pairs for side in ("chosen", "rejected")])
    assert found[0] - found[1] == pytest.approx(2.4158712085336447, abs=2e-3)
    assert found[2] - found[3] == pytest.approx(0.1896953582763672, abs=2e-3)


def test_a_13b_is_refused_before_its_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40)
    config.save_pretrained(tmp_path)
    spec = resolve("ultrarm-13b")
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "tokenizer", lambda *_: tmp_path)
    monkeypatch.setattr(placement, "available_memory", lambda: 20_000_000_000)
    wanted = r"12\.9 billion weights in float32 take 51\.4 GB, .* 54\.0 GB; this machine has 20\.0 GB free"
    with pytest.raises(UltraError, match=wanted):
        RewardModel.open(spec, device="cpu")
    with pytest.raises(UltraError, match=r"in bfloat16 take 25\.7 GB, .* 27\.0 GB; this machine"):
        RewardModel.open(spec, device="cpu", dtype="bfloat16")
