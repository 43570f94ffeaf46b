"""What counts as a mark, and what does not."""

from __future__ import annotations

import pytest

from ultrachat_cli.backends import marks


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("1", 1), ("10", 10), (" 7.", 7), ("8.5", 8.5), ("**8**", 8), ("[9]", 9), ("8/10", 8), ("8 / 10", 8),
        ("10/10", 10), ("8 out of 10", 8), ("8\n\nClear and right.", 8), ("Score: 6", 6), ("Overall Score: 7/10", 7),
        ("**Overall Score:** 4", 4), ('{"score": 3}', 3), ("Rating = 2.5", 2.5), ("The score is 9.", 9),
        ("On a scale of 1 to 10, my score: 6", 6), ("It names 3 causes, so I give 8/10.", 8), ("9: the best", 9),
        ("Overall Score: [8]", 8), ("I would give this a score of 5.", 5),
    ],
)  # fmt: skip
def test_a_mark_is_taken_as_written(text: str, value: float) -> None:
    found = marks.find(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text",
    [
        "", "seven", "N/A", "0", "0.5", "11", "100", "-3", "10.5", "4/5", "80%", "7-8", "8,5", "1.2.3", "3rd best",
        "Score: 11", "Overall Score: [1-10]", "Overall Score: 0/10", "It names 3 causes.", "85/100",
        "There is no score here", "1 to 10",
    ],
)  # fmt: skip
def test_what_is_no_mark(text: str) -> None:
    assert marks.find(text) is None


def test_the_last_label_counts_for_judges_that_reason_first() -> None:
    text = "A score of 3 would be harsh.\nOverall Score: 6"
    assert [found.value for found in (marks.find(text), marks.find(text, last=True)) if found] == [3, 6]
    found = marks.find("Good.\nOverall Score: 6/10\nBye", last=True)
    assert found is not None
    assert "Good.\nOverall Score: 6/10\nBye"[found.start : found.end] == "Overall Score: 6/10"


def test_what_a_judge_reads_of_a_conversation() -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n}"} for n in range(5)]
    assert marks.asked(turns[:1]) == ("turn 0", False)
    assert marks.asked([{"role": "system", "content": "Be brief."}, *turns[:1]]) == ("turn 0", False)
    assert marks.asked(turns[:3]) == ("User: turn 0\n\nAssistant: turn 1\n\nUser: turn 2", False)
    assert marks.asked(turns, 50) == ("User: turn 2\n\nAssistant: turn 3\n\nUser: turn 4", True)
    assert marks.asked(turns, 10) == ("turn 4", True)
    assert marks.asked(turns, 3) == ("n 4", True)
