"""The token embedding (Vp, C): tokens in and, tied to it, the output layer with its loss.

Indexing, a linear layer and PyTorch's cross entropy would do. But then autograd makes a matrix of zeros of the
embedding's size for each of the two uses, writes a gradient into it and adds them up; logits, log-probabilities and
their gradient are arrays of their own; and all of them are memory which the system hands out anew, page by page, at
every step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gpt2lab.engine.torch_targets import Targets


class TiedEmbedding(nn.Embedding):
    """The first V of its rows are tokens; the padding behind them gets no probability and no gradient.

    Both uses add to `weight.grad` themselves: `backward()` gives all of the gradient, `torch.autograd.grad` would leave
    it out. On a processor `weight.grad` is memory that is used again once it was set to None.
    """

    def __init__(self, vocab_size: int, padded_vocab_size: int, n_embd: int) -> None:
        super().__init__(padded_vocab_size, n_embd)
        self.vocab_size = vocab_size
        self._gradient, self._logits = KeptMemory(), KeptMemory()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the rows (..., C) for tokens (...) int64."""
        rows = F.embedding(tokens, self.weight.detach())
        if self.weight.requires_grad and torch.is_grad_enabled():

            def add(gradient: Tensor) -> None:
                self.gradient().index_add_(0, tokens.flatten(), gradient.flatten(0, -2))

            # A leaf: autograd knows of no use of the embedding, and makes no gradient of its size.
            rows.requires_grad_().register_hook(add)
        return rows

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (..., V) of x (..., C)."""
        # The padding's too, and then without: rows of a good length make the product faster by more than they add.
        return F.linear(x, self.weight)[..., : self.vocab_size]

    def loss_sum(self, x: Tensor, targets: Targets) -> Tensor:
        """Return the summed cross entropy, in nats, of logits of x (N, C): a scalar, float32 (float64 of float64)."""
        weight: Tensor = self.weight
        if torch.is_autocast_enabled(x.device.type) and weight.dtype == torch.float32:
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.detach().to(dtype)
        loss: Tensor = _OutputLoss.apply(x, weight, self, targets)
        return loss

    def log_probabilities(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return log-probabilities (N, Vp) of x (N, C) and `weight` (Vp, C) of one dtype; -inf behind the first V."""
        logits = torch.mm(x, weight.T, out=self._logits.empty((len(x), len(weight)), like=x))
        logits[:, self.vocab_size :] = -torch.inf
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(wide, dim=1, out=wide)

    def gradient(self) -> Tensor:
        """Return `weight.grad` (Vp, C); zeros if there was none."""
        if self.weight.grad is None:
            self.weight.grad = self._gradient.empty(self.weight.shape, like=self.weight).zero_()
        return self.weight.grad

    def add_to_gradient(self, a: Tensor, b: Tensor) -> None:
        """Add the product of a (Vp, N) and b (N, C) to `weight.grad`."""
        if a.dtype != self.weight.dtype:
            self.gradient().add_(a @ b)
        elif self.weight.grad is not None:
            self.weight.grad.addmm_(a, b)
        else:
            self.weight.grad = torch.mm(a, b, out=self._gradient.empty(self.weight.shape, like=self.weight))


class _OutputLoss(torch.autograd.Function):
    """From x (N, C) to the loss, with one array of the size of the logits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, embedding: TiedEmbedding, targets: Targets) -> Tensor:
        log_p = embedding.log_probabilities(x, weight)
        ctx.save_for_backward(x, weight, log_p)
        ctx.embedding, ctx.targets = embedding, targets
        return targets.loss_sum(log_p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, log_p = ctx.saved_tensors
        # Written over log_p: a second backward pass would find it changed, and raises.
        gradient = ctx.targets.write_gradient(log_p, grad).to(x.dtype)
        if ctx.embedding.weight.requires_grad:
            ctx.embedding.add_to_gradient(gradient.T, x)
        return gradient @ weight, None, None, None


class KeptMemory:
    """Memory of a processor for an array that is made again at each step.

    What the system hands out anew it clears page by page: for the embedding's gradient of GPT-2 124M and 256 tokens 42
    of 148 ms, measured on 2 cores. Allocators of other devices keep memory by themselves.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None

    def empty(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        """Return an array of any values; the last one that was returned is overwritten with it."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        size = math.prod(shape)
        if self._values is None or self._values.dtype != like.dtype or len(self._values) < size:
            self._values = torch.empty(size, dtype=like.dtype)
        return self._values[:size].view(shape)
