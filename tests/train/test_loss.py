"""The loss of the learned rows, and attention within documents, against plain torch and transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.train import tiny
from ultrachat_cli.train import attention, loss
from ultrachat_cli.train.batches import IGNORED, Batch
from ultrachat_cli.train.model import Learner, on_device


def problem(learned: float = 0.7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 16, requires_grad=True), torch.randn(99, 16, requires_grad=True)
    labels = torch.randint(0, 99, (50,))
    labels[torch.rand(50) > learned] = IGNORED
    return hidden, weight, labels


@pytest.mark.parametrize("chunk", [1, 7, 50, 1024])
def test_loss_and_gradients_are_those_of_cross_entropy(chunk: int) -> None:
    hidden, weight, labels = problem()
    found = loss.summed(hidden, weight, labels, chunk=chunk)
    gradients = torch.autograd.grad(found * 0.37, (hidden, weight))
    wanted = cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(found, wanted)
    for mine, right in zip(gradients, torch.autograd.grad(wanted * 0.37, (hidden, weight)), strict=True):
        torch.testing.assert_close(mine, right)


def test_nothing_learned_is_no_loss_and_no_gradient() -> None:
    hidden, weight, labels = problem(learned=0)
    found = loss.summed(hidden, weight, labels)
    assert found.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(found, (hidden, weight)))


def test_validation_works_out_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = problem()
    wanted = loss.summed(hidden, weight, labels)
    monkeypatch.setattr(torch.Tensor, "scatter_add_", None)  # where the gradient begins
    with torch.no_grad():
        found = loss.summed(hidden, weight, labels)
    assert not found.requires_grad
    torch.testing.assert_close(found, wanted.detach())


def test_very_large_logits_stay_finite() -> None:
    hidden, weight, labels = problem()
    assert torch.isfinite(loss.summed(hidden * 1e4, weight, labels))


def documents(*sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(5)
    return [(draw.integers(5, 250, size), np.arange(size) > size // 3) for size in sizes]


def test_documents_of_a_row_do_not_see_each_other(tmp_path: Path) -> None:
    """The loss of three packed documents is the sum of what transformers says of each alone; so is the gradient."""
    folder = tiny.llama(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention.register())
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    parts = documents(40, 3, 25)
    Learner(model)(**on_device(Batch.of(parts), torch.device("cpu"))).backward()
    total = torch.zeros(())
    for ids, learn in parts:
        labels = torch.tensor(np.where(learn, ids, IGNORED))
        logits = plain(torch.tensor(ids)[None]).logits[0]
        total = total + cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED, reduction="sum")
    total.backward()
    for (name, mine), right in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, right.grad, msg=name)


def test_a_document_is_worth_the_same_wherever_it_lies(tmp_path: Path) -> None:
    learner = Learner(
        AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path / "model"), attn_implementation=attention.register())
    )
    parts = documents(30, 12, 50)
    one, other = (learner(**on_device(Batch.of(order), torch.device("cpu"))).item() for order in (parts, parts[::-1]))
    assert one == pytest.approx(other, rel=1e-5)
