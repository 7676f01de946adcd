"""GPT-2 as a careful user of PyTorch would write and train it, after nanoGPT: what our steps are measured against.

It shares nothing with our engines but the 16 tensors that it starts from and how it reports. nn.Linear,
scaled_dot_product_attention, tanh-GELU, tied embedding, cross_entropy, fused AdamW in two groups, gradients set to
None, clipped by PyTorch. A loss mask takes the counted positions before the output layer.

The output layer multiplies the whole embedding, as nanoGPT's lm_head does: a slice of it would cost a copy of its
gradient at each step. It has V rows, or with `padded=True` those of the padding too, which are trained and predicted
like any other: more work, but a row length that suits the processor. Whoever measures takes the faster of the two.

A band is dense products with masked gradients: weights outside start at zero, a hook sets their gradients to zero, and
so AdamW leaves them at zero. Or, with `masked_weights=True`, weights are multiplied by a mask in each forward pass, and
autograd masks their gradients. Whoever measures takes the faster of the two.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2lab.engine import StepResult
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.params import TENSORS, GPTConfig, Params
from gpt2lab.schema import OptimConfig

# Where each tensor lives; {i} is the layer.
NAMES = {
    **{"wte": "wte.weight", "wpe": "wpe.weight", "lnfw": "ln_f.weight", "lnfb": "ln_f.bias"},
    **{"ln1w": "h.{i}.ln_1.weight", "ln1b": "h.{i}.ln_1.bias", "ln2w": "h.{i}.ln_2.weight", "ln2b": "h.{i}.ln_2.bias"},
    **{"qkvw": "h.{i}.attn.weight", "qkvb": "h.{i}.attn.bias"},
    **{"attprojw": "h.{i}.proj.weight", "attprojb": "h.{i}.proj.bias"},
    **{"fcw": "h.{i}.mlp.0.weight", "fcb": "h.{i}.mlp.0.bias"},
    **{"fcprojw": "h.{i}.mlp.2.weight", "fcprojb": "h.{i}.mlp.2.bias"},
}


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by `mask` each time."""

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, *, masked_weights: bool) -> None:
        super().__init__()
        C, hidden = config.n_embd, config.n_hidden
        masked = banded_tensors(config) if masked_weights else {}
        fc1, fc2 = (MaskedLinear if name in masked else nn.Linear for name in ("fcw", "fcprojw"))
        self.n_head = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.mlp = nn.Sequential(fc1(C, hidden), nn.GELU(approximate="tanh"), fc2(hidden, C))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for part in self.attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    """The model; `loss` is what it is trained on."""

    def __init__(
        self, config: GPTConfig, params: Params, *, masked_weights: bool = False, padded: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size if padded else config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.max_seq_len, config.n_embd)
        self.h = nn.ModuleList(Block(config, masked_weights=masked_weights) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.load(params)
        self._mask(masked_weights)

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Copy the 16 tensors into the model, where it is."""
        for name, _, index, tensor in self.named_tensors():
            tensor.copy_(torch.from_numpy(params[name][index][: len(tensor)]))

    def collect(self, value: Callable[[nn.Parameter], Tensor]) -> Params:
        """Stack a value per parameter into the 16 tensors, float32 copies."""
        parts: dict[str, list[np.ndarray]] = {}
        for name, _, _, tensor in self.named_tensors():
            parts.setdefault(name, []).append(value(tensor).detach().float().cpu().numpy())
        return {s.name: np.stack(parts[s.name]) if s.per_layer else parts[s.name][0].copy() for s in TENSORS}

    def named_tensors(self) -> list[tuple[str, str, int | slice, nn.Parameter]]:
        """Return (tensor, parameter's name, index into the tensor, parameter) of all, layer by layer."""
        parameters, found = dict(self.named_parameters()), []
        for name, key in NAMES.items():
            per_layer = "{i}" in key
            for i in range(self.config.n_layer if per_layer else 1):
                of_layer = key.format(i=i)
                found.append((name, of_layer, i if per_layer else slice(None), parameters[of_layer]))
        return found

    def _mask(self, masked_weights: bool) -> None:
        """Give every banded matrix its mask, which layers share."""
        masks = {name: torch.from_numpy(mask.astype(np.float32)) for name, mask in banded_tensors(self.config).items()}
        for name, key, _, tensor in self.named_tensors():
            if name not in masks:
                continue
            layer = self.get_submodule(key.removesuffix(".weight"))
            layer.register_buffer("mask", masks[name].contiguous(), persistent=False)
            if not masked_weights:
                tensor.register_hook(lambda grad, layer=layer: grad.mul_(layer.get_buffer("mask")))

    def loss(self, tokens: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return the mean loss in nats over (B, T) int64 targets, or over those at positions `counted` (n,) int64."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        x = self.ln_f(x)
        if counted is not None:
            x, targets = x[:, counted], targets[:, counted]
        logits = F.linear(x, self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def create_adamw(model: PlainGPT, optim: OptimConfig, **options: bool) -> torch.optim.AdamW:
    """Return nanoGPT's optimizer: matrices and embeddings decay, vectors do not."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (optim.beta1, optim.beta2)
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=betas, eps=optim.eps, fused=True, **options)


class Training:
    """A model with its optimizer, as one can read and begin again."""

    def __init__(self, model: PlainGPT, optimizer: torch.optim.AdamW) -> None:
        self.model, self.optimizer = model, optimizer
        self._loss = self._grad_norm = torch.zeros(())  # of the last update

    def result(self) -> StepResult:
        """Return loss and gradient norm of the last update."""
        return StepResult(loss=float(self._loss), grad_norm=float(self._grad_norm))

    @torch.no_grad()
    def restore(self, params: Params, moments: dict[str, np.ndarray], step: int) -> None:
        """Begin again with 16 tensors. All stays where it is, because a CUDA graph may know it."""
        assert not moments and not step
        self.model.load(params)
        for state in self.optimizer.state.values():
            for values in state.values():
                values.zero_()

    def parameters(self) -> Params:
        """Return a copy of the 16 tensors, float32."""
        return self.model.collect(lambda p: p)

    def moments(self) -> dict[str, np.ndarray]:
        """Return copies of the first ("m.NAME") and second ("v.NAME") moments; zeros where nothing was trained."""
        found = {}
        for prefix, key in (("m", "exp_avg"), ("v", "exp_avg_sq")):
            tensors = self.model.collect(lambda p, key=key: self.optimizer.state[p].get(key, torch.zeros_like(p)))
            found.update({f"{prefix}.{name}": array for name, array in tensors.items()})
        return found


class PlainStep(Training):
    """A model in training on a processor, one update per call."""

    def __init__(
        self, config: GPTConfig, params: Params, optim: OptimConfig, counted: tuple[int, ...] | None, **options: bool
    ) -> None:
        model = PlainGPT(config, params, **options)
        super().__init__(model, create_adamw(model, optim))
        self._grad_clip = optim.grad_clip
        self._counted = None if counted is None else torch.tensor(counted)

    def loss(self, inputs: np.ndarray, targets: np.ndarray) -> Tensor:
        """Return the mean loss of a batch, (B, T) int32 each."""
        tokens, expected = (torch.from_numpy(array.astype(np.int64)) for array in (inputs, targets))
        return self.model.loss(tokens, expected, self._counted)

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(inputs, targets)
        loss.backward()
        self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_clip)
        self.optimizer.step()
        self._loss = loss.detach()
