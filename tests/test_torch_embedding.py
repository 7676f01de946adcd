"""The token embedding, in and out, against indexing, slicing and PyTorch's cross entropy."""

import pytest
import torch
from proof import compare, tolerance
from torch.nn import functional as F

from gpt2lab.engine.torch_embedding import TiedEmbedding
from gpt2lab.engine.torch_targets import Targets, log_probabilities

SHAPES = [(17, 32), (8, 8), (1, 128)]  # real rows, and with padding


def filled(vocab_size: int, padded: int, n_embd: int, dtype: torch.dtype = torch.float32) -> TiedEmbedding:
    embedding = TiedEmbedding(vocab_size, padded, n_embd).to(dtype)
    torch.nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(0))
    return embedding


def plain_copy(embedding: TiedEmbedding) -> torch.Tensor:
    return embedding.weight.detach().clone().requires_grad_()


def plain_loss(x: torch.Tensor, weight: torch.Tensor, vocab_size: int, targets: Targets) -> torch.Tensor:
    logits = F.linear(x, weight[:vocab_size])
    rows = torch.arange(len(x)) if targets.rows is None else targets.rows
    wide = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(wide[rows], targets.tokens, reduction="none")
    return (losses if targets.counts is None else losses * targets.counts).sum()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("rows", [None, [0, 0, 5, 1, 5, 2]])
@pytest.mark.parametrize(("vocab_size", "padded"), SHAPES)
def test_loss_and_gradients_are_those_of_a_slice(vocab_size, padded, rows, autocast):
    embedding = filled(vocab_size, padded, 12)
    weight = plain_copy(embedding)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.tensor([0, 7, 3, 16, 16, 2]) % vocab_size
    targets = Targets(tokens)
    if rows is not None:
        targets = Targets(tokens, torch.tensor(rows), torch.tensor([1, 3, 2, 1, 1, 5]))
    x = torch.randn(6, 12, generator=generator).requires_grad_()
    plain_x = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found, expected = embedding.loss_sum(x, targets), plain_loss(plain_x, weight, vocab_size, targets)
    (found / 7).backward()
    (expected / 7).backward()
    # At most 17 tokens, 13 counts or 12 channels are summed; logits, probabilities and gradients are stored.
    allowed = tolerance(terms=17, store="bf16" if autocast else "fp32", roundings=4)
    pairs = {"loss": (found, expected), "x": (x.grad, plain_x.grad), "weight": (embedding.weight.grad, weight.grad)}
    for name, (ours, theirs) in pairs.items():
        check = compare(name, ours.detach().numpy(), theirs.detach().numpy().astype("float64"), allowed)
        assert check.passed, str(check)
    assert not embedding.weight.grad[vocab_size:].any()


@pytest.mark.parametrize(("vocab_size", "padded"), SHAPES)
def test_logits_are_those_of_a_slice_and_give_the_loss(vocab_size, padded):
    embedding = filled(vocab_size, padded, 12, torch.float64)
    x = torch.randn(4, 3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = embedding.logits(x)
    torch.testing.assert_close(logits, F.linear(x, embedding.weight[:vocab_size]), rtol=1e-13, atol=1e-13)
    targets = Targets(torch.arange(12) % vocab_size)
    found, expected = embedding.loss_sum(x.flatten(0, 1), targets), log_probabilities(logits.flatten(0, 1))
    torch.testing.assert_close(found, targets.loss_sum(expected), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("uses", [("in", "out"), ("in",), ("out",), ("in", "logits")])
def test_both_uses_of_one_embedding_add_up_over_passes(uses):
    embedding = filled(13, 16, 6, torch.float64)
    weight = plain_copy(embedding)
    generator = torch.Generator().manual_seed(2)

    def backward(start: torch.Tensor, tokens: torch.Tensor, targets: Targets, *, ours: bool) -> None:
        x = start.clone().requires_grad_()
        if "in" in uses:
            x = x + (embedding(tokens) if ours else F.embedding(tokens, weight))
        if "out" in uses:
            x = embedding.loss_sum(x, targets) if ours else plain_loss(x, weight, 13, targets)
        elif "logits" in uses:
            x = embedding.logits(x) if ours else F.linear(x, weight[:13])
        (x**2).sum().backward()

    for _ in range(2):  # updates: memory of the first gradient is there in the second
        embedding.weight.grad = weight.grad = None
        for n_rows in (5, 3, 6):
            tokens, wanted = torch.randint(13, (2, n_rows), generator=generator)
            start = torch.randn(n_rows, 6, generator=generator, dtype=torch.float64)
            for ours in (True, False):
                backward(start, tokens, Targets(wanted), ours=ours)
            assert weight.grad is not None
            torch.testing.assert_close(embedding.weight.grad, weight.grad, rtol=1e-12, atol=1e-12)


def test_memory_of_gradient_and_logits_is_used_again(monkeypatch):
    embedding, asked = filled(13, 16, 6), []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: asked.append(args) or empty(*args, **kwargs))
    places = set()
    for n_rows in (5, 5, 3):
        embedding.weight.grad = None
        embedding.loss_sum(torch.ones(n_rows, 6, requires_grad=True), Targets(torch.arange(n_rows))).backward()
        assert embedding.weight.grad is not None
        places.add(embedding.weight.grad.data_ptr())
    assert len(places) == 1 and asked == [(5 * 16,), (16 * 6,)]


def test_what_would_read_overwritten_memory_is_refused():
    embedding, x, targets = filled(13, 16, 6), torch.ones(2, 6, requires_grad=True), Targets(torch.tensor([0, 1]))
    loss = embedding.loss_sum(x, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    first, _ = embedding.loss_sum(x, targets), embedding.loss_sum(x * 2, targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.backward()


def test_nothing_is_kept_for_a_gradient_that_nobody_wants():
    embedding, tokens = filled(3, 4, 2), torch.tensor([1])
    with torch.no_grad():
        assert not embedding(tokens).requires_grad
    embedding.weight.requires_grad_(False)
    assert not embedding(tokens).requires_grad
    x = torch.ones(1, 2, requires_grad=True)
    embedding.loss_sum(x, Targets(tokens)).backward()
    assert x.grad is not None and embedding.weight.grad is None
