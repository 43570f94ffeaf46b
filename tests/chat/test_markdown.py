"""Markdown as it comes: the screen ends as if all had come at once, and nothing raw reaches it."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pyte
import pytest

from ultrachat_cli.commands.chat_screen import harmless
from ultrachat_cli.commands.markdown_stream import MarkdownStream

TEXT = r"""# Title **x**

Hello *world*, **bold text** and `co de`, snake_case_name, 2 * 3, [a link](http://x.y/z), a lone * star, [1, 2].
Line two with ~~struck~~ and \*escaped\* ***both*** and unclosed **bold.

- item with a line so long that it must be wrapped somewhere, because it goes on and on until there is no more room
  - nested *item*
- third
1. first
2. second

> quoted **text**

```python
def f(x):
    '''two
    lines'''
    return x * 2  # **not bold**
```

| a | b |
|---|--:|
| **1** | 2 |
| long text | x\|y |

---
中文字符很多中文字符很多中文字符很多中文字符很多中文字符很多中文字符很多中文字符很多

The `end`"""
Size = tuple[int, int]


def taken(stream: MarkdownStream, pieces: list[str], every: int) -> str:
    """All that is written when it is drawn after `every` pieces."""
    out = []
    for n, piece in enumerate(pieces, 1):
        stream.feed(piece)
        if n % every == 0:
            out.append(stream.take())
    return "".join([*out, stream.take(final=True)])


def whole(text: str, size: Size = (60, 20), *, styled: bool = True, coloured: bool = True) -> str:
    return taken(MarkdownStream(lambda: size, styled=styled, coloured=coloured), [text], 2)


def seen(made: str, size: Size = (60, 20)) -> list[str]:
    """What a terminal shows, its scroll-back included."""
    screen = pyte.HistoryScreen(*size, history=5000, ratio=0.5)
    pyte.Stream(screen).feed(made.replace("\n", "\r\n"))
    gone = ["".join(line[n].data for n in range(size[0])) for line in screen.history.top]
    return [line.rstrip() for line in "\n".join([*gone, *screen.display]).rstrip().split("\n")]


def test_what_becomes_of_everything() -> None:
    lines = seen(whole(TEXT))
    assert lines[0].strip() == "Title x"
    assert "Hello world, bold text and co de, snake_case_name, 2 * 3, a" in lines
    assert any("*escaped* both and unclosed **bold." in line for line in lines)
    for words in ("nested item", "1 first", "▌ quoted text", "return x * 2  # **not bold**", "The end"):
        assert any(words in line for line in lines), words
    assert any(re.search(r"long text\W+x\|y", line) for line in lines)
    assert not any(a == b == "" for a, b in pairwise(lines)), "one blank line between blocks"


@pytest.mark.parametrize("size", [(60, 20), (30, 6), (100, 60)])
@pytest.mark.parametrize("seed", range(5))
def test_the_screen_ends_as_if_all_had_come_at_once(size: Size, seed: int) -> None:
    draw, pieces, at = random.Random(seed), [], 0
    while at < len(TEXT):
        pieces.append(TEXT[at : at + (step := draw.choice([1, 2, 3, 5, 8, 40]))])
        at += step
    stream = MarkdownStream(lambda: size, styled=True, coloured=True)
    assert seen(taken(stream, pieces, draw.choice([1, 2, 7])), size) == seen(whole(TEXT, size), size)


@pytest.mark.parametrize("text", ["word " * 2000, "```\n" + "x = 1\n" * 300 + "```", "- item\n" * 300])
def test_a_block_longer_than_the_window_scrolls_away_once(text: str) -> None:
    pieces = [text[at : at + 10] for at in range(0, len(text), 10)]
    stream = MarkdownStream(lambda: (60, 20), styled=True, coloured=True)
    made = taken(stream, pieces, 20)
    assert seen(made) == seen(whole(text))
    assert len(made) < 40 * len(whole(text)), "what is above the window is not drawn again"


def test_a_window_that_became_narrower_has_wrapped_what_is_drawn_anew() -> None:
    size = [60, 20]
    stream = MarkdownStream(lambda: (size[0], size[1]), styled=True, coloured=True)
    stream.feed("word " * 11)
    stream.take()
    size[0] = 20
    assert stream.take().startswith("\x1b[3F\x1b[J"), "54 columns take three rows of 20"


def test_without_styles_complete_blocks_come_and_no_escape_sequence() -> None:
    stream = MarkdownStream(lambda: (60, 20), styled=False, coloured=False)
    stream.feed("One *a*.\n\nTwo **b")
    assert stream.take() == "One a.\n"
    stream.feed("**.")
    assert stream.take(final=True) == "\nTwo b.\n"
    assert "\x1b" not in whole(TEXT, styled=False)


def test_no_colours() -> None:
    found = set(";".join(re.findall(r"\x1b\[([\d;]*)m", whole(TEXT, coloured=False))).split(";"))
    assert found <= {"0", "1", "2", "3", "4", "9"}
    assert len(found) > 2


def test_nothing_of_a_model_reaches_the_terminal_raw() -> None:
    evil = (
        "a\x1b[2J\x1b]52;c;ZXZpbA==\x07b\x9b31m\x00\x7f\u202egnp.exe\r\x08c\x1bPq\x1b\\ `\x1b[0m`\n```\n\x1b[1m\n```\n"
    )
    text = harmless(evil)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "␛[2J" in text
    assert "\x1b" not in whole(text, styled=False)
    assert "\x1b" not in re.sub(r"\x1b\[[\d;]*m", "", whole(text)), "only colours of our own"
    assert harmless("👨‍👩‍👧 ümläut 中文 \t\n") == "👨‍👩‍👧 ümläut 中文 \t\n"


@pytest.mark.parametrize("text", ["", "\n\n", "**", "*", "`", "[x](", "![", "#", "-", "|", "~~", "| not | a table |"])
def test_marks_that_are_never_closed_do_no_harm(text: str) -> None:
    stream = MarkdownStream(lambda: (60, 20), styled=True, coloured=True)
    assert seen(taken(stream, [*text], 1)) == seen(whole(text))
