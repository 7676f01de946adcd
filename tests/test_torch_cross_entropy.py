"""The summed cross entropy of counted pairs against PyTorch's own, row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from gpt2lab.engine.torch_cross_entropy import cross_entropy_sum


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 99))
def test_pairs_count_as_often_as_they_are_said_to(n_rows, vocab_size, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_rows, vocab_size, generator=generator, dtype=torch.float64) * 5
    rows = torch.randint(n_rows, (30,), generator=generator)
    targets = torch.randint(vocab_size, (30,), generator=generator)
    pairs, counts = torch.unique(torch.stack([rows, targets]), dim=1, return_counts=True)
    ours, plain = (logits.clone().requires_grad_() for _ in range(2))
    found = cross_entropy_sum(ours, pairs[1], pairs[0], counts)
    expected = F.cross_entropy(plain[rows], targets, reduction="sum")
    (0.3 * found).backward()
    (0.3 * expected).backward()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_pairs_each_row_has_one_target(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(5, 11, generator=generator) * 3).to(dtype)
    targets = torch.tensor([3, 0, 10, 3, 7])
    ours, plain = (logits.clone().requires_grad_() for _ in range(2))
    found = cross_entropy_sum(ours, targets)
    expected = F.cross_entropy(plain if dtype == torch.float64 else plain.float(), targets, reduction="sum")
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, plain.grad)


def test_a_second_backward_pass_is_refused():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
