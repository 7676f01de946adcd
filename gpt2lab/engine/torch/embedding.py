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

from gpt2lab.engine.torch.targets import Targets

# Of a processor, where the output layer's products are up to a fifth faster than without:
ALIGNED = 16  # rows of float32 logits begin at multiples of 64 bytes
BLOCK = 512  # columns of logits per product, whose part of the weight stays in its cache


class TiedEmbedding(nn.Module):
    """The first V rows of `weight` (Vp, C) are tokens; the padding behind them gets no probability and no gradient.

    Embedding and loss add to `weight.grad` themselves: `backward()` gives all of the gradient, `torch.autograd.grad`
    would leave it out. On a processor the memory of `weight.grad` and that of the logits in a loss stay, as large as
    they ever were, and are written over by the next pass: who wants a gradient beyond `weight.grad = None` copies it.
    """

    def __init__(self, vocab_size: int, padded_vocab_size: int, n_embd: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.weight = nn.Parameter(torch.empty(padded_vocab_size, n_embd))
        self._columns = min(math.ceil(vocab_size / ALIGNED) * ALIGNED, padded_vocab_size)  # of logits in a loss
        self._gradient, self._logits = KeptMemory(), KeptMemory()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the rows (..., C) for tokens (...) int64."""
        rows = F.embedding(tokens, self.weight.detach())
        if self.weight.requires_grad and torch.is_grad_enabled():

            def add(gradient: Tensor) -> None:
                if self.weight.grad is None:
                    self.weight.grad = self._gradient.empty_like(self.weight).zero_()
                self.weight.grad.index_add_(0, tokens.flatten(), gradient.flatten(0, -2))

            # A leaf: autograd knows nothing of this use of the embedding, and makes no gradient of its size.
            rows.requires_grad_().register_hook(add)
        return rows

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (..., V) of x (..., C), to read: to train on them is slower than `loss_sum`."""
        return F.linear(x, self.weight[: self.vocab_size])

    def loss_sum(self, x: Tensor, targets: Targets) -> Tensor:
        """Return the summed cross entropy, in nats, of logits of x (N, C): a scalar, float32 (float64 of float64)."""
        loss: Tensor = _OutputLoss.apply(*self._operands(x), self, targets)
        return loss

    @torch.no_grad()
    def evaluate(self, x: Tensor, targets: Targets) -> tuple[Tensor, int]:
        """Return the same, and how many targets are the likeliest token."""
        logits = self._padded_logits(*self._operands(x))
        n_correct = targets.n_correct(logits)
        return targets.loss_sum(_log_softmax(logits)), n_correct

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and the weight in the dtype of their product."""
        if torch.is_autocast_enabled(x.device.type) and self.weight.dtype == torch.float32:
            dtype = torch.get_autocast_dtype(x.device.type)
            return x.to(dtype), self.weight.to(dtype)
        return x, self.weight

    def _padded_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return logits (N, columns), float32 or float64, of x (N, C) and weight (Vp, C); -inf behind the first V."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        logits = self._logits.empty((len(x), self._columns), dtype, x.device)
        block = BLOCK if x.device.type == "cpu" else self._columns
        for rows, part in zip(weight[: self._columns].split(block), logits.split(block, dim=1), strict=True):
            if x.dtype == dtype:
                torch.mm(x, rows.T, out=part)
            else:
                part.copy_(x @ rows.T)
        logits[:, self.vocab_size :] = -torch.inf
        return logits

    def _add_product(self, a: Tensor, b: Tensor) -> None:
        """Add a (columns, N) times b (N, C) to `weight.grad`."""
        fresh, gradient = self.weight.grad is None, self.weight.grad
        if gradient is None:
            gradient = self.weight.grad = self._gradient.empty_like(self.weight)
            gradient[self._columns :].zero_()
        rows = gradient[: self._columns]
        if a.dtype == rows.dtype:
            rows.addmm_(a, b, beta=0.0 if fresh else 1.0)  # 0: what lies there is not read
        elif fresh:
            rows.copy_(a @ b)
        else:
            rows.add_(a @ b)


class _OutputLoss(torch.autograd.Function):
    """From x (N, C) to the loss with one array of the logits' size; under autocast one more, for their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, embedding: TiedEmbedding, targets: Targets) -> Tensor:
        log_p = _log_softmax(embedding._padded_logits(x, weight))
        ctx.save_for_backward(x, weight, log_p)
        ctx.embedding, ctx.targets = embedding, targets
        return targets.loss_sum(log_p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight, log_p = ctx.saved_tensors
        # Written over log_p: a second backward pass would find it changed, and raises.
        gradient = ctx.targets.write_gradient(log_p, grad).to(x.dtype)
        if ctx.needs_input_grad[1]:
            ctx.embedding._add_product(gradient.T, x)
        return gradient @ weight[: gradient.shape[1]] if ctx.needs_input_grad[0] else None, None, None, None


def _log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities, on a processor written over the logits."""
    return torch.log_softmax(logits, dim=1, out=logits if logits.device.type == "cpu" else None)


class KeptMemory:
    """CPU memory for an array that is made again at each step; allocators of other devices keep theirs already.

    What the system hands out anew it has to clear, page by page: 154 MB for the embedding's gradient of GPT-2 124M.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an array of any values; on a processor the one returned before is overwritten with it."""
        if device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        size = math.prod(shape)
        if self._values is None or self._values.dtype != dtype or len(self._values) < size:
            self._values = torch.empty(size, dtype=dtype)
        return self._values[:size].view(shape)

    def empty_like(self, array: Tensor) -> Tensor:
        """Return an array of any values, of this one's shape, dtype and device."""
        return self.empty(array.shape, array.dtype, array.device)
