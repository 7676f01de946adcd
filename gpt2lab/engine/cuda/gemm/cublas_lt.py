"""Single matrix products on a card, by cuBLASLt: descriptors, the choice of an algorithm, epilogues.

Tested without a card: every argument of every call, and descriptors made by the real library. Its handle, its heuristic
and its products need one.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.engine.cuda.device import Array
from gpt2lab.engine.cuda.device.base import address
from gpt2lab.engine.cuda.gemm.base import Epilogue, EpilogueKind, Product, leading_dimension

# Values of C enumerations (library_types.h, cublas_api.h) that the bindings leave to the caller.
CUDA_R_32F = 0
CUDA_R_16BF = 14
DATA_TYPES = {np.dtype(np.float32): CUDA_R_32F, np.dtype(np.uint16): CUDA_R_16BF}
STATUS_INVALID_VALUE = 7
STATUS_NOT_SUPPORTED = 15
_FACTORS = np.array([0, 1], dtype=np.float32)

CANDIDATES = 8  # algorithms asked for; the first that fits the workspace is taken
AUX_MULTIPLE = 8  # the leading dimension of an epilogue's aux is a multiple of it (cublasLt.h, EPILOGUE_AUX_LD)


@dataclass(frozen=True, slots=True)
class PreparedProduct:
    """One kind of product, prepared: descriptors, and the algorithm that every call of it uses."""

    operation: int
    layouts: tuple[int, int, int]  # of the library's A, B and C
    algorithm: np.ndarray  # (1) cublasLtMatmulAlgo_t


class LtProducts:
    """Products that accumulate in float, each with one algorithm for as long as this object lives."""

    def __init__(self, lt: Any, *, compute_type: int, workspace_bytes: int) -> None:
        self._lt = lt
        self._handle = lt.create()
        weakref.finalize(self, lt.destroy, self._handle)
        self._compute_type, self._workspace_bytes = compute_type, workspace_bytes
        self._plans: dict[tuple[object, ...], PreparedProduct | None] = {}

    def plan(
        self, product: Product, epilogue: Epilogue | None, out: Array, a: Array, b: Array
    ) -> PreparedProduct | None:
        """Return the prepared product, chosen at its first call; None when the library has no algorithm for it."""
        beside_out = [] if epilogue is None else [x for x in (epilogue.bias, epilogue.aux) if x is not None]
        # The library asks for one alignment of all that it reads and writes at the end of a product.
        alignments = (_alignment(b), _alignment(a), min(_alignment(x) for x in (out, *beside_out)))
        key: tuple[object, ...] = (product, out.dtype.str, alignments)
        if epilogue is not None:
            key += (epilogue.kind, *(x.strides for x in beside_out))
        if key not in self._plans:
            self._plans[key] = self._choose(product, epilogue, out, a, alignments)
        return self._plans[key]

    def run(
        self,
        plan: PreparedProduct,
        epilogue: Epilogue | None,
        out: Array,
        a: Array,
        b: Array,
        *,
        beta: int,
        workspace: Array,
        stream_pointer: int,
    ) -> None:
        """Queue the product; `beta` is where the factor of what out holds already lies."""
        if epilogue is not None:
            self._set_epilogue_pointers(plan.operation, epilogue)
        layout_a, layout_b, layout_c = plan.layouts
        self._lt.matmul(
            *(self._handle, plan.operation),
            *(factor(True), address(b), layout_a, address(a), layout_b),
            *(beta, address(out), layout_c, address(out), layout_c),
            *(plan.algorithm.ctypes.data, address(workspace), self._workspace_bytes, stream_pointer),
        )

    def _choose(
        self, product: Product, epilogue: Epilogue | None, out: Array, a: Array, alignments: tuple[int, ...]
    ) -> PreparedProduct | None:
        p, attribute = product, self._lt.MatmulDescAttribute
        operation = self._lt.matmul_desc_create(self._compute_type, CUDA_R_32F)
        self._describe(operation, attribute.TRANSA, int(p.transpose_a))  # CUBLAS_OP_N is 0, CUBLAS_OP_T is 1
        self._describe(operation, attribute.TRANSB, int(p.transpose_b))
        if epilogue is not None:
            self._describe(operation, attribute.EPILOGUE, self._epilogue(epilogue.kind))
            if epilogue.aux is not None:
                leading = leading_dimension("aux", epilogue.aux)
                if leading % AUX_MULTIPLE:
                    return None
                self._describe(operation, attribute.EPILOGUE_AUX_LD, leading)
            self._set_epilogue_pointers(operation, epilogue)  # the heuristic reads their alignment
        inputs = DATA_TYPES[a.dtype]
        create = self._lt.matrix_layout_create
        layouts = (
            create(inputs, *((p.k, p.m) if p.transpose_a else (p.m, p.k)), p.lda),
            create(inputs, *((p.n, p.k) if p.transpose_b else (p.k, p.n)), p.ldb),
            create(DATA_TYPES[out.dtype], p.m, p.n, p.ldc),
        )
        algorithm = self._algorithm(operation, layouts, alignments)
        return None if algorithm is None else PreparedProduct(operation, layouts, algorithm)

    def _algorithm(
        self, operation: int, layouts: tuple[int, int, int], alignments: tuple[int, ...]
    ) -> np.ndarray | None:
        """Return the (1) algorithm that the library expects to be fastest of those allowed, or None."""
        lt = self._lt
        results = np.zeros(CANDIDATES, dtype=lt.matmul_heuristic_result_dtype)
        n_found = np.zeros(1, dtype=np.int32)
        preference = self._preference(alignments)
        try:
            lt.matmul_algo_get_heuristic(
                *(self._handle, operation, *layouts, layouts[2], preference),
                *(CANDIDATES, results.ctypes.data, n_found.ctypes.data),
            )
        except lt.cuBLASLtError as error:
            if error.status not in (STATUS_NOT_SUPPORTED, STATUS_INVALID_VALUE):
                raise
        finally:
            lt.matmul_preference_destroy(preference)
        for result in results[: n_found[0]]:
            if result["state"] == 0 and result["workspace_size"] <= self._workspace_bytes:
                return np.array([result["algo"]], dtype=results.dtype["algo"])
        return None

    def _preference(self, alignments: tuple[int, ...]) -> int:
        lt = self._lt
        attribute = lt.MatmulPreferenceAttribute
        preference: int = lt.matmul_preference_create()
        for name, value in (
            (attribute.MAX_WORKSPACE_BYTES, self._workspace_bytes),
            # A sum that is split adds its parts in float and in a step of its own; not splitting is always allowed.
            (attribute.REDUCTION_SCHEME_MASK, lt.ReductionScheme.COMPUTE_TYPE),
            (attribute.MIN_ALIGNMENT_A_BYTES, alignments[0]),
            (attribute.MIN_ALIGNMENT_B_BYTES, alignments[1]),
            (attribute.MIN_ALIGNMENT_C_BYTES, alignments[2]),
            (attribute.MIN_ALIGNMENT_D_BYTES, alignments[2]),
        ):
            value_buffer = np.array([value], dtype=lt.get_matmul_preference_attribute_dtype(name))
            lt.matmul_preference_set_attribute(preference, name, value_buffer.ctypes.data, value_buffer.nbytes)
        return preference

    def _epilogue(self, kind: EpilogueKind) -> int:
        epilogue = self._lt.Epilogue
        return {
            EpilogueKind.bias: epilogue.BIAS,
            EpilogueKind.bias_gelu: epilogue.GELU_AUX_BIAS,
            EpilogueKind.dgelu: epilogue.DGELU,
        }[kind]

    def _set_epilogue_pointers(self, operation: int, epilogue: Epilogue) -> None:
        """Name this call's arrays; their dtype is that of out, the library's default."""
        attribute = self._lt.MatmulDescAttribute
        if epilogue.bias is not None:
            self._describe(operation, attribute.BIAS_POINTER, address(epilogue.bias))
        if epilogue.aux is not None:
            self._describe(operation, attribute.EPILOGUE_AUX_POINTER, address(epilogue.aux))

    def _describe(self, operation: int, attribute: int, value: int) -> None:
        buffer = np.array([value], dtype=self._lt.get_matmul_desc_attribute_dtype(attribute))
        self._lt.matmul_desc_set_attribute(operation, attribute, buffer.ctypes.data, buffer.nbytes)


def factor(one: bool) -> int:
    """Return the address of the factor 1 or 0, in float."""
    return _FACTORS[int(one) :].ctypes.data


def _alignment(array: Array) -> int:
    """Return the largest power of two, up to 256 bytes, that divides the array's address."""
    return min(256, address(array) & -address(array))
