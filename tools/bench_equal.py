"""Whether two sides of a comparison train alike: what both hold after two updates, before anything is timed.

First moments hold the clipped gradients, second moments their squares and beta2, the change of the parameters the rest
of AdamW (corrections, eps, learning rate, decay), and the norm before clipping the scale of the loss. So nothing is
compared but what the timed updates themselves leave behind.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Protocol

import numpy as np

from gpt2lab.engine import StepResult
from gpt2lab.model.bands import apply_bands, banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig, Params
from gpt2lab.schema import OptimConfig

# An update divides a gradient by its own size plus eps: with one so large, rounding of a small gradient stays small.
OPTIM = OptimConfig(learning_rate=1e-4, grad_clip=1.0, eps=1e-3)
UPDATES = 2
UNIT_ROUNDOFF = 2.0**-24

Batch = tuple[np.ndarray, np.ndarray]


class Trained(Protocol):
    """What engines and their peers have in common."""

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        """Do one update on a batch, (B, T) int32 each."""

    def result(self) -> StepResult:
        """Return loss and gradient norm of the last update."""

    def restore(self, params: Params, moments: dict[str, np.ndarray], step: int) -> None:
        """Begin again with 16 tensors; `moments` is empty and `step` 0 here."""

    def parameters(self) -> Params:
        """Return a copy of the 16 tensors, float32."""

    def moments(self) -> dict[str, np.ndarray]:
        """Return copies of AdamW's first ("m.NAME") and second ("v.NAME") moments."""


def strong_params(model: GPTConfig) -> Params:
    """Return parameters that show every mistake: those of seed 0 with N(0, 1 / C) added, biases and norms too.

    So activations are as large at every width (with bands too, whose sums are shorter), and no function of them is
    nearly linear or uniform, as at seed 0. Rows of the vocabulary's padding can never be predicted, so that a model may
    have them in its softmax or not: the first channel is 1 before the output layer, and -200 in these rows, of which
    exp makes 0.
    """
    rng, params = np.random.default_rng(9), init_params(model, seed=0)
    masks = banded_tensors(model)
    for name, array in params.items():
        kept = masks[name].mean() if name in masks else 1.0
        array += np.float32((model.n_embd * kept) ** -0.5) * rng.standard_normal(array.shape, dtype=np.float32)
    params["lnfw"][0], params["lnfb"][0] = 0, 1
    params["wte"][model.vocab_size :] = 0
    params["wte"][model.vocab_size :, 0] = -200
    return apply_bands(params, model)


def longest_sum(model: GPTConfig, rows: int) -> int:
    """Return how many products the longest sum of a step has: over hidden units, the vocabulary or `rows` targets."""
    return max(model.n_hidden, model.vocab_size, rows)


def two_updates(side: Trained, params: Params, batch: Batch) -> Params:
    """Return loss, grad_norm, moments ("m.NAME", "v.NAME") and parameters ("NAME") after two updates from `params`."""
    side.restore(params, {}, 0)
    for _ in range(UPDATES):
        side.train_step(*batch, learning_rate=OPTIM.learning_rate)
    result = {name: np.array([value]) for name, value in asdict(side.result()).items()}
    return result | side.moments() | side.parameters()


def differences(start: Params, ours: Params, theirs: Params, *, vocab_size: int, allowed: float) -> Iterator[str]:
    """Yield which results of `two_updates` from `start` differ, in words; `allowed`: relative error of a gradient.

    Moments are compared tensor by tensor, the changes of all parameters together: single ones are divided by their own
    gradient, which may be small.
    """
    change = error = rounding = 0.0  # squares
    for name, their in theirs.items():
        kind, _, tensor = name.rpartition(".")
        rows = slice(vocab_size if tensor == "wte" else None)  # padding is nobody's
        difference = squared(ours[name][rows] - their[rows])
        if name not in start:
            size = squared(their[rows])
            bound = allowed * (2 if kind == "v" else 1)  # second moments hold squares
            if not difference <= bound**2 * size:
                what = {"m": "first moment of ", "v": "second moment of ", "": ""}[kind] + tensor
                yield f"{what} by {relative(difference, size)}, allowed {bound:.1e}"
            continue
        error += difference
        change += squared(their[rows] - start[tensor][rows])
        rounding += (4 * UPDATES * UNIT_ROUNDOFF) ** 2 * squared(start[tensor][rows])  # twice an update, on both sides
    if not error**0.5 <= allowed * change**0.5 + rounding**0.5:
        bound = allowed + (rounding / change) ** 0.5
        yield f"change of the parameters by {relative(error, change)}, allowed {bound:.1e}"


def squared(values: np.ndarray) -> float:
    """Return the sum of squares."""
    return float(np.linalg.norm(values)) ** 2


def relative(error: float, size: float) -> str:
    """Return the relative error of which both are squares, in words."""
    return f"{(error / size) ** 0.5:.1e}" if size else "all of it"
