"""The global gradient norm, clipping and the flag of a diverged run: cuda/grad_norm.cu."""

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.tensor_table import grid_of, pack_of, tensor_table
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Decay

_THREADS = constant("grad_norm.cu", "THREADS")
_FINISH_THREADS = constant("grad_norm.cu", "FINISH_THREADS")
_MAX_BLOCKS = 512  # per tensor


class GradNorm:
    """norm = sqrt(sum of grads^2) over what the bands keep, and what follows from it for the update."""

    def __init__(self, device: Device, numerics: Numerics, *, n_embd: int, table: np.ndarray) -> None:
        vec = pack_of(numerics, n_embd)
        self._grid = grid_of(table, _THREADS * vec, _MAX_BLOCKS)
        self._module = device.compile("grad_norm.cu", numerics.defines | {"VEC": vec})

    def launch(self, *, partials: Array, grads: Array, tensors: Array, **arguments: Array | float) -> None:
        """Write stats[1] = norm and stats[2] = the factor that clips it, from the gradients and stats[0] = loss.

        Where loss or norm is not finite and flag (1,) int32 is 0, flag becomes update (1,) int32 and failure (2,) float
        becomes loss and norm. stats (3,), grads (parameters,) float; tensors: `tensor_table` on the device; clip: the
        largest norm, 0 = any; partials: scratch of `partials_size` float.
        """
        self._module.launch("grad_norm_partials", self._grid, _THREADS, partials=partials, grads=grads, tensors=tensors)
        arguments |= {"partials": partials, "n_partials": self._grid[0] * self._grid[1]}
        self._module.launch("grad_norm_finish", 1, _FINISH_THREADS, **arguments)


def partials_size(numerics: Numerics, config: GPTConfig) -> int:
    """Return how many floats `GradNorm.launch` needs as `partials`."""
    table = tensor_table(config, Decay.all)  # sizes do not depend on what decays
    blocks, n_tensors = grid_of(table, _THREADS * pack_of(numerics, config.n_embd), _MAX_BLOCKS)
    return blocks * n_tensors
