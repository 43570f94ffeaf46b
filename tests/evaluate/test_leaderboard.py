"""Several runs in one table, and alpaca_eval's file of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate import peer
from tests.evaluate.made import of
from ultrachat_cli.errors import DataError
from ultrachat_cli.evaluate import leaderboard
from ultrachat_cli.evaluate.leaderboard import COLUMNS, Entry
from ultrachat_cli.evaluate.length_controlled import LengthControlled
from ultrachat_cli.evaluate.metrics import summary

THEIRS = (
    ",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,avg_length,"
    "length_controlled_winrate,lc_standard_error\n"
    "model-a,50.26886905525583,1.4728176780737183,397,408,0,805,49.31677018633541,community,2045,50.45110959343775,\n"
    '"b, with ""quotes""",18.63449579234217,1.1,0,1,2,3,33.33333333333333,minimal,1,7.0,0.5\n'
)


def test_their_file_is_read_and_written_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_text(THEIRS)
    first, second = leaderboard.read(path)
    assert (first.name, first.n_wins, first.n_total, first.mode) == ("model-a", 397, 805, "community")
    assert (first.win_rate, first.lc_standard_error) == (50.26886905525583, None)
    assert (second.name, second.avg_length, second.lc_standard_error) == ('b, with "quotes"', 1, 0.5)
    leaderboard.write(tmp_path / "again.csv", [first, second])
    assert (tmp_path / "again.csv").read_text() == THEIRS


@peer.needed
def test_alpaca_eval_reads_what_is_written(tmp_path: Path) -> None:
    metrics = summary(of([2.0, 1.0, 2.0]))
    leaderboard.write(tmp_path / "l.csv", [leaderboard.entry("ours", metrics)])
    (found,) = peer.loaded(tmp_path / "l.csv")
    assert found["win_rate"] == pytest.approx(metrics.win_rate, abs=1e-9)
    assert "ours" in found.values()


def test_older_files_and_unknown_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_text("name,win_rate,n_total,price\na,50.0,805.0,0.1\nb,,,\n")
    found = leaderboard.read(path)
    assert found == [Entry("a", 50.0, n_total=805, extra={"price": "0.1"}), Entry("b")]
    leaderboard.write(path, found)
    assert path.read_text().splitlines()[0] == ",".join(["", *COLUMNS, "price"])
    assert leaderboard.read(path) == found


@pytest.mark.parametrize(
    ("text", "said"), [("a,b\n1,2\n", "no column 'win_rate'"), ("", "it is empty"), (",win_rate\na,high\n", ":2: a: ")]
)
def test_another_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        leaderboard.read(path)


def test_a_run_becomes_a_line_that_comes_back(tmp_path: Path) -> None:
    metrics = summary(of([2.0, 1.0, 1.5, None, 2.0]))
    controlled = LengthControlled(41.5, 0.25, -1, 0.5, 0.1, 1.0)
    found = leaderboard.entry("ours", metrics, controlled, judge="gpt")
    assert (found.win_rate, found.n_wins, found.n_wins_base, found.n_draws, found.n_total) == (62.5, 2, 1, 1, 4)
    assert (found.length_controlled_winrate, found.lc_standard_error) == (41.5, 0.25)
    leaderboard.write(tmp_path / "l.csv", [found])
    (back,) = leaderboard.read(tmp_path / "l.csv")
    assert [getattr(back, column) for column in COLUMNS] == [getattr(found, column) for column in COLUMNS]


def test_a_rate_that_is_not_known_is_left_empty(tmp_path: Path) -> None:
    leaderboard.write(tmp_path / "l.csv", [leaderboard.entry("none", summary(of([None])))])
    assert (tmp_path / "l.csv").read_text().splitlines()[1].startswith("none,,,0,0,0,0,,")
    assert leaderboard.read(tmp_path / "l.csv")[0].win_rate is None


def test_the_best_comes_first() -> None:
    rows = [Entry("a", 10.0, length_controlled_winrate=30.0), Entry("b", 20.0, length_controlled_winrate=20.0)]
    assert [row.name for row in leaderboard.ordered(rows)] == ["a", "b"]
    more = [*rows, Entry("c", 15.0), Entry("d"), Entry("0", 15.0)]
    assert [row.name for row in leaderboard.ordered(more)] == ["b", "0", "c", "a", "d"]


def test_scores_and_judges_come_back_too(tmp_path: Path) -> None:
    alone = leaderboard.entry("alone", summary(of([None])), judge="gpt", score=7.25)
    assert (alone.n_total, alone.n_wins, alone.avg_length, alone.interval) == (None, None, 3, "")
    both = leaderboard.entry("both", summary(of([1.0, 2.0])), judge="gpt", score=6.5)
    assert leaderboard.ordered([alone, Entry("x", score=8.0), both]) == [both, Entry("x", score=8.0), alone]
    leaderboard.write(tmp_path / "l.csv", [both, alone])
    assert leaderboard.read(tmp_path / "l.csv") == [both, alone]
    assert leaderboard.shown([both, alone])[0][-3:] == ["score", "avg. length", "judge"]


def test_what_is_not_known_of_any_is_not_shown() -> None:
    headings, lines = leaderboard.shown([Entry("a", 12.346, n_wins=1234), Entry("b")])
    assert headings == ["model", "win rate", "wins"]
    assert lines == [["a", "12.35", "1,234"], ["b", "-", "-"]]


def test_the_page_escapes_names() -> None:
    page = leaderboard.html([Entry("<script>alert(1)</script>", 50.0)], "A & B")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<h1>A &amp; B</h1>" in page
    assert "http" not in page.replace("http-equiv", "")
