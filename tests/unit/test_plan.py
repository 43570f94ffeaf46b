from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import islice

import pytest

from ultrachat_cli.generate.plan import Lane, Opening, around, ordered, stable_id, weighted


class Source:
    """A lane's source of `size` openings that counts how many were asked of it."""

    def __init__(self, name: str, size: int = 10**6, wait: Callable[[], float] = lambda: 0.0) -> None:
        self.name, self.size, self.wait = name, size, wait
        self.asked = 0

    async def __aiter__(self) -> AsyncIterator[Opening]:
        for n in range(self.size):
            self.asked += 1
            await asyncio.sleep(self.wait())
            yield Opening("world", (self.name, str(n)), f"{self.name}{n}")

    def lane(self) -> Lane:
        return Lane(self.__aiter__())


def texts(picks: Iterator[Lane], ahead: Callable[[], int], most: int = 10**6) -> list[str]:
    """The openings that come out, up to `most`."""

    async def consume() -> list[str]:
        found: list[str] = []
        async with aclosing(ordered(picks, ahead)) as openings:
            async for opening in openings:
                found.append(opening.text)
                if len(found) == most:
                    break
        return found

    return asyncio.run(consume())


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
@pytest.mark.parametrize("seed", range(5))
def test_openings_come_in_the_order_of_the_picks_whatever_the_timing(seed: int, ahead: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.randrange(0, 9) for _ in range(6)]
    weights = [draw.choice([1.0, 2.5, 7.0]) for _ in range(3)]

    def picks(wait: Callable[[], float]) -> Iterator[Lane]:
        lanes = [Source("abcdef"[n], size, wait).lane() for n, size in enumerate(sizes)]
        return weighted([(weight, around(lanes[2 * n : 2 * n + 2])) for n, weight in enumerate(weights)])

    expected = texts(picks(lambda: 0.0), lambda: 1)
    assert len(expected) == sum(sizes)
    assert texts(picks(lambda: draw.random() * 0.003), lambda: ahead) == expected


@pytest.mark.parametrize("ahead", [1, 4, 16])
def test_no_more_is_asked_for_ahead_than_is_wanted(ahead: int) -> None:
    sources = [Source("a"), Source("b"), Source("c")]
    seen: list[int] = []

    async def consume() -> None:
        async with aclosing(ordered(around([s.lane() for s in sources]), lambda: ahead)) as openings:
            async for _ in openings:
                seen.append(sum(source.asked for source in sources))
                await asyncio.sleep(0.001)
                assert sum(source.asked for source in sources) <= len(seen) - 1 + ahead
                if len(seen) == 30:
                    return

    asyncio.run(consume())
    assert seen[-1] >= 30


def test_demand_may_change_on_the_way() -> None:
    source = Source("a")
    wanted = 8

    async def consume() -> list[int]:
        nonlocal wanted
        asked: list[int] = []
        async with aclosing(ordered(around([source.lane()]), lambda: wanted)) as openings:
            async for _ in openings:
                await asyncio.sleep(0.001)
                asked.append(source.asked)
                wanted = 1
                if len(asked) == 12:
                    return asked
        return asked

    asked = asyncio.run(consume())
    assert asked[0] == 8
    assert asked[-1] == 12


def test_slow_lanes_are_pulled_side_by_side() -> None:
    lanes = [Source(name, 1, lambda: 0.05).lane() for name in "abcdefghij"]

    async def consume() -> float:
        begun = asyncio.get_running_loop().time()
        async for _ in ordered(around(lanes), lambda: 10):
            pass
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(consume()) < 0.25


def test_lanes_go_round_and_drop_out_as_they_run_dry() -> None:
    lanes = [Source("a", 1).lane(), Source("b", 3).lane(), Source("c", 0).lane(), Source("d", 2).lane()]
    assert texts(around(lanes), lambda: 2) == ["a0", "b0", "d0", "b1", "d1", "b2"]
    assert all(lane.done for lane in lanes)


@pytest.mark.parametrize("picks", [around([]), weighted([]), weighted([(0.0, around([Source("a").lane()]))]), iter([])])
def test_an_empty_plan_ends_at_once(picks: Iterator[Lane]) -> None:
    assert texts(picks, lambda: 5) == []


def test_a_plan_of_dry_lanes_ends() -> None:
    lanes = [Source(name, 0).lane() for name in "abc"]
    assert texts(weighted([(1, around(lanes[:2])), (5, around(lanes[2:]))]), lambda: 4) == []


@pytest.mark.parametrize("weights", [(12, 5, 20, 25), (1, 1), (0.1, 0.3), (3,), (1000, 1)])
def test_streams_are_mixed_in_proportion_and_evenly(weights: tuple[float, ...]) -> None:
    lanes = [Source(str(n)).lane() for n in range(len(weights))]
    names = {id(lane): n for n, lane in enumerate(lanes)}
    picked = [
        names[id(lane)]
        for lane in islice(weighted([(w, around([lane])) for w, lane in zip(weights, lanes, strict=True)]), 2000)
    ]
    counts: Counter[int] = Counter()
    for so_far, n in enumerate(picked, start=1):
        counts[n] += 1
        for stream, weight in enumerate(weights):
            assert abs(counts[stream] - so_far * weight / sum(weights)) < len(weights)


def test_a_stream_of_no_weight_is_left_out() -> None:
    lanes = [Source("a", 3).lane(), Source("b", 3).lane()]
    assert texts(weighted([(0, around(lanes[:1])), (1, around(lanes[1:]))]), lambda: 1) == ["b0", "b1", "b2"]


def test_the_others_go_on_when_a_stream_runs_dry() -> None:
    streams = [(1.0, around([Source("a", 2).lane()])), (1.0, around([Source("b", 5).lane()]))]
    assert texts(weighted(streams), lambda: 1) == ["a0", "b0", "a1", "b1", "b2", "b3", "b4"]


def test_a_lane_keeps_its_order_when_it_is_pulled_by_many() -> None:
    draw = random.Random(1)
    lane = Source("a", 20, lambda: draw.random() * 0.002).lane()

    async def pull() -> list[str | None]:
        pulled = await asyncio.gather(*(lane.pull() for _ in range(25)))
        return [opening and opening.text for opening in pulled]

    assert asyncio.run(pull()) == [f"a{n}" for n in range(20)] + [None] * 5
    assert lane.done


def test_an_error_in_a_lane_comes_out_at_its_place() -> None:
    async def broken() -> AsyncIterator[Opening]:
        yield Opening("world", ("x", "0"), "x0")
        raise ValueError("in the lane")

    found: list[str] = []

    async def consume() -> None:
        async for opening in ordered(around([Source("a").lane(), Lane(broken())]), lambda: 6):
            found.append(opening.text)

    with pytest.raises(ValueError, match="in the lane"):
        asyncio.run(consume())
    assert found == ["a0", "x0", "a1"]


def test_stopping_leaves_nothing_running() -> None:
    source = Source("a", wait=lambda: 0.001)

    async def stop() -> int:
        async with aclosing(ordered(around([source.lane()]), lambda: 10)) as openings:
            await anext(openings)
        return len(asyncio.all_tasks())

    assert asyncio.run(stop()) == 1


def test_ids_are_stable() -> None:
    """Resuming a run of an earlier version must find its dialogues: these values may never change."""
    opening = Opening("world", ("entity", "17", "3", "specific", "4"), "What is it?", {"kind": "specific"})
    assert opening.id(0) == "700b3e2fe0c1ea28"
    assert Opening("writing", ("0", "0", "0"), "x").id(42) == stable_id(42, "writing", "0", "0", "0")


def test_ids_say_nothing_of_content() -> None:
    assert Opening("world", ("1",), "one text").id(3) == Opening("world", ("1",), "another", {"a": 1}).id(3)


def test_ids_are_distinct() -> None:
    draw = random.Random(5)
    places = {
        (seed, sector, tuple(str(draw.randrange(30)) for _ in range(draw.randrange(1, 5))))
        for seed in range(3)
        for sector in ("world", "writing")
        for _ in range(3000)
    }
    places |= {
        (0, "world", ("1", "11")),
        (0, "world", ("11", "1")),
        (0, "world", ("111",)),
        (0, "world", ("1", "1", "1")),
    }
    ids = {stable_id(seed, sector, *path) for seed, sector, path in places}
    assert len(ids) == len(places)
    assert all(len(identity) == 16 and int(identity, 16) >= 0 for identity in ids)
