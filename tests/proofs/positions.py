"""Rows at counted positions: copies, exact to the bit."""

from collections.abc import Iterator

import numpy as np
from proof import Check
from proofs.arrays import Arrays, same

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.ops.positions import Positions, slots_of
from gpt2lab.schema import Precision

CASES = [(1, 1, 7, [0]), (3, 5, 20, [4]), (3, 33, 48, [0, 9, 10, 32]), (2, 5, 136, [0, 1, 2, 3, 4])]  # B, T, C, counted


def check(device: Device, precision: Precision) -> Iterator[Check]:
    for B, T, C, counted in CASES:
        arrays = Arrays(device, precision)
        case = f"positions {arrays.store} B={B} T={T} C={C} n={len(counted)}"
        op = Positions(device, arrays.numerics, n_embd=C)
        x, x64 = arrays.act(arrays.normal(B, T, C))
        out = arrays.empty_act(B, len(counted), C)
        op.gather_forward(out=out, x=x, counted=arrays.int(np.array(counted)))
        yield same(f"{case}: gather", arrays.values(out), x64[:, counted])

        dout, dout64 = arrays.act(arrays.normal(B, len(counted), C))
        dx = arrays.empty_act(B, T, C)
        op.gather_backward(dx=dx, dout=dout, slots=arrays.int(slots_of(np.array(counted), T)))
        expected = np.zeros((B, T, C))
        expected[:, counted] = dout64
        yield same(f"{case}: gather backward", arrays.values(dx), expected)
