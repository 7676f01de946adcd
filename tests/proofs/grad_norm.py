"""The gradient norm, clipping and the flag of a diverged run against numpy float64."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare
from proofs.arrays import Arrays, same
from proofs.flat import CONFIGS, kept_parameters, name_of

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.ops.grad_norm import GradNorm, partials_size
from gpt2lab.engine.cuda.ops.tensor_table import tensor_table
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Decay, Precision


def check(device: Device, precision: Precision) -> Iterator[Check]:
    for config in CONFIGS:
        proof = _Proof(Arrays(device, precision), config)
        yield from proof.check_norm()
        yield from proof.check_flag()


class _Proof:
    def __init__(self, arrays: Arrays, config: GPTConfig) -> None:
        self.arrays = arrays
        self.case = f"grad_norm {arrays.store} {name_of(config)}"
        table = tensor_table(config, Decay.matrices)
        self.op = GradNorm(arrays.device, arrays.numerics, n_embd=config.n_embd, table=table)
        self.partials_size = partials_size(arrays.numerics, config)
        self.tensors = arrays.upload(table)
        self.kept = kept_parameters(config)

    def gradients(self) -> tuple[Array, np.ndarray]:
        """Gradients that are nan outside the bands, and their kept values."""
        values = np.where(self.kept, 1e-3 * self.arrays.normal(self.kept.size), np.nan)
        grads, grads64 = self.arrays.float(values)
        return grads, grads64[self.kept]

    def run(self, grads: Array, loss: float, clip: float, update: int, flag: Array, failure: Array) -> np.ndarray:
        """Return the statistics that the op leaves."""
        stats, _ = self.arrays.float(np.array([loss, np.nan, np.nan]))
        self.op.launch(
            stats=stats,
            flag=flag,
            failure=failure,
            grads=grads,
            tensors=self.tensors,
            update=self.arrays.int([update]),
            partials=self.arrays.empty_float(self.partials_size),
            clip=clip,
        )
        return self.arrays.values(stats)

    def check_norm(self) -> Iterator[Check]:
        grads, kept64 = self.gradients()
        norm64 = float(np.sqrt((kept64**2).sum()))
        allowed = self.arrays.float_tolerance(kept64.size)
        flag, (failure, _) = self.arrays.int([0]), self.arrays.float(np.array([5.0, 6.0]))
        for clip, factor in ((0.0, 1.0), (2 * norm64, 1.0), (norm64 / 3, 1 / 3)):
            name = f"{self.case} clip={clip:.3g}"
            stats = self.run(grads, 2.5, clip, 8, flag, failure)
            yield compare(f"{name}: norm", stats[1:2], np.array([norm64]), allowed)
            yield compare(f"{name}: factor", stats[2:], np.array([factor]), allowed)
            yield same(f"{name}: loss", stats[:1], np.array([2.5]))
            yield same(f"{name}: twice", self.run(grads, 2.5, clip, 8, flag, failure), stats)
        yield same(f"{self.case}: no flag", self.arrays.device.download(flag), np.array([0], dtype=np.int32))
        yield same(f"{self.case}: no failure", self.arrays.values(failure), np.array([5.0, 6.0]))

    def check_flag(self) -> Iterator[Check]:
        infinite, _ = self.arrays.float(np.where(self.kept, np.inf, np.nan))
        for loss, grads in ((np.nan, self.gradients()[0]), (-np.inf, self.gradients()[0]), (2.5, infinite)):
            name = f"{self.case} loss={loss}"
            flag, failure = self.arrays.int([0]), self.arrays.empty_float(2)
            norm = self.run(grads, loss, 1.0, 8, flag, failure)[1]
            yield same(f"{name}: flag", self.arrays.device.download(flag), np.array([8], dtype=np.int32))
            yield same(f"{name}: failure", self.arrays.values(failure), np.array([loss, norm]))
            self.run(infinite, np.inf, 1.0, 9, flag, failure)
            yield same(f"{name}: the flag stays", self.arrays.device.download(flag), np.array([8], dtype=np.int32))
            yield same(f"{name}: the failure stays", self.arrays.values(failure), np.array([loss, norm]))
