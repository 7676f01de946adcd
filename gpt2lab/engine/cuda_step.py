"""One training step of the CUDA core, in the order in which it runs: forward, backward, update.

Every line queues one operation; nothing is allocated and nothing is read back, so that the whole step can be recorded
once as a CUDA graph and replayed. Shapes: rows = B*T positions of one pass, C channels, F = 4C hidden units, L layers;
matrices are (out, in). GPT-2 with pre-norm blocks (Radford et al., 2019), its gradients by hand as in llm.c.
"""

import math
from collections.abc import Mapping

from gpt2lab.engine.cuda_memory import BY_LAYER, BY_ROW
from gpt2lab.engine.device import Array, Device
from gpt2lab.engine.gemm import Gemm
from gpt2lab.engine.numerics import Numerics
from gpt2lab.engine.ops.adamw import AdamW
from gpt2lab.engine.ops.attention import Attention
from gpt2lab.engine.ops.banded_linear import MlpTiles, mlp_products
from gpt2lab.engine.ops.cross_entropy import CrossEntropy
from gpt2lab.engine.ops.embedding import Embedding, segments_size
from gpt2lab.engine.ops.grad_norm import GradNorm
from gpt2lab.engine.ops.layer_norm import LayerNorm
from gpt2lab.engine.ops.linear import Linear
from gpt2lab.engine.ops.positions import Positions
from gpt2lab.engine.ops.tensor_table import tensor_table
from gpt2lab.model.params import GPTConfig, tensor_shapes
from gpt2lab.schema import OptimConfig


class Step:
    """The operations of one model over the arrays of one arena (named as in `cuda_memory.py`)."""

    def __init__(
        self,
        device: Device,
        gemm: Gemm,
        numerics: Numerics,
        config: GPTConfig,
        optim: OptimConfig,
        arena: Mapping[str, Array],
        mlp_tiles: MlpTiles,
    ) -> None:
        C, F = config.n_embd, config.n_hidden
        self._device, self._gemm, self._config, self._arena = device, gemm, config, arena
        self._embedding = Embedding(device, numerics, n_embd=C)
        self._norm = LayerNorm(device, numerics, n_embd=C)
        self._qkv = Linear(device, numerics, gemm, n_in=C, n_out=3 * C)
        self._attention = Attention(device, numerics, n_head=config.n_head, head_size=config.head_size)
        self._proj = Linear(device, numerics, gemm, n_in=C, n_out=C)
        mlp = mlp_products(gemm, numerics, config, mlp_tiles, arena.get("pointers"))
        self._fc1 = Linear(device, numerics, mlp["fc1"], n_in=C, n_out=F)
        self._fc2 = Linear(device, numerics, mlp["fc2"], n_in=F, n_out=C)
        self._positions = Positions(device, numerics, n_embd=C)
        self._loss = CrossEntropy(
            device, numerics, vocab_size=config.vocab_size, padded_vocab_size=config.padded_vocab_size
        )
        table = tensor_table(config, optim.decay)
        device.upload(arena["tensors"], table)
        self._grad_norm = GradNorm(device, numerics, n_embd=C, table=table)
        self._adamw = AdamW(device, numerics, n_embd=C, table=table, optim=optim)
        self._grad_clip = optim.grad_clip
        self._p = views(arena["parameters"], config)
        self._w = views(arena["weights"], config) if "weights" in arena else self._p  # what products read
        self._g = views(arena["gradients"], config)
        self._passes: dict[int, dict[str, Array]] = {}

    def update(self, *, B: int, T: int, micro_batch_size: int, n_counted: int) -> None:
        """Queue one whole update from what was uploaded: tokens, order, targets and schedule."""
        self.gradients(B=B, T=T, micro_batch_size=micro_batch_size, n_counted=n_counted)
        # Several processes would add up arena["gradients"] here.
        a = self._arena
        self._grad_norm.launch(
            stats=a["stats"],
            flag=a["diverged_at"],
            failure=a["failure"],
            grads=a["gradients"],
            tensors=a["tensors"],
            update=a["update"],
            partials=a["partials"],
            clip=self._grad_clip,
        )
        self._adamw.launch(
            params=a["parameters"],
            m=a["first moments"],
            v=a["second moments"],
            weights=a.get("weights"),
            grads=a["gradients"],
            tensors=a["tensors"],
            schedule=a["schedule"],
            stats=a["stats"],
            flag=a["diverged_at"],
        )

    def gradients(self, *, B: int, T: int, micro_batch_size: int, n_counted: int) -> None:
        """Queue the gradient of the mean loss over B*n_counted targets, and that loss, pass by pass."""
        arena = self._arena
        self._device.fill_zero(arena["gradients"])
        self._device.fill_zero(arena["stats"])
        place = 0
        for first in range(0, B, micro_batch_size):
            size = min(micro_batch_size, B - first)
            positions = slice(first * T, (first + size) * T)
            segments = slice(place, place + segments_size(size * T, self._config.padded_vocab_size))
            place = segments.stop
            tokens, order = arena["tokens"][positions], arena["order"][positions]
            targets = arena["targets"][first * n_counted : (first + size) * n_counted]
            self.forward(tokens, B=size, T=T)
            self._loss_and_its_gradient(targets, B=size, T=T, scale=1 / (B * n_counted))
            self._backward(tokens, order, arena["segments"][segments], B=size, T=T)

    def forward(self, tokens: Array, *, B: int, T: int) -> None:
        """Queue all layers over `tokens` (B*T,) int32; the final norm's output is left in `lnf` (rows, C)."""
        a, p, w, L = self._pass(B * T), self._p, self._w, self._config.n_layer
        branch = a["dnarrow"]  # free until backward
        x = a["encoded"]
        self._embedding.forward(x=x.reshape(B, T, -1), tokens=tokens, wte=p["wte"], wpe=p["wpe"])
        self._norm.forward(x=x, **self._norm_arrays(a, "ln1", 0))
        for i in range(L):
            self._qkv.forward(
                out=a["qkv"][i], x=a["ln1"][i], weight=w["qkvw"][i], bias=p["qkvb"][i], bias_act=w["qkvb"][i]
            )
            self._attention.forward(out=a["atty"][i], lse=a["lse"][i], qkv=a["qkv"][i], B=B, T=T)
            self._proj.forward(
                out=branch, x=a["atty"][i], weight=w["attprojw"][i], bias=p["attprojb"][i], bias_act=w["attprojb"][i]
            )
            norm = self._norm_arrays(a, "ln2", i)
            self._norm.residual_forward(sum=a["residual2"][i], residual=x, branch=branch, **norm)

            hidden, pre = a["fch_gelu"][i], a["fch"][i]
            self._fc1.forward_gelu(
                out=hidden, pre=pre, x=a["ln2"][i], weight=w["fcw"][i], bias=p["fcb"][i], bias_act=w["fcb"][i]
            )
            self._fc2.forward(
                out=branch, x=hidden, weight=w["fcprojw"][i], bias=p["fcprojb"][i], bias_act=w["fcprojb"][i]
            )
            norm = self._norm_arrays(a, "ln1", i + 1) if i + 1 < L else self._norm_arrays(a, "lnf")
            self._norm.residual_forward(sum=a["residual3"][i], residual=a["residual2"][i], branch=branch, **norm)
            x = a["residual3"][i]

    def logits_of(self, x: Array) -> Array:
        """Queue logits (n, Vp) = x (n, C) @ wte^T into the arena, and return them."""
        logits = self._arena["logits"][: len(x)]
        self._gemm.matmul(logits, x, self._w["wte"], transpose_b=True)
        return logits

    def at_positions(self, out: Array, positions: Array, *, B: int, T: int) -> Array:
        """Queue out (B*n, C) = the final norm's output at `positions` (n,) int32 of every sequence; return `out`."""
        x = self._arena["lnf"][: B * T].reshape(B, T, -1)
        self._positions.gather_forward(out=out.reshape(B, len(positions), -1), x=x, counted=positions)
        return out

    def evaluate(self, targets: Array, *, B: int, T: int) -> None:
        """Queue `losses` (nats) and `correct` (0 or 1) of the counted targets (B*n,) int32 after `forward`."""
        n, arena = len(targets), self._arena
        logits = self.logits_of(self._counted_rows(B=B, T=T))
        self._loss.forward(losses=arena["losses"][:n], correct=arena["correct"][:n], logits=logits, targets=targets)

    def _counted_rows(self, *, B: int, T: int) -> Array:
        """Return the final norm's output at the counted positions (B*n, C); with all of them counted that is `lnf`."""
        arena = self._arena
        if "lnf_counted" not in arena:
            return arena["lnf"][: B * T]
        return self.at_positions(arena["lnf_counted"][: B * len(arena["counted"])], arena["counted"], B=B, T=T)

    def _loss_and_its_gradient(self, targets: Array, *, B: int, T: int, scale: float) -> None:
        """Queue stats[0] += the scaled losses, the gradient of wte as output layer, and that of `lnf` into dnarrow."""
        n, arena = len(targets), self._arena
        x = self._counted_rows(B=B, T=T)
        logits, losses = self.logits_of(x), arena["losses"][:n]
        self._loss.backward(losses=losses, logits=logits, targets=targets, scale=scale)  # logits become their gradient
        self._loss.add_losses(stats=arena["stats"], losses=losses, scale=scale)
        self._gemm.matmul(self._g["wte"], logits, x, transpose_a=True, accumulate=True)
        dlnf = arena["dnarrow"][: B * T]
        if "lnf_counted" not in arena:
            self._gemm.matmul(dlnf, logits, self._w["wte"])
            return
        dcounted = arena["dwide"].reshape(-1)[: x.size].reshape(x.shape)
        self._gemm.matmul(dcounted, logits, self._w["wte"])
        dout, slots = dcounted.reshape(B, n // B, -1), arena["slots"]
        self._positions.gather_backward(dx=dlnf.reshape(B, T, -1), dout=dout, slots=slots)

    def _backward(self, tokens: Array, order: Array, segments: Array, *, B: int, T: int) -> None:
        """Queue the gradients of everything below `lnf`, whose gradient is in dnarrow."""
        a, w, g, L = self._pass(B * T), self._w, self._g, self._config.n_layer
        dresidual, dnarrow, dhidden = a["dresidual"], a["dnarrow"], a["dwide"]
        dqkv = dhidden.reshape(-1)[: a["qkv"][0].size].reshape(a["qkv"][0].shape)
        partials = self._arena["partials"]
        self._device.fill_zero(dresidual)
        self._norm_backward(a, "lnf", x=a["residual3"][L - 1])
        for i in reversed(range(L)):
            self._fc2.backward_weight(
                dweight=g["fcprojw"][i], dbias=g["fcprojb"][i], dy=dresidual, x=a["fch_gelu"][i], partials=partials
            )
            self._fc2.backward_input(dx=dhidden, dy=dresidual, weight=w["fcprojw"][i], pre=a["fch"][i])
            self._fc1.backward_weight(
                dweight=g["fcw"][i], dbias=g["fcb"][i], dy=dhidden, x=a["ln2"][i], partials=partials
            )
            self._fc1.backward_input(dx=dnarrow, dy=dhidden, weight=w["fcw"][i])
            self._norm_backward(a, "ln2", i, x=a["residual2"][i])

            self._proj.backward_weight(
                dweight=g["attprojw"][i], dbias=g["attprojb"][i], dy=dresidual, x=a["atty"][i], partials=partials
            )
            self._proj.backward_input(dx=dnarrow, dy=dresidual, weight=w["attprojw"][i])
            self._attention.backward(
                dqkv=dqkv,
                dout=dnarrow,
                out=a["atty"][i],
                lse=a["lse"][i],
                qkv=a["qkv"][i],
                delta=self._arena["delta"],
                B=B,
                T=T,
            )
            self._qkv.backward_weight(
                dweight=g["qkvw"][i], dbias=g["qkvb"][i], dy=dqkv, x=a["ln1"][i], partials=partials
            )
            self._qkv.backward_input(dx=dnarrow, dy=dqkv, weight=w["qkvw"][i])
            self._norm_backward(a, "ln1", i, x=a["residual3"][i - 1] if i else a["encoded"])
        dx = dresidual.reshape(B, T, -1)
        self._embedding.backward(dwte=g["wte"], dwpe=g["wpe"], dx=dx, tokens=tokens, order=order, segments=segments)

    def _norm_backward(self, a: Mapping[str, Array], name: str, i: int | None = None, *, x: Array) -> None:
        """Queue dresidual += the gradient of norm `name` (of layer i), whose output's gradient is in dnarrow."""
        layer = slice(None) if i is None else i
        self._norm.backward(
            dres=a["dresidual"],
            dweight=self._g[f"{name}w"][layer],
            dbias=self._g[f"{name}b"][layer],
            dout=a["dnarrow"],
            x=x,
            weight=self._p[f"{name}w"][layer],
            mean=a[f"{name}_mean"][layer],
            rstd=a[f"{name}_rstd"][layer],
            partials=self._arena["partials"],
        )

    def _norm_arrays(self, a: Mapping[str, Array], name: str, i: int | None = None) -> dict[str, Array]:
        """Return output, statistics and parameters of norm `name` (of layer i)."""
        layer = slice(None) if i is None else i
        return {
            "out": a[name][layer],
            "mean": a[f"{name}_mean"][layer],
            "rstd": a[f"{name}_rstd"][layer],
            "weight": self._p[f"{name}w"][layer],
            "bias": self._p[f"{name}b"][layer],
        }

    def _pass(self, rows: int) -> dict[str, Array]:
        """Return the activations and their gradients, cut to the rows of this pass; L stays in front where it is."""
        if rows not in self._passes:
            by_layer = {name: self._arena[name][:, :rows] for name in BY_LAYER}
            self._passes[rows] = by_layer | {name: self._arena[name][:rows] for name in BY_ROW}
        return self._passes[rows]


def views(flat: Array, config: GPTConfig) -> dict[str, Array]:
    """Return the 16 tensors as views of a flat buffer in llm.c's order."""
    found, end = {}, 0
    for name, shape in tensor_shapes(config).items():
        start, end = end, end + math.prod(shape)
        found[name] = flat[start:end].reshape(shape)
    return found
