"""What recover.py measures and compares: the peers' ways, and the folders. `recover_peers.py ROLE FOLDER...`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 32000


def shapes(hidden: int, inner: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A LLaMA's tensors."""
    yield "model.embed_tokens.weight", (VOCABULARY, hidden)
    for n in range(layers):
        at = f"model.layers.{n}"
        for name in ("q", "k", "v", "o"):
            yield f"{at}.self_attn.{name}_proj.weight", (hidden, hidden)
        yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (VOCABULARY, hidden)


def beside(folder: Path, hidden: int, inner: int, layers: int) -> None:
    """Config and a tokenizer."""
    from tokenizers import Tokenizer, models

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64, "torch_dtype": "float16", "tie_word_embeddings": False,
    }  # fmt: skip
    Tokenizer(models.BPE({f"t{n}": n for n in range(VOCABULARY)}, [])).save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "t2"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps(config))


def parts(hidden: int, inner: int, layers: int, files: int) -> list[dict[str, tuple[int, ...]]]:
    """The tensors of each file."""
    named = dict(shapes(hidden, inner, layers))
    total = sum(torch.Size(shape).numel() for shape in named.values())
    found: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in named.items():
        if size > total / files:
            found.append({})
            size = 0
        found[-1][name] = shape
        size += torch.Size(shape).numel()
    return found


def index(folder: Path, files: dict[str, str], name: str) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def pair(at: str, *numbers: str) -> None:
    """base, delta and tuned = base + delta, fp16."""
    from safetensors.torch import save_file

    hidden, inner, layers, files = map(int, numbers)
    torch.manual_seed(0)
    noise = torch.randn(1 << 22)
    listed: dict[str, str] = {}
    for folder in ("base", "delta", "tuned"):
        Path(at, folder).mkdir(parents=True)
    cut = parts(hidden, inner, layers, files)
    for n, part in enumerate(cut):
        file = f"model-{n + 1:05}-of-{len(cut):05}.safetensors"
        listed |= dict.fromkeys(part, file)
        tensors: dict[str, dict[str, torch.Tensor]] = {"base": {}, "delta": {}, "tuned": {}}
        for m, (name, shape) in enumerate(part.items()):
            size = torch.Size(shape).numel()
            drawn = noise.roll(977 * (31 * n + m)).repeat(-(-size // len(noise)))[:size].view(shape)
            tensors["base"][name] = (drawn * 0.02).half()
            tensors["delta"][name] = (drawn.flatten().roll(12345).view(shape) * 0.001).half()
            tensors["tuned"][name] = tensors["base"][name] + tensors["delta"][name]
        for folder, held in tensors.items():
            save_file(held, Path(at, folder, file), {"format": "pt"})
    for folder in ("base", "tuned", "delta"):
        index(Path(at, folder), listed, "model.safetensors.index.json")
        beside(Path(at, folder), hidden, inner, layers)


def sparse(at: str, *numbers: str) -> None:
    """base and delta of zeros that take no blocks on disk, fp16."""
    hidden, inner, layers, files = map(int, numbers)
    cut = parts(hidden, inner, layers, files)
    for folder in ("base", "delta"):
        Path(at, folder).mkdir(parents=True)
        listed: dict[str, str] = {}
        for n, part in enumerate(cut):
            file = f"model-{n + 1:05}-of-{len(cut):05}.safetensors"
            listed |= dict.fromkeys(part, file)
            told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
            end = 0
            for name, shape in part.items():
                start, end = end, end + 2 * torch.Size(shape).numel()
                told[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
            text = json.dumps(told).encode()
            text += b" " * (-len(text) % 8)
            with Path(at, folder, file).open("wb") as out:
                out.write(len(text).to_bytes(8, "little") + text)
                out.truncate(8 + len(text) + end)
        index(Path(at, folder), listed, "model.safetensors.index.json")
        beside(Path(at, folder), hidden, inner, layers)


def bins(at: str) -> None:
    """The pair again as .bin."""
    from safetensors.torch import load_file

    for folder in ("base", "delta"):
        source, target = Path(at, folder), Path(at, f"{folder}-bin")
        target.mkdir()
        listed: dict[str, str] = {}
        for path in sorted(source.glob("*.safetensors")):
            file = f"pytorch_{path.stem}.bin"
            held = load_file(path)
            torch.save(held, target / file)
            listed |= dict.fromkeys(held, file)
        index(target, listed, "pytorch_model.bin.index.json")
        for path in source.glob("*.json"):
            if "index" not in path.name:
                shutil.copyfile(path, target / path.name)


def fastchat(base: str, delta: str, out: str) -> None:
    from fastchat.model.apply_delta import apply_delta

    apply_delta(base, out, delta)


def low_cpu_mem(base: str, delta: str, out: str) -> None:
    from fastchat.model.apply_delta import apply_delta_low_cpu_mem

    apply_delta_low_cpu_mem(base, out, delta)


def weight_diff(base: str, delta: str, out: str) -> None:
    """The calls of UltraLM/weight_diff.py, `recover`, without its test prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with torch.inference_mode():
        raw, tuned = (
            AutoModelForCausalLM.from_pretrained(
                path, device_map={"": torch.device("cpu")}, dtype=torch.float32, low_cpu_mem_usage=True
            )
            for path in (base, delta)
        )
        words = AutoTokenizer.from_pretrained(delta)
        added, whole = raw.state_dict(), tuned.state_dict()
        for key in whole:
            whole[key].add_(added[key])
        tuned.save_pretrained(out)
        words.save_pretrained(out)


def verify(base: str, delta: str, out: str) -> None:
    """Print how the numbers in `out` compare with the sum rounded once: the ends of every tensor."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from ultrachat_cli.models import tensor_files
    from ultrachat_cli.recover.samples import numbers

    a, b, c = (tensor_files.read(Path(folder)) for folder in (base, delta, out))
    same, types = c.keys() >= a.keys(), set()
    for name in a.keys() & c.keys():
        for start in (0, max(0, a[name].numel - 4096)):
            right = (numbers(a[name], start, 4096) + numbers(b[name], start, 4096)).half()
            same = same and torch.equal(numbers(c[name], start, 4096).half(), right)
        types.add(c[name].dtype)
    print(("yes" if same else "no") + ("" if types == {"F16"} else f", in {'/'.join(sorted(types))}"))


if __name__ == "__main__":
    {"pair": pair, "sparse": sparse, "bins": bins, "fastchat": fastchat, "low-cpu-mem": low_cpu_mem,
     "weight_diff": weight_diff, "verify": verify}[sys.argv[1]](*sys.argv[2:])  # fmt: skip
