"""Model folders in transformers' layout (config.json, safetensors or .bin, tokenizer): found, fetched or made."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.models import weights
from ultrachat_cli.models.specs import FACTS, ModelSpec
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.lock import in_turn

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
    return locate(spec) or _made(spec, _kept(spec), say, weights_too=True)


def tokenizer(spec: ModelSpec, say: Say = lambda _: None) -> Path:
    """A folder with the same tokenizer, without fetching or rewriting weights for it; raises as `obtain`."""
    if (found := locate(spec)) is not None:
        return found
    kept = weights.cache() / "tokenizers" / _kept(spec).relative_to(weights.cache())
    return kept if (kept / "config.json").is_file() else _made(spec, kept, say, weights_too=False)


def _made(spec: ModelSpec, target: Path, say: Say, *, weights_too: bool) -> Path:
    if not spec.embedded and spec.scheme != "hf":
        raise UltraError(
            f"model {spec.name}: {spec.source} has no weights that can be loaded here",
            "name a folder in transformers' layout, hf:org/name, or a .gguf file",
        )
    with in_turn(
        target.with_name(f"{target.name}.lock"), say, f"{spec.name} is fetched or rewritten by another process"
    ):
        if not (target / "config.json").is_file():
            if spec.embedded:
                _from_gguf(spec, weights.obtain(spec, say), target, say, weights_too=weights_too)
            else:
                _from_hub(spec, target, say, weights_too=weights_too)
    return target


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
            named = {**told, "name": told.get("name") or path.resolve().name}
            return ModelSpec.model_validate({**named, "source": f"folder:{path.resolve()}"})
        except (orjson.JSONDecodeError, ValidationError, TypeError, AttributeError) as error:
            raise UltraError(f"{path / FACTS}: not a model entry: {error}") from error
    return ModelSpec(name=path.name, source=f"folder:{path.resolve()}")


def _kept(spec: ModelSpec) -> Path:
    if spec.embedded:
        return weights.cache() / "folders" / Path(spec.place).stem
    return weights.cache() / "hub" / spec.place


def _from_hub(spec: ModelSpec, target: Path, say: Say, *, weights_too: bool) -> None:
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra(f"model {spec.name}", "huggingface_hub", "hub") from error
    say(f"fetching {spec.name} from {spec.source}")
    wanted = ["*.json", "*.jinja", "tokenizer*"]
    unfetched: tuple[type[Exception], ...] = (HfHubHTTPError, OSError, ValueError, *_no_connection())
    try:
        if weights_too:
            wanted.append(_weights(HfApi().list_repo_files(spec.place)))
        # config.json comes last: with it the folder counts as complete
        snapshot_download(spec.place, local_dir=target, allow_patterns=wanted, ignore_patterns=["config.json"])
        snapshot_download(spec.place, local_dir=target, allow_patterns=["config.json"])
    except unfetched as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UltraError(
            f"model {spec.name}: {spec.place} could not be fetched from the hub: {reason}",
            "check the name, the network and, for a gated model, HF_TOKEN; a local folder always works",
        ) from error


def _no_connection() -> tuple[type[Exception], ...]:
    """What the hub's client raises when there is no way to it: of which HTTP package, depends on its version."""
    found: list[type[Exception]] = []
    for package in ("httpx2", "httpx"):
        with suppress(ImportError):
            found.append(import_module(package).HTTPError)
    return tuple(found)


def _weights(names: Sequence[str]) -> str:
    """Which files of a repository hold the weights as transformers loads them; some have them twice."""
    patterns = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")
    return next((pattern for pattern in patterns if fnmatch.filter(names, pattern)), "*.bin")


def _from_gguf(spec: ModelSpec, gguf: Path, target: Path, say: Say, *, weights_too: bool) -> None:
    """A tokenizer and, if wanted, bf16 safetensors from a GGUF file, once."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(f"model {spec.name}", "torch and transformers", "local") from error
    what = f"rewriting {gguf.name} for transformers" if weights_too else f"taking the tokenizer out of {gguf.name}"
    say(f"{spec.name}: {what}, once")
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name, "model")
        folder.mkdir()
        try:
            with _quiet():
                AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
                if weights_too:
                    _rewrite(gguf, folder)
                else:
                    (folder / "config.json").write_bytes(b"{}\n")  # there is no model, and the folder is complete
        except (OSError, ValueError) as error:
            raise UltraError(f"{gguf}: cannot be loaded by transformers: {error}") from error
        (folder / FACTS).write_bytes(facts(spec, name=spec.name))
        try:
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
        except OSError as error:
            raise jsonl.unwritable(target, error) from error


def _rewrite(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = model.config
    del config.quantization_config
    config.dtype = torch.bfloat16
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    state = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items() if key not in tied}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    # safetensors makes files for their owner alone
    (folder / "model.safetensors").chmod((folder / "tokenizer.json").stat().st_mode)
    config.save_pretrained(folder)


@contextmanager
def hushed() -> Iterator[None]:
    """transformers without notices and progress bars."""
    from transformers.utils import logging as notices

    logging: Any = notices
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _quiet() -> Iterator[None]:
    """The same, and without the bar of tqdm's own that reading GGUF shows."""
    from transformers import modeling_gguf_pytorch_utils

    gguf: Any = modeling_gguf_pytorch_utils
    bar = gguf.tqdm
    gguf.tqdm = partial(bar, disable=True)
    try:
        with hushed():
            yield
    finally:
        gguf.tqdm = bar
