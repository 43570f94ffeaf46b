import pytest

from ultrachat_cli.train import schedule
from ultrachat_cli.train.settings import Optimizer


def rates(steps: int = 100, **settings: object) -> list[float]:
    return [schedule.rate(Optimizer(lr=1.0, **settings), step, steps) for step in range(steps)]  # type: ignore[arg-type]


def test_the_warm_up_is_linear_and_never_zero() -> None:
    assert rates(warmup=0.04)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_a_warm_up_of_one_or_more_counts_steps() -> None:
    assert rates(warmup=10)[9] == 1.0
    assert rates(warmup=10)[4] == 0.5


def test_cosine_falls_to_nothing_and_is_half_way_in_the_middle() -> None:
    found = rates(1001, schedule="cosine", warmup=0)
    assert found[500] == pytest.approx(0.5, abs=2e-3)
    assert found[-1] < 1e-4


def test_linear_falls_by_equal_steps() -> None:
    found = rates(schedule="linear", warmup=0)
    assert found[25] == pytest.approx(0.75)
    assert found[-1] == pytest.approx(0.01)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant", warmup=0)) == {1.0}


def test_what_is_left_at_the_end() -> None:
    assert rates(1000, schedule="cosine", warmup=0, lowest=0.1)[-1] == pytest.approx(0.1, abs=1e-4)


def test_a_warm_up_longer_than_the_run_is_only_a_warm_up() -> None:
    found = rates(10, schedule="linear", warmup=200)
    assert found == pytest.approx([(step + 1) / 200 for step in range(10)])
