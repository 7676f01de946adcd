"""GELU by tanh and its derivative against float64, at large arguments too."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare, tolerance
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.ops.gelu import Gelu
from gpt2lab.schema import Precision

SHAPES = [(1, 20), (5, 48), (33, 97), (33, 128), (70, 7), (6, 300)]
LARGE = np.array([0.0, 1e-4, 3.0, 5.5, 10.0, 30.0, 100.0, 1000.0])


def check(device: Device, precision: Precision) -> Iterator[Check]:
    """Yield every comparison on this device."""
    arrays = Arrays(device, precision)
    for rows, n in SHAPES:
        yield from check_values(arrays, f"{rows}x{n}", arrays.rng.normal(size=(rows, n)) * 2)
    for value in LARGE:  # one by one, since errors are relative to the largest value
        yield from check_values(arrays, f"at {value}", np.tile([-value, value], (1, 10)), with_bias=False)


def check_values(arrays: Arrays, name: str, values: np.ndarray, *, with_bias: bool = True) -> Iterator[Check]:
    rows, n = values.shape
    op = Gelu(arrays.device, arrays.numerics, n=n)
    pre, before = arrays.act(values)
    bias, bias_values = arrays.float(arrays.normal(n) * with_bias)
    out = arrays.empty_act(rows, n)
    op.forward(out=out, pre=pre, bias=bias)
    seen = arrays.values(pre)
    allowed = tolerance(terms=1, compute=arrays.compute, store=arrays.store)
    yield compare(f"pre {name}", seen, before + bias_values, allowed)
    yield compare(f"gelu_forward {name}", arrays.values(out), gelu(seen), allowed)

    gradient, dy = arrays.act(arrays.normal(rows, n))
    op.backward(gradient=gradient, pre=pre)
    yield compare(f"gelu_backward {name}", arrays.values(gradient), dy * gelu_derivative(seen), allowed)
    yield compare(f"gelu_backward {name}: pre as it was", arrays.values(pre), seen, 0.0)


def gelu(x: np.ndarray) -> np.ndarray:
    """0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_derivative(x: np.ndarray) -> np.ndarray:
    """0.5 (1 + tanh u) + 0.5 x (1 - tanh^2 u) u', where 1 - tanh^2 u = 1 / cosh^2 u, which does not cancel."""
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return 0.5 * (1 + np.tanh(u)) + 0.5 * x / np.cosh(np.clip(u, -300, 300)) ** 2 * slope
