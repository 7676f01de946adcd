"""Rows at counted positions: cuda/positions.cu."""

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics

_THREADS = constant("positions.cu", "THREADS")


class Positions:
    """out[b,i,:] = x[b,counted[i],:], and the way back for gradients.

    x, dx (B, T, C) act; out, dout (B, n, C) act; counted (n,) and slots (T,) int32.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n_embd: int) -> None:
        self._vec = numerics.pack(n_embd)
        self._module = device.compile("positions.cu", numerics.defines | {"VEC": self._vec})

    def gather_forward(self, *, out: Array, x: Array, counted: Array) -> None:
        """Write out; `counted` ascending and distinct."""
        (B, T, C), n = x.shape, len(counted)
        grid = -(-B * n * C // self._vec // _THREADS)
        self._module.launch("gather_forward", grid, _THREADS, out=out, x=x, counted=counted, B=B, T=T, n=n, C=C)

    def gather_backward(self, *, dx: Array, dout: Array, slots: Array) -> None:
        """Write every row of dx: the gradient of its copy, or 0; `slots` as from `slots_of`."""
        (B, T, C), n = dx.shape, dout.shape[1]
        grid = -(-B * T * C // self._vec // _THREADS)
        self._module.launch("gather_backward", grid, _THREADS, dx=dx, dout=dout, slots=slots, B=B, T=T, n=n, C=C)


def slots_of(counted: np.ndarray, seq_len: int) -> np.ndarray:
    """Return, for each of seq_len positions, its index in `counted` or -1, int32."""
    slots = np.full(seq_len, -1, dtype=np.int32)
    slots[counted] = np.arange(len(counted), dtype=np.int32)
    return slots
