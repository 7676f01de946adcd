"""GPT-2 in PyTorch, in nanoGPT's shape, without the work that bands and masks make unnecessary.

Pre-norm blocks, learned positions, tanh-GELU, output layer tied to the token embedding (Radford et al., 2019).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2lab.engine.torch.banded import BandedLinear, clear_outside_band
from gpt2lab.engine.torch.embedding import TiedEmbedding
from gpt2lab.engine.torch.passes import DeviceRows, Tree
from gpt2lab.model.bands import band_widths
from gpt2lab.model.params import TENSORS, GPTConfig, Params, check_params

# Where each of the 16 tensors lives in the module tree; {i} is the layer.
MODULE_NAMES = {
    "wte": "wte.weight",
    "wpe": "wpe.weight",
    "ln1w": "blocks.{i}.ln_1.weight",
    "ln1b": "blocks.{i}.ln_1.bias",
    "qkvw": "blocks.{i}.attn.qkv.weight",
    "qkvb": "blocks.{i}.attn.qkv.bias",
    "attprojw": "blocks.{i}.attn.proj.weight",
    "attprojb": "blocks.{i}.attn.proj.bias",
    "ln2w": "blocks.{i}.ln_2.weight",
    "ln2b": "blocks.{i}.ln_2.bias",
    "fcw": "blocks.{i}.mlp.fc1.weight",
    "fcb": "blocks.{i}.mlp.fc1.bias",
    "fcprojw": "blocks.{i}.mlp.fc2.weight",
    "fcprojb": "blocks.{i}.mlp.fc2.bias",
    "lnfw": "ln_f.weight",
    "lnfb": "ln_f.bias",
}

DENSE: Mapping[str, int | None] = {"fc1": None, "fc2": None}


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which each position sees itself and what came before in its row."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, rows: DeviceRows | Tree, *, trimmed: bool = False) -> Tensor:
        """Return x's shape, or with `trimmed` only what is counted."""
        C = x.shape[-1]
        if trimmed:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(rows.at_counted(x), weight[:C], bias[:C])
            k, v = F.linear(x, weight[C:], bias[C:]).split(C, dim=-1)
        else:
            q, k, v = self.qkv(x).split(C, dim=-1)
        return self.proj(rows.attend(q, k, v, self.n_head, trimmed=trimmed))


class MLP(nn.Module):
    """FC1 (C to 4C), tanh-GELU, FC2 (4C to C); each by tiles of its band where `tiles` says so."""

    def __init__(self, config: GPTConfig, tiles: Mapping[str, int | None]) -> None:
        super().__init__()
        C, fc1, fc2 = config.n_embd, tiles["fc1"], tiles["fc2"]
        self.fc1 = BandedLinear(C, config.fc1_band, fc1, widens=True) if fc1 else nn.Linear(C, 4 * C)
        self.fc2 = BandedLinear(C, config.fc2_band, fc2, widens=False) if fc2 else nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and around a residual connection."""

    def __init__(self, config: GPTConfig, tiles: Mapping[str, int | None]) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config, tiles)

    def forward(self, x: Tensor, rows: DeviceRows | Tree, *, trimmed: bool = False) -> Tensor:
        """Return x's shape, or with `trimmed` only what is counted."""
        y = self.attn(self.ln_1(x), rows, trimmed=trimmed)
        x = (rows.at_counted(x) if trimmed else x) + y
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The model. Its vocabulary rows are padded as in llm.c's files; logits cover the V real ones only.

    `tiles` (of `mlp_tiles`) are the hidden units per product of each banded matrix; without, products are dense.
    """

    def __init__(self, config: GPTConfig, tiles: Mapping[str, int | None] = DENSE) -> None:
        super().__init__()
        self.config = config
        self.wte = TiedEmbedding(config.vocab_size, config.padded_vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.max_seq_len, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, tiles) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def forward(self, rows: DeviceRows | Tree) -> Tensor:
        """Return the logits at what is counted: (B, n, V) of rows, (m, V) of a tree."""
        return self.wte.logits(self._before_output(rows))

    def loss_sum(self, rows: DeviceRows | Tree) -> Tensor:
        """Return the summed loss of what is counted, in nats, a scalar to go back from."""
        assert rows.targets is not None
        return self.wte.loss_sum(self._before_output(rows).flatten(0, -2), rows.targets)

    @torch.no_grad()
    def evaluate(self, rows: DeviceRows | Tree) -> tuple[Tensor, int]:
        """Return the same, and how many targets are the likeliest prediction."""
        assert rows.targets is not None
        return self.wte.evaluate(self._before_output(rows).flatten(0, -2), rows.targets)

    def _before_output(self, rows: DeviceRows | Tree) -> Tensor:
        x = self.wte(rows.tokens) + rows.at_positions(self.wpe.weight)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, rows)
        x = last(x, rows, trimmed=rows.trims_last)
        if not rows.trims_last:
            x = rows.at_counted(x)
        return self.ln_f(x)

    @classmethod
    def from_params(
        cls,
        config: GPTConfig,
        params: Params,
        *,
        dtype: torch.dtype = torch.float32,
        tiles: Mapping[str, int | None] = DENSE,
    ) -> "GPT":
        """Build a model on the CPU that holds the 16 tensors `params`."""
        with torch.device("meta"):  # no memory and no random numbers before the values are there
            model = cls(config, tiles)
        model.to_empty(device="cpu").to(dtype)
        model.load_params(params)
        return model

    @classmethod
    def from_pretrained(cls, name: str) -> "GPT":
        """Load gpt2, gpt2-medium, gpt2-large or gpt2-xl through transformers (extra `hf`)."""
        from gpt2lab.engine.torch.pretrained import read_pretrained

        config, params = read_pretrained(name)
        return cls.from_params(config, params)

    def load_params(self, params: Params) -> None:
        """Copy the 16 tensors into the model."""
        check_params(params, self.config)
        with torch.no_grad():
            for tensor, value in self.shared_out(params):
                tensor.copy_(value)

    def shared_out(self, values: Mapping[str, np.ndarray]) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter with its part of 16 tensors (parameters, moments), in its own shape, on the CPU."""
        for name, key, index, tensor in self.named_tensors():
            value = torch.from_numpy(np.ascontiguousarray(values[name][index]))
            banded = self._banded(key)
            yield tensor, banded.from_matrix(value) if banded else value

    def params(self) -> Params:
        """Return copies of the 16 tensors, float32."""
        return self.collect({key: tensor for _, key, _, tensor in self.named_tensors()})

    def collect(self, values: Mapping[str, Tensor]) -> Params:
        """Stack values keyed by module name (parameters, gradients, moments) into the 16 tensors, float32 copies."""
        parts: dict[str, list[np.ndarray]] = {}
        for name, key, _, _ in self.named_tensors():
            value, banded = values[key].detach(), self._banded(key)
            matrix = banded.to_matrix(value) if banded else value
            parts.setdefault(name, []).append(matrix.float().cpu().numpy())
        return {s.name: np.stack(parts[s.name]) if s.per_layer else parts[s.name][0].copy() for s in TENSORS}

    def named_tensors(self) -> Iterator[tuple[str, str, int | slice, nn.Parameter]]:
        """Yield (tensor name, module name, index into the tensor, parameter) over the table, layer by layer."""
        modules = dict(self.named_parameters())
        for spec in TENSORS:
            for layer in range(self.config.n_layer if spec.per_layer else 1):
                key = MODULE_NAMES[spec.name].format(i=layer)
                yield spec.name, key, layer if spec.per_layer else slice(None), modules[key]

    def clear_gradients_outside_bands(self) -> None:
        """Set the gradients of weights outside a band to zero; products of tiles make none."""
        bands = band_widths(self.config)
        for name, key, _, tensor in self.named_tensors():
            if name in bands and not self._banded(key):
                assert tensor.grad is not None
                clear_outside_band(tensor.grad, bands[name], widens=name == "fcw")

    def _banded(self, key: str) -> BandedLinear | None:
        """Return the layer whose weight `key` names, if that holds a band and not a matrix."""
        path, _, name = key.rpartition(".")
        module = self.get_submodule(path)
        return module if name == "weight" and isinstance(module, BandedLinear) else None
