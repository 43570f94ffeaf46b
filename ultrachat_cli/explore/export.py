"""The map as files: one page that holds everything, or a folder with the texts beside the page.

The page asks nothing of a network: script, style and points are inside it, the texts of the dialogues in packed chunks
(gzip of a JSON array, as base64) of about a megabyte, which it unpacks when it searches or shows them. In a folder a
chunk is a script that the page adds when it is needed, since a page opened from a disk may not fetch files.
Nothing from the data is ever HTML: JSON goes in with `<` escaped, and the page puts it in place as text.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ultrachat_cli.errors import ConfigError
from ultrachat_cli.explore.colouring import Colouring
from ultrachat_cli.explore.sample import Entry, Sample
from ultrachat_cli.progress import Progress
from ultrachat_cli.records import jsonl
from ultrachat_cli.records.dialogue import Dialogue

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("vendor/echarts.min.js", "texts.js", "state.js", "chart.js", "panel.js", "main.js")
TEXTS, INDEX = "texts", "index.html"
_CHUNK = 1 << 20  # characters
_GRID = 65535  # steps of a coordinate
_SNIPPET = 100  # characters of an opening shown on the map


def is_page(path: Path) -> bool:
    """Whether the export is a single file."""
    return path.suffix.lower() in (".html", ".htm")


def check(path: Path) -> None:
    """`ConfigError` for a folder that holds something else than an older map."""
    if is_page(path) or not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"export: {path}: a file that is not called .html", "use FILE.html or a folder")
    if any(path.iterdir()) and not (path / TEXTS / "0.js").is_file():
        raise ConfigError(f"export: {path}: the folder holds other things than a map", "use a new folder")


def write(
    target: Path, sample: Sample, points: np.ndarray, colourings: Sequence[Colouring], title: str, progress: Progress
) -> list[Path]:
    """The files written: the page, or the page and the folder of the texts."""
    progress.stage("write", len(sample.entries), "dialogues")
    starts, first = [0], 0
    chunks = list(_cut(sample.entries))
    for chunk in chunks:
        first += len(chunk)
        starts.append(first)
    head, tail = _page(_map(sample, points, colourings, title, starts))
    if is_page(target):
        _make_room(target.parent)
        with jsonl.replacing(target) as out:
            out.write(head)
            for n, packed in enumerate(_packed(chunks, progress)):
                out.write(b'<script type="text/plain" id="texts-%d">%b</script>\n' % (n, packed))
            out.write(tail)
        return [target]
    folder = target / TEXTS
    _make_room(folder)
    for old in folder.glob("*.js"):
        old.unlink()
    for n, packed in enumerate(_packed(chunks, progress)):
        with jsonl.replacing(folder / f"{n}.js") as out:
            out.write(b'packed[%d] = "%b";\n' % (n, packed))
    with jsonl.replacing(target / INDEX) as out:
        out.write(head + tail)
    return [target / INDEX, folder]


def _page(data: bytes) -> tuple[bytes, bytes]:
    """The page before and after the place of the texts: the map is drawn while they are still being read."""
    html = (PAGE / INDEX).read_bytes()
    scripts = b"\n".join(b"<script>\n" + (PAGE / name).read_bytes() + b"</script>" for name in SCRIPTS)
    style = b"<style>\n" + (PAGE / "style.css").read_bytes() + b"</style>"
    points = b'<script type="application/json" id="map">' + data + b"</script>"
    for mark, content in ((b"<!-- style -->", style), (b"<!-- map -->", points), (b"<!-- scripts -->", scripts)):
        html = html.replace(mark, content)
    before, after = html.split(b"<!-- texts -->")
    return before, after


def _map(sample: Sample, points: np.ndarray, colourings: Sequence[Colouring], title: str, starts: list[int]) -> bytes:
    """Everything but the texts, one list for each property."""
    entries = sample.entries
    paths = sorted({entry.file for entry in entries})
    places = {path: n for n, path in enumerate(paths)}
    x, y = np.rint(points * _GRID).astype(int).T.tolist()
    return _json(
        {
            "title": title, "read": sample.read, "starts": starts, "x": x, "y": y,
            "ids": [entry.id for entry in entries],
            "openings": [entry.dialogue.data[0][:_SNIPPET] for entry in entries],
            "files": paths, "file": [places[entry.file] for entry in entries],
            "lines": [entry.line for entry in entries],
            "colourings": [colouring.record() for colouring in colourings],
        }
    )  # fmt: skip


def _cut(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        chunk.append(entry)
        size += sum(map(len, entry.dialogue.data))
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _packed(chunks: Sequence[Sequence[Entry]], progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        rows = [_row(entry.dialogue) for entry in chunk]
        yield base64.b64encode(gzip.compress(_json(rows), 5, mtime=0))
        progress.advance(len(chunk))


def _row(dialogue: Dialogue) -> dict[str, Any]:
    messages = [[message["role"], message["content"]] for message in dialogue.messages]
    return {"messages": messages, "meta": dialogue.meta_beside_messages()}


def _json(value: Any) -> bytes:
    """JSON that may stand in a script element: no tag begins or ends in it."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).replace(b"<", b"\\u003c")


def _make_room(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise jsonl.unwritable(folder, error) from error
