"""Initial parameters, made in numpy from the seed so that every engine starts bit-equal.

N(0, 0.02) for matrices and embeddings, zeros for biases, ones for norms; residual projections scaled by
1/sqrt(2L) (GPT-2, Radford et al., 2019, section 2.3).
"""

import math

import numpy as np

from gpt2lab.model.bands import apply_bands
from gpt2lab.model.params import TENSORS, GPTConfig, Params, tensor_shapes

INIT_STD = 0.02


def init_params(config: GPTConfig, *, seed: int, scale_residual: bool = True) -> Params:
    """Return the 16 tensors as float32, in file order.

    Each tensor draws from its own stream of the seed, so a change of one shape leaves the others as they were.
    Padded vocabulary rows and weights outside a band are exactly zero.
    """
    params: Params = {}
    for index, spec in enumerate(TENSORS):
        shape = tensor_shapes(config)[spec.name]
        if spec.init in ("normal", "residual"):
            std = INIT_STD
            if spec.init == "residual" and scale_residual:
                std /= math.sqrt(2 * config.n_layer)
            rng = np.random.default_rng([seed, index])
            params[spec.name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
        else:
            params[spec.name] = np.full(shape, 1.0 if spec.init == "ones" else 0.0, dtype=np.float32)
    params["wte"][config.vocab_size :] = 0
    return apply_bands(params, config)
