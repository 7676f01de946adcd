"""One layer of the CUDA core, forward and backward: attention and MLP, each behind a norm and beside the residual.

Shapes: rows of one pass, C channels, F = 4C hidden units; matrices are (out, in). `a` holds the activations of the
pass and their gradients, cut to its rows and named as in memory.py, the number of the layer in front.
"""

from collections.abc import Mapping

from gpt2lab.engine.cuda.attention import PassAttention
from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Gemm
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.banded_linear import mlp_products
from gpt2lab.engine.cuda.ops.layer_norm import LayerNorm
from gpt2lab.engine.cuda.ops.linear import Linear
from gpt2lab.engine.cuda.passes import DevicePass
from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.model.params import GPTConfig, split_flat

Arrays = Mapping[str, Array]


class Layer:
    """The operations of every layer. p: the 16 parameters, float; w: what products read, act; g: gradients, float."""

    def __init__(
        self, device: Device, gemm: Gemm, numerics: Numerics, config: GPTConfig, arena: Arrays, mlp_tiles: ProductTiles
    ) -> None:
        C, F = config.n_embd, config.n_hidden
        self.p, self.g = (split_flat(arena[name], config) for name in ("parameters", "gradients"))
        self.w = split_flat(arena["weights"], config) if "weights" in arena else self.p
        self.n_layer, self.partials = config.n_layer, arena["partials"]
        self.attention = PassAttention(device, numerics, config, delta=arena["delta"], partials=arena["partials"])
        self._norm = LayerNorm(device, numerics, n_embd=C)
        self._qkv = Linear(device, numerics, gemm, n_in=C, n_out=3 * C)
        self._proj = Linear(device, numerics, gemm, n_in=C, n_out=C)
        mlp = mlp_products(gemm, numerics, config, mlp_tiles, arena.get("pointers"))
        self._fc1 = Linear(device, numerics, mlp["fc1"], n_in=C, n_out=F)
        self._fc2 = Linear(device, numerics, mlp["fc2"], n_in=F, n_out=C)

    def forward(self, a: Arrays, i: int, x: Array, of: DevicePass) -> None:
        """Queue layer i on the residual x (rows, C), whose norm is in ln1; leave the next norm's output."""
        self._qkv.forward(out=a["qkv"][i], x=a["ln1"][i], **self._parameters("qkv", i))
        self.attention.forward(of, out=a["atty"][i], lse=a["lse"][i], qkv=a["qkv"][i])
        self.forward_after_attention(a, i, x)

    def forward_after_attention(self, a: Arrays, i: int, x: Array) -> None:
        """Queue what follows atty (rows, C): projection, both additions to the residual x (rows, C), and the MLP."""
        branch = a["dnarrow"]  # free until backward
        self._proj.forward(out=branch, x=a["atty"][i], **self._parameters("attproj", i))
        norm = self._norm_arrays(a, "ln2", i)
        self._norm.residual_forward(sum=a["residual2"][i], residual=x, branch=branch, **norm)

        hidden, pre = a["fch_gelu"][i], a["fch"][i]
        self._fc1.forward_gelu(out=hidden, pre=pre, x=a["ln2"][i], **self._parameters("fc", i))
        self._fc2.forward(out=branch, x=hidden, **self._parameters("fcproj", i))
        norm = self._norm_arrays(a, "ln1", i + 1) if i + 1 < self.n_layer else self._norm_arrays(a, "lnf")
        self._norm.residual_forward(sum=a["residual3"][i], residual=a["residual2"][i], branch=branch, **norm)

    def backward(self, a: Arrays, i: int, of: DevicePass, *, x: Array) -> None:
        """Queue the gradients of layer i, and dresidual of the residual x (rows, C) that it was given."""
        self.backward_after_attention(a, i, dresidual=a["dresidual"])
        dqkv = a["dwide"].reshape(-1)[: a["qkv"][i].size].reshape(a["qkv"][i].shape)
        self.attention.backward(of, dqkv=dqkv, dout=a["dnarrow"], out=a["atty"][i], lse=a["lse"][i], qkv=a["qkv"][i])
        self._qkv.backward_weight(dy=dqkv, x=a["ln1"][i], **self._gradients("qkv", i))
        self._qkv.backward_input(dx=a["dnarrow"], dy=dqkv, weight=self.w["qkvw"][i])
        self.norm_backward(a, "ln1", i, x=x, dresidual=a["dresidual"])

    def backward_after_attention(self, a: Arrays, i: int, *, dresidual: Array) -> None:
        """Queue the gradients of `forward_after_attention`: dresidual (rows, C) goes from its end to its beginning.

        The gradient of atty is left in dnarrow.
        """
        w, dnarrow, dhidden = self.w, a["dnarrow"], a["dwide"]
        self._fc2.backward_weight(dy=dresidual, x=a["fch_gelu"][i], **self._gradients("fcproj", i))
        self._fc2.backward_input(dx=dhidden, dy=dresidual, weight=w["fcprojw"][i], pre=a["fch"][i])
        self._fc1.backward_weight(dy=dhidden, x=a["ln2"][i], **self._gradients("fc", i))
        self._fc1.backward_input(dx=dnarrow, dy=dhidden, weight=w["fcw"][i])
        self.norm_backward(a, "ln2", i, x=a["residual2"][i], dresidual=dresidual)

        self._proj.backward_weight(dy=dresidual, x=a["atty"][i], **self._gradients("attproj", i))
        self._proj.backward_input(dx=dnarrow, dy=dresidual, weight=w["attprojw"][i])

    def norm_forward(self, a: Arrays, name: str, i: int, *, x: Array) -> None:
        """Queue norm `name` of layer i over x (rows, C)."""
        self._norm.forward(x=x, **self._norm_arrays(a, name, i))

    def norm_backward(self, a: Arrays, name: str, i: int | None = None, *, x: Array, dresidual: Array) -> None:
        """Queue dresidual += the gradient of norm `name` (of layer i) of x, whose output's gradient is in dnarrow."""
        layer = slice(None) if i is None else i
        given = {"x": x, "weight": self.p[f"{name}w"][layer], "dout": a["dnarrow"]}
        stats = {"mean": a[f"{name}_mean"][layer], "rstd": a[f"{name}_rstd"][layer]}
        self._norm.backward(dres=dresidual, **given, **stats, **self._gradients(name, layer))

    def _parameters(self, name: str, i: int) -> dict[str, Array]:
        """Return what the linear layer `name` of layer i reads."""
        return {"weight": self.w[f"{name}w"][i], "bias": self.p[f"{name}b"][i], "bias_act": self.w[f"{name}b"][i]}

    def _gradients(self, name: str, i: int | slice) -> dict[str, Array]:
        """Return where gradients of weight and bias of `name` are added up, with scratch for it."""
        return {"dweight": self.g[f"{name}w"][i], "dbias": self.g[f"{name}b"][i], "partials": self.partials}

    def _norm_arrays(self, a: Arrays, name: str, i: int | None = None) -> dict[str, Array]:
        """Return output, statistics and parameters of norm `name` (of layer i)."""
        layer = slice(None) if i is None else i
        return {
            "out": a[name][layer],
            "mean": a[f"{name}_mean"][layer],
            "rstd": a[f"{name}_rstd"][layer],
            "weight": self.p[f"{name}w"][layer],
            "bias": self.p[f"{name}b"][layer],
        }
