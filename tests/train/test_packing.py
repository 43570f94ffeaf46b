"""Rows filled with whole examples, and who computes which of them in which step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.train import packing
from ultrachat_cli.train.batches import IGNORED, Batch, Examples, Plan, held_out
from ultrachat_cli.train.settings import TrainConfig
from ultrachat_cli.train.tokens import Tokens

LENGTH = 2048


def lengths(count: int, sigma: float, seed: int = 0) -> np.ndarray:
    """Lognormal with mean 1200 before all above 2048 is cut to that."""
    drawn = np.random.default_rng(seed).lognormal(np.log(1200) - sigma**2 / 2, sigma, count)
    return np.clip(drawn, 16, LENGTH).astype(np.int64)


def fewest_rows(sizes: np.ndarray) -> int:
    """A lower bound (Martello and Toth): what is above half a row is alone, save for what fits beside it."""
    counts = np.bincount(sizes, minlength=LENGTH + 1)
    number, tokens = np.cumsum(counts), np.cumsum(counts * np.arange(LENGTH + 1))
    best = 0
    for least in range(1, LENGTH // 2 + 1):
        alone = number[LENGTH] - number[LENGTH - least]  # nothing of `least` tokens fits beside these
        big = number[LENGTH - least] - number[LENGTH // 2]
        room = big * LENGTH - (tokens[LENGTH - least] - tokens[LENGTH // 2])
        small = tokens[LENGTH // 2] - tokens[least - 1]
        best = max(best, int(alone + big + max(0, -(-(small - room) // LENGTH))))
    return best


def rows(order: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    return [row.tolist() for row in np.split(order, ends[:-1])]


@pytest.mark.parametrize(("sigma", "fill"), [(0.5, 0.97), (0.6, 0.97), (0.8, 0.97), (1.0, 0.97), (0.4, 0.955)])
def test_rows_are_full_and_hold_every_example_once(sigma: float, fill: float) -> None:
    """UltraChat's dialogues have 1,200 tokens or so, every tenth is cut at 2048.

    At sigma 0.4, 58% have more than half a row and not even the best packing fills 97%: 96.9% of 1.5 million at most.
    """
    sizes = lengths(20_000, sigma)
    order, ends = packing.best_fit(sizes, LENGTH)
    assert np.array_equal(np.sort(order), np.arange(len(sizes)))
    filled = np.add.reduceat(sizes[order], np.concatenate([[0], ends[:-1]]))
    assert filled.max() <= LENGTH
    assert ends[-1] == len(sizes)
    assert (np.diff(ends, prepend=0) > 0).all()
    assert filled.sum() / (len(ends) * LENGTH) >= fill
    assert len(ends) <= fewest_rows(sizes) * 1.01
    if fill < 0.97:
        assert sizes.sum() / (fewest_rows(sizes) * LENGTH) < 0.975


def test_the_best_fit_is_taken() -> None:
    sizes = np.array([4, 6, 3, 7, 10, 1])
    order, ends = packing.best_fit(sizes, 10)
    assert sorted(sorted(sizes[row].tolist()) for row in rows(order, ends)) == [[1], [3, 7], [4, 6], [10]]


@pytest.mark.parametrize("sizes", [[], [5], [10] * 4, [1] * 25, [11]])
def test_packing_at_its_edges(sizes: list[int]) -> None:
    if 11 in sizes:
        with pytest.raises(ValueError, match="an example of 11 tokens does not fit into rows of 10"):
            packing.best_fit(np.array(sizes), 10)
        return
    order, ends = packing.best_fit(np.array(sizes, np.int64), 10)
    assert sorted(order.tolist()) == list(range(len(sizes)))
    assert len(ends) == -(-sum(sizes) // 10)


def test_weights_say_how_often_a_set_is_seen() -> None:
    sizes, weights = [101, 40, 10, 8], [0.5, 2.0, 1.5, 1.0]
    seen = [packing.drawn(sizes, weights, 7, epoch) for epoch in range(3)]
    counts = np.bincount(seen[0], minlength=sum(sizes))
    assert counts[:101].sum() == 50
    assert set(counts[:101].tolist()) == {0, 1}
    assert set(counts[101:141].tolist()) == {2}
    assert sorted(counts[141:151].tolist()) == [1] * 5 + [2] * 5
    assert set(counts[151:].tolist()) == {1}
    assert not np.array_equal(seen[0], seen[1])
    halves = [set(epoch[epoch < 101].tolist()) for epoch in seen]
    assert halves[0] != halves[1]  # another half in each epoch
    assert np.array_equal(seen[2], packing.drawn(sizes, weights, 7, 2))
    assert not np.array_equal(seen[2], packing.drawn(sizes, weights, 8, 2))
    assert len(packing.drawn([], [], 0, 0)) == 0


def test_the_order_of_rows_follows_from_seed_and_epoch() -> None:
    sizes = lengths(500, 0.6)
    every = np.arange(500)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return rows(*packing.plan(sizes, every, LENGTH, packed=True, seed=seed, epoch=epoch))

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1)
    assert plan(1, 0) != plan(2, 0)
    assert sorted(map(sorted, plan(1, 0))) == sorted(map(sorted, plan(1, 1)))
    means = [sizes[row].max() for row in plan(1, 0)]
    assert means != sorted(means, reverse=True)  # not from long to short, as they were filled
    order, ends = packing.plan(sizes, every[::-1], LENGTH, packed=False, seed=1, epoch=0)
    assert rows(order, ends) == [[n] for n in every[::-1]]


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """`made(lengths of examples, ...)`: one set for each list; every id tells its place."""

    def sets(*sizes: list[int]) -> list[Tokens]:
        found = []
        for n, own in enumerate(sizes):
            folder = tmp_path / str(n)
            folder.mkdir()
            total = sum(own)
            ids = np.arange(total, dtype=np.uint32) + 100_000 * n
            learn = np.random.default_rng(n).random(total) < 0.6
            ends = np.cumsum(own)
            np.save(folder / "ids.npy", ids)
            np.save(folder / "learn.npy", np.packbits(learn, bitorder="little"))
            np.save(folder / "ends.npy", ends)
            np.save(
                folder / "learned.npy", np.array([learn[e - s + 1 : e].sum() for s, e in zip(own, ends, strict=True)])
            )
            np.save(folder / "keys.npy", np.random.default_rng(n).integers(0, 2**63, len(own)).astype(np.uint64))
            (folder / "facts.json").write_bytes(orjson.dumps({"tokens": total}))
            found.append(Tokens(folder))
        return found

    return sets


def examples(sets: list[Tokens]) -> Examples:
    return Examples(sets, [np.arange(len(one)) for one in sets])


def config(**given: Any) -> TrainConfig:
    return TrainConfig.model_validate({"max_length": 64, "batch": 8, "epochs": 2.0, **given})


def drawn(*counts: int) -> list[list[int]]:
    draw = np.random.default_rng(5)
    return [draw.integers(2, 64, count).tolist() for count in counts]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 2.0], [1.5, 1.0]])
def test_every_world_sees_the_same_rows_in_each_step(made: Any, packed: bool, weights: list[float]) -> None:
    data = examples(made(*drawn(150, 60)))
    plans = [Plan(data, weights, config(packing=packed), world) for world in (1, 2, 4, 8)]
    assert len({plan.steps for plan in plans}) == 1
    for step in range(plans[0].steps):
        wanted = [row.tolist() for row in plans[0].step_rows(step)]
        for plan in plans[1:]:
            assert [row.tolist() for row in plan.step_rows(step)] == wanted
            assert plan.accumulation * plan.world == 8


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_the_processes_together_have_each_row_of_a_step_once(made: Any, world: int, micro: int) -> None:
    data = examples(made(*drawn(203)))
    plan = Plan(data, [1.0], config(micro_batch=micro, epochs=1.0), world)
    seen: list[int] = []
    for step in range(plan.steps):
        step_rows = plan.step_rows(step)
        shares = [plan.batches(step_rows, rank) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        assert len(shares[0]) <= plan.accumulation
        wanted = [data[int(n)] for row in step_rows for n in row]
        got = [
            batch.ids[start:end].tolist()
            for share in shares
            for batch in share
            for start, end in zip([0, *batch.ends[:-1]], batch.ends, strict=True)
        ]
        documents = [ids for ids in got if ids != [0]]  # a process without a row has this one token
        assert sorted(documents) == sorted(ids.tolist() for ids, _ in wanted)
        assert sum(batch.learned for share in shares for batch in share) == plan.learned(step_rows)
        assert sum(len(ids) for ids, _ in wanted) == plan.size(step_rows)
        seen += [int(n) for row in step_rows for n in row]
    assert sorted(seen) == list(range(203))
    assert len(plan.step_rows(plan.steps - 1)) == plan.rows - 8 * (plan.steps - 1)
    assert plan.step_rows(plan.steps) == []


def test_from_any_step_on_the_rows_are_the_same(made: Any) -> None:
    data = examples(made(*drawn(100, 30)))
    settings = config(epochs=3.0, batch=4)
    whole = Plan(data, [0.5, 2.0], settings, 1)
    wanted = [[row.tolist() for row in whole.step_rows(step)] for step in range(whole.steps)]
    for start in range(whole.steps - 1, -1, -1):
        later = Plan(data, [0.5, 2.0], settings, 2)
        assert [row.tolist() for row in later.step_rows(start)] == wanted[start]
    assert whole.epoch_at(0) == 0
    assert whole.epoch_at(whole.steps) == 3
    every = [whole.epoch_at(step) for step in range(whole.steps + 1)]
    assert every == sorted(every)


def test_epochs_differ_and_hold_the_same(made: Any) -> None:
    data = examples(made(*drawn(64)))
    plan = Plan(data, [1.0], config(packing=False, batch=64), 1)
    first, second = ([int(row[0]) for row in plan.step_rows(step)] for step in (0, 1))
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second


@pytest.mark.parametrize(
    ("epochs", "steps", "wanted"), [(1.0, 0, 8), (0.5, 0, 4), (2.25, 0, 18), (0.001, 0, 1), (3.0, 5, 5)]
)
def test_the_length_of_a_run(made: Any, epochs: float, steps: int, wanted: int) -> None:
    plan = Plan(examples(made(*drawn(64))), [1.0], config(packing=False, epochs=epochs, steps=steps), 1)
    assert plan.steps == wanted


def test_a_step_across_two_epochs(made: Any) -> None:
    plan = Plan(examples(made(*drawn(10))), [1.0], config(packing=False, batch=4), 1)
    flat = [int(row[0]) for step in range(plan.steps) for row in plan.step_rows(step)]
    assert plan.steps == 5
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))


def test_rows_are_counted_before_the_first_step(made: Any) -> None:
    data = examples(made(*drawn(300)))
    plan = Plan(data, [1.0], config(), 1)
    assert plan.tokens == sum(drawn(300)[0])
    assert plan.fill == plan.tokens / (plan.rows * 64)
    assert 0.9 < plan.fill <= 1


def test_what_cannot_be_shared_is_refused(made: Any) -> None:
    data = examples(made(*drawn(10)))
    with pytest.raises(ConfigError, match="8 rows cannot be shared by 3 processes"):
        Plan(data, [1.0], config(), 3)
    with pytest.raises(UltraError, match="nothing to learn"):
        Plan(Examples(data.sets, [np.empty(0, np.int64)]), [1.0], config(), 1)


def test_labels_are_the_next_tokens_of_the_same_document() -> None:
    one = np.array([10, 11, 12, 13]), np.array([True, False, True, True])
    other = np.array([20, 21]), np.array([True, True])
    batch = Batch.of([one, other])
    assert batch.ids.tolist() == [10, 11, 12, 13, 20, 21]
    assert batch.labels.tolist() == [IGNORED, 12, 13, IGNORED, 21, IGNORED]
    assert batch.positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.ends.tolist() == [4, 6]
    assert batch.learned == 3
    assert (batch.ids.dtype, batch.labels.dtype, batch.positions.dtype) == (np.int64, np.int64, np.int64)
    nothing = Batch.of([])
    assert (nothing.ids.tolist(), nothing.labels.tolist(), nothing.learned) == ([0], [IGNORED], 0)


def test_examples_of_several_sets_have_one_numbering(made: Any) -> None:
    sets = made(*drawn(5, 7, 3))
    data = Examples(sets, [np.array([4, 1]), np.empty(0, np.int64), np.array([2])])
    assert len(data) == 3
    for n, (which, own) in enumerate([(0, 4), (0, 1), (2, 2)]):
        assert data[n][0].tolist() == sets[which].example(own)[0].tolist()
        assert data.lengths[n] == len(sets[which].example(own)[0])
        assert data.learned[n] == sets[which].learned[own]


class Keys:
    """Tokens of which only the keys are asked."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys


def held(keys: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return held_out(Keys(keys), share, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**40])
def test_held_out_dialogues_stay_so_in_whatever_order(seed: int) -> None:
    keys = np.random.default_rng(3).integers(0, 2**64, 20_000, dtype=np.uint64)
    apart = held(keys, 0.1, seed)
    assert 0.09 < apart.mean() < 0.11
    order = np.random.default_rng(4).permutation(len(keys))
    assert np.array_equal(held(keys[order], 0.1, seed), apart[order])
    assert np.array_equal(held(keys[:7], 0.1, seed), apart[:7])
    assert not (apart & ~held(keys, 0.2, seed)).any()  # a larger share holds the smaller
    assert not held(keys, 0.0, seed).any()
    assert not np.array_equal(held(keys, 0.1, seed + 1), apart)


def test_all_parts_of_a_dialogue_fall_on_the_same_side() -> None:
    keys = np.repeat(np.random.default_rng(3).integers(0, 2**64, 500, dtype=np.uint64), 4)
    assert (held(keys, 0.3).reshape(-1, 4).sum(axis=1) % 4 == 0).all()
