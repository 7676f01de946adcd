"""The token embedding, in and out, against indexing and slicing."""

import pytest
import torch
from proof import compare, tolerance
from torch.nn import functional as F

from gpt2lab.engine.torch_embedding import embed, tied_logits


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("rows", "vocab_size", "padded"), [((3, 5), 17, 32), ((2, 1), 8, 8), ((1, 4), 1, 128)])
def test_logits_and_gradients_are_those_of_a_slice(rows, vocab_size, padded, autocast):
    generator = torch.Generator().manual_seed(0)
    x, embedding = (torch.randn(shape, generator=generator) for shape in ((*rows, 12), (padded, 12)))
    upstream = torch.randn(*rows, vocab_size, generator=generator)
    found = []
    for product in (
        lambda x, embedding: tied_logits(x, embedding, vocab_size),
        lambda x, embedding: F.linear(x, embedding[:vocab_size]),
    ):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, embedding)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = product(*leaves)
        logits.backward(upstream.to(logits.dtype))
        found.append((logits.detach().float(), *(leaf.grad for leaf in leaves)))
    for ours, expected in zip(*found, strict=True):
        allowed = tolerance(terms=17, store="bf16" if autocast else "fp32")  # at most 17 rows or tokens are summed
        check = compare("product", ours.numpy(), expected.numpy().astype("float64"), allowed)
        assert check.passed, str(check)
    assert not found[0][2][vocab_size:].any()


@pytest.mark.parametrize("order", [(embed, tied_logits), (embed,), (tied_logits,)])
def test_both_uses_of_one_embedding_add_up_over_passes(order):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([[3, 3, 0], [9, 12, 3]])
    found = []
    for ours in (True, False):
        embedding = start.clone().requires_grad_()
        for factor in (1.0, 0.5):  # two passes
            x = start[:6].reshape(2, 3, 6) * factor
            if embed in order:
                x = x + (embed(tokens, embedding) if ours else F.embedding(tokens, embedding))
            if tied_logits in order:
                x = tied_logits(x, embedding, 13) if ours else F.linear(x, embedding[:13])
            (x**2).sum().backward()
        assert embedding.grad is not None
        found.append(embedding.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-13, atol=1e-13)


def test_nothing_is_kept_for_a_gradient_that_nobody_wants():
    embedding = torch.ones(4, 2, requires_grad=True)
    with torch.no_grad():
        assert not embed(torch.tensor([1]), embedding).requires_grad
