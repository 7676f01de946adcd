"""Matrix products of the CUDA core: one row-major interface, for a card (cublas.py) and for the host (host.py).

out (M,N) = op(a) (M,K) @ op(b) (K,N) [+ out], where op transposes or does nothing. Matrices may have a leading stride;
their last axis is contiguous. a and b are act_t (float32, or bfloat16 as uint16), out is act_t or float; sums are kept
in float whatever the inputs are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypedDict, Unpack

import numpy as np

from gpt2lab.engine.cuda.device import Array
from gpt2lab.engine.cuda.device.base import address
from gpt2lab.engine.cuda.numerics import Numerics

Views = Sequence[Array]


class EpilogueKind(Enum):
    """What the library may do to a product before it stores it."""

    bias = "out = a @ b + bias"
    bias_gelu = "aux = a @ b + bias; out = gelu(aux)"
    dgelu = "out = (a @ b) * gelu'(aux)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """`bias` (N) and `aux` (M,N) have the dtype of out; a kind that does not use one leaves it None."""

    kind: EpilogueKind
    bias: Array | None = None  # (N)
    aux: Array | None = None  # (M,N)


class ProductOptions(TypedDict, total=False):
    """How operands are read and out is written; all False by default."""

    transpose_a: bool
    transpose_b: bool
    accumulate: bool  # add to out


class Products(Protocol):
    """Single products: what a layer needs. Nothing is allocated in a call, everything queues on one stream.

    Operands that do not fit raise TypeError naming them.
    """

    def matmul(
        self, out: Array, a: Array, b: Array, epilogue: Epilogue | None = None, **options: Unpack[ProductOptions]
    ) -> bool:
        """Multiply 2-D matrices. With an epilogue, out and aux are replaced.

        Returns False, and does nothing, where these operands cannot have the epilogue: run a kernel after the product.
        On a card the first call of a shape chooses the algorithm: run every product once before capturing a graph.
        """


class Gemm(Products, Protocol):
    """All products of one precision on one device."""

    workspace_bytes: int  # to be planned by the caller: 32 MiB on a card, 0 on the host

    def set_workspace(self, workspace: Array) -> None:
        """Lend (workspace_bytes,) uint8, before the first product and for as long as there are any."""

    def prepare_pointers(
        self, outs: Views, a: Views, b: Views, table: Array | None, **options: Unpack[ProductOptions]
    ) -> Callable[[], None]:
        """Return a function that multiplies a list of equally shaped views, wherever each begins.

        Their addresses are uploaded now into `table` (pointer_table_size(len(outs)),) int64, which must stay as it is
        for as long as the function is called; the host takes None. The call itself can be captured in a graph.
        """


def pointer_table_size(n_products: int) -> int:
    """Return how many int64 `prepare_pointers` needs: the address of out, a and b of each product."""
    return 3 * n_products


@dataclass(frozen=True, slots=True)
class Product:
    """A product in the terms of a column-major library: C (m,n) = op(A) (m,k) @ op(B) (k,n).

    A row-major matrix is, byte for byte, its own transpose in column-major order. So out^T = op(b)^T @ op(a)^T is
    computed: the library's A is our b, its B is our a, its C is out, and a matrix is transposed there where it is here.
    Leading dimensions are counted in elements.
    """

    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    lda: int
    ldb: int
    ldc: int


def column_major(out: Array, a: Array, b: Array, **options: Unpack[ProductOptions]) -> Product:
    """Return how a column-major library computes out = op(a) @ op(b).

    Reads shapes, strides and dtypes only. Raises TypeError that names the operands that do not fit.
    """
    if {x.ndim for x in (out, a, b)} != {2}:
        raise TypeError(f"gemm: out {out.shape}, a {a.shape}, b {b.shape}: expected 2 axes each")
    transpose_a, transpose_b = options.get("transpose_a", False), options.get("transpose_b", False)
    rows, columns = out.shape
    rows_of_a, depth = a.shape[::-1] if transpose_a else a.shape
    depth_of_b, columns_of_b = b.shape[::-1] if transpose_b else b.shape
    if (rows, columns, depth) != (rows_of_a, columns_of_b, depth_of_b) or 0 in (rows, columns, depth):
        flags = f"transpose_a={transpose_a}, transpose_b={transpose_b}"
        raise TypeError(f"gemm: a {a.shape} @ b {b.shape} does not make out {out.shape} ({flags})")
    return Product(
        m=columns,
        n=rows,
        k=depth,
        transpose_a=transpose_b,
        transpose_b=transpose_a,
        lda=leading_dimension("b", b),
        ldb=leading_dimension("a", a),
        ldc=leading_dimension("out", out),
    )


def pointer_product(outs: Views, a: Views, b: Views, **options: Unpack[ProductOptions]) -> Product:
    """Return the product that all of these 2-D views share.

    Raises TypeError when one list is longer, a view differs from the first of its list, or outs overlap.
    """
    if not len(outs) == len(a) == len(b) > 0:
        raise TypeError(f"gemm: {len(outs)} outs, {len(a)} a, {len(b)} b; expected as many of each, at least one")
    for name, views in (("outs", outs), ("a", a), ("b", b)):
        forms = {(x.shape, x.strides, x.dtype.str) for x in views}
        if len(forms) > 1:
            raise TypeError(f"gemm: the views of {name} differ in shape, strides or dtype: {sorted(forms)}")
    product = column_major(outs[0], a[0], b[0], **options)
    first = np.array([address(out) for out in outs], dtype=np.int64) // outs[0].dtype.itemsize
    later, earlier = np.triu_indices(len(first), 1)
    if overlap(np.abs(first[later] - first[earlier]), product.n, product.m, product.ldc):
        raise TypeError(f"gemm: the matrices of outs overlap: shape {outs[0].shape}, strides {outs[0].strides} bytes")
    return product


def check_dtypes(numerics: Numerics, out: Array, a: Array, b: Array) -> None:
    """Raise TypeError unless a and b are act_t and out is act_t or float."""
    act, real = numerics.act_dtype, numerics.float_dtype
    if a.dtype != act or b.dtype != act or out.dtype not in (act, real):
        raise TypeError(f"gemm: out, a, b are {out.dtype}, {a.dtype}, {b.dtype}; expected {act} (out: or {real})")


def check_epilogue(epilogue: Epilogue, out: Array, *, accumulate: bool) -> None:
    """Raise TypeError unless the epilogue has the arrays of its kind, in the shape and dtype that fit out."""
    kind = epilogue.kind
    expected_shapes = {
        "bias": kind is not EpilogueKind.dgelu and out.shape[1:],
        "aux": kind is not EpilogueKind.bias and out.shape,
    }
    for name, shape in expected_shapes.items():
        array = getattr(epilogue, name)
        found = array is not None and array.shape
        if found != shape or (array is not None and array.dtype != out.dtype):
            what = None if array is None else f"{array.shape} {array.dtype}"
            raise TypeError(f"gemm: epilogue {kind.name}: {name} is {what}, expected {shape or None} {out.dtype}")
    if epilogue.bias is not None and not epilogue.bias.flags.c_contiguous:
        raise TypeError(f"gemm: epilogue {kind.name}: bias is not contiguous")
    if epilogue.aux is not None:
        leading_dimension("aux", epilogue.aux)
    if accumulate:
        raise TypeError(f"gemm: epilogue {kind.name} cannot accumulate")


def overlap(distances: np.ndarray, rows: int, columns: int, leading: int) -> bool:
    """Return whether two row-major matrices of one shape share an element when one begins any of `distances` later."""
    # `quotient` rows and `rest` columns later: rows of the two meet there, or one row further on.
    quotient, rest = np.divmod(distances, leading)
    meet = ((quotient < rows) & (rest < columns)) | ((quotient + 1 < rows) & (leading - rest < columns))
    return bool(meet.any())


def leading_dimension(name: str, array: Array) -> int:
    """Return how many elements apart rows begin. Raises TypeError when they overlap or are not contiguous."""
    rows, columns = array.shape[-2:]
    item = array.dtype.itemsize
    if columns > 1 and array.strides[-1] != item:
        raise TypeError(
            f"gemm: the last axis of {name} is not contiguous: strides {array.strides} bytes, items of {item}"
        )
    if rows == 1:
        return columns
    leading, rest = divmod(array.strides[-2], item)
    if rest or leading < columns:
        raise TypeError(f"gemm: rows of {name} {array.shape} overlap: strides {array.strides} bytes, items of {item}")
    return leading
