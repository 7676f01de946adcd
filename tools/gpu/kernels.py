"""The kernels one by one, at the shapes of GPT-2 124M: bytes that must move over time, against the copy ceiling.

Bytes are the fewest there can be: each array read once where it is read, written once where it is written. A kernel
that reads something twice shows as less than it could be. Attention is arithmetic, and counted in operations.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops import bias as bias_op
from gpt2lab.engine.cuda.ops import grad_norm as grad_norm_op
from gpt2lab.engine.cuda.ops import layer_norm as layer_norm_op
from gpt2lab.engine.cuda.ops.adamw import AdamW, schedule_of
from gpt2lab.engine.cuda.ops.attention import Attention
from gpt2lab.engine.cuda.ops.bias import Bias
from gpt2lab.engine.cuda.ops.cross_entropy import CrossEntropy
from gpt2lab.engine.cuda.ops.embedding import Embedding, group_rows
from gpt2lab.engine.cuda.ops.gelu import Gelu
from gpt2lab.engine.cuda.ops.grad_norm import GradNorm
from gpt2lab.engine.cuda.ops.layer_norm import LayerNorm
from gpt2lab.engine.cuda.ops.tensor_table import tensor_table
from gpt2lab.model.params import GPTConfig, count_parameters
from gpt2lab.schema import Decay, OptimConfig, Precision
from gpu.clock import CACHE_BYTES, time_calls
from gpu.memory import empty, random_act, random_array, release


def measure_kernels(
    device: Device, precision: Precision, model: GPTConfig, *, B: int, T: int
) -> Iterator[dict[str, Any]]:
    """Yield name, time, and GB/s or TFLOP/s of each kernel."""
    bench = _Bench(device, Numerics.of(device, precision), model, B, T)
    for part in (bench.layer_norm, bench.gelu, bench.bias, bench.attention, bench.embedding, bench.cross_entropy):
        yield from part()
        release()
    yield from bench.optimizer()
    release()


class _Bench:
    def __init__(self, device: Device, numerics: Numerics, model: GPTConfig, B: int, T: int) -> None:
        self.device, self.numerics, self.model, self.B, self.T = device, numerics, model, B, T
        self.rows, self.C = B * T, model.n_embd

    def acts(self, n: int, width: int) -> list[list[Array]]:
        """Return several sets of n activations (rows, width): together too large for the cache, taken in turns."""
        set_bytes = n * self.rows * width * self.numerics.act_dtype.itemsize
        n_sets = min(20, -(-CACHE_BYTES // set_bytes)) if self.device.name == "cuda" else 1
        return [[random_act(self.device, self.numerics, self.rows, width) for _ in range(n)] for _ in range(n_sets)]

    def floats(self, *shape: int) -> Array:
        return random_array(self.device, shape, self.numerics.float_dtype)

    def upload(self, values: np.ndarray) -> Array:
        array = empty(self.device, values.shape, values.dtype)
        self.device.upload(array, np.ascontiguousarray(values))
        return array

    def row(self, name: str, call: Callable[[int], None], *, n_bytes: int = 0, flop: int = 0) -> dict[str, Any]:
        seconds = time_calls(self.device, call)
        return {
            "kernel": name,
            "precision": self.numerics.precision.name,
            "seconds": seconds,
            "bytes": n_bytes or None,
            "gb_per_s": n_bytes / seconds["median"] / 1e9 if n_bytes else None,
            "flop": flop or None,
            "tflop_per_s": flop / seconds["median"] / 1e12 if flop else None,
        }

    def layer_norm(self) -> Iterator[dict[str, Any]]:
        op, sets = LayerNorm(self.device, self.numerics, n_embd=self.C), self.acts(4, self.C)
        act, n = sets[0][0].nbytes, len(sets)
        mean, rstd, weight, bias = (self.floats(size) for size in (self.rows, self.rows, self.C, self.C))
        size = layer_norm_op.partials_size(self.numerics, self.rows, self.C)
        dweight, dbias, partials = self.floats(self.C), self.floats(self.C), self.floats(size)
        stats = {"mean": mean, "rstd": rstd}
        small = 2 * mean.nbytes + 2 * weight.nbytes

        def forward(i: int) -> None:
            x, out, _, _ = sets[i % n]
            op.forward(out=out, x=x, weight=weight, bias=bias, **stats)

        def residual_forward(i: int) -> None:
            residual, branch, total, out = sets[i % n]
            op.residual_forward(sum=total, out=out, residual=residual, branch=branch, weight=weight, bias=bias, **stats)

        def backward(i: int) -> None:
            dres, dout, x, _ = sets[i % n]
            gradients = {"dres": dres, "dweight": dweight, "dbias": dbias}
            op.backward(**gradients, dout=dout, x=x, weight=weight, partials=partials, **stats)

        yield self.row("layer norm forward", forward, n_bytes=2 * act + small)
        yield self.row("residual + layer norm forward", residual_forward, n_bytes=4 * act + small)
        yield self.row("layer norm backward", backward, n_bytes=4 * act + small + 2 * weight.nbytes)

    def gelu(self) -> Iterator[dict[str, Any]]:
        width = self.model.n_hidden
        op, sets, bias = Gelu(self.device, self.numerics, n=width), self.acts(2, width), self.floats(width)
        act, n = sets[0][0].nbytes, len(sets)

        def forward(i: int) -> None:
            pre, out = sets[i % n]
            op.forward(out=out, pre=pre, bias=bias)

        def backward(i: int) -> None:
            pre, gradient = sets[i % n]
            op.backward(gradient=gradient, pre=pre)

        yield self.row("bias + GELU forward", forward, n_bytes=3 * act + bias.nbytes)
        yield self.row("GELU backward", backward, n_bytes=3 * act)

    def bias(self) -> Iterator[dict[str, Any]]:
        width = 3 * self.C
        op, sets, bias = Bias(self.device, self.numerics, n=width), self.acts(1, width), self.floats(width)
        act, n = sets[0][0].nbytes, len(sets)
        partials = self.floats(bias_op.partials_size(self.rows, width))
        yield self.row(
            "bias forward (3C)", lambda i: op.forward(x=sets[i % n][0], bias=bias), n_bytes=2 * act + bias.nbytes
        )
        yield self.row(
            "bias backward (3C)",
            lambda i: op.backward(dbias=bias, dy=sets[i % n][0], partials=partials),
            n_bytes=act + 2 * bias.nbytes,
        )

    def attention(self) -> Iterator[dict[str, Any]]:
        NH, HS = self.model.n_head, self.model.head_size
        op = Attention(self.device, self.numerics, n_head=NH, head_size=HS)
        [[qkv, dqkv]], [[out, dout]] = self.acts(2, 3 * self.C)[:1], self.acts(2, self.C)[:1]
        lse, delta = self.floats(self.B, NH, self.T), self.floats(self.B, NH, self.T)
        seen = self.B * NH * self.T * (self.T + 1) // 2  # pairs of a query and a key that it sees
        shape = {"B": self.B, "T": self.T}
        op.forward(out=out, lse=lse, qkv=qkv, **shape)

        def backward(i: int) -> None:
            op.backward(dqkv=dqkv, dout=dout, out=out, lse=lse, qkv=qkv, delta=delta, **shape)

        # Two products of HS multiply-adds per pair forward, five backward, the scores computed again among them.
        yield self.row(
            "attention forward", lambda i: op.forward(out=out, lse=lse, qkv=qkv, **shape), flop=4 * HS * seen
        )
        yield self.row("attention backward", backward, flop=10 * HS * seen)

    def embedding(self) -> Iterator[dict[str, Any]]:
        B, T, C, Vp = self.B, self.T, self.C, self.model.padded_vocab_size
        op = Embedding(self.device, self.numerics, n_embd=C)
        tokens = np.random.default_rng(2).integers(0, self.model.vocab_size, (B, T), dtype=np.int32)
        used = len(np.unique(tokens))
        order, segments = (self.upload(array) for array in group_rows(tokens, Vp))
        where, sets = self.upload(tokens.reshape(-1)), self.acts(1, C)
        n, act = len(sets), sets[0][0].nbytes
        wte, wpe = self.floats(Vp, C), self.floats(T, C)
        table = (used + T) * C * wte.dtype.itemsize + where.nbytes

        def forward(i: int) -> None:
            op.forward(x=sets[i % n][0].reshape(B, T, C), tokens=where, wte=wte, wpe=wpe)

        def backward(i: int) -> None:
            dx = sets[i % n][0].reshape(B, T, C)
            op.backward(dwte=wte, dwpe=wpe, dx=dx, tokens=where, order=order, segments=segments)

        yield self.row("embedding forward", forward, n_bytes=act + table)
        yield self.row("embedding backward", backward, n_bytes=act + 2 * table + order.nbytes + segments.nbytes)

    def cross_entropy(self) -> Iterator[dict[str, Any]]:
        V, Vp = self.model.vocab_size, self.model.padded_vocab_size
        op = CrossEntropy(self.device, self.numerics, vocab_size=V, padded_vocab_size=Vp)
        [[logits]] = self.acts(1, Vp)[:1]
        losses, correct = self.floats(self.rows), empty(self.device, (self.rows,), np.int32)
        targets = self.upload(np.random.default_rng(3).integers(0, V, self.rows, dtype=np.int32))
        arrays = {"losses": losses, "logits": logits, "targets": targets}
        small = losses.nbytes + targets.nbytes
        yield self.row(
            "cross entropy forward",
            lambda i: op.forward(correct=correct, **arrays),
            n_bytes=logits.nbytes + small + correct.nbytes,
        )
        yield self.row(
            "cross entropy backward", lambda i: op.backward(scale=1.0, **arrays), n_bytes=2 * logits.nbytes + small
        )

    def optimizer(self) -> Iterator[dict[str, Any]]:
        size, optim = count_parameters(self.model), OptimConfig()
        table = tensor_table(self.model, Decay.matrices)
        params, grads, m, v = (
            random_array(self.device, (size,), self.numerics.float_dtype, scale=1e-2) for _ in range(4)
        )
        self.device.fill_zero(v)
        bf16 = self.numerics.act_dtype != self.numerics.float_dtype
        weights = random_act(self.device, self.numerics, size) if bf16 else None
        tensors, flag = self.upload(table), self.upload(np.zeros(1, np.int32))
        real = self.numerics.float_dtype
        schedule = self.upload(np.array(schedule_of(optim, 10, 1e-6), real))
        stats, failure = self.upload(np.array([1.0, 1.0, 1.0], real)), self.floats(2)
        partials = self.floats(grad_norm_op.partials_size(self.numerics, self.model))
        adamw = AdamW(self.device, self.numerics, n_embd=self.C, table=table, optim=optim)
        norm = GradNorm(self.device, self.numerics, n_embd=self.C, table=table)
        arrays = {"params": params, "m": m, "v": v, "weights": weights, "grads": grads, "tensors": tensors}
        yield self.row(
            "AdamW",
            lambda i: adamw.launch(**arrays, schedule=schedule, stats=stats, flag=flag),
            n_bytes=7 * params.nbytes + (0 if weights is None else weights.nbytes),
        )
        update = self.upload(np.ones(1, np.int32))
        where = {"stats": stats, "flag": flag, "failure": failure, "update": update, "partials": partials}
        yield self.row(
            "gradient norm",
            lambda i: norm.launch(**where, grads=grads, tensors=tensors, clip=1.0),
            n_bytes=grads.nbytes,
        )
