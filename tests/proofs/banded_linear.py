"""A banded linear layer, forward and backward, block by block, against float64 and a mask."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from proof import Check, compare, tolerance
from proofs.arrays import Arrays, same
from proofs.gelu import gelu, gelu_derivative
from proofs.gemm import open_gemm, product_format

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.gemm import Gemm
from gpt2lab.engine.cuda.ops.banded_linear import alignment, mlp_products, pointer_tables_size, product_blocks
from gpt2lab.engine.cuda.ops.bias import partials_size
from gpt2lab.engine.cuda.ops.linear import Linear
from gpt2lab.model.bands import band_mask
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Precision


@dataclass(frozen=True, slots=True)
class Case:
    """One layer, FC1 and FC2 alike."""

    n_embd: int
    band: int
    tile: int  # hidden units; many do not divide F
    rows: int

    def __str__(self) -> str:
        return f"C={self.n_embd} w={self.band} tile={self.tile}"


CASES = [
    *(Case(20, 1, 3, 5), Case(20, 7, 16, 70), Case(20, 2, 64, 1), Case(21, 9, 7, 4)),
    *(Case(32, 7, 64, 33), Case(32, 64, 24, 2), Case(32, 256, 40, 5), Case(48, 64, 64, 5), Case(48, 2, 20, 70)),
    *(Case(64, 64, 64, 33), Case(64, 64, 96, 7), Case(64, 1024, 64, 3)),  # 1024 keeps everything
]
LARGE = Case(768, 256, 128, 3)


def check(device: Device, precision: Precision, cases: list[Case] | None = None) -> Iterator[Check]:
    """Yield every comparison on this device."""
    arrays = Arrays(device, precision)
    gemm = open_gemm(device, precision)
    for case in [*CASES, LARGE] if cases is None else cases:
        tiles = {"forward": case.tile, "input": case.tile, "weight": case.tile}
        for name in ("fc1", "fc2"):
            op, kept = layer(arrays, gemm, name, case, tiles), mask(name, case)
            about = f" {name} {case}"
            yield from forward(arrays, op, case.rows, kept, about)
            yield from backward(arrays, op, case.rows, kept, about)
            yield from passes(arrays, op, case, kept, about)
            yield from untouched(arrays, op, name, case, kept, about)


def layer(arrays: Arrays, gemm: Gemm, name: str, case: Case, tiles: dict[str, int | None]) -> Linear:
    """Return the layer, with room for the addresses of ten sets of arrays."""
    bands = {"fc1_band": case.band, "fc2_band": case.band}
    config = GPTConfig(n_layer=9, n_head=1, n_embd=case.n_embd, max_seq_len=1, vocab_size=1, **bands)
    both = {"fc1": tiles, "fc2": tiles}
    size = pointer_tables_size(config, arrays.numerics, both)
    table = arrays.empty((size,), np.dtype(np.int64))
    products = mlp_products(gemm, arrays.numerics, config, both, table)[name]
    C, F = config.n_embd, config.n_hidden
    n_in, n_out = (C, F) if name == "fc1" else (F, C)
    return Linear(arrays.device, arrays.numerics, products, n_in=n_in, n_out=n_out)


def mask(name: str, case: Case) -> np.ndarray:
    """Return the kept weights of the matrix, bool (out, in)."""
    kept = band_mask(case.n_embd, case.band)
    return kept if name == "fc1" else np.ascontiguousarray(kept.T)


def forward(arrays: Arrays, op: Linear, rows: int, kept: np.ndarray, about: str) -> Iterator[Check]:
    n, k = kept.shape
    (x, x64), (weight, weight64), (bias, bias64) = (
        arrays.act(arrays.normal(rows, k)),
        arrays.act(arrays.normal(n, k) * kept),
        arrays.float(arrays.normal(n)),
    )
    expected = x64 @ weight64.T + bias64
    # The product is rounded before a kernel adds the bias; what the weights' zeros are multiplied with adds nothing.
    terms = int(kept.sum(axis=1).max()) + 1
    allowed = tolerance(terms=terms, compute=product_format(arrays), store=arrays.store, roundings=2)
    for bias_act in (None, arrays.act(bias64)[0]):
        out = arrays.empty_act(rows, n)
        op.forward(out=out, x=x, weight=weight, bias=bias, bias_act=bias_act)
        yield compare(f"forward{about}", arrays.values(out), expected, allowed)
        out, pre = arrays.empty_act(rows, n), arrays.empty_act(rows, n)
        op.forward_gelu(out=out, pre=pre, x=x, weight=weight, bias=bias, bias_act=bias_act)
        seen = arrays.values(pre)
        yield compare(f"forward_gelu: pre{about}", seen, expected, allowed)
        yield compare(f"forward_gelu: out{about}", arrays.values(out), gelu(seen), arrays.act_tolerance(1))


def backward(arrays: Arrays, op: Linear, rows: int, kept: np.ndarray, about: str) -> Iterator[Check]:
    n, k = kept.shape
    (dy, dy64), (weight, weight64), (pre, pre64) = (
        arrays.act(arrays.normal(rows, n)),
        arrays.act(arrays.normal(n, k) * kept),
        arrays.act(arrays.normal(rows, k)),
    )
    terms = int(kept.sum(axis=0).max())
    for with_gelu in (False, True):
        dx = arrays.empty_act(rows, k)
        op.backward_input(dx=dx, dy=dy, weight=weight, pre=pre if with_gelu else None)
        expected = (dy64 @ weight64) * (gelu_derivative(pre64) if with_gelu else 1)
        allowed = tolerance(
            terms=terms, compute=product_format(arrays), store=arrays.store, roundings=2 if with_gelu else 1
        )
        yield compare(f"backward_input gelu={with_gelu}{about}", arrays.values(dx), expected, allowed)

    x, x64 = arrays.act(arrays.normal(rows, k))
    (dweight, dweight64), (dbias, dbias64) = arrays.float(arrays.normal(n, k)), arrays.float(arrays.normal(n))
    partials = arrays.empty_float(partials_size(rows, n))
    op.backward_weight(dweight=dweight, dbias=dbias, dy=dy, x=x, partials=partials)
    allowed = tolerance(terms=rows + 1, compute=product_format(arrays), store=arrays.compute)
    expected = (dweight64 + dy64.T @ x64) * kept
    yield compare(f"backward_weight{about}", arrays.values(dweight) * kept, expected, allowed)
    allowed = arrays.float_tolerance(rows + 1)
    yield compare(f"bias gradient{about}", arrays.values(dbias), dbias64 + dy64.sum(axis=0), allowed)


def passes(arrays: Arrays, op: Linear, case: Case, kept: np.ndarray, about: str) -> Iterator[Check]:
    """Two layers in turns, and fewer rows of one: each has its own arrays, and says where they are once."""
    n, k = kept.shape
    layers = [
        (
            arrays.act(arrays.normal(case.rows, k)),
            arrays.act(arrays.normal(n, k) * kept),
            arrays.empty_act(case.rows, n),
        )
        for _ in range(2)
    ]
    bias, _ = arrays.float(np.zeros(n))
    allowed = tolerance(
        terms=int(kept.sum(axis=1).max()), compute=product_format(arrays), store=arrays.store, roundings=2
    )
    found = []
    for i, rows in ((0, case.rows), (1, case.rows), (0, -(-case.rows // 2)), (0, case.rows), (1, case.rows)):
        (x, x64), (weight, weight64), out = layers[i]
        garbage, garbage64 = arrays.act(arrays.normal(case.rows, n))
        arrays.device.upload(out, arrays.device.download(garbage))
        op.forward(out=out[:rows], x=x[:rows], weight=weight, bias=bias, bias_act=None)
        found.append(arrays.device.download(out))
        expected = np.concatenate([x64[:rows] @ weight64.T, garbage64[rows:]])
        yield compare(f"pass of {rows} in layer {i}{about}", arrays.values(out), expected, allowed)
    yield same(f"the same pass twice{about}", found[0], found[3])


def untouched(arrays: Arrays, op: Linear, name: str, case: Case, kept: np.ndarray, about: str) -> Iterator[Check]:
    """What no block of the gradient holds stays as it was."""
    n, k = kept.shape
    held = np.zeros_like(kept)
    align = alignment(arrays.numerics.act_dtype.itemsize)
    blocks = product_blocks(name, "weight", n_embd=case.n_embd, band=case.band, tile=case.tile, align=align)
    for block in blocks:
        held[(block.hidden, block.channels) if name == "fc1" else (block.channels, block.hidden)] = True
    (dweight, before), (dbias, _) = arrays.float(arrays.normal(n, k)), arrays.float(arrays.normal(n))
    (dy, _), (x, _) = arrays.act(arrays.normal(case.rows, n)), arrays.act(arrays.normal(case.rows, k))
    op.backward_weight(
        dweight=dweight, dbias=dbias, dy=dy, x=x, partials=arrays.empty_float(partials_size(case.rows, n))
    )
    yield compare(f"beside the blocks{about}", arrays.values(dweight) * ~held, before * ~held, 0.0)


def checks_per_case() -> int:
    """Return how many comparisons one case makes: two matrices, ten of the layer, six of passes, one beside."""
    return 2 * (10 + 6 + 1)
