"""GPT-2 in plain PyTorch, to be read first: every engine must compute what this file computes.

Pre-norm blocks, learned positions, tanh-GELU, output layer tied to the token embedding (Radford et al., 2019), AdamW in
two groups, as nanoGPT trains it. It takes sizes, the 16 tensors and AdamW's settings, and nothing else of gpt2lab: the
engines leave out work and fuse operations, this model does not. Autograd makes the gradients.

The tests compare engines with `Reference`, in float64. tools/bench.py and tools/gpu_check.py time the same model in
float32, because it is also what a careful user of PyTorch would train.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2lab.model.params import GPTConfig, Params
from gpt2lab.schema import Decay, OptimConfig

# The 16 tensors in the order of llm.c's files, and the parameter that holds each; {i} is the layer.
NAMES = {
    "wte": "wte.weight",
    "wpe": "wpe.weight",
    "ln1w": "h.{i}.ln_1.weight",
    "ln1b": "h.{i}.ln_1.bias",
    "qkvw": "h.{i}.attn.weight",
    "qkvb": "h.{i}.attn.bias",
    "attprojw": "h.{i}.proj.weight",
    "attprojb": "h.{i}.proj.bias",
    "ln2w": "h.{i}.ln_2.weight",
    "ln2b": "h.{i}.ln_2.bias",
    "fcw": "h.{i}.mlp.0.weight",
    "fcb": "h.{i}.mlp.0.bias",
    "fcprojw": "h.{i}.mlp.2.weight",
    "fcprojb": "h.{i}.mlp.2.bias",
    "lnfw": "ln_f.weight",
    "lnfb": "ln_f.bias",
}


def band_mask(n_embd: int, band: int) -> Tensor:
    """Return which weights (4C, C) a band keeps: hidden unit h and channel c with |h - 4c| <= band / 2."""
    hidden, channel = torch.arange(4 * n_embd)[:, None], torch.arange(n_embd)
    return (hidden - 4 * channel).abs() <= band / 2


class BandedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by `mask`, so that nothing outside counts or gets a gradient."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and around a residual connection."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)  # attn: queries, keys and values
        fc1 = BandedLinear(band_mask(C, config.fc1_band).float()) if config.fc1_band else nn.Linear(C, 4 * C)
        fc2 = BandedLinear(band_mask(C, config.fc2_band).float().T) if config.fc2_band else nn.Linear(4 * C, C)
        self.mlp = nn.Sequential(fc1, nn.GELU(approximate="tanh"), fc2)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for part in self.attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The model. With `padded`, rows of the vocabulary's padding are trained and predicted like any other."""

    def __init__(
        self, config: GPTConfig, params: Params, *, padded: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size if padded else config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.max_seq_len, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.to(dtype)
        self.load(params)

    def forward(self, tokens: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V) of tokens (B, T) int64, or (B, n, V) at the positions `counted` (n,) int64."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        x = self.ln_f(x)
        return F.linear(x if counted is None else x[:, counted], self.wte.weight)

    def loss(self, tokens: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return the mean loss in nats over the targets (B, T) int64, or over those at positions `counted`."""
        logits = self(tokens, counted)
        return F.cross_entropy(logits.flatten(0, 1), (targets if counted is None else targets[:, counted]).flatten())

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Copy the 16 tensors into the model, where it is; a layer of each that has layers."""
        for name, index, tensor in self.named_tensors():
            tensor.copy_(torch.from_numpy(params[name][index][: len(tensor)]))

    def collect(self, value: Callable[[nn.Parameter], Tensor]) -> Params:
        """Return a value per parameter, stacked into the 16 tensors."""
        parts: dict[str, list[np.ndarray]] = {}
        for name, _, tensor in self.named_tensors():
            parts.setdefault(name, []).append(value(tensor).detach().cpu().numpy())
        return {name: np.stack(parts[name]) if "{i}" in NAMES[name] else parts[name][0].copy() for name in NAMES}

    def named_tensors(self) -> Iterator[tuple[str, int | slice, nn.Parameter]]:
        """Yield (name of the tensor, index into it, parameter) of all parameters."""
        parameters = dict(self.named_parameters())
        for name, key in NAMES.items():
            if "{i}" not in key:
                yield name, slice(None), parameters[key]
                continue
            for i in range(self.config.n_layer):
                yield name, i, parameters[key.format(i=i)]


def create_adamw(model: GPT, optim: OptimConfig, **options: bool) -> torch.optim.AdamW:
    """Return nanoGPT's optimizer: matrices and embeddings decay, vectors do not unless `optim.decay` says all."""
    decays = [p for p in model.parameters() if p.dim() >= 2 or optim.decay is Decay.all]
    others = [p for p in model.parameters() if p.dim() < 2 and optim.decay is not Decay.all]
    groups = [{"params": decays, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (optim.beta1, optim.beta2)
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=betas, eps=optim.eps, fused=True, **options)


@dataclass(frozen=True, slots=True)
class Update:
    """What an update found: mean loss in nats, and the global gradient norm before clipping."""

    loss: float
    grad_norm: float


class Training:
    """A model with its optimizer, whose state can be read and set."""

    def __init__(self, model: GPT, optimizer: torch.optim.AdamW) -> None:
        self.model, self.optimizer = model, optimizer
        self._loss = self._grad_norm = torch.zeros(())  # of the last update

    def result(self) -> Update:
        """Return loss and gradient norm of the last update."""
        return Update(loss=float(self._loss), grad_norm=float(self._grad_norm))

    @torch.no_grad()
    def restore(self, params: Params, moments: dict[str, np.ndarray], step: int) -> None:
        """Begin again with 16 tensors. All stays where it is, because a CUDA graph may know it."""
        assert not moments and not step
        self.model.load(params)
        for state in self.optimizer.state.values():
            for values in state.values():
                values.zero_()

    def parameters(self) -> Params:
        """Return a copy of the 16 tensors."""
        return self.model.collect(lambda p: p)

    def moments(self) -> dict[str, np.ndarray]:
        """Return copies of the first ("m.NAME") and second ("v.NAME") moments; zeros where nothing was trained."""
        found = {}
        for prefix, key in (("m", "exp_avg"), ("v", "exp_avg_sq")):
            tensors = self.model.collect(lambda p, key=key: self.optimizer.state[p].get(key, torch.zeros_like(p)))
            found.update({f"{prefix}.{name}": array for name, array in tensors.items()})
        return found


class Reference(Training):
    """A model in training on a processor. Batches are inputs and targets, (B, T) int32 each, as those of an engine."""

    def __init__(self, model: GPT, optim: OptimConfig, counted: tuple[int, ...] | None = None) -> None:
        super().__init__(model, create_adamw(model, optim))
        self._grad_clip = optim.grad_clip
        self._counted = None if counted is None else torch.tensor(counted)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Return the logits (B, T, V) at every position."""
        with torch.no_grad():
            return self.model(torch.from_numpy(tokens.astype(np.int64))).numpy()

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Params]:
        """Return the mean loss and its 16 gradients."""
        loss = self._backward(inputs, targets)
        return loss.item(), self.model.collect(lambda p: p.grad)

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        """Do one update."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._loss = self._backward(inputs, targets)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self._grad_norm = nn.utils.get_total_norm(gradients)
        if 0 < self._grad_clip < self._grad_norm:
            torch._foreach_mul_(gradients, self._grad_clip / self._grad_norm)
        self.optimizer.step()

    def _backward(self, inputs: np.ndarray, targets: np.ndarray) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        tokens, wanted = (torch.from_numpy(array.astype(np.int64)) for array in (inputs, targets))
        loss = self.model.loss(tokens, wanted, self._counted)
        loss.backward()
        return loss.detach()
