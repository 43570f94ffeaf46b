"""BERT weights (safetensors) as an ONNX graph, so that ONNX Runtime can run a model published without one.

Architecture and tensor names: `BertModel` of transformers (Apache-2.0); operators: opset 20 of
https://onnx.ai/onnx/operators. Output: the last hidden states, float32[batch, tokens, hidden]. Tests compare it with
the same model computed in NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.records import jsonl

_OPSET, _IR = 20, 9


def convert(folder: Path, target: Path) -> None:
    """Write `target` from `model.safetensors` and `config.json`; `UltraError` where that is no plain BERT."""
    try:
        import onnx
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingExtra(f"converting {folder}", "onnx and safetensors", "semantic") from error
    config = orjson.loads((folder / "config.json").read_bytes())
    expected = {"model_type": "bert", "hidden_act": "gelu"}
    found = {key: config.get(key) for key in expected}
    if found != expected or config.get("position_embedding_type", "absolute") != "absolute":
        raise UltraError(
            f"embedding model {folder}: {found['model_type']} weights without onnx/model.onnx cannot be run",
            "export it once with 'optimum-cli export onnx', or choose a BERT model or one published with ONNX",
        )
    tensors = {name.removeprefix("bert."): array for name, array in load_file(folder / "model.safetensors").items()}
    model = onnx.helper.make_model(
        _Graph(onnx, config, tensors).build(), opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    with jsonl.replacing(target) as file:
        file.write(model.SerializeToString())


class _Graph:
    """The graph under construction: every method adds nodes and returns the name of their result."""

    def __init__(self, onnx: Any, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        self._onnx, self._config, self._tensors = onnx, config, tensors
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def build(self) -> Any:
        """The whole model."""
        config, helper, types = self._config, self._onnx.helper, self._onnx.TensorProto
        hidden = self._embeddings()
        mask = self._mask(types.FLOAT)
        for layer in range(config["num_hidden_layers"]):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, mask)
        self._node("Identity", [hidden], "last_hidden_state")
        size = ["batch", "tokens"]
        return helper.make_graph(
            self._nodes, "bert",
            [helper.make_tensor_value_info(name, types.INT64, size) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("last_hidden_state", types.FLOAT, [*size, config["hidden_size"]])],
            self._constants,
        )  # fmt: skip

    def _node(self, kind: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        output = name or f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, value: np.ndarray | np.float32 | list[int]) -> str:
        name = f"constant_{len(self._constants)}"
        array = np.ascontiguousarray(np.array(value, np.int64) if isinstance(value, list) else value, None)
        self._constants.append(self._onnx.numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def _tensor(self, name: str) -> np.ndarray:
        return self._tensors[name].astype(np.float32)

    def _linear(self, name: str, x: str) -> str:
        product = self._node("MatMul", [x, self._constant(self._tensor(f"{name}.weight").T)])
        return self._node("Add", [product, self._constant(self._tensor(f"{name}.bias"))])

    def _norm(self, name: str, x: str) -> str:
        scale, shift = (self._constant(self._tensor(f"{name}.{part}")) for part in ("weight", "bias"))
        epsilon = float(self._config["layer_norm_eps"])
        return self._node("LayerNormalization", [x, scale, shift], axis=-1, epsilon=epsilon)

    def _embeddings(self) -> str:
        words = self._constant(self._tensor("embeddings.word_embeddings.weight"))
        kind = self._tensor("embeddings.token_type_embeddings.weight")[0]  # one text at a time: always type 0
        places = self._constant(self._tensor("embeddings.position_embeddings.weight") + kind)
        length = self._node("Shape", ["input_ids"], start=1, end=2)
        place = self._node("Slice", [places, self._constant([0]), length])
        return self._norm(
            "embeddings.LayerNorm", self._node("Add", [self._node("Gather", [words, "input_ids"]), place])
        )

    def _mask(self, floats: int) -> str:
        """0 where there is a token, a large negative number where there is padding: [batch, 1, 1, tokens]."""
        absent = self._node("Sub", [self._node("Cast", ["attention_mask"], to=floats), self._constant(np.float32(1))])
        return self._node(
            "Unsqueeze", [self._node("Mul", [absent, self._constant(np.float32(1e9))]), self._constant([1, 2])]
        )

    def _layer(self, name: str, x: str, mask: str) -> str:
        heads = self._config["num_attention_heads"]
        width = self._config["hidden_size"] // heads

        def split(part: str, order: list[int]) -> str:
            shaped = [self._linear(f"{name}.attention.self.{part}", x), self._constant([0, 0, heads, width])]
            return self._node("Transpose", [self._node("Reshape", shaped)], perm=order)

        query, key, value = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1]), split("value", [0, 2, 1, 3])
        scores = self._node("Div", [self._node("MatMul", [query, key]), self._constant(np.float32(width**0.5))])
        shares = self._node("Softmax", [self._node("Add", [scores, mask])], axis=-1)
        mixed = self._node("Transpose", [self._node("MatMul", [shares, value])], perm=[0, 2, 1, 3])
        joined = self._node("Reshape", [mixed, self._constant([0, 0, heads * width])])
        attended = self._linear(f"{name}.attention.output.dense", joined)
        x = self._norm(f"{name}.attention.output.LayerNorm", self._node("Add", [attended, x]))
        inner = self._node("Gelu", [self._linear(f"{name}.intermediate.dense", x)])
        grown = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", self._node("Add", [grown, x]))
