"""The other viewer: Apple's embedding-atlas on the same points, for machines with a GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.explore.colouring import Colouring
from ultrachat_cli.explore.sample import Entry
from ultrachat_cli.explore.serve import HOST
from ultrachat_cli.records import files

_PROGRAM = "embedding-atlas"


def program() -> str:
    """The installed command; `MissingExtra` where there is none."""
    files.pyarrow("--viewer atlas")
    found = shutil.which(_PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(_PROGRAM)
    if found is None:
        raise MissingExtra("--viewer atlas", _PROGRAM, "atlas")
    return found


def write(path: Path, entries: Sequence[Entry], points: np.ndarray, colourings: Sequence[Colouring]) -> None:
    """A Parquet file with a row for each dialogue: id, text, x, y and the columns it can be coloured by."""
    import pyarrow as pa  # type: ignore[import-untyped]

    columns = {colouring.name: [colouring.labels[code] for code in colouring.codes] for colouring in colourings}
    columns |= {"id": [entry.id for entry in entries], "text": ["\n\n".join(entry.dialogue.data) for entry in entries]}
    table = pa.table({**columns, "x": points[:, 0], "y": points[:, 1]})
    files.pyarrow("--viewer atlas").write_table(table, path)


def show(path: Path, port: int) -> None:
    """Runs until it is interrupted; it prints its own address."""
    where = ["--host", HOST, *(["--port", str(port), "--no-auto-port"] if port else [])]
    columns = ["--text", "text", "--x", "x", "--y", "y", "--disable-projection"]
    try:
        code = subprocess.run([program(), str(path), *columns, *where], check=False).returncode
    except KeyboardInterrupt:
        return
    if code:
        raise UltraError(f"{_PROGRAM} ended with exit code {code}")
