"""Work spread over processes: its order, and its end in the middle of results."""

import threading

from ultrachat_cli import workers


def large(task: int, size: int) -> bytes:
    return bytes(size)


def numbered(task: int, factor: int) -> int:
    return task * factor


def test_results_come_in_the_order_of_their_tasks() -> None:
    with workers.pool(2, 10, __name__) as spread:
        assert list(workers.in_order(spread, numbered, range(200))) == [10 * n for n in range(200)]


def interrupted() -> None:
    for _ in range(5):
        try:
            with workers.pool(2, 3 << 20, __name__) as spread:
                for _ in spread(large, range(40)):
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass


def test_an_interruption_while_a_result_is_on_its_way_ends_all() -> None:
    """A worker killed in the middle of a result leaves half of it in the pipe: nobody waits for the rest."""
    job = threading.Thread(target=interrupted, daemon=True)
    job.start()
    job.join(60)
    assert not job.is_alive()
