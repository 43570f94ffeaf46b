"""Sums against plain torch, and when a delta gives the tuned numbers back bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.recover.folders import bits
from ultrachat_cli.models import tensor_files
from ultrachat_cli.models.tensor_files import TORCH
from ultrachat_cli.recover import arithmetic
from ultrachat_cli.recover.arithmetic import Files, Outcome, Worker, few
from ultrachat_cli.recover.plan import Piece

KINDS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
NAME = "model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tensors of a test are cut too."""
    monkeypatch.setattr(arithmetic, "CHUNK", 1 << 12)


class Pair:
    """Two tensors on disk and what a worker makes of them."""

    def __init__(self, folder: Path, base: torch.Tensor | None, other: torch.Tensor, kind: str) -> None:
        found = []
        for name, tensor in (("base", base), ("other", other)):
            (folder / name).mkdir(exist_ok=True)
            save_file({NAME: tensor if tensor is not None else other}, folder / name / "model.safetensors")
            found.append(tensor_files.read(folder / name)[NAME])
        self.piece = Piece(NAME, found[1], found[0] if base is not None else None, kind)
        self.written = bytearray()
        columns = other.numel() // other.shape[0] if other.dim() else 1
        self.worker = Worker(Files(), lambda _: None, columns)

    @property
    def result(self) -> torch.Tensor:
        flat = torch.frombuffer(bytearray(self.written), dtype=getattr(torch, TORCH[self.piece.dtype]))
        return flat.view(self.piece.other.shape)

    def add(self, exact: arithmetic.Fix | None = None) -> Outcome:
        return self.worker.add(self.piece, self.written.extend, digest=True, exact=exact or [])

    def subtract(self) -> Outcome:
        return self.worker.subtract(self.piece, self.written.extend)


def there_and_back(folder: Path, base: torch.Tensor, tuned: torch.Tensor) -> tuple[torch.Tensor, Outcome, torch.Tensor]:
    """(recovered without the list, what subtract told, recovered with it)."""
    down = Pair(folder, base, tuned, "F32")
    told = down.subtract()
    kind = {dtype: name for name, dtype in KINDS.items()}[tuned.dtype]
    plain, listed = (Pair(folder, base, down.result, kind) for _ in range(2))
    plain.add()
    assert listed.add(told.exact).sha256 == told.sha256
    return plain.result, told, listed.result


@pytest.mark.parametrize("out", KINDS)
@pytest.mark.parametrize("delta", KINDS)
@pytest.mark.parametrize("base", KINDS)
def test_a_sum_is_fp32_rounded_once(tmp_path: Path, base: str, delta: str, out: str) -> None:
    torch.manual_seed(1)
    a, d = (torch.randn(99, 101) * 2).to(KINDS[base]), (torch.randn(99, 101) / 8).to(KINDS[delta])
    pair = Pair(tmp_path, a, d, out)
    told = pair.add()
    right = (a.float() + d.float()).to(KINDS[out])
    assert torch.equal(bits(pair.result), bits(right))
    assert told.sum == pytest.approx(float(right.double().sum()), rel=1e-5, abs=1e-3)
    assert told.not_finite == 0


@pytest.mark.parametrize("base", KINDS)
def test_new_rows_begin_as_the_mean_of_the_old(tmp_path: Path, base: str) -> None:
    torch.manual_seed(2)
    a, d = torch.randn(301, 24).to(KINDS[base]), torch.randn(304, 24) / 8
    pair = Pair(tmp_path, a, d, "F16")
    pair.add()
    mean = a.double().mean(0, keepdim=True).float()
    whole = torch.cat([a.float(), mean.expand(3, -1)])
    assert torch.equal(bits(pair.result), bits((whole + d).half()))
    # as weight_diff.py computes it, all in fp32: the same but for the last bit
    torch.testing.assert_close(pair.result[301:], (a.float().mean(0) + d[301:]).half(), rtol=1e-3, atol=1e-6)


def test_rows_longer_than_a_chunk(tmp_path: Path) -> None:
    a, d = torch.randn(3, 5000).half(), torch.randn(4, 5000).half()
    pair = Pair(tmp_path, a, d, "F16")
    pair.add()
    whole = torch.cat([a.float(), a.double().mean(0, keepdim=True).float()])
    assert torch.equal(pair.result, (whole + d.float()).half())


def everything(dtype: torch.dtype) -> torch.Tensor:
    """Every finite number of the type."""
    found = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    return found[torch.isfinite(found)]


def pairs(dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(base, tuned): any two numbers; every number beside one like it, and beside one up to 2^19 times smaller."""
    torch.manual_seed(seed)
    numbers = everything(dtype)
    drawn = numbers[torch.randint(len(numbers), (1 << 17,))]
    bases, tuned = [drawn], [drawn[torch.randperm(len(drawn))]]
    for factor in (1 + 1e-3, -1.0, *(2.0**-n for n in range(1, 20))):
        near = (numbers.float() * factor * (1 + torch.rand(len(numbers)) / 64)).to(dtype)
        bases += [numbers, near]
        tuned += [near, numbers]
    base, other = torch.cat(bases), torch.cat(tuned)
    finite = torch.isfinite(other) & torch.isfinite(base)
    return base[finite], other[finite]


@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("seed", range(2))
def test_when_a_sum_gives_the_tuned_number_back(
    tmp_path: Path, kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule at the head of arithmetic.py, and the list that makes up for the rest."""
    monkeypatch.setattr(arithmetic, "CHUNK", 1 << 18)
    monkeypatch.setattr(arithmetic, "few", lambda piece: piece.other.numel)
    base, tuned = pairs(KINDS[kind], seed)
    plain, told, listed = there_and_back(tmp_path, base, tuned)
    b, t = base.double().abs(), tuned.double().abs()
    if kind == "F16":
        rule = ((tuned.double() - base.double()).abs() <= 1) | (b <= 4096 * t)
    else:
        rule = ((b <= 2**15 * t) | (tuned == 0)) & torch.isfinite(tuned.float() - base.float())
    assert torch.equal(plain[rule], tuned[rule])
    beyond = ~rule & (plain != tuned)
    assert beyond.any(), "the rule would say too little"
    zero = (tuned == 0) & torch.signbit(tuned)
    assert torch.equal(bits(plain[rule & ~zero]), bits(tuned[rule & ~zero]))
    assert torch.equal(bits(listed), bits(tuned))
    unlike = plain.view(torch.int16) != tuned.view(torch.int16)
    assert [at for at, _ in told.exact] == unlike.nonzero()[:, 0].tolist()
    assert told.differing == 0


def test_a_fine_tune_comes_back_whatever_its_type(tmp_path: Path) -> None:
    torch.manual_seed(3)
    for dtype in (torch.float16, torch.bfloat16):
        base = (torch.randn(1 << 20) * 0.02).to(dtype)
        tuned = (base.float() + 1e-3 * torch.randn(1 << 20)).to(dtype)
        tuned[5] = -0.0
        plain, told, listed = there_and_back(tmp_path, base, tuned)
        assert torch.equal(bits(listed), bits(tuned))
        assert [5, -(1 << 15)] in told.exact
        assert (plain != tuned).sum() < 10


@pytest.mark.parametrize(("kind", "delta"), [("F16", "F16"), ("BF16", "BF16"), ("F32", "F32")])
def test_what_cannot_be_exact_is_counted_and_hashed_as_it_comes(tmp_path: Path, kind: str, delta: str) -> None:
    torch.manual_seed(4)
    base, tuned = torch.randn(20_000).to(KINDS[kind]), torch.randn(20_000).to(KINDS[kind])
    down = Pair(tmp_path, base, tuned, delta)
    told = down.subtract()
    up = Pair(tmp_path, base, down.result, kind)
    assert up.add().sha256 == told.sha256
    assert told.exact == []
    assert told.differing == int((bits(up.result).view(20_000, -1) != bits(tuned).view(20_000, -1)).any(1).sum()) > 0
    assert (up.result.double() - tuned.double()).abs().max() < 0.02


def test_a_list_that_would_be_long_is_not_made(tmp_path: Path) -> None:
    base = torch.full((10_000,), 60_000.0).half()
    tuned = torch.full((10_000,), 2.0**-20).half()
    pair = Pair(tmp_path, base, tuned, "F32")
    told = pair.subtract()
    assert told.exact == []
    assert told.differing == 10_000 > few(pair.piece)
    up = Pair(tmp_path, base, pair.result, "F16")
    assert up.add().sha256 == told.sha256


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_come_back_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    base, tuned = (torch.randint(0, 256, (5000,)).to(dtype) for _ in range(2))
    kind = {name: kind for kind, name in TORCH.items()}[str(dtype).removeprefix("torch.")]
    down = Pair(tmp_path, base, tuned, kind)
    told = down.subtract()
    up = Pair(tmp_path, base, down.result, kind)
    assert up.add().sha256 == told.sha256
    assert torch.equal(up.result, tuned)
    alone = Pair(tmp_path, None, tuned, kind)
    alone.add()
    assert torch.equal(alone.result, tuned)


def test_numbers_that_are_none_are_counted(tmp_path: Path) -> None:
    base, delta = torch.ones(10_000).half(), torch.zeros(10_000).half()
    base[7], base[9999], delta[8] = float("inf"), float("nan"), float("-inf")
    base[20] = delta[20] = 60_000.0
    pair = Pair(tmp_path, base, delta, "F16")
    told = pair.add()
    assert told.not_finite == 4
    assert told.sum == 10_000 - 4
