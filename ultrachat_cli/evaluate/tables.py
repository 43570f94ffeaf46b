"""Tables and bars of the HTML pages, as text. All that comes from data is escaped here, or handed on escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from ultrachat_cli.evaluate.metrics import Metrics
from ultrachat_cli.evaluate.scores import ScoreRow, Scores

FOLDER = Path(__file__).with_name("html")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(title: str, body: str) -> str:
    """A page with our style that may fetch nothing; `body` is HTML."""
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def row(cells: Iterable[str]) -> str:
    """A line of plain texts."""
    return html_row(map(escape, cells))


def html_row(cells: Iterable[str]) -> str:
    """A line of cells that are HTML already."""
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def table(headings: Sequence[str], lines: Iterable[str]) -> str:
    """Headings are plain text, lines are rows of HTML."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings)
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(found: Iterable[tuple[str, str]]) -> str:
    """A list of names and plain texts."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in found) + "</dl>"


def number(value: float, digits: int = 1) -> str:
    """As people read it; `-` for what is not known."""
    return "-" if value != value else f"{value:,.{digits}f}"


def outcomes(metrics: Metrics) -> str:
    """Win rate, wins, draws and losses of all and each category, as in the paper; with a bar."""
    parts = {"all": metrics, **{name or "(none)": part for name, part in metrics.by_category.items()}}
    lines = (
        html_row(
            (escape(name), f"{part.n_total:,}", number(part.win_rate), escape(str(part.interval)), _split(part),
             f"{part.n_wins:,}", f"{part.n_draws:,}", f"{part.n_wins_base:,}")
        )
        for name, part in parts.items() if part.n_total
    )  # fmt: skip
    return table(
        ("category", "n", "win rate %", "95% interval", "wins | draws | losses", "wins", "draws", "losses"), lines
    )


def _split(metrics: Metrics) -> str:
    counts = (("win", metrics.n_wins), ("draw", metrics.n_draws), ("loss", metrics.n_wins_base))
    label = ", ".join(f"{n} {kind}" for kind, n in counts)
    return _bars(label, [(kind, 100 * n / metrics.n_total) for kind, n in counts])


def _bars(label: str, parts: Iterable[tuple[str, float]], mark: float | None = None) -> str:
    """One bar of parts (class, percent of the width) side by side, and a line at `mark`."""
    drawn, at = [], 0.0
    for kind, width in parts:
        drawn.append(f'<rect class="{kind}" x="{at:.2f}" width="{width:.2f}" height="1"/>')
        at += width
    if mark is not None:
        drawn.append(f'<rect class="mark" x="{mark - 0.2:.2f}" width="0.4" height="1"/>')
    return (
        f'<svg viewBox="0 0 100 1" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(drawn)}</svg>"
    )


def scores(found: Scores) -> str:
    """Means by class and overall, as in the paper."""
    headings = ["class", "n", "score", "std. error", "95% interval"]
    if found.compared:
        headings.append("reference")
    return table(headings, (row(_scores(line, found.compared)) for line in (*found.rows, found.overall)))


def _scores(line: ScoreRow, compared: bool) -> Iterator[str]:
    yield line.name or "(none)"
    yield f"{line.n:,}"
    yield from (number(line.mean, 2), number(line.standard_error, 2))
    yield line.interval.shown(2)
    if compared:
        yield number(line.reference_mean, 2)


def ratios(found: Scores) -> str:
    """Score of the model as a share of the reference's, the highest skill first; the mark is at 100%."""
    lines = sorted((line for line in found.rows if line.ratio == line.ratio), key=lambda line: -line.ratio)
    lines.append(found.overall)
    widest = max(100.0, *(line.ratio for line in lines))
    return table(
        ("skill", "n", "model / reference %", "line: 100%"),
        (
            html_row((
                escape(line.name or "(none)"), f"{line.n:,}", number(line.ratio),
                _bars(f"{number(line.ratio)}%", [("win", 100 * line.ratio / widest)], 10000 / widest),
            ))
            for line in lines
        ),
    )  # fmt: skip
