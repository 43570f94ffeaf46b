"""Markdown as it comes: the same for any pieces, nothing raw, work in proportion to the text."""

from __future__ import annotations

import random
import re
import time

import pyte
import pytest

from ultrachat_cli.commands.chat_screen import harmless
from ultrachat_cli.commands.markdown_stream import MarkdownStream

TEXT = r'''# Title **x**

Hello *world*, **bold text** and `co de`, snake_case_name, 2*3*4, [a link](http://x.y/z_(a)), a lone * star, [1, 2].
Line two with ~~struck~~ and \*escaped\* ***both*** and unclosed **bold.

- item with a line so long that it must be wrapped somewhere, because it goes on and on until there is no more room
  - nested *item*
- [x] done
1. first
12) twelfth

> quoted **text**

```python
def f(x):
    """two
    lines"""
    return x * 2  # **not bold**
```

| a | b |
|---|--:|
| **1** | 2 |
| long text | x\|y |

---
中文字符很多中文字符很多中文字符很多中文字符很多中文字符很多中文字符很多中文字符很多
The `end`'''


def shown(pieces: list[str], width: int = 60, *, styled: bool = True, coloured: bool = True) -> str:
    stream = MarkdownStream(lambda: width, styled=styled, coloured=coloured)
    for piece in pieces:
        stream.feed(piece)
    stream.finish()
    return stream.take()


def plain(text: str, width: int = 60) -> list[str]:
    return shown([text], width, styled=False).splitlines()


def test_what_becomes_of_everything() -> None:
    lines = plain(TEXT)
    assert lines[0] == "Title x"
    assert lines[2] == "Hello world, bold text and co de, snake_case_name, 2*3*4, a"
    assert lines[3] == "link (http://x.y/z_(a)), a lone * star, [1, 2]."
    assert lines[4] == "Line two with struck and *escaped* both and unclosed **bold."
    assert lines[6:10] == [
        "• item with a line so long that it must be wrapped",
        "  somewhere, because it goes on and on until there is no",
        "  more room",
        "  • nested item",
    ]
    for line in ("☑ done", "1. first", "12) twelfth", "▌ quoted text", "    return x * 2  # **not bold**", "The end"):
        assert line in lines
    assert any(re.fullmatch(r".*long text\W+x\|y.*", line) for line in lines)
    assert all(len(line) <= 61 for line in lines if line.isascii())


def test_words_are_wrapped_and_wide_characters_take_two_columns() -> None:
    for line in plain("wort " * 40 + "\n" + "中文" * 50, 30):
        assert sum(2 if ord(c) > 0x1000 else 1 for c in line) <= 30
    assert plain("x" * 100, 30) == ["x" * 100], "the terminal breaks what has no place to break"


@pytest.mark.parametrize("seed", range(30))
def test_the_pieces_do_not_matter(seed: int) -> None:
    draw, pieces, at = random.Random(seed), [], 0
    while at < len(TEXT):
        size = draw.choice([1, 1, 2, 3, 5, 8, 40])
        pieces.append(TEXT[at : at + size])
        at += size
    assert visible(shown(pieces)) == visible(shown([TEXT]))
    assert shown(pieces, styled=False) == shown([TEXT], styled=False)


def visible(made: str) -> list[str]:
    """What a terminal shows."""
    screen = pyte.Screen(60, 80)
    pyte.Stream(screen).feed(made.replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display]


def test_a_table_has_a_notice_until_it_is_whole() -> None:
    stream = MarkdownStream(lambda: 60)
    stream.feed("| a | b |\n|---|---|\n| 1 | 2 |\n")
    first = stream.take()
    assert "table, 3 rows" in first
    stream.feed("| 3 | 4 |\n\nafter it")
    stream.finish()
    lines = visible(first + stream.take())
    assert not any("rows" in line for line in lines)
    assert any("3" in line and "4" in line for line in lines)
    assert "after it" in lines


@pytest.mark.parametrize(
    "text", ["**", "*", "`", "[x](", "![", "\\", "#", "-", "1.", "|", "_a", "~~", "| not | a table |"]
)
def test_marks_that_are_never_closed_are_shown_as_they_are(text: str) -> None:
    assert shown([*text], styled=False) == shown([text], styled=False) == text + "\n"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("```\nunclosed *code*", "── code\nunclosed *code*\n"),
        ("a\n\n\n\nb", "a\n\nb\n"),
        ("\n\na", "a\n"),
        ("", ""),
        ("`a``b` and ``a`b``", "a``b and a`b\n"),
        ("*italic with **bold** inside*", "italic with bold inside\n"),
    ],
)
def test_small_things(text: str, made: str) -> None:
    assert shown([*text], styled=False) == made


def test_a_mark_waits_for_its_end_only_so_long() -> None:
    stream = MarkdownStream(lambda: 60, styled=False)
    for _ in range(200):
        stream.feed("`x ")
    assert len(stream.take()) > 200


def test_nothing_of_a_model_reaches_the_terminal_raw() -> None:
    evil = (
        "a\x1b[2J\x1b]52;c;ZXZpbA==\x07b\x9b31m\x00\x7f\u202egnp.exe\r\x08c\x1bPq\x1b\\ `\x1b[0m`\n```\n\x1b[1m\n```\n"
    )
    text = harmless(evil)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "␛[2J" in text
    assert "\x1b" not in shown([text], styled=False)
    ours = re.sub(r"\x1b\[[\d;]*m", "", shown([text]))
    assert "\x1b" not in ours, "the only escape sequences are colours of our own"
    assert harmless("👨‍👩‍👧 ümläut 中文 \t\n") == "👨‍👩‍👧 ümläut 中文 \t\n"


def test_no_colours_and_no_styles() -> None:
    assert set(re.findall(r"\x1b\[([\d;]*)m", shown([TEXT], coloured=False))) <= {
        "0",
        "1",
        "2",
        "3",
        "4",
        "9",
        "1;3",
        "3;1",
    }
    assert "\x1b" not in shown([TEXT], styled=False)


@pytest.mark.parametrize(
    "piece",
    [
        "word ",
        "*a ",
        "`a ",
        "[a ",
        "x",
        "**a",
        "中文",
        "```\nx = 1\n",
        "_a ",
        "- a\n",
        "| a | b |\n",
        "\\",
        "> a\n",
        "# a\n",
        "~~a ",
    ],
)
def test_the_work_grows_with_the_text_and_no_faster(piece: str) -> None:
    def seconds(count: int) -> float:
        stream, begun = MarkdownStream(lambda: 80), time.process_time()
        for _ in range(count):
            stream.feed(piece)
            stream.take()
        stream.finish()
        return time.process_time() - begun

    small = min(seconds(1000) for _ in range(3))
    assert seconds(8000) < 8 * max(small, 0.004) * 3
