"""Run by test_cuda_bindings.py in a process of its own: descriptors of the real cuBLASLt, read back from it.

python cublas_descriptors.py FOLDER, which holds a stand-in for the driver. Ends with 77 when there is no library.
"""

import ctypes
import sys
from typing import Any

import numpy as np
from fake_cublas import DeviceArray
from nvmath.bindings import cublasLt

from gpt2lab.engine.cuda.gemm import Epilogue, EpilogueKind
from gpt2lab.engine.cuda.gemm.base import column_major
from gpt2lab.engine.cuda.gemm.cublas_lt import LtProducts

OPERATION = "COMPUTE_TYPE SCALE_TYPE TRANSA TRANSB EPILOGUE BIAS_POINTER EPILOGUE_AUX_POINTER EPILOGUE_AUX_LD"
PREFERENCE = "MAX_WORKSPACE_BYTES REDUCTION_SCHEME_MASK MIN_ALIGNMENT_A_BYTES MIN_ALIGNMENT_D_BYTES"
LAYOUT = "TYPE ROWS COLS LD"


class Lt:
    """cublasLt, but for the calls that need a card: one handle, which is none of the library's, and the heuristic."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(cublasLt, name)

    def create(self) -> int:
        return 1

    def destroy(self, handle: int) -> None:
        assert handle == 1  # the real call would follow it as an address

    def matmul_algo_get_heuristic(self, handle, operation, a, b, c, d, preference, count, results, n_found) -> None:
        self.found = {
            "operation": self._read_all("matmul_desc", operation, cublasLt.MatmulDescAttribute, OPERATION),
            "preference": self._read_all(
                "matmul_preference", preference, cublasLt.MatmulPreferenceAttribute, PREFERENCE
            ),
            "layouts": [
                list(self._read_all("matrix_layout", x, cublasLt.MatrixLayoutAttribute, LAYOUT).values())
                for x in (a, b, c, d)
            ],
        }
        ctypes.c_int32.from_address(n_found).value = 1

    def _read_all(self, kind: str, handle: int, attributes: Any, names: str) -> dict[str, int]:
        return {name: self._read(kind, handle, attributes[name]) for name in names.split()}

    def _read(self, kind: str, handle: int, attribute: int) -> int:
        buffer = np.zeros(1, dtype=getattr(cublasLt, f"get_{kind}_attribute_dtype")(attribute))
        written = np.zeros(1, dtype=np.uint64)
        get = getattr(cublasLt, f"{kind}_get_attribute")
        get(handle, attribute, buffer.ctypes.data, buffer.nbytes, written.ctypes.data)
        assert written[0] == buffer.nbytes
        return int(buffer[0])


def main(folder: str) -> int:
    ctypes.CDLL(f"{folder}/libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    try:
        cublasLt.get_version()
    except Exception as error:  # whatever the bindings raise when they do not find a library
        print(str(error).splitlines()[0])
        return 77
    lt = Lt()
    products = LtProducts(lt, compute_type=68, workspace_bytes=2**25)
    memory = np.zeros(2**16, dtype=np.uint16)
    memory = memory[-memory.ctypes.data % 256 // 2 :].view(DeviceArray)  # aligned to 256 bytes
    x, weight = memory[: 5 * 24].reshape(5, 24)[:, :20], memory[1024 : 1024 + 16 * 20].reshape(16, 20)
    out, pre = memory[2056 : 2056 + 5 * 16].reshape(5, 16), memory[4096 : 4096 + 5 * 32].reshape(5, 32)[:, :16]
    bias = memory[8192 : 8192 + 16]
    product = column_major(out, x, weight, transpose_b=True)
    epilogue = Epilogue(kind=EpilogueKind.bias_gelu, bias=bias, aux=pre)
    plan = products.plan(product, epilogue, out, x, weight)
    assert plan is not None
    bf16 = 14
    expected = {
        "operation": {
            "COMPUTE_TYPE": 68,
            "SCALE_TYPE": 0,
            "TRANSA": 1,
            "TRANSB": 0,
            "EPILOGUE": 164,
            "BIAS_POINTER": bias.data.ptr,
            "EPILOGUE_AUX_POINTER": pre.data.ptr,
            "EPILOGUE_AUX_LD": 32,
        },
        "layouts": [[bf16, 20, 16, 20], [bf16, 20, 5, 24], [bf16, 16, 5, 16], [bf16, 16, 5, 16]],
        "preference": {
            "MAX_WORKSPACE_BYTES": 2**25,
            "REDUCTION_SCHEME_MASK": 2,
            "MIN_ALIGNMENT_A_BYTES": 256,
            "MIN_ALIGNMENT_D_BYTES": 16,
        },
    }
    assert lt.found == expected, lt.found
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
