"""The report as one HTML file: inline style and SVG, nothing is fetched when it is viewed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ultrachat_cli import __version__
from ultrachat_cli.data.report import Histogram, Report, Row
from ultrachat_cli.records import jsonl

COLUMNS: dict[str, str] = {
    "sector": "sector", "dialogues": "dialogues", "rounds": "rounds", "tokens_per_dialogue": "tokens a dialogue",
    "tokens_per_utterance": "tokens an utterance", "mtld": "MTLD ↑", "topic_similarity": "topic similarity ↓",
    "coherence": "coherence ↑", "helpfulness": "helpfulness ↑",
}  # fmt: skip
"""Field of a row -> heading; the arrows say which way is better."""
_DIGITS = {"rounds": 2, "tokens_per_dialogue": 1, "tokens_per_utterance": 1, "mtld": 1, "topic_similarity": 3}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #1b1f24; font-weight: 600; }
tbody tr:first-child { font-weight: 600; } tbody td { border-bottom: 1px solid #d8dee4; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem 2rem; }
svg { width: 100%; height: auto; } svg rect { fill: #3b6ea5; } svg text { font-size: 11px; fill: #57606a; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { color: #57606a; } dd { margin: 0; }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3; } thead th { border-color: #e6edf3; } tbody td { border-color: #30363d; }
  svg rect { fill: #6ca4df; } svg text, dt { fill: #8d96a0; color: #8d96a0; }
}
"""
_WIDTH, _HEIGHT, _FLOOR = 480, 180, 150


def cell(row: Row, column: str) -> str:
    """A figure as people read it; `-` where it was not measured."""
    value = getattr(row, column)
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.{_DIGITS.get(column, 2)}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(report: Report, path: Path, sources: Sequence[Path]) -> None:
    """Write the page; `UltraError` when the disk does not take it."""
    names = ", ".join(map(str, sources))
    head = "".join(f"<th>{escape(title)}</th>" for title in COLUMNS.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(row, column))}</td>" for column in COLUMNS) + "</tr>"
        for row in report.rows_by_sector
    )
    plots = "".join(f"<div><h2>{escape(found.title)}</h2>{_svg(found)}</div>" for found in report.histograms)
    facts = {**report.method, "bad lines": f"{report.bad_lines:,}", "made with": f"ultrachat {__version__}"}
    method = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Dialogue statistics: {escape(names)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(names)}</h1><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f'<div class="plots">{plots}</div><h2>How it was measured</h2><dl>{method}</dl></html>\n'
    )
    with jsonl.replacing(path) as file:
        file.write(page.encode())


def _svg(histogram: Histogram) -> str:
    counts, edges = histogram.counts, histogram.edges
    top, width = max(*counts, 1.0), _WIDTH / len(counts)
    bars = []
    for n, count in enumerate(counts):
        height = count / top * (_FLOOR - 10)
        title = f"{label(edges, n)}: {count:,.0f} dialogues"
        bars.append(
            f'<rect x="{n * width + 1:.1f}" y="{_FLOOR - height:.1f}" width="{width - 2:.1f}" height="{height:.1f}">'
            f"<title>{escape(title)}</title></rect>"
        )
    every = max(1, len(counts) // 6)
    marks = "".join(
        f'<text x="{n * width:.1f}" y="{_FLOOR + 16}">{edges[n]:g}</text>' for n in range(0, len(counts), every)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(histogram.title)}">'
        + "".join(bars) + marks + "</svg>"
    )  # fmt: skip


def label(edges: Sequence[float], n: int) -> str:
    """What a bin holds: `3`, `200-400`, and `1800+` for the last."""
    if n + 2 == len(edges):
        return f"{edges[n]:g}+"
    return f"{edges[n]:g}" if edges[n + 1] - edges[n] == 1 else f"{edges[n]:g}-{edges[n + 1]:g}"
