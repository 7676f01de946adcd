"""The token embedding (Vp, C) as the first layer and, tied to it, as the output layer without its padded rows.

Indexing and slicing would do. But then autograd makes a matrix of zeros of the embedding's size for each of the two,
writes a gradient into it and adds them up: for GPT-2 124M on a processor a tenth of a step of 256 tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def embed(tokens: Tensor, embedding: Tensor) -> Tensor:
    """Return the rows (..., C) of `embedding` (Vp, C) for tokens (...) int64.

    Going back adds to `embedding.grad` itself, where the output layer's gradient has come to by then: `backward()`
    gives all of the gradient, `torch.autograd.grad` would leave this part out.
    """
    rows = F.embedding(tokens, embedding.detach())
    if embedding.requires_grad and torch.is_grad_enabled():

        def add(gradient: Tensor) -> None:
            if embedding.grad is None:
                embedding.grad = torch.zeros_like(embedding)
            embedding.grad.index_add_(0, tokens.flatten(), gradient.flatten(0, -2))

        # A leaf: seen from autograd, the embedding has one use, and its gradient is there before this one comes.
        rows.requires_grad_().register_hook(add)
    return rows


def tied_logits(x: Tensor, embedding: Tensor, vocab_size: int) -> Tensor:
    """Return logits (..., V) of x (..., C) with the first V rows of `embedding` (Vp, C), as `F.linear` would."""
    if torch.is_autocast_enabled(x.device.type) and embedding.dtype == torch.float32:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, embedding = x.to(dtype), embedding.to(dtype)
    logits: Tensor = TiedProduct.apply(x.flatten(0, -2), embedding, vocab_size)
    return logits.view(*x.shape[:-1], vocab_size)


class TiedProduct(torch.autograd.Function):
    """x (N, C) times the first V rows of the embedding (Vp, C): (N, V)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, embedding: Tensor, vocab_size: int) -> Tensor:
        ctx.save_for_backward(x, embedding)
        ctx.vocab_size = vocab_size
        return F.linear(x, embedding[:vocab_size])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, embedding = ctx.saved_tensors
        V = ctx.vocab_size
        gradient = torch.empty_like(embedding)
        gradient[V:].zero_()
        torch.mm(grad.T, x, out=gradient[:V])
        return grad @ embedding[:V], gradient, None
