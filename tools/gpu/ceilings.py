"""The two ceilings: how fast the device copies, and how fast it multiplies matrices at the step's shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Gemm, create_gemm
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Precision
from gpu.clock import time_calls
from gpu.memory import empty, random_act, random_array, release


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """out (M,N) = op(a) @ op(b) over K, as the step does it."""

    name: str
    M: int
    N: int
    K: int
    transpose_a: bool = False
    transpose_b: bool = False
    accumulate: bool = False  # a weight's gradient: out is float and added to


def products_of_step(model: GPTConfig, rows: int) -> list[Product]:
    """Return the matrix products of one layer and of the output layer, forward and backward."""
    C, F, Vp = model.n_embd, model.n_hidden, model.padded_vocab_size
    layers = {"qkv": (C, 3 * C), "attproj": (C, C), "fc1": (C, F), "fc2": (F, C), "logits": (C, Vp)}
    found = []
    for name, (n_in, n_out) in layers.items():
        found += [
            Product(name=f"{name} forward", M=rows, N=n_out, K=n_in, transpose_b=True),
            Product(name=f"{name} backward to input", M=rows, N=n_in, K=n_out),
            Product(name=f"{name} backward to weight", M=n_out, N=n_in, K=rows, transpose_a=True, accumulate=True),
        ]
    return found


def measure_copy(device: Device, *, n_bytes: int) -> dict[str, Any]:
    """Time copies from one buffer of the device to another; bytes read and bytes written both count."""
    source = random_array(device, (n_bytes // 4,), np.float32)
    target = empty(device, source.shape, np.float32)
    seconds = time_calls(device, lambda i: _copy(device, target, source))
    return {"bytes": 2 * n_bytes, "seconds": seconds, "gb_per_s": 2 * n_bytes / seconds["median"] / 1e9}


def _copy(device: Any, target: Array, source: Array) -> None:
    if device.name == "cuda":
        kind = device.runtime.memcpyDeviceToDevice
        device.runtime.memcpyAsync(target.data.ptr, source.data.ptr, source.nbytes, kind, device.stream_pointer)
    else:
        np.copyto(target, source)


def measure_products(
    device: Device, precision: Precision, model: GPTConfig, rows: int, *, square: int
) -> Iterator[dict[str, Any]]:
    """Yield the rate of each product of the step, and of one square product: the ceiling of this precision."""
    numerics = Numerics.of(device, precision)
    gemm = create_gemm(device, precision)
    if gemm.workspace_bytes:
        gemm.set_workspace(device.empty(gemm.workspace_bytes))
    largest = Product(name=f"square {square}", M=square, N=square, K=square, transpose_b=True)
    for product in (*products_of_step(model, rows), largest):
        yield _measure(device, gemm, numerics, product)
        release()


def _measure(device: Device, gemm: Gemm, numerics: Numerics, product: Product) -> dict[str, Any]:
    p = product
    a = random_act(device, numerics, *((p.K, p.M) if p.transpose_a else (p.M, p.K)))
    b = random_act(device, numerics, *((p.N, p.K) if p.transpose_b else (p.K, p.N)))
    out = random_array(device, (p.M, p.N), numerics.float_dtype if p.accumulate else numerics.act_dtype)

    def multiply(i: int) -> None:
        gemm.matmul(out, a, b, transpose_a=p.transpose_a, transpose_b=p.transpose_b, accumulate=p.accumulate)

    seconds = time_calls(device, multiply)
    flop = 2 * p.M * p.N * p.K
    return {
        "product": p.name,
        "precision": numerics.precision.name,
        "shape": [p.M, p.N, p.K],
        "seconds": seconds,
        "tflop_per_s": flop / seconds["median"] / 1e12,
    }
