"""Model folders in transformers' layout (config.json, safetensors or .bin, tokenizer): found, fetched or made."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.models import weights
from ultrachat_cli.models.specs import FACTS, ModelSpec
from ultrachat_cli.records import jsonl

Say = Callable[[str], None]


def locate(spec: ModelSpec) -> Path | None:
    """The folder if it is on this machine."""
    if spec.scheme == "folder":
        return Path(spec.place)
    folder = _kept(spec)
    return folder if (folder / "config.json").is_file() else None


def obtain(spec: ModelSpec, say: Say = lambda _: None) -> Path:
    """The folder, fetched from the hub or rewritten from GGUF first if it is not here yet.

    Raises `UltraError` for a model that is none of these, or that cannot be fetched; `MissingExtra`.
    """
    if (found := locate(spec)) is not None:
        return found
    if spec.embedded:
        return _from_gguf(spec, weights.obtain(spec, say), say)
    if spec.scheme != "hf":
        raise UltraError(
            f"model {spec.name}: {spec.source} has no weights that can be loaded here",
            "name a folder in transformers' layout, hf:org/name, or a .gguf file",
        )
    return _from_hub(spec, say)


def facts(spec: ModelSpec, **changed: Any) -> bytes:
    """What a folder tells of itself in ultrachat.json: the registry entry it would have."""
    kept = spec.model_dump(exclude_defaults=True, mode="json", exclude={"source", "sha256", "price"}) | changed
    return orjson.dumps(kept, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def of_folder(path: Path) -> ModelSpec:
    """The entry of a folder: what it tells of itself, else its own chat template. `UltraError` for a bad file."""
    told: dict[str, Any] = {}
    if (path / FACTS).is_file():
        try:
            told = orjson.loads((path / FACTS).read_bytes())
            return ModelSpec.model_validate({"name": path.name, **told, "source": f"folder:{path.resolve()}"})
        except (orjson.JSONDecodeError, ValidationError, TypeError) as error:
            raise UltraError(f"{path / FACTS}: not a model entry: {error}") from error
    return ModelSpec(name=path.name, source=f"folder:{path.resolve()}")


def _kept(spec: ModelSpec) -> Path:
    if spec.embedded:
        return weights.cache() / "folders" / Path(spec.place).stem
    return weights.cache() / "hub" / spec.place


def _from_hub(spec: ModelSpec, say: Say) -> Path:
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra(f"model {spec.name}", "huggingface_hub", "hub") from error
    say(f"fetching {spec.name} from {spec.source}")
    try:
        names = HfApi().list_repo_files(spec.place)
        kind = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin"
        wanted = ["*.json", "*.jinja", "tokenizer*", kind]
        return Path(snapshot_download(spec.place, local_dir=_kept(spec), allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UltraError(
            f"model {spec.name}: {spec.place} could not be fetched from the hub: {reason}",
            "check the name, the network and, for a gated model, HF_TOKEN; a local folder always works",
        ) from error


def _from_gguf(spec: ModelSpec, gguf: Path, say: Say) -> Path:
    """bf16 safetensors and a tokenizer from a GGUF file, once."""
    try:
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(f"loading {spec.name} for training", "torch and transformers", "train") from error
    say(f"{spec.name}: rewriting {gguf.name} for training, once")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    target = _kept(spec)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name, "model")
        folder.mkdir()
        try:
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except (OSError, ValueError) as error:
            raise UltraError(f"{gguf}: cannot be loaded for training: {error}") from error
        config = model.config
        del config.quantization_config
        config.dtype = torch.bfloat16
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        state = {
            key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items() if key not in tied
        }
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / FACTS).write_bytes(facts(spec, name=spec.name))
        try:
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
        except OSError as error:
            raise jsonl.unwritable(target, error) from error
    return target
