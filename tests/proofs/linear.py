"""A linear layer, forward and backward, alone and with GELU, against float64."""

from collections.abc import Iterator

from proof import Check, compare, tolerance
from proofs.arrays import Arrays
from proofs.gelu import gelu, gelu_derivative
from proofs.gemm import open_gemm, product_format

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.ops.bias import partials_size
from gpt2lab.engine.cuda.ops.linear import Linear
from gpt2lab.schema import Precision

SHAPES = [(1, 20, 48), (5, 48, 20), (33, 97, 128), (33, 128, 97), (5, 48, 192), (130, 192, 48)]  # rows, K, N


def check(device: Device, precision: Precision) -> Iterator[Check]:
    """Yield every comparison on this device."""
    arrays = Arrays(device, precision)
    gemm = open_gemm(device, precision)
    for rows, k, n in SHAPES:
        op = Linear(device, arrays.numerics, gemm, n_in=k, n_out=n)
        yield from forward(arrays, op, rows, k, n)
        yield from backward(arrays, op, rows, k, n)


def forward(arrays: Arrays, op: Linear, rows: int, k: int, n: int) -> Iterator[Check]:
    name = f"{rows}x{k}x{n}"
    (x, x64), (weight, weight64), (bias, bias64) = (
        arrays.act(arrays.normal(rows, k)),
        arrays.act(arrays.normal(n, k)),
        arrays.float(arrays.normal(n)),
    )
    expected = x64 @ weight64.T + bias64
    # The product is rounded before the kernel adds the bias; an epilogue adds a bias that was rounded.
    allowed = tolerance(terms=k + 1, compute=product_format(arrays), store=arrays.store, roundings=2)
    for bias_act in (None, arrays.act(bias64)[0]):
        out = arrays.empty_act(rows, n)
        op.forward(out=out, x=x, weight=weight, bias=bias, bias_act=bias_act)
        yield compare(f"forward {name}", arrays.values(out), expected, allowed)

        out, pre = arrays.empty_act(rows, n), arrays.empty_act(rows, n)
        op.forward_gelu(out=out, pre=pre, x=x, weight=weight, bias=bias, bias_act=bias_act)
        seen = arrays.values(pre)
        yield compare(f"forward_gelu {name}: pre", seen, expected, allowed)
        # An epilogue takes gelu of what it has not rounded yet, hence three roundings.
        gelu_allowed = tolerance(terms=1, compute=arrays.compute, store=arrays.store, roundings=3)
        yield compare(f"forward_gelu {name}: out", arrays.values(out), gelu(seen), gelu_allowed)


def backward(arrays: Arrays, op: Linear, rows: int, k: int, n: int) -> Iterator[Check]:
    name = f"{rows}x{k}x{n}"
    (dy, dy64), (weight, weight64), (pre, pre64) = (
        arrays.act(arrays.normal(rows, n)),
        arrays.act(arrays.normal(n, k)),
        arrays.act(arrays.normal(rows, k)),
    )
    dx = arrays.empty_act(rows, k)
    op.backward_input(dx=dx, dy=dy, weight=weight)
    allowed = tolerance(terms=n, compute=product_format(arrays), store=arrays.store)
    yield compare(f"backward_input {name}", arrays.values(dx), dy64 @ weight64, allowed)

    dx = arrays.empty_act(rows, k)
    op.backward_input(dx=dx, dy=dy, weight=weight, pre=pre)
    allowed = tolerance(terms=n, compute=product_format(arrays), store=arrays.store, roundings=2)
    expected = (dy64 @ weight64) * gelu_derivative(pre64)
    yield compare(f"backward_input with gelu {name}", arrays.values(dx), expected, allowed)

    x, x64 = arrays.act(arrays.normal(rows, k))
    (dweight, dweight64), (dbias, dbias64) = arrays.float(arrays.normal(n, k)), arrays.float(arrays.normal(n))
    partials = arrays.empty_float(partials_size(rows, n))
    op.backward_weight(dweight=dweight, dbias=dbias, dy=dy, x=x, partials=partials)
    allowed = tolerance(terms=rows + 1, compute=product_format(arrays), store=arrays.compute)
    yield compare(f"backward_weight {name}", arrays.values(dweight), dweight64 + dy64.T @ x64, allowed)
    allowed = tolerance(terms=rows + 1, compute=arrays.compute, store=arrays.compute)
    yield compare(f"bias gradient {name}", arrays.values(dbias), dbias64 + dy64.sum(axis=0), allowed)

    # The same layer where dy, and what forward writes, are columns of a wider matrix; dx is added to.
    pack = arrays.numerics.pack(n)
    wide, wide64 = arrays.act(arrays.normal(rows, n + 2 * pack))
    (dweight, dweight64), (dbias, dbias64) = arrays.float(arrays.normal(n, k)), arrays.float(arrays.normal(n))
    op.backward_weight(dweight=dweight, dbias=dbias, dy=wide, x=x, partials=partials, first_column=pack)
    part64 = wide64[:, pack : pack + n]
    allowed = tolerance(terms=rows + 1, compute=product_format(arrays), store=arrays.compute)
    yield compare(f"backward_weight {name} of columns", arrays.values(dweight), dweight64 + part64.T @ x64, allowed)
    allowed = tolerance(terms=rows + 1, compute=arrays.compute, store=arrays.compute)
    yield compare(f"bias gradient {name} of columns", arrays.values(dbias), dbias64 + part64.sum(axis=0), allowed)
    dx, dx64 = arrays.act(arrays.normal(rows, k))
    op.backward_input(dx=dx, dy=wide, weight=weight, first_column=pack, accumulate=True)
    allowed = tolerance(terms=n + 1, compute=product_format(arrays), store=arrays.store)
    yield compare(f"backward_input {name} of columns, added", arrays.values(dx), dx64 + part64 @ weight64, allowed)
    bias, bias64 = arrays.float(arrays.normal(n))
    op.forward(out=wide, x=x, weight=weight, bias=bias, bias_act=None, first_column=pack)
    wide64[:, pack : pack + n] = x64 @ weight64.T + bias64
    allowed = tolerance(terms=k + 1, compute=product_format(arrays), store=arrays.store, roundings=2)
    yield compare(f"forward {name} into columns", arrays.values(wide), wide64, allowed)
