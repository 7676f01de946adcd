"""Matrix products on the host, by numpy: what cublas.py does on a card, with the rounding of each precision."""

from collections.abc import Callable
from typing import Unpack

import numpy as np

from gpt2lab.engine.cuda.device import Array
from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.gemm.base import Epilogue, ProductOptions, Views, check_dtypes, column_major, pointer_product
from gpt2lab.engine.cuda.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.schema import Precision

BF16 = np.dtype(np.uint16)


class HostGemm:
    """One BLAS product for each matrix, on contiguous copies where the views are not: the same shape, the same bits.

    There are no epilogues here, so that the kernels that stand in for them are what is run.
    """

    workspace_bytes = 0

    def __init__(self, device: HostDevice, numerics: Numerics) -> None:
        self._device, self._numerics = device, numerics

    def set_workspace(self, workspace: Array) -> None:
        """Nothing is needed."""

    def matmul(
        self, out: Array, a: Array, b: Array, epilogue: Epilogue | None = None, **options: Unpack[ProductOptions]
    ) -> bool:
        if epilogue is not None:
            return False
        check_dtypes(self._numerics, out, a, b)
        column_major(out, a, b, **options)
        accumulate = options.get("accumulate", False)
        self._require_written(("a", a), ("b", b), *([("out", out)] if accumulate else []))
        left, right = self._widen(a), self._widen(b)
        with np.errstate(all="ignore"):  # a card does not warn of nan and infinity either
            product = (left.T if options.get("transpose_a") else left) @ (
                right.T if options.get("transpose_b") else right
            )
            if accumulate:
                product += from_bfloat16(out) if out.dtype == BF16 else out
            out[...] = to_bfloat16(product) if out.dtype == BF16 else product
        for part in self._parts(out):
            self._device.mark_written(part)
        return True

    def prepare_pointers(
        self, outs: Views, a: Views, b: Views, table: Array | None, **options: Unpack[ProductOptions]
    ) -> Callable[[], None]:
        pointer_product(outs, a, b, **options)

        def multiply() -> None:
            for matrices in zip(outs, a, b, strict=True):
                self.matmul(*matrices, **options)

        return multiply

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        """Return what the checks of the device want to see: rows, unless the whole is contiguous."""
        return [x] if x.flags.c_contiguous or not self._device.checked else list(x)

    def _require_written(self, *operands: tuple[str, np.ndarray]) -> None:
        for name, x in operands:
            for part in self._parts(x):
                self._device.require_written(part, f"gemm: {name}")

    def _widen(self, x: np.ndarray) -> np.ndarray:
        """Return x as the multiplier sees it, contiguous."""
        if x.dtype == BF16:
            return from_bfloat16(x).astype(self._numerics.float_dtype, copy=False)
        if self._numerics.precision is Precision.tf32 and x.dtype == np.float32:
            return round_to_tf32(x)
        return np.ascontiguousarray(x)


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to 10 bits of mantissa, to nearest even; infinities and nan stay."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + (0xFFF + ((bits >> 13) & 1))) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)
