"""The token embedding (Vp, C) as the first layer and, tied to it, as the output layer.

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
    """Return logits (..., Vp) of x (..., C) with `embedding` (Vp, C); those behind the first V are -inf.

    So no probability is theirs and no gradient, and matrix products see rows of a length that suits a processor.
    """
    if torch.is_autocast_enabled(x.device.type) and embedding.dtype == torch.float32:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, embedding = x.to(dtype), embedding.to(dtype)
    logits: Tensor = TiedProduct.apply(x.flatten(0, -2), embedding, vocab_size)
    return logits.view(*x.shape[:-1], len(embedding))


class TiedProduct(torch.autograd.Function):
    """x (N, C) times the embedding (Vp, C): (N, Vp), -inf behind the first V columns; their gradient must be 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, embedding: Tensor, vocab_size: int) -> Tensor:
        ctx.save_for_backward(x, embedding)
        logits = F.linear(x, embedding)
        logits[:, vocab_size:] = -torch.inf
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, embedding = ctx.saved_tensors
        return grad @ embedding, grad.T @ x, None
