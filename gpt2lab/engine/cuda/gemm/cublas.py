"""Matrix products on a card, through NVIDIA's thin bindings: single ones by cuBLASLt, lists of them by cuBLAS.

CuPy's own wrappers refuse to be captured in a graph, so `nvmath.bindings` is called directly, on the device's stream
and with a workspace that is lent to it.

The same bits on every run: an algorithm is chosen once per shape; the parts of a dot product that is split are kept in
float and added in a step of their own, never in place; one stream owns the workspace; cuBLAS's atomics stay off.

Tested without a card: operands in column-major order, and every argument of every call. The calls themselves need one.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.base import address
from gpt2lab.engine.cuda.gemm.base import (
    Epilogue,
    EpilogueKind,
    Product,
    ProductOptions,
    Views,
    check_dtypes,
    check_epilogue,
    column_major,
    pointer_product,
)
from gpt2lab.engine.cuda.gemm.cublas_lt import DATA_TYPES, LtProducts, factor
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.errors import EngineError
from gpt2lab.schema import Precision

WORKSPACE_BYTES = 32 * 2**20  # recommended for Hopper: NVIDIA's cuBLAS documentation, cublasSetWorkspace()


def open_cublas(device: Device, numerics: Numerics) -> "CublasGemm":
    """Load the libraries. Raises EngineError that says what is missing and which extra brings it."""
    try:
        from nvmath.bindings import cublas, cublasLt
    except ImportError as error:
        raise _unusable(f"nvmath-python cannot be imported ({error})") from None
    try:
        return CublasGemm(device, numerics, blas=cublas, lt=cublasLt)
    except (RuntimeError, cublas.cuBLASError, cublasLt.cuBLASLtError) as error:  # no library, or no handle
        raise _unusable(f"cuBLAS does not start ({str(error).splitlines()[0]})") from error


def _unusable(found: str) -> EngineError:
    extras = "pip install 'gpt2lab[cuda13]' (cuda12 for a driver older than 580)"
    return EngineError(f"engine.device=cuda: {found}; {extras}, or choose engine=torch")


class CublasGemm:
    """Products of one precision on one card, queued on the stream of `device`."""

    workspace_bytes = WORKSPACE_BYTES

    def __init__(self, device: Any, numerics: Numerics, *, blas: Any, lt: Any) -> None:
        self._device, self._numerics, self._blas = device, numerics, blas
        tf32 = numerics.precision is Precision.tf32
        self._compute_type = blas.ComputeType.COMPUTE_32F_FAST_TF32 if tf32 else blas.ComputeType.COMPUTE_32F
        self._lent: Array | None = None
        self._products = LtProducts(lt, compute_type=self._compute_type, workspace_bytes=WORKSPACE_BYTES)

    def set_workspace(self, workspace: Array) -> None:
        assert workspace.nbytes >= WORKSPACE_BYTES and address(workspace) % 256 == 0
        self._lent = workspace

    def matmul(
        self, out: Array, a: Array, b: Array, epilogue: Epilogue | None = None, **options: Unpack[ProductOptions]
    ) -> bool:
        check_dtypes(self._numerics, out, a, b)
        product, accumulate = column_major(out, a, b, **options), options.get("accumulate", False)
        if epilogue is not None:
            check_epilogue(epilogue, out, accumulate=accumulate)
            if epilogue.kind is not EpilogueKind.bias and self._numerics.precision is not Precision.bf16:
                return False  # the library's tanh is good enough for bfloat16; for float our kernel's is sure to be
        plan = self._products.plan(product, epilogue, out, a, b)
        if plan is not None:
            beta, stream = factor(accumulate), self._device.stream_pointer
            self._products.run(plan, epilogue, out, a, b, beta=beta, workspace=self._workspace, stream_pointer=stream)
        elif epilogue is None:
            self._multiply_strided(product, out, a, b, accumulate)  # a shape or alignment that only cuBLAS takes
        return plan is not None or epilogue is None

    def _multiply_strided(self, product: Product, out: Array, a: Array, b: Array, accumulate: bool) -> None:
        """Multiply as a batch of one."""
        self._blas.gemm_strided_batched_ex(
            self._handle,
            *_operations_and_sizes(product),
            factor(True),
            *(address(b), DATA_TYPES[b.dtype], product.lda, 0),
            *(address(a), DATA_TYPES[a.dtype], product.ldb, 0),
            factor(accumulate),
            *(address(out), DATA_TYPES[out.dtype], product.ldc, 0),
            1,
            self._compute_type,
            self._blas.GemmAlgo.DFALT,
        )

    def prepare_pointers(
        self, outs: Views, a: Views, b: Views, table: Array | None, **options: Unpack[ProductOptions]
    ) -> Callable[[], None]:
        """See Gemm. In bf16 and tf32 the function multiplies one by one where a view does not begin at 16 bytes.

        This is as right and slower, and nobody is told. `choose_mlp_tiles` picks no blocks that begin elsewhere.
        """
        product = pointer_product(outs, a, b, **options)
        check_dtypes(self._numerics, outs[0], a[0], b[0])
        addresses = np.array([[address(x) for x in views] for views in (b, a, outs)], dtype=np.int64)
        # The library cannot see the addresses when it chooses. Tensor cores read 16 bytes at a time; what they accept
        # besides is not relied on.
        if self._numerics.precision is not Precision.fp32 and (addresses % 16).any():

            def multiply_one_by_one() -> None:
                for out, x, y in zip(outs, a, b, strict=True):
                    self.matmul(out, x, y, **options)

            return multiply_one_by_one
        assert table is not None and (table.shape, table.dtype) == ((addresses.size,), addresses.dtype)
        self._device.upload(table, addresses.reshape(-1))
        table_b, table_a, table_out = (address(table) + row * addresses.strides[0] for row in range(3))
        inputs, output = DATA_TYPES[a[0].dtype], DATA_TYPES[outs[0].dtype]

        def multiply() -> None:
            self._blas.gemm_batched_ex(
                self._handle,
                *_operations_and_sizes(product),
                factor(True),
                *(table_b, inputs, product.lda),
                *(table_a, inputs, product.ldb),
                factor(options.get("accumulate", False)),
                *(table_out, output, product.ldc),
                len(outs),
                self._compute_type,
                self._blas.GemmAlgo.DFALT,
            )

        return multiply

    @functools.cached_property
    def _handle(self) -> int:
        """cuBLAS's handle, made at the first product that needs it: it takes memory of its own."""
        blas = self._blas
        handle: int = blas.create()
        weakref.finalize(self, blas.destroy, handle)
        # The parts of a split sum are not rounded to bfloat16.
        blas.set_math_mode(handle, blas.Math.DISALLOW_REDUCED_PRECISION_REDUCTION)
        blas.set_stream(handle, self._device.stream_pointer)  # resets the workspace, so it comes first
        blas.set_workspace(handle, address(self._workspace), WORKSPACE_BYTES)
        return handle

    @property
    def _workspace(self) -> Array:
        assert self._lent is not None, "gemm: set_workspace comes before the first product"
        return self._lent


def _operations_and_sizes(product: Product) -> tuple[int, int, int, int, int]:
    """Return what every cuBLAS product begins with; CUBLAS_OP_N is 0, CUBLAS_OP_T is 1."""
    return int(product.transpose_a), int(product.transpose_b), product.m, product.n, product.k
