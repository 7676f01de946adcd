"""Matrix products against numpy's in float64: dense and by pointers, in every layout."""

import itertools
from collections.abc import Iterator

import numpy as np
from proof import Check, compare, tolerance
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Gemm, create_gemm
from gpt2lab.engine.cuda.gemm.base import pointer_table_size
from gpt2lab.schema import Precision

SHAPES = [(1, 20, 48), (5, 97, 20), (33, 128, 97), (33, 1, 48), (5, 48, 1), (1, 1, 1), (128, 48, 33)]  # M, N, K
TRANSPOSES = list(itertools.product((False, True), repeat=2))


def check(device: Device, precision: Precision) -> Iterator[Check]:
    """Yield every comparison on this device."""
    arrays = Arrays(device, precision)
    gemm = open_gemm(device, precision)
    yield from dense(arrays, gemm)
    yield from pointers(arrays, gemm)


def open_gemm(device: Device, precision: Precision) -> Gemm:
    """Return the products of a device, with the workspace that they need."""
    gemm = create_gemm(device, precision)
    gemm.set_workspace(device.empty(max(1, gemm.workspace_bytes)))
    return gemm


def product_format(arrays: Arrays) -> str:
    """Return what tolerance() calls the format that products of this precision are computed in."""
    tf32 = arrays.numerics.precision is Precision.tf32 and arrays.compute == "fp32"
    return "tf32" if tf32 else arrays.compute


def dense(arrays: Arrays, gemm: Gemm) -> Iterator[Check]:
    """Every transposition, with and without space between rows, into act_t and float, replacing and adding."""
    for (m, n, k), (ta, tb), extra, into_float, accumulate in itertools.product(
        SHAPES, TRANSPOSES, (0, 3), (False, True), (False, True)
    ):
        name = f"{m}x{n}x{k} ta={ta} tb={tb} extra={extra} float={into_float} accumulate={accumulate}"
        a, left = operand(arrays, m, k, ta, extra)
        b, right = operand(arrays, k, n, tb, 2 * extra)
        dtype = arrays.numerics.float_dtype if into_float else arrays.numerics.act_dtype
        if accumulate or extra:
            whole, before = (arrays.float if into_float else arrays.act)(arrays.normal(m, n + extra))
        else:
            whole, before = arrays.empty((m, n), dtype), np.zeros((m, n))
        start = arrays.device.download(whole)
        expected = left @ right + (before[:, :n] if accumulate else 0)
        options = {"transpose_a": ta, "transpose_b": tb, "accumulate": accumulate}
        gemm.matmul(whole[:, :n], a, b, **options)
        found = arrays.values(whole)
        allowed = tolerance(
            terms=k + 1, compute=product_format(arrays), store=arrays.compute if into_float else arrays.store
        )
        yield compare(f"dense {name}", found[:, :n], expected, allowed)
        yield compare(f"dense {name}: beside out", found[:, n:], before[:, n:], 0.0)
        if extra or accumulate:
            arrays.device.upload(whole, start)
        gemm.matmul(whole[:, :n], a, b, **options)
        yield compare(f"dense {name}: twice the same bits", arrays.values(whole), found, 0.0)


def pointers(arrays: Arrays, gemm: Gemm) -> Iterator[Check]:
    """Windows that begin anywhere, run twice by one prepared call."""
    m, n, k, starts = 5, 20, 33, (0, 7, 3, 16)
    for ta, tb in TRANSPOSES:
        a_shape, b_shape = (k, m) if ta else (m, k), (n, k) if tb else (k, n)
        a, a64 = (
            [x[:, start : start + a_shape[1]] for start in starts]
            for x in arrays.act(arrays.normal(a_shape[0], a_shape[1] + 16))
        )
        b, b64 = (
            [x[:, 16 - start : 16 - start + b_shape[1]] for start in starts]
            for x in arrays.act(arrays.normal(b_shape[0], b_shape[1] + 16))
        )
        whole, before = arrays.float(arrays.normal(m, len(starts) * n))
        outs = [whole[:, i * n : (i + 1) * n] for i in (2, 0, 3, 1)]
        table = arrays.device.empty(8 * pointer_table_size(len(starts))).view(np.dtype(np.int64))
        multiply = gemm.prepare_pointers(outs, a, b, table=table, transpose_a=ta, transpose_b=tb, accumulate=True)
        yield compare(f"pointers ta={ta} tb={tb}: before the call", arrays.values(whole), before, 0.0)
        multiply()
        multiply()
        product = [(x.T if ta else x) @ (y.T if tb else y) for x, y in zip(a64, b64, strict=True)]
        expected = before + 2 * np.concatenate([product[i] for i in (1, 3, 0, 2)], axis=1)
        allowed = tolerance(terms=2 * k + 1, compute=product_format(arrays), store=arrays.compute, roundings=2)
        yield compare(f"pointers ta={ta} tb={tb}", arrays.values(whole), expected, allowed)


def operand(arrays: Arrays, rows: int, columns: int, transposed: bool, extra: int) -> tuple[Array, np.ndarray]:
    """Return a matrix that op() makes (rows, columns), `extra` values between its rows, and op() of it in float64."""
    shape = (columns, rows) if transposed else (rows, columns)
    whole, values = arrays.act(arrays.normal(shape[0], shape[1] + extra))
    values = values[:, : shape[1]]
    return whole[:, : shape[1]], values.T if transposed else values
