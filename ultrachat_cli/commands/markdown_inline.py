"""Spans within a line of markdown: emphasis, code, links; found as the text comes, and no later than it takes."""

from __future__ import annotations

import re

Piece = tuple[str, str]
"""A text and its style, one letter for each: b(old), i(talic), s(truck), c(ode), u(nderlined), d(im), h(eading)."""

HOLD = 240
"""Characters for which an opening mark waits for its closing one; then it is a mark like any other."""
_ANY = f".{{1,{HOLD}}}?"
_SPAN = re.compile(
    rf"(?P<ticks>`+)(?P<c>[^`](?:.{{0,{HOLD}}}?[^`])?)(?P=ticks)(?!`)"
    rf"|\*\*\*(?=\S)(?P<bi>{_ANY})(?<=\S)\*\*\*(?!\*)"
    rf"|\*\*(?=[^\s*])(?P<b>{_ANY})(?<=\S)\*\*(?!\*)|__(?=[^\s_])(?P<b2>{_ANY})(?<=\S)__(?!\w)"
    rf"|\*(?=[^\s*])(?P<i>{_ANY})(?<=[^\s*])\*(?!\*)|_(?=[^\s_])(?P<i2>{_ANY})(?<=[^\s_])_(?!\w)"
    rf"|~~(?=[^\s~])(?P<s>{_ANY})(?<=\S)~~(?!~)"
    rf"|!?\[(?P<u>[^\]]{{0,{HOLD}}})\]\((?P<url>[^()\s]{{1,{HOLD}}}(?:\([^()\s]{{0,80}}\)[^()\s]{{0,80}})?)"
    rf"(?:\s+\"[^\"]{{0,80}}\")?\)"
)
_MARK = re.compile(r"!(?=\[|$)|[`*_~\[\\]")
_RUN = re.compile(r"(.)\1*")
_NO_LINK = re.compile(r"!?\[[^\]]*\][^(]|!?\[[^\]]*\]\([^)\s]*\s(?!\s*\")|![^\[]")
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def spans(text: str, *, final: bool, before: str = " ") -> tuple[list[Piece], str]:
    """The styled pieces of `text`, and the end of it that cannot be told yet (nothing when `final`).

    `before`: the character that stands before it.
    """
    found: list[Piece] = []
    at = 0
    while mark := _MARK.search(text, at):
        start = mark.start()
        if start > at:
            found.append((text[at:start], ""))
            before = text[start - 1]
        run = _RUN.match(text, start)
        assert run is not None
        span = None if _within_word(text, run, before) else _SPAN.match(text, start)
        if span is not None and span.end() - start <= HOLD and (final or span.end() < len(text) or text[-1] == ")"):
            found += _styled(span)
            at, before = span.end(), text[span.end() - 1]
            continue
        if not final and len(text) - start <= HOLD and (span is not None or _open(text, run, before)):
            return found, text[start:]
        if mark[0] == "\\" and text[start + 1 : start + 2] in _PUNCTUATION and start + 1 < len(text):
            found.append((text[start + 1], ""))
            at = start + 2
        else:
            found.append((run[0], ""))
            at = run.end()
        before = text[at - 1]
    if at < len(text):
        found.append((text[at:], ""))
    return found, ""


def _within_word(text: str, run: re.Match[str], before: str) -> bool:
    """Marks in the middle of a word (snake_case, 2*3) do not open anything."""
    after = text[run.end() : run.end() + 1]
    if run[0][0] == "_":
        return before.isalnum()
    return run[0] == "*" and before.isascii() and before.isalnum() and after.isalnum()


def _open(text: str, run: re.Match[str], before: str) -> bool:
    """Whether what follows can still make a span of this mark."""
    kind, after = run[0][0], text[run.end() : run.end() + 1]
    if not after:
        return not (kind == "_" and before.isalnum())
    if kind == "\\":
        return False
    if kind in "![":
        return _NO_LINK.match(text, run.start()) is None
    if kind == "`":
        return True
    return not after.isspace() and not _within_word(text, run, before) and run[0] != "~"


def _styled(span: re.Match[str]) -> list[Piece]:
    kind = span.lastgroup or ""
    if kind == "c":
        code = span["c"]
        return [(code.strip() or code, "c")]
    if kind == "url":
        text, url = span["u"], span["url"]
        if not text or text == url:
            return [(url, "u")]
        return [*((inner, style + "u") for inner, style in spans(text, final=True)[0]), (f" ({url})", "d")]
    kind = next(name for name in ("bi", "b", "b2", "i", "i2", "s") if span[name] is not None)
    return [(inner, style + kind.rstrip("2")) for inner, style in spans(span[kind], final=True)[0]]
