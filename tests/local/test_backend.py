"""LocalBackend and what opens it, over a tiny model of random weights."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import orjson
import pytest

from tests.conftest import Ultrachat
from tests.train import tiny
from ultrachat_cli.backends.base import Sampling
from ultrachat_cli.backends.best_of import best_of
from ultrachat_cli.backends.chat_model import ChatModel, ChatModels, Endpoint
from ultrachat_cli.backends.limits import LimitSettings
from ultrachat_cli.backends.transformers import LocalBackend
from ultrachat_cli.errors import BackendError, ConfigError, UltraError
from ultrachat_cli.models.chat_tokens import ChatTokenizer
from ultrachat_cli.models.placement import LocalSettings
from ultrachat_cli.records.completion import Completion

pytestmark = pytest.mark.usefixtures("one_core")
T = TypeVar("T")
SETTINGS = LocalSettings(device="cpu", dtype="float32")
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]
SHORT = Sampling(max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.llama(tmp_path_factory.mktemp("llama") / "tiny")
    (made / "ultrachat.json").write_bytes(orjson.dumps({"format": "chatml", "context": 300}))
    return made


def opened(folder: Path, job: Callable[[ChatModel], Awaitable[T]], **options: str) -> T:
    async def main() -> T:
        models = ChatModels(LimitSettings(attempts=1), None, {}, local=SETTINGS)
        try:
            return await job(await models.open(Endpoint(str(folder), **options)))  # type: ignore[arg-type]
        finally:
            await models.close()

    return asyncio.run(main())


def test_a_folder_is_opened_and_answers(folder: Path) -> None:
    async def job(model: ChatModel) -> tuple[ChatModel, Completion, int | None]:
        return model, await model.ask("k", ASK, SHORT), await model.backend.count(ASK)

    model, answer, count = opened(folder, job)
    assert isinstance(model.backend, LocalBackend)
    assert (model.context, model.spec.name, model.served) == (300, "tiny", False)
    ids = ChatTokenizer(folder, "chatml").prompt(ASK)
    assert count == answer.prompt_tokens == len(ids)
    assert (answer.finish, answer.completion_tokens, answer.model) == ("length", 12, "tiny")


def test_a_stream_is_the_answer_in_pieces(folder: Path) -> None:
    async def job(model: ChatModel) -> tuple[list[str | Completion], Completion]:
        return [one async for one in model.backend.stream(ASK, SHORT)], await model.backend.complete(ASK, SHORT)

    (*pieces, last), whole = opened(folder, job)
    assert isinstance(last, Completion)
    assert "".join(map(str, pieces)) == last.text == whole.text
    assert len(pieces) > 3
    assert (last.cached_tokens, whole.cached_tokens) == (0, last.prompt_tokens - 1)


def test_many_at_once(folder: Path) -> None:
    async def job(model: ChatModel) -> list[Completion]:
        asked = [[{"role": "user", "content": "Why? " * n}] for n in range(1, 9)]
        alone = [await model.backend.complete(one, SHORT) for one in asked]
        together = await asyncio.gather(*(model.backend.complete(one, SHORT) for one in asked))
        assert [one.text for one in together] == [one.text for one in alone]
        return list(together)

    assert len({one.text for one in opened(folder, job)}) > 1


def test_best_of_n(folder: Path) -> None:
    class Longest:
        async def score(self, _: object, answers: object) -> list[float]:
            return [float(len(answer)) for answer in answers]  # type: ignore[attr-defined]

    async def job(model: ChatModel) -> list[float]:
        drawn = [Sampling(max_tokens=20, temperature=1.5, seed=n) for n in range(6)]
        found = await best_of(lambda n: model.backend.complete(ASK, drawn[n]), 6, ASK, Longest())
        return [candidate.score for candidate in found]

    scores = opened(folder, job)
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1


def test_a_stream_left_early_stops_the_decoding(folder: Path) -> None:
    async def job(model: ChatModel) -> int:
        backend = model.backend
        assert isinstance(backend, LocalBackend)
        calls: list[int] = []
        backend._model.model.register_forward_pre_hook(lambda *_: calls.append(1))
        async with aclosing(backend.stream(ASK, Sampling(max_tokens=250, temperature=0.0))) as pieces:  # type: ignore[type-var]
            async for _ in pieces:
                break
        await asyncio.sleep(0.05)
        before = len(calls)
        await asyncio.sleep(0.1)
        return 0 if len(calls) > before else before

    assert 0 < opened(folder, job) < 100


def test_a_cancelled_request_makes_room_for_others(folder: Path) -> None:
    async def job(model: ChatModel) -> Completion:
        waiting = [asyncio.create_task(model.backend.complete(ASK, Sampling(temperature=0.0))) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return await model.backend.complete(ASK, SHORT)

    assert opened(folder, job).completion_tokens == 12


def test_closing_ends_the_thread_and_what_is_being_answered(folder: Path) -> None:
    async def job(model: ChatModel) -> BaseException | None:
        task = asyncio.create_task(model.backend.complete(ASK, Sampling(temperature=0.0)))
        await asyncio.sleep(0.03)
        await model.backend.close()
        await asyncio.wait([task])
        assert (await model.backend.complete(ASK, SHORT)).text  # closed is not broken
        return task.exception()

    assert isinstance(opened(folder, job), BackendError)
    assert "decoder" not in {thread.name for thread in threading.enumerate()}


def test_a_prompt_beyond_the_context(folder: Path) -> None:
    with pytest.raises(BackendError, match=r"tiny: the prompt has \d+ tokens, the context 300") as caught:
        opened(folder, lambda model: model.backend.complete([{"role": "user", "content": "long " * 90}], SHORT))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Sampling(extra={"topk": 4}), r"field 'topk' is not known to local weights \(did you mean 'top_k'\?\)"),
        (Sampling(extra={"min_p": 3}), "cannot be"),
        (Sampling(temperature=-1), "cannot be"),
        (Sampling(top_p=0), "cannot be"),
        (Sampling(max_tokens=0), "cannot be"),
        (Sampling(extra={"top_k": "many"}), "cannot be"),
    ],
    ids=str,
)
def test_sampling_that_cannot_be(folder: Path, sampling: Sampling, said: str) -> None:
    with pytest.raises(BackendError, match=said) as caught:
        opened(folder, lambda model: model.backend.complete(ASK, sampling))
    assert caught.value.status == 400


def test_every_field_that_is_known(folder: Path) -> None:
    extra = {"top_k": 30, "min_p": 0.01, "repeat_penalty": 1.1, "repeat_last_n": 20}
    sampling = Sampling(10, 0.9, 0.95, 4, ("\n\n\n",), extra)
    first, again = (opened(folder, lambda model: model.backend.complete(ASK, sampling)) for _ in range(2))
    assert first == again
    penalised = Sampling(40, 0.0, extra={"repetition_penalty": 3.0})
    plain = Sampling(40, 0.0)
    texts = {opened(folder, lambda m, s=s: m.backend.complete(ASK, s)).text for s in (penalised, plain)}  # type: ignore[misc]
    assert len(texts) == 2


def test_a_raw_prompt_knows_special_tokens(folder: Path) -> None:
    raw = "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    answer = opened(folder, lambda model: model.backend.complete(raw, SHORT))
    asked = opened(folder, lambda model: model.backend.complete([{"role": "user", "content": "Hello."}], SHORT))
    assert answer == asked


def test_what_a_format_cannot_hold(folder: Path) -> None:
    with pytest.raises(BackendError) as caught:
        opened(folder, lambda model: model.backend.complete([{"role": "narrator", "content": "x"}], SHORT))
    assert caught.value.status == 400


def test_a_folder_without_a_chat_format(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ConfigError, match="has no chat template"):
        opened(tmp_path, lambda model: model.backend.models())


@pytest.mark.parametrize(
    ("name", "engine", "said"),
    [
        ("ultralm-13b", "auto", "published as a delta"),
        ("ultrarm-13b", "auto", "does not answer"),
        ("minilm", "auto", "does not answer"),
        ("qwen2.5-7b", "llamacpp", r"llama.cpp runs .gguf files"),
    ],
)
def test_models_that_cannot_be_opened(name: str, engine: str, said: str) -> None:
    with pytest.raises(UltraError, match=said):
        opened(Path(name), lambda model: model.backend.models(), engine=engine)


def test_a_delta_that_was_recovered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recover NAME` makes ./NAME."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ultralm-13b").symlink_to(folder)
    with pytest.raises(
        ConfigError, match="ultralm ends an answer with </s>"
    ):  # it was looked at, and is a ChatML model
        opened(Path("ultralm-13b"), lambda model: model.backend.models())


@pytest.mark.slow
def test_generate_runs_on_a_folder(tmp_path: Path, ultrachat: Ultrachat) -> None:
    """Random weights say nothing of sense, so that nothing may be kept: but the run is sound, and goes on."""
    folder = tiny.llama(tmp_path / "tiny")
    (folder / "ultrachat.json").write_bytes(orjson.dumps({"format": "chatml"}))
    few = [word for role in ("assistant", "opening", "user") for word in ("--set", f"{role}.max_tokens=20")]
    what = ["--sector", "writing", "--limit", "1", "--rounds", "1", "--set", "user.strategy=instruct", *few]
    for _ in range(2):
        done = ultrachat("generate", "--model", folder, *what, "--output", "run", "--json")
        assert done.code in (0, 3), done.stderr
        assert "Traceback" not in done.stderr
        assert done.json["planned"] == 1
