"""Layer norm against numpy float64."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare
from proofs.arrays import Arrays, same

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.ops.layer_norm import LayerNorm, partials_size
from gpt2lab.schema import Precision

EPS = 1e-5

# rows, C: fewer rows than a block takes; odd channels; rows shared by one, two and four warps
CASES = [(1, 20), (5, 7), (33, 48), (15, 128), (9, 97), (7, 1032), (3, 1100), (2, 2500), (5, 4096)]


def check(device: Device, precision: Precision) -> Iterator[Check]:
    for rows, C in CASES:
        proof = _Proof(Arrays(device, precision), rows, C)
        yield from proof.check_forward()
        yield from proof.check_residual_forward()
        yield from proof.check_backward()


class _Proof:
    def __init__(self, arrays: Arrays, rows: int, C: int) -> None:
        self.arrays, self.rows, self.C = arrays, rows, C
        self.case = f"layer_norm {arrays.store} rows={rows} C={C}"
        self.op = LayerNorm(arrays.device, arrays.numerics, n_embd=C)
        self.weight, self.weight64 = arrays.float(1 + 0.3 * arrays.normal(C))
        self.bias, self.bias64 = arrays.float(0.3 * arrays.normal(C))

    def act(self) -> tuple[Array, np.ndarray]:
        # A mean that is large beside the spread shows a variance computed from the mean of squares.
        return self.arrays.act(3 + self.arrays.normal(self.rows, self.C))

    def outputs(self) -> dict[str, Array]:
        arrays, rows = self.arrays, self.rows
        return {
            "out": arrays.empty_act(rows, self.C),
            "mean": arrays.empty_float(rows),
            "rstd": arrays.empty_float(rows),
        }

    def compare_outputs(self, name: str, outputs: dict[str, Array], x64: np.ndarray) -> Iterator[Check]:
        mean = x64.mean(axis=1)
        rstd = (x64.var(axis=1) + EPS) ** -0.5
        out = (x64 - mean[:, None]) * rstd[:, None] * self.weight64 + self.bias64
        values = {key: self.arrays.values(array) for key, array in outputs.items()}
        yield compare(f"{name}: out", values["out"], out, self.arrays.act_tolerance(self.C))
        yield compare(f"{name}: mean", values["mean"], mean, self.arrays.float_tolerance(self.C))
        yield compare(f"{name}: rstd", values["rstd"], rstd, self.arrays.float_tolerance(self.C))

    def check_forward(self) -> Iterator[Check]:
        x, x64 = self.act()
        outputs = self.outputs()
        self.op.forward(x=x, weight=self.weight, bias=self.bias, **outputs)
        yield from self.compare_outputs(f"{self.case}: forward", outputs, x64)

    def check_residual_forward(self) -> Iterator[Check]:
        (residual, residual64), (branch, branch64) = self.act(), self.act()
        stored, outputs = self.arrays.empty_act(self.rows, self.C), self.outputs()
        self.op.residual_forward(
            sum=stored, residual=residual, branch=branch, weight=self.weight, bias=self.bias, **outputs
        )
        sum64 = self.arrays.values(stored)
        yield compare(f"{self.case}: sum", sum64, residual64 + branch64, self.arrays.act_tolerance(2))
        yield from self.compare_outputs(f"{self.case}: residual forward", outputs, sum64)

    def check_backward(self) -> Iterator[Check]:
        arrays, C = self.arrays, self.C
        (x, x64), (dout, dout64) = self.act(), arrays.act(arrays.normal(self.rows, C))
        mean, mean64 = arrays.float(x64.mean(axis=1))
        rstd, rstd64 = arrays.float((x64.var(axis=1) + EPS) ** -0.5)
        starts = arrays.normal(self.rows, C), arrays.normal(C), arrays.normal(C)
        found = []
        for _ in range(2):
            (dres, dres64), (dweight, dweight64), (dbias, dbias64) = (
                arrays.act(starts[0]),
                arrays.float(starts[1]),
                arrays.float(starts[2]),
            )
            self.op.backward(
                dres=dres,
                dweight=dweight,
                dbias=dbias,
                dout=dout,
                x=x,
                weight=self.weight,
                mean=mean,
                rstd=rstd,
                partials=arrays.empty_float(partials_size(arrays.numerics, self.rows, C)),
            )
            found.append([arrays.values(array) for array in (dres, dweight, dbias)])

        n = (x64 - mean64[:, None]) * rstd64[:, None]
        g = dout64 * self.weight64
        dx = rstd64[:, None] * (g - g.mean(axis=1, keepdims=True) - n * (g * n).mean(axis=1, keepdims=True))
        name = f"{self.case}: backward"
        yield compare(f"{name}: dres", found[0][0], dres64 + dx, arrays.act_tolerance(C))
        yield compare(
            f"{name}: dweight", found[0][1], dweight64 + (dout64 * n).sum(axis=0), arrays.float_tolerance(self.rows + 1)
        )
        yield compare(
            f"{name}: dbias", found[0][2], dbias64 + dout64.sum(axis=0), arrays.float_tolerance(self.rows + 1)
        )
        for what, first, second in zip(("dres", "dweight", "dbias"), *found, strict=True):
            yield same(f"{name}: {what} twice", second, first)
