"""The tied output layer against a product with a slice of the embedding."""

import pytest
import torch
from proof import compare, tolerance
from torch.nn import functional as F

from gpt2lab.engine.torch_output import tied_logits


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
