"""Loss, gradient and accuracy of targets against PyTorch's cross entropy, row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from gpt2lab.engine.torch.targets import Targets


def random_pairs(n_rows: int, vocab_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Targets]:
    """Return logits (n_rows, vocab_size), 30 targets with the rows they belong to, and the same as pairs."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_rows, vocab_size, generator=generator, dtype=torch.float64) * 5
    rows = torch.randint(n_rows, (30,), generator=generator)
    tokens = torch.randint(vocab_size, (30,), generator=generator)
    pairs, counts = torch.unique(torch.stack([rows, tokens]), dim=1, return_counts=True)
    return logits, rows, tokens, Targets(pairs[1], pairs[0], counts)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 99))
def test_pairs_count_as_often_as_they_are_said_to(n_rows, vocab_size, seed):
    logits, rows, tokens, targets = random_pairs(n_rows, vocab_size, seed)
    plain = logits.clone().requires_grad_()
    expected = F.cross_entropy(plain[rows], tokens, reduction="sum")
    (0.3 * expected).backward()
    log_p = torch.log_softmax(logits, dim=1)
    torch.testing.assert_close(targets.loss_sum(log_p), expected.detach(), rtol=1e-13, atol=1e-13)
    gradient = targets.write_gradient(log_p, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(gradient, plain.grad, rtol=1e-13, atol=1e-13)
    assert gradient.data_ptr() == log_p.data_ptr()
    assert targets.n_correct(logits) == int((logits.argmax(dim=1)[rows] == tokens).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_pairs_each_row_has_one_target(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=generator, dtype=dtype) * 3
    tokens = torch.tensor([3, 0, 10, 3, 7])
    plain = logits.clone().requires_grad_()
    expected = F.cross_entropy(plain, tokens, reduction="sum")
    expected.backward()
    targets, log_p = Targets(tokens), torch.log_softmax(logits, dim=1)
    torch.testing.assert_close(targets.loss_sum(log_p), expected.detach())
    torch.testing.assert_close(targets.write_gradient(log_p, torch.ones((), dtype=dtype)), plain.grad)
    assert targets.n_correct(logits) == int((logits.argmax(dim=1) == tokens).sum())
    assert Targets(logits.argmax(dim=1)).n_correct(logits) == 5


def test_rows_and_counts_come_together():
    for one in ({"rows": torch.zeros(1)}, {"counts": torch.ones(1)}):
        with pytest.raises(AssertionError):
            Targets(torch.zeros(1), **one)
