"""cuBLAS and cuBLASLt as numpy executes them, on host memory: what the bindings are told is what is computed.

Matrices are column-major, read from bare addresses, as the libraries read them. Enumerations are those of the bindings'
C headers. `BLAS_CALLS` and `LT_CALLS` are the signatures of the real bindings, in their order.
"""

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpt2lab.engine.cuda.numerics import from_bfloat16, to_bfloat16

BLAS_CALLS = {
    "create": "",
    "set_stream": "handle, stream_id",
    "set_workspace": "handle, workspace, workspace_size_in_bytes",
    "set_math_mode": "handle, mode",
    "gemm_strided_batched_ex": "handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a, b, btype, ldb,"
    " stride_b, beta, c, ctype, ldc, stride_c, batch_count, compute_type, algo",
    "gemm_batched_ex": "handle, transa, transb, m, n, k, alpha, aarray, atype, lda, barray, btype, ldb, beta, carray,"
    " ctype, ldc, batch_count, compute_type, algo",
}
LT_CALLS = {
    "create": "",
    "matmul_desc_create": "compute_type, scale_type",
    "matmul_desc_set_attribute": "matmul_desc, attr, buf, size_in_bytes",
    "matrix_layout_create": "type, rows, cols, ld",
    "matmul_preference_create": "",
    "matmul_preference_set_attribute": "pref, attr, buf, size_in_bytes",
    "matmul_preference_destroy": "pref",
    "matmul_algo_get_heuristic": "light_handle, operation_desc, adesc, bdesc, cdesc, ddesc, preference,"
    " requested_algo_count, heuristic_results_array, return_algo_count",
    "matmul": "light_handle, compute_desc, alpha, a, adesc, b, bdesc, beta, c, cdesc, d, ddesc, algo, workspace,"
    " workspace_size_in_bytes, stream",
}

R_32F, R_16BF = 0, 14
ALGORITHM = 1234567  # what the fake heuristic answers, and matmul wants to see again
STREAM = 4321


class ComputeType(enum.IntEnum):
    COMPUTE_32F = 68
    COMPUTE_32F_FAST_TF32 = 77


class Math(enum.IntEnum):
    DISALLOW_REDUCED_PRECISION_REDUCTION = 16


class GemmAlgo(enum.IntEnum):
    DFALT = -1


class Epilogue(enum.IntEnum):
    DEFAULT = 1
    BIAS = 4
    GELU_AUX_BIAS = 164
    DGELU = 192


class ReductionScheme(enum.IntEnum):
    NONE = 0
    INPLACE = 1
    COMPUTE_TYPE = 2
    OUTPUT_TYPE = 4


class MatmulDescAttribute(enum.IntEnum):
    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    EPILOGUE_AUX_POINTER = 11
    EPILOGUE_AUX_LD = 12


class MatmulPreferenceAttribute(enum.IntEnum):
    MAX_WORKSPACE_BYTES = 1
    REDUCTION_SCHEME_MASK = 3
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


DESC_DTYPES = dict.fromkeys((3, 4), np.int32) | {7: np.uint32} | dict.fromkeys((8, 11, 12), np.int64)
PREFERENCE_DTYPES = {1: np.uint64} | dict.fromkeys((3, 5, 6, 7, 8), np.uint32)


class DeviceArray(np.ndarray):
    """Host memory that looks like a CuPy array: its address is `.data.ptr`."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


class FakeDevice:
    """What CublasGemm needs of a device."""

    name = "cuda"
    float_dtype = np.dtype(np.float32)
    stream_pointer = STREAM

    def upload(self, target: np.ndarray, source: np.ndarray) -> None:
        target[...] = source


class NotSupportedByFakeError(Exception):
    status = 15


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_derivative(x: np.ndarray) -> np.ndarray:
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * (1 + np.tanh(u)) + 0.5 * x * (1 - np.tanh(u) ** 2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def column_major_view(pointer: int, data_type: int, rows: int, columns: int, leading: int) -> np.ndarray:
    """Return a view of the column-major matrix at `pointer`."""
    assert leading >= rows and pointer, (leading, rows)
    dtype = np.dtype({R_32F: np.float32, R_16BF: np.uint16}[data_type])
    n_bytes = ((columns - 1) * leading + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * n_bytes).from_address(pointer), dtype=dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (dtype.itemsize, leading * dtype.itemsize))


def load(view: np.ndarray) -> np.ndarray:
    return from_bfloat16(view) if view.dtype == np.uint16 else view.copy()


def save(view: np.ndarray, values: np.ndarray) -> None:
    view[...] = to_bfloat16(values) if view.dtype == np.uint16 else values


def read_float(pointer: int) -> float:
    return ctypes.c_float.from_address(pointer).value


def multiply(transa: int, transb: int, m: int, n: int, k: int, a: tuple, b: tuple, beta: float, c: tuple) -> np.ndarray:
    """Compute and store op(a) @ op(b) + beta c; a, b, c are (pointer, data type, leading dimension)."""
    left = load(column_major_view(a[0], a[1], *((k, m) if transa else (m, k)), a[2]))
    right = load(column_major_view(b[0], b[1], *((n, k) if transb else (k, n)), b[2]))
    target = column_major_view(c[0], c[1], m, n, c[2])
    product = (left.T if transa else left) @ (right.T if transb else right)
    if beta:
        product = product + np.float32(beta) * load(target)
    save(target, product)
    return product


class Recorder:
    """Checks the order of calls that both libraries care about."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.compute_types: set[int] = set()
        self.destroyed: list[int] = []

    def destroy(self, handle: int) -> None:
        self.destroyed.append(handle)


class FakeCublas(Recorder):
    ComputeType, Math, GemmAlgo = ComputeType, Math, GemmAlgo
    cuBLASError = NotSupportedByFakeError  # noqa: N815 (the binding's name)

    def create(self) -> int:
        return 1

    def set_math_mode(self, handle: int, mode: int) -> None:
        self.calls.append(f"set_math_mode {int(mode)}")

    def set_stream(self, handle: int, stream_id: int) -> None:
        assert stream_id == STREAM
        self.calls.append("set_stream")

    def set_workspace(self, handle: int, workspace: int, workspace_size_in_bytes: int) -> None:
        assert workspace % 256 == 0 and workspace_size_in_bytes == 32 * 2**20
        self.calls.append("set_workspace")

    def gemm_strided_batched_ex(
        self, handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a, b, btype, ldb, stride_b, beta, c, ctype,
        ldc, stride_c, batch_count, compute_type, algo
    ):  # fmt: skip
        assert read_float(alpha) == 1.0 and algo == -1
        self.compute_types.add(compute_type)
        sizes = {R_32F: 4, R_16BF: 2}
        for i in range(batch_count):
            multiply(
                transa, transb, m, n, k,
                (a + i * stride_a * sizes[atype], atype, lda),
                (b + i * stride_b * sizes[btype], btype, ldb),
                read_float(beta),
                (c + i * stride_c * sizes[ctype], ctype, ldc),
            )  # fmt: skip

    def gemm_batched_ex(
        self, handle, transa, transb, m, n, k, alpha, aarray, atype, lda, barray, btype, ldb, beta, carray, ctype, ldc,
        batch_count, compute_type, algo
    ):  # fmt: skip
        assert read_float(alpha) == 1.0 and algo == -1
        self.compute_types.add(compute_type)
        pointers = [(ctypes.c_int64 * batch_count).from_address(table) for table in (aarray, barray, carray)]
        for a, b, c in zip(*pointers, strict=True):
            multiply(transa, transb, m, n, k, (a, atype, lda), (b, btype, ldb), read_float(beta), (c, ctype, ldc))


class FakeCublasLt(Recorder):
    """`refuses` names epilogues for which the heuristic finds no algorithm."""

    MatmulDescAttribute, MatmulPreferenceAttribute = MatmulDescAttribute, MatmulPreferenceAttribute
    ReductionScheme, Epilogue = ReductionScheme, Epilogue
    cuBLASLtError = NotSupportedByFakeError  # noqa: N815 (the binding's name)
    matmul_algo_dtype = np.dtype([("data_", np.uint64, (8,))])
    matmul_heuristic_result_dtype = np.dtype(
        [
            ("algo", matmul_algo_dtype),
            ("workspace_size", np.uint64),
            ("state", np.int32),
            ("waves_count", np.float32),
            ("reserved", np.int32, (4,)),
        ]
    )

    def __init__(self, refuses: tuple[Epilogue, ...] = ()) -> None:
        super().__init__()
        self.refuses = refuses
        self.objects: list[Any] = [None]  # a handle is an index
        self.run: list[dict] = []  # operations of the products that were run
        self.preferences: list[dict] = []  # of each choice of an algorithm

    def _new(self, value: Any) -> int:
        self.objects.append(value)
        return len(self.objects) - 1

    def create(self) -> int:
        return self._new("handle")

    def get_matmul_desc_attribute_dtype(self, attr: int) -> type:
        return DESC_DTYPES[attr]

    def get_matmul_preference_attribute_dtype(self, attr: int) -> type:
        return PREFERENCE_DTYPES[attr]

    def matmul_desc_create(self, compute_type: int, scale_type: int) -> int:
        assert scale_type == R_32F
        self.compute_types.add(compute_type)
        return self._new({"epilogue": Epilogue.DEFAULT})

    def matmul_desc_set_attribute(self, matmul_desc: int, attr: int, buf: int, size_in_bytes: int) -> None:
        dtype = np.dtype(DESC_DTYPES[attr])
        assert size_in_bytes == dtype.itemsize
        self.objects[matmul_desc][attr] = int(np.frombuffer(ctypes.string_at(buf, size_in_bytes), dtype)[0])

    def matrix_layout_create(self, type: int, rows: int, cols: int, ld: int) -> int:
        assert ld >= rows
        return self._new((type, rows, cols, ld))

    def matmul_preference_create(self) -> int:
        return self._new({})

    def matmul_preference_set_attribute(self, pref: int, attr: int, buf: int, size_in_bytes: int) -> None:
        dtype = np.dtype(PREFERENCE_DTYPES[attr])
        assert size_in_bytes == dtype.itemsize
        self.objects[pref][attr] = int(np.frombuffer(ctypes.string_at(buf, size_in_bytes), dtype)[0])

    def matmul_preference_destroy(self, pref: int) -> None:
        self.objects[pref] = None

    def matmul_algo_get_heuristic(
        self, light_handle, operation_desc, adesc, bdesc, cdesc, ddesc, preference, requested_algo_count,
        heuristic_results_array, return_algo_count
    ):  # fmt: skip
        operation, wishes = self.objects[operation_desc], self.objects[preference]
        self.calls.append("heuristic")
        self.preferences.append(wishes.copy())
        assert self.objects[light_handle] == "handle" and requested_algo_count >= 2
        assert wishes[MatmulPreferenceAttribute.REDUCTION_SCHEME_MASK] == ReductionScheme.COMPUTE_TYPE
        assert wishes[MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES] == 32 * 2**20
        if operation.get(MatmulDescAttribute.EPILOGUE) in self.refuses:
            raise NotSupportedByFakeError
        n_bytes = requested_algo_count * self.matmul_heuristic_result_dtype.itemsize
        memory = (ctypes.c_char * n_bytes).from_address(heuristic_results_array)
        results = np.frombuffer(memory, dtype=self.matmul_heuristic_result_dtype)
        results["state"][:2] = 1, 0  # the first one failed, the second one is the answer
        results["algo"]["data_"][1] = ALGORITHM
        ctypes.c_int32.from_address(return_algo_count).value = 2

    def matmul(
        self, light_handle, compute_desc, alpha, a, adesc, b, bdesc, beta, c, cdesc, d, ddesc, algo, workspace,
        workspace_size_in_bytes, stream
    ):  # fmt: skip
        assert read_float(alpha) == 1.0 and c == d and cdesc == ddesc and stream == STREAM
        assert workspace % 256 == 0 and workspace_size_in_bytes == 32 * 2**20
        assert ctypes.c_uint64.from_address(algo).value == ALGORITHM
        operation = self.objects[compute_desc]
        self.run.append(operation)
        (type_a, rows_a, cols_a, lda), (type_b, rows_b, cols_b, ldb) = self.objects[adesc], self.objects[bdesc]
        type_c, m, n, ldc = self.objects[cdesc]
        transa, transb = operation[MatmulDescAttribute.TRANSA], operation[MatmulDescAttribute.TRANSB]
        k = rows_a if transa else cols_a
        assert (m, n, k) == (cols_a if transa else rows_a, rows_b if transb else cols_b, cols_b if transb else rows_b)
        product = multiply(
            transa, transb, m, n, k, (a, type_a, lda), (b, type_b, ldb), read_float(beta), (d, type_c, ldc)
        )
        self._finish(operation, product, column_major_view(d, type_c, m, n, ldc), type_c)

    def _finish(self, operation: dict, product: np.ndarray, out: np.ndarray, data_type: int) -> None:
        """Apply the epilogue: bias runs along the rows of D, one value per row."""
        epilogue = operation.get(MatmulDescAttribute.EPILOGUE, Epilogue.DEFAULT)
        m, n = out.shape
        if epilogue in (Epilogue.BIAS, Epilogue.GELU_AUX_BIAS):
            pointer = operation[MatmulDescAttribute.BIAS_POINTER]
            product = product + load(column_major_view(pointer, data_type, m, 1, m))
        if epilogue in (Epilogue.GELU_AUX_BIAS, Epilogue.DGELU):
            leading = operation[MatmulDescAttribute.EPILOGUE_AUX_LD]
            assert leading % 8 == 0
            aux = column_major_view(operation[MatmulDescAttribute.EPILOGUE_AUX_POINTER], data_type, m, n, leading)
            if epilogue == Epilogue.DGELU:
                product = product * gelu_derivative(load(aux))
            else:
                save(aux, product)
                product = gelu(product)
        save(out, product)
