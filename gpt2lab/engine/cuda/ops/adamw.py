"""AdamW over all parameters in one launch: cuda/adamw.cu."""

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.tensor_table import grid_of, pack_of
from gpt2lab.schema import OptimConfig

_THREADS = constant("adamw.cu", "THREADS")
_MAX_BLOCKS = 1024  # per tensor


class AdamW:
    """One update, as torch.optim.AdamW does it. Entries outside a band are neither read nor written."""

    def __init__(
        self, device: Device, numerics: Numerics, *, n_embd: int, table: np.ndarray, optim: OptimConfig
    ) -> None:
        vec = pack_of(numerics, n_embd)
        self._grid = grid_of(table, _THREADS * vec, _MAX_BLOCKS)
        self._module = device.compile("adamw.cu", numerics.defines | {"VEC": vec})
        # 1 - beta is rounded once, from float64: 1 - 0.999f would be off by 1e-5 of itself.
        self._constants = {
            "one_minus_beta1": 1 - optim.beta1,
            "one_minus_beta2": 1 - optim.beta2,
            "eps": optim.eps,
            "weight_decay": optim.weight_decay,
        }

    def launch(self, **arrays: Array | None) -> None:
        """Update params, m and v (parameters,) float, and write `weights`, act copies of params, unless None.

        grads (parameters,) float, taken times stats[2]; tensors: `tensor_table` on the device; schedule: `schedule_of`
        this update on the device. Does nothing when flag (1,) int32 is set.
        """
        self._module.launch("adamw_update", self._grid, _THREADS, **arrays, **self._constants)


def schedule_of(optim: OptimConfig, update: int, learning_rate: float) -> tuple[float, float, float]:
    """Return what the kernel reads anew in each update, the first being 1: lr, 1 - beta1^t and sqrt(1 - beta2^t)."""
    return learning_rate, 1 - optim.beta1**update, (1 - optim.beta2**update) ** 0.5
