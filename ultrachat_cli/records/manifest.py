"""`manifest.json`: what a run was told, with what, and what came of it. Never a secret."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from ultrachat_cli import __version__
from ultrachat_cli.errors import DataError
from ultrachat_cli.records import jsonl

NAME = "manifest.json"


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder, or None where there is none yet."""
    path = folder / NAME
    try:
        data = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(path, 0, f"not a manifest: {error}", "use --restart to begin anew in this folder") from error
    if not isinstance(data, dict):
        raise DataError(path, 0, "not a manifest", "use --restart to begin anew in this folder")
    return data


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest in one step."""
    with jsonl.replacing(folder / NAME) as file:
        file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def versions() -> dict[str, str]:
    """The software a run was made with."""
    return {"ultrachat": __version__, "python": platform.python_version(), "system": platform.platform()}


def fingerprint(data: bytes) -> str:
    """Short content hash (SHA-256, 12 hex digits) for prompts and lists."""
    return hashlib.sha256(data).hexdigest()[:12]


def sha256(path: Path) -> str:
    """The whole content hash of a file that fits the memory."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_secrets(url: str) -> str:
    """The URL less user, password and query, any of which may carry a key."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(malformed URL)"
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{port}" if port else host, parts.path, "", ""))


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """The dotted keys in which two configs differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted(set(old) | set(new)):
            found += differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
        return found
    return [] if old == new else [f"{at}: was {_brief(old)}, now {_brief(new)}"]


def _brief(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
