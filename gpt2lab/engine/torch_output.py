"""The output layer tied to the token embedding, whose padded rows it leaves out.

Slicing the embedding would do; but then autograd makes the gradient of the slice, a matrix of zeros and a copy in it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
