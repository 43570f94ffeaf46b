from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.unit.conftest import MakeModel, OpenJournal
from ultrachat_cli.backends.scripted import synthetic
from ultrachat_cli.generate import pieces
from ultrachat_cli.generate.lists import ListMaker
from ultrachat_cli.generate.near_duplicates import OpeningIndex, jaccard, shingles
from ultrachat_cli.generate.plan import ordered
from ultrachat_cli.generate.prompts import Prompts
from ultrachat_cli.generate.report import Counts
from ultrachat_cli.generate.sectors import materials
from ultrachat_cli.generate.settings import Materials, Opener
from ultrachat_cli.records.completion import Completion
from ultrachat_cli.records.journal import Journal

_letters = random.Random(10)
WORDS = ["".join(_letters.choice("bdfgklmnprstvz") + _letters.choice("aeiou") for _ in range(3)) for _ in range(60)]


def verdicts(index: OpeningIndex, texts: Sequence[str], scope: str = "world") -> list[bool]:
    """Whether each text is novel after those before it; saved at the end."""

    async def judge() -> list[bool]:
        found = [await index.novel(scope, f"{scope} {n}", text) for n, text in enumerate(texts)]
        await index.save()
        return found

    return asyncio.run(judge())


@pytest.fixture
def index(journal: Journal) -> OpeningIndex:
    return OpeningIndex(journal, 0.7)


LONG = "How did the invention of the printing press change the way people in Europe thought about religion and science?"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LONG, LONG),
        (LONG, LONG.upper()),
        (LONG, LONG.replace(" ", "  ").replace("?", " !")),
        (LONG, "  " + LONG.rstrip("?")),
        (LONG, LONG.replace("the way people", "how people")),
        (LONG, LONG.replace("Europe", "Europa")),
        ("Why?", "why"),
        ("", "?!"),
        ("为什么天空是蓝色的？", "为什么天空是蓝色的"),
    ],
)
def test_near_texts_are_found(index: OpeningIndex, one: str, other: str) -> None:
    assert verdicts(index, [one, other]) == [True, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LONG, "Which role did the printing press play in the Reformation?"),
        (LONG, "How did the invention of the telegraph change the way people in America traded grain and cotton?"),
        ("Why?", "When?"),
        ("What is the capital of France?", "What is the capital of Mongolia?"),
        ("Write a poem about a lighthouse in winter", "Write a letter to a landlord about a broken heater"),
    ],
)
def test_far_texts_are_kept(index: OpeningIndex, one: str, other: str) -> None:
    assert verdicts(index, [one, other]) == [True, True]


def test_scopes_do_not_see_each_other(index: OpeningIndex) -> None:
    assert verdicts(index, [LONG, LONG], "world") == [True, False]
    assert verdicts(index, [LONG, LONG], "writing") == [True, False]


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
def test_the_threshold_decides(journal: Journal, threshold: float) -> None:
    other = LONG.replace("the way people in Europe", "how Europeans").replace("science", "the sciences")
    similarity = jaccard(set(shingles(LONG)), shingles(other))
    assert 0.3 < similarity < 0.7 or 0.7 < similarity < 0.95
    assert verdicts(OpeningIndex(journal, threshold), [LONG, other]) == [True, similarity < threshold]


@pytest.mark.parametrize(
    ("one", "other", "similarity"), [("abcdef", "abcdef", 1.0), ("abcdef", "ghijkl", 0.0), ("abcdef", "abcdex", 1 / 3)]
)
def test_similarity_is_that_of_the_sets_of_five_letters(one: str, other: str, similarity: float) -> None:
    assert jaccard(set(shingles(one)), shingles(other)) == pytest.approx(similarity)


def _questions(count: int, draw: random.Random) -> list[str]:
    """Questions that share a frame at most."""
    frames = ["How does {} affect {} in {}?", "Why is {} more {} than {} today?", "Tell me about {} and {} or {}."]
    return [draw.choice(frames).format(*(" ".join(draw.sample(WORDS, 3)) for _ in range(3))) for _ in range(count)]


def _edited(text: str, draw: random.Random) -> str:
    """The text with a word or two replaced, dropped, doubled or misspelt."""
    words = text.split()
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(words))
        word = words[at]
        words[at] = draw.choice([draw.choice(WORDS), "", f"{word} {word}", word[1:], word[:-1] + "s", word.upper()])
    return " ".join(word for word in words if word)


def test_planted_near_duplicates_are_found_and_nothing_else(index: OpeningIndex) -> None:
    draw = random.Random(11)
    pairs: list[tuple[str, str]] = []
    for text in _questions(3000, draw):
        edited = _edited(text, draw)
        if 0.75 <= jaccard(set(shingles(text)), shingles(edited)) < 0.82 and len(pairs) < 300:
            pairs.append((text, edited))
    assert len(pairs) == 300
    originals = verdicts(index, [text for text, _ in pairs], "world")
    assert all(originals)

    async def plant() -> list[bool]:
        return [await index.novel("world", f"planted {n}", edited) for n, (_, edited) in enumerate(pairs)]

    missed = sum(asyncio.run(plant()))
    assert missed <= 3  # recall 0.99, where the pairs are hardest to find


def test_clearly_different_questions_are_all_kept(index: OpeningIndex) -> None:
    questions = _questions(800, random.Random(12))
    assert all(verdicts(index, questions))


def test_every_duplicate_is_found_across_commits(index: OpeningIndex) -> None:
    """Whether an earlier text waits to be saved, is being saved or is on file makes no difference."""
    questions = _questions(450, random.Random(13))
    assert verdicts(index, questions + questions) == [True] * 450 + [False] * 450


def test_what_is_asked_while_a_commit_runs_is_seen(journal: Journal, index: OpeningIndex) -> None:
    async def judge() -> bool:
        assert await index.novel("world", "first", LONG)
        saving = asyncio.create_task(index.save())
        await asyncio.sleep(0)
        novel = await index.novel("world", "second", LONG)
        await saving
        return novel

    assert asyncio.run(judge()) is False


def _answered(journal: Journal) -> None:
    """A run has answers before it has openings."""
    asyncio.run(journal.put("some list", Completion("x")))


def test_verdicts_survive_reopening(open_journal: OpenJournal) -> None:
    draw = random.Random(14)
    texts = _questions(60, draw)
    texts += [_edited(text, draw) for text in texts] + _questions(20, draw)
    journal = open_journal()
    _answered(journal)
    first = verdicts(OpeningIndex(journal, 0.7), texts)
    assert 20 < sum(first) < len(texts)
    assert verdicts(OpeningIndex(open_journal(), 0.7), texts) == first


def test_what_came_in_an_earlier_run_counts(open_journal: OpenJournal) -> None:
    _answered(open_journal())
    assert verdicts(OpeningIndex(open_journal(), 0.7), [LONG], "world") == [True]

    async def next_run() -> bool:
        return await OpeningIndex(open_journal(), 0.7).novel("world", "new", LONG.upper())

    assert asyncio.run(next_run()) is False


def test_unsaved_verdicts_are_made_again_the_same(open_journal: OpenJournal) -> None:
    """A killed process lost its last verdicts: the next one, in the same order, comes to the same."""
    texts = _questions(30, random.Random(15))
    texts += texts[:10]
    _answered(open_journal())

    async def killed() -> list[bool]:
        index = OpeningIndex(open_journal(), 0.7)
        found = [await index.novel("world", f"world {n}", text) for n, text in enumerate(texts[:20])]
        await index.save()
        return found + [await index.novel("world", f"world {n + 20}", text) for n, text in enumerate(texts[20:])]

    first = asyncio.run(killed())
    assert verdicts(OpeningIndex(open_journal(), 0.7), texts) == first


def test_an_opening_is_no_duplicate_of_itself(index: OpeningIndex) -> None:
    async def twice() -> list[bool]:
        return [await index.novel("world", "the same", LONG) for _ in range(2)]

    assert asyncio.run(twice()) == [True, True]


def test_instructions_about_one_text_are_different_openings(make_model: MakeModel, journal: Journal) -> None:
    """The first 600 letters of most openings about a text are those of the text: each has its own instruction."""
    settings = Materials()
    lists = ListMaker(make_model(synthetic), Prompts(), Opener(), 0, Counts())
    index = OpeningIndex(journal, 0.7)

    async def kept() -> tuple[int, int]:
        texts = pieces.read(settings, lambda _: None, Counter())
        found = [
            await index.novel("materials", opening.id(0), opening.likeness)
            async for opening in ordered(materials.picks(settings, texts, lists, 0), lambda: 4)
        ]
        return sum(found), len(found)

    novel, all_of_them = asyncio.run(kept())
    assert novel > 0.9 * all_of_them
