"""Cross entropy of counted targets. Its gradient is written over the log-probabilities: one array of that size less."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy_sum(
    logits: Tensor, targets: Tensor, rows: Tensor | None = None, counts: Tensor | None = None
) -> Tensor:
    """Return sum over i of counts[i] * (log sum_v exp logits[rows[i], v] - logits[rows[i], targets[i]]), in nats.

    logits: (N, V). targets, rows, counts: (P,) int64, no pair of row and target twice. Without `rows` and `counts`
    target i is that of row i and counts once. Computes in float32, or in float64 when that is what comes.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss: Tensor = _CrossEntropySum.apply(wide, targets, rows, counts)
    return loss


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rows: Tensor | None, counts: Tensor | None) -> Tensor:
        log_p = torch.log_softmax(logits, dim=1)
        place = targets + logits.shape[1] * (
            torch.arange(len(targets), device=targets.device) if rows is None else rows
        )
        ctx.save_for_backward(log_p, place, rows, counts)
        picked = log_p.view(-1).index_select(0, place)
        return -(picked if counts is None else picked * counts).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        log_p, place, rows, counts = ctx.saved_tensors
        gradient = log_p.exp_()  # a second backward pass would find it changed, and raises
        if counts is None:
            gradient.mul_(grad)
            gradient.view(-1).index_add_(0, place, -grad.expand(len(place)))
        else:
            weights = counts * grad
            gradient.mul_(gradient.new_zeros(len(gradient)).index_add_(0, rows, weights)[:, None])
            gradient.view(-1).index_add_(0, place, -weights)
        return gradient, None, None, None
