"""AdamW against numpy float64, over five updates."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare
from proofs.arrays import Arrays, same
from proofs.flat import CONFIGS, decaying_parameters, kept_parameters, name_of

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.ops.adamw import AdamW, schedule_of
from gpt2lab.engine.cuda.ops.tensor_table import tensor_table
from gpt2lab.model.params import TENSORS, GPTConfig
from gpt2lab.schema import Decay, OptimConfig, Precision

UPDATES = 5
# The m and v of an update sum two products each, the parameter two, and the decay one.
TERMS = 8 * UPDATES
FACTOR = 0.6  # of clipping


def check(device: Device, precision: Precision) -> Iterator[Check]:
    for number, config in enumerate(CONFIGS):
        decay = Decay.all if number % 2 else Decay.matrices
        optim = OptimConfig(learning_rate=3e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.3, decay=decay)
        proof = _Proof(Arrays(device, precision), config, optim)
        yield from proof.check_updates()
        yield from proof.check_flag()


class _Proof:
    def __init__(self, arrays: Arrays, config: GPTConfig, optim: OptimConfig) -> None:
        self.arrays, self.optim = arrays, optim
        self.case = f"adamw {arrays.store} {name_of(config)}"
        table = tensor_table(config, optim.decay)
        self.op = AdamW(arrays.device, arrays.numerics, n_embd=config.n_embd, table=table, optim=optim)
        self.tensors = arrays.upload(table)
        self.kept = kept_parameters(config)
        decaying = {spec.name for spec in TENSORS if spec.decays or optim.decay is Decay.all}
        self.weight_decay = optim.weight_decay * decaying_parameters(config, decaying)
        # What a band leaves out is nan everywhere, so that a single read of it would show.
        self.state = {name: arrays.float(self.banded(start)) for name, start in self.start().items()}
        self.weights, self.weights64 = arrays.act(self.banded(arrays.normal(self.kept.size)))

    def start(self) -> dict[str, np.ndarray]:
        n = self.kept.size
        return {"params": self.arrays.normal(n), "m": np.zeros(n), "v": np.zeros(n)}

    def banded(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.kept, values, np.nan)

    def update(self, grads: Array, number: int, learning_rate: float, flag: int) -> None:
        arrays = self.arrays
        self.op.launch(
            **{name: array for name, (array, _) in self.state.items()},
            weights=self.weights if number != 2 else None,
            grads=grads,
            tensors=self.tensors,
            schedule=arrays.float(np.array(schedule_of(self.optim, number, learning_rate)))[0],
            stats=arrays.float(np.array([np.nan, np.nan, FACTOR]))[0],
            flag=arrays.int([flag]),
        )

    def check_updates(self) -> Iterator[Check]:
        optim, kept = self.optim, self.kept
        p, m, v = (values.copy() for _, values in self.state.values())
        for number in range(1, UPDATES + 1):
            learning_rate = optim.learning_rate / number
            grads, grads64 = self.arrays.float(self.banded(self.arrays.normal(kept.size)))
            self.update(grads, number, learning_rate, flag=0)
            g = FACTOR * grads64
            p *= 1 - learning_rate * self.weight_decay
            m = optim.beta1 * m + (1 - optim.beta1) * g
            v = optim.beta2 * v + (1 - optim.beta2) * g**2
            root = np.sqrt(v) / np.sqrt(1 - optim.beta2**number)
            p -= learning_rate / (1 - optim.beta1**number) * m / (root + optim.eps)
        allowed = self.arrays.float_tolerance(TERMS, roundings=UPDATES)
        found = {name: self.arrays.values(array) for name, (array, _) in self.state.items()}
        for name, expected in (("params", p), ("m", m), ("v", v)):
            yield compare(f"{self.case}: {name}", found[name][kept], expected[kept], allowed)
            yield same(f"{self.case}: {name} outside the bands", found[name][~kept], self.state[name][1][~kept])
        rounded = self.arrays.act(found["params"])[1]
        weights = self.arrays.values(self.weights)
        yield same(f"{self.case}: weights", weights[kept], rounded[kept])
        yield same(f"{self.case}: weights outside the bands", weights[~kept], self.weights64[~kept])

    def check_flag(self) -> Iterator[Check]:
        before = [self.arrays.values(array) for array in (*(a for a, _ in self.state.values()), self.weights)]
        grads, _ = self.arrays.float(self.arrays.normal(self.kept.size))
        self.update(grads, UPDATES + 1, self.optim.learning_rate, flag=3)
        after = [self.arrays.values(array) for array in (*(a for a, _ in self.state.values()), self.weights)]
        for name, old, new in zip((*self.state, "weights"), before, after, strict=True):
            yield same(f"{self.case}: {name} behind a flag", new, old)
