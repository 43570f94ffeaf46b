"""Answers token by token, against transformers' own generation, with and without what is known of the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, MistralConfig, MistralForCausalLM

from tests.local.answers import FLOAT32, answer, ask, decoder, finish
from tests.train import tiny
from ultrachat_cli.errors import BackendError
from ultrachat_cli.models import text_tokens
from ultrachat_cli.models.causal_lm import load
from ultrachat_cli.models.decode import Decoder, Ended
from ultrachat_cli.models.drawing import Drawing

pytestmark = pytest.mark.usefixtures("one_core")
FIRST = list(range(5, 45))
WARM = Drawing(temperature=1.5, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def generated(model: Any, folder: Path, ids: list[int], count: int, **options: Any) -> str:
    found = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=count, **options)[0].tolist()
    backend = text_tokens.load(folder)
    special = set(backend.get_added_tokens_decoder())
    return str(backend.decode([token for token in found[len(ids) :] if token not in special]))


def test_greedy_answers_are_those_of_transformers(folder: Path, theirs: Any) -> None:
    heard = answer(decoder(folder), FIRST, max_tokens=60)
    assert heard.text == generated(theirs, folder, FIRST, 60)
    assert heard.ended == Ended("length", 40, 60, 0)


def test_a_long_prompt_is_computed_piece_by_piece(folder: Path, theirs: Any) -> None:
    ids = [3 + n * n % 200 for n in range(700)]
    assert answer(decoder(folder), ids, max_tokens=8).text == generated(theirs, folder, ids, 8)


def test_a_conversation_goes_on_from_what_is_known(folder: Path, theirs: Any) -> None:
    """The next turn, another answer, an edited turn: only what is new is computed, and nothing else comes of it."""
    ours = decoder(folder)
    first = answer(ours, FIRST, max_tokens=20)
    said = text_tokens.load(folder).encode(first.text).ids
    second = FIRST + said[:5] + list(range(100, 120))
    edited = FIRST[:30] + list(range(150, 170))
    for ids, known in ((second, 40), (second, len(second) - 1), (edited, 30), (edited[:31], 30), (second, 30)):
        heard = answer(ours, ids, max_tokens=25)
        assert heard.ended.cached >= known
        assert heard.text == generated(theirs, folder, ids, 25)


def test_only_what_is_new_goes_through_the_model(folder: Path) -> None:
    ours = decoder(folder)
    answer(ours, FIRST, max_tokens=5)
    seen: list[int] = []
    ours.model.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    answer(ours, [*FIRST, 60, 61, 62], max_tokens=2)
    assert seen == [3, 1]
    seen.clear()
    answer(ours, [*FIRST, 60, 61, 62], max_tokens=2)
    assert seen == [1, 1]


def test_other_conversations_are_left_alone(folder: Path) -> None:
    """Two that only begin alike each keep a cache of their own."""
    ours = decoder(folder)
    system = list(range(5, 25))
    one, other = system + list(range(100, 150)), system + list(range(150, 200))
    assert [answer(ours, ids, max_tokens=3).ended.cached for ids in (one, other, one, other)] == [0, 20, 69, 69]


def test_what_is_kept_stays_within_memory(folder: Path) -> None:
    ours = decoder(folder)
    ours.model.room = 2 * 300 * ours.model.kv_bytes  # half of it is for kept caches: one buffer of 256 tokens
    for start in (3, 60, 120):
        answer(ours, list(range(start, start + 50)), max_tokens=3)
    assert answer(ours, list(range(120, 170)), max_tokens=3).ended.cached == 49
    assert answer(ours, list(range(3, 53)), max_tokens=3).ended.cached == 0


def test_answers_in_a_batch_are_those_made_alone(folder: Path, theirs: Any) -> None:
    """Of different lengths, joining and leaving at different times, some of them drawn."""
    prompts = [list(range(3 + n, 10 + 13 * n)) for n in range(6)]
    alone = [answer(decoder(folder), ids, Drawing(temperature=1.2, seed=n)).text for n, ids in enumerate(prompts[:2])]
    ours = decoder(folder, slots=4)
    heard = [ask(ours, ids, max_tokens=10 + 7 * n) for n, ids in enumerate(prompts)]
    for _ in range(9):
        ours.step()
    drawn = [ask(ours, ids, Drawing(temperature=1.2, seed=n)) for n, ids in enumerate(prompts[:2])]
    finish(ours, *heard, *drawn)
    for n, (one, ids) in enumerate(zip(heard, prompts, strict=True)):
        assert one.text == generated(theirs, folder, ids, 10 + 7 * n)
    assert [one.text for one in drawn] == alone


def test_equal_prompts_are_computed_once(folder: Path) -> None:
    ours = decoder(folder)
    tokens: list[int] = []
    ours.model.model.register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["input_ids"].numel()), with_kwargs=True
    )
    heard = [ask(ours, FIRST, Drawing(temperature=1.5, seed=n), max_tokens=6) for n in range(5)]
    finish(ours, *heard)
    assert tokens[0] == 40
    assert tokens[-5:] == [5] * 5
    assert len({one.text for one in heard}) == 5
    assert [one.ended.cached for one in heard] == [0, 40, 40, 40, 40]


def test_the_same_seed_the_same_answer(folder: Path) -> None:
    ours = decoder(folder)
    first, again = (answer(ours, FIRST, WARM, max_tokens=30).text for _ in range(2))
    other = answer(ours, FIRST, Drawing(temperature=1.5, seed=8), max_tokens=30).text
    assert first == again != other


def test_an_end_token_ends_and_is_not_shown(folder: Path, theirs: Any) -> None:
    ids = next(
        ids for ids in (list(range(n, n + 9)) for n in range(3, 200))
        if 2 in theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40)[0, 12:].tolist()
    )  # fmt: skip
    heard = answer(decoder(folder), ids, max_tokens=40)
    assert heard.ended.finish == "stop"
    assert heard.ended.completion < 40
    assert "<|im_end|>" not in heard.text
    own = answer(decoder(folder), FIRST, max_tokens=40, ends=frozenset(range(3, 300)))
    assert (own.text, own.ended.finish, own.ended.completion) == ("", "stop", 1)


def test_a_stop_string_ends_and_is_not_shown(folder: Path) -> None:
    whole = answer(decoder(folder), FIRST, max_tokens=40).text
    stop = whole[20:23]
    heard = answer(decoder(folder), FIRST, max_tokens=40, stops=(stop, "never said"))
    assert heard.text == whole[: whole.index(stop)]
    assert heard.ended.finish == "stop"
    assert heard.ended.completion < 40


def test_an_answer_ends_where_the_context_does(folder: Path) -> None:
    ours = decoder(folder)
    ours.model.context = 50
    assert answer(ours, FIRST).ended == Ended("length", 40, 10, 0)


def test_who_leaves_is_not_answered_further(folder: Path) -> None:
    ours = decoder(folder)
    gone, staying, waiting = (ask(ours, list(range(3, 20 + n)), max_tokens=30) for n in range(3))
    for _ in range(6):
        ours.step()
    before = len(gone.events)
    gone.request.left = waiting.request.left = True
    finish(ours, staying)
    assert 0 < before == len(gone.events) < 30
    assert staying.ended.completion == 30


def test_a_long_prompt_can_be_given_up_half_way(folder: Path) -> None:
    ours = decoder(folder)
    ids = [3 + n * n % 200 for n in range(900)]
    gone = ask(ours, ids)
    ours.step()
    gone.request.left = True
    ours.step()
    assert ours.idle
    assert not gone.events
    assert answer(ours, ids, max_tokens=2).ended.cached == 256


def test_an_error_reaches_those_under_way_and_nobody_else(folder: Path, theirs: Any) -> None:
    ours = decoder(folder)
    broken = [ask(ours, list(range(3, 20 + n)), max_tokens=30) for n in range(2)]
    for _ in range(4):
        ours.step()
    later = ask(ours, FIRST, max_tokens=10)
    error = BackendError("the GPU fell off")
    ours.fail(error)
    finish(ours, later)
    assert [one.events[-1] for one in broken] == [error, error]
    assert later.text == generated(theirs, folder, FIRST, 10)


def test_a_penalty_is_that_of_transformers(folder: Path, theirs: Any) -> None:
    heard = answer(decoder(folder), FIRST, Drawing(temperature=0, penalty=1.4), max_tokens=40)
    assert heard.text == generated(theirs, folder, FIRST, 40, repetition_penalty=1.4)
    assert heard.text != generated(theirs, folder, FIRST, 40)


@pytest.mark.parametrize("kind", ["gptj", "mistral", "gemma"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    """Learned by doing: which can be cut and batched. Mistral looks back 16 tokens only, so its cache cannot be."""
    if kind == "gptj":
        folder = tiny.gptj(tmp_path / "model")
    else:
        size = tiny.tokenizer(tmp_path / "model")
        torch.manual_seed(0)
        options: dict[str, Any] = {
            "vocab_size": size, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "eos_token_id": 2, "bos_token_id": 1,
        }  # fmt: skip
        folder = tmp_path / "model"
        if kind == "mistral":
            MistralForCausalLM(MistralConfig(sliding_window=16, **options)).save_pretrained(folder)
        else:
            GemmaForCausalLM(GemmaConfig(**options)).save_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = Decoder(load(folder, FLOAT32), text_tokens.load(folder))
    assert ours.model.plain == (kind != "mistral")
    assert ours.model.batches == (kind != "mistral")
    prompts = [FIRST, FIRST, [*FIRST[:35], 7, 8], [*FIRST, 9, 10]]
    for ids in prompts:
        assert answer(ours, ids, max_tokens=20).text == generated(theirs, folder, ids, 20)
    heard = [ask(ours, ids, max_tokens=20) for ids in prompts]
    finish(ours, *heard)
    assert [one.text for one in heard] == [generated(theirs, folder, ids, 20) for ids in prompts]


def test_a_cache_that_cannot_be_cut_is_used_where_all_of_it_fits(tmp_path: Path) -> None:
    size = tiny.tokenizer(tmp_path)
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(
        vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, sliding_window=16, eos_token_id=2, bos_token_id=1,
    )).save_pretrained(tmp_path)  # fmt: skip
    ours = decoder(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    out = theirs.generate(torch.tensor([FIRST]), do_sample=False, max_new_tokens=10)[0].tolist()
    answer(ours, FIRST, max_tokens=10)
    heard = answer(ours, [*out[:-1], 50, 51, 52], max_tokens=10)
    assert heard.ended.cached == len(out) - 1
    assert heard.text == generated(theirs, tmp_path, [*out[:-1], 50, 51, 52], 10)


@pytest.mark.slow
@pytest.mark.embedded
def test_smollm2_says_what_it_says_in_transformers() -> None:
    from ultrachat_cli.models import folders
    from ultrachat_cli.models.chat_tokens import ChatTokenizer
    from ultrachat_cli.models.specs import resolve

    folder = folders.obtain(resolve("smollm2-135m"))
    tokenizer = ChatTokenizer(folder, "chatml")
    ours = Decoder(load(folder, FLOAT32), tokenizer.backend)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    talk = [{"role": "user", "content": "What is a river?"}]
    for question in ("And a lake?", "Name one."):
        ids = tokenizer.prompt(talk)
        heard = answer(ours, ids, max_tokens=24)
        assert heard.text == generated(theirs, folder, ids, 24)
        talk += [{"role": "assistant", "content": heard.text}, {"role": "user", "content": question}]
    assert heard.ended.cached > 30
