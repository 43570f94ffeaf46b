"""Published sets brought here: from the hub, from the web or from a folder."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ultrachat_cli.errors import ConfigError, DataError, MissingExtra, UltraError
from ultrachat_cli.progress import Progress, Silent
from ultrachat_cli.records import files, jsonl
from ultrachat_cli.records.datasets import DatasetFile, DatasetSpec

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


@dataclass
class Fetched:
    """What is here now."""

    name: str
    licence: str
    shape: str
    folder: Path
    files: list[Path] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    """File -> records, where the registry knows how many there should be."""

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name, "licence": self.licence, "shape": self.shape, "folder": str(self.folder),
            "files": [str(path) for path in self.files], "counted": self.counted,
        }  # fmt: skip

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        yield "dataset", f"{self.name} ({self.shape})"
        yield "licence", self.licence
        yield "size", f"{sum(path.stat().st_size for path in self.files) / 1e6:,.1f} MB"
        yield "records", ", ".join(f"{name} {count:,}" for name, count in self.counted.items())
        yield "files", "\n".join(map(str, self.files))


def pull(
    spec: DatasetSpec, wanted: Sequence[DatasetFile], folder: Path, source: Path | None = None,
    progress: Progress | None = None,
) -> Fetched:  # fmt: skip
    """Bring `wanted` into `folder`: from the local folder `source`, or from the hub and the URLs of the registry.

    What is there already stays; what was interrupted goes on. Then checksums and numbers of records are compared
    with the registry's, where it knows them. Raises `ConfigError`, `MissingExtra`, `UltraError`.
    """
    progress = progress or Silent()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error
    if source is not None:
        _from_folder(wanted, source, folder, progress)
    else:
        _from_hub(spec, [file.path for file in wanted if not file.url], folder)
        for file in wanted:
            if file.url:
                download(file.url, folder / file.path, progress)
    fetched = Fetched(spec.name, spec.licence, spec.shape, folder)
    for file in wanted:
        found = sorted(path for path in _inside(folder) if _matches(path.relative_to(folder), file.path))
        if not found:
            raise UltraError(f"dataset {spec.name}: {file.path} did not arrive in {folder}")
        _check(file, found, fetched, progress)
        fetched.files += found
    return fetched


def _inside(folder: Path) -> Iterator[Path]:
    """Files that are not hidden and not half there."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix not in (".partial", ".download"):
            yield path


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path.as_posix(), pattern)


def _from_folder(wanted: Sequence[DatasetFile], source: Path, folder: Path, progress: Progress) -> None:
    """Copy what matches, wherever in `source` it lies."""
    if not source.is_dir():
        raise ConfigError(f"--from: {source}: no such folder")
    here = [(path, path.relative_to(source)) for path in sorted(_inside(source))]
    chosen: list[tuple[Path, Path]] = []
    faults: list[str] = []
    for file in wanted:
        parent, pattern = Path(file.path).parent, Path(file.path).name
        found = [(path, name) for path, name in here if _matches(name, file.path)]
        found = found or [(path, parent / path.name) for path, _ in here if _matches(Path(path.name), pattern)]
        if not found:
            faults.append(f"--from: {source}: no {file.path}")
        chosen += [(path, folder / name) for path, name in found]
    if faults:
        raise ConfigError(faults)
    progress.stage("copy", sum(path.stat().st_size for path, _ in chosen) >> 20, "MB")
    for path, target in chosen:
        size = path.stat().st_size
        if not (target.is_file() and target.stat().st_size == size):
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as file_in, jsonl.replacing(target) as out:
                shutil.copyfileobj(file_in, out, _CHUNK)
        progress.advance(size >> 20)


def _from_hub(spec: DatasetSpec, patterns: list[str], folder: Path) -> None:
    """HF_ENDPOINT (a mirror) and HF_TOKEN are honoured by huggingface_hub, which also resumes and shows progress."""
    if not patterns:
        return
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra(f"dataset {spec.name}", "huggingface_hub", "hub") from error
    try:
        snapshot_download(
            spec.hub, repo_type="dataset", revision=spec.revision, allow_patterns=patterns, local_dir=folder
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = first_line(error)
        raise UltraError(
            f"dataset {spec.name}: {spec.hub} could not be fetched from the hub: {reason}",
            "check the network, HF_ENDPOINT for a mirror and HF_TOKEN; or fetch it by hand and give --from FOLDER",
        ) from error


def first_line(error: Exception) -> str:
    """Of what an error says, its type where that is nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def download(url: str, target: Path, progress: Progress) -> None:
    """Fetch a URL; goes on where an earlier attempt ended. `UltraError` when it cannot be had."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".download")
    have = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"User-Agent": "ultrachat", **({"Range": f"bytes={have}-"} if have else {})})
    try:
        with closing(urlopen(request, timeout=_TIMEOUT)) as answer:
            goes_on = answer.status == 206
            expected = int(answer.headers.get("Content-Length") or 0) + (have if goes_on else 0)
            progress.stage(target.name, expected >> 20, "MB")
            with partial.open("ab" if goes_on else "wb") as out:
                progress.advance(out.tell() >> 20)
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
                    progress.advance(len(chunk) >> 20)
    except HTTPError as error:
        if error.code != 416:  # asked for what lies behind the end: all of it is here
            raise _unreachable(url, f"HTTP {error.code}") from error
        expected = have
    except OSError as error:
        raise _unreachable(url, str(error)) from error
    if expected and partial.stat().st_size != expected:
        raise _unreachable(url, f"{partial.stat().st_size:,} of {expected:,} bytes arrived; run it again to go on")
    partial.replace(target)


def _unreachable(url: str, reason: str) -> UltraError:
    return UltraError(f"{url}: could not be fetched: {reason}", "fetch it by hand and give --from FOLDER")


def _check(file: DatasetFile, found: list[Path], fetched: Fetched, progress: Progress) -> None:
    if file.sha256:
        progress.stage(f"check {file.path}"[:12], 0, "")
        with found[0].open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != file.sha256:
            raise UltraError(
                f"{found[0]}: checksum {digest[:12]}... is not the registry's {file.sha256[:12]}...",
                "the file is damaged or another version: remove it and pull again",
            )
    if file.rows is None:
        return
    count = sum(map(_records, found))
    fetched.counted[file.path] = count
    if count != file.rows:
        raise UltraError(
            f"{', '.join(map(str, found))}: {count:,} records where the registry says {file.rows:,}",
            "the file is incomplete or another version: remove it and pull again",
        )


def _records(path: Path) -> int:
    """Rows of a Parquet file, elements of a JSON array, lines that hold something."""
    if path.suffix == ".parquet":
        return int(files.pyarrow(f"counting {path}").ParquetFile(path).metadata.num_rows)
    if files.is_array(path):
        return sum(1 for _ in files.rows(path, _refuse))
    return sum(not line.isspace() for _, line in jsonl.lines(path))


def _refuse(error: DataError) -> None:
    raise error
