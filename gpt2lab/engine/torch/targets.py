"""What rows of logits should have predicted: loss, its gradient and how often the likeliest token was right."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """Target i is token `tokens[i]` of row `rows[i]`, and counts `counts[i]` times; all (P,) int64.

    Without `rows` and `counts` target i is that of row i and counts once.
    """

    tokens: Tensor
    rows: Tensor | None = None
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        assert (self.rows is None) == (self.counts is None)

    def loss_sum(self, log_p: Tensor) -> Tensor:
        """Return minus the sum of counts[i] * log_p[rows[i], tokens[i]], in nats, of log-probabilities (N, V)."""
        picked = log_p.view(-1).index_select(0, self._places(log_p))
        return -(picked if self.counts is None else picked * self.counts).sum()

    def write_gradient(self, log_p: Tensor, factor: Tensor) -> Tensor:
        """Return the gradient of `factor` (a scalar) times the loss by the logits (N, V), written over log_p."""
        gradient, places = log_p.exp_(), self._places(log_p)
        if self.rows is None or self.counts is None:
            gradient.mul_(factor).view(-1).index_add_(0, places, -factor.expand(len(places)))
        else:
            weights = self.counts * factor
            gradient.mul_(gradient.new_zeros(len(gradient)).index_add_(0, self.rows, weights)[:, None])
            gradient.view(-1).index_add_(0, places, -weights)
        return gradient

    def n_correct(self, logits: Tensor) -> int:
        """Return how many targets are the likeliest token of their row of logits (N, V)."""
        likeliest = logits.argmax(dim=1)
        right = (likeliest if self.rows is None else likeliest[self.rows]) == self.tokens
        return int((right if self.counts is None else right * self.counts).sum())

    def _places(self, log_p: Tensor) -> Tensor:
        rows = torch.arange(len(self.tokens), device=log_p.device) if self.rows is None else self.rows
        return self.tokens + log_p.shape[1] * rows
