"""Which weights of the MLP matrices a band keeps.

Hidden unit h and channel c are connected when |h - 4c| <= w/2, with w the full width in hidden units. FC1 is
(F, C) with row h, column c; FC2 is (C, F) with row c, column h: the same rule, transposed. w = 0 means dense.
"""

import numpy as np

from gpt2lab.model.params import GPTConfig, Params


def band_mask(n_embd: int, band: int) -> np.ndarray:
    """Return the kept weights of FC1 as bool (F, C); FC2 takes the transpose.

    `band` is the full width in hidden units; 0 keeps everything.
    """
    hidden = np.arange(4 * n_embd)[:, None]
    channel = np.arange(n_embd)[None, :]
    if band == 0:
        return np.ones((4 * n_embd, n_embd), dtype=bool)
    return 2 * np.abs(hidden - 4 * channel) <= band


def kept_weights(n_embd: int, band: int) -> int:
    """Return how many of the 4C*C weights a band keeps, counted per channel without building the mask."""
    if band == 0:
        return 4 * n_embd * n_embd
    centre = 4 * np.arange(n_embd)
    half_band = band // 2  # |h - 4c| is an integer, so floor(w/2) gives the same rule
    first = np.maximum(centre - half_band, 0)
    last = np.minimum(centre + half_band, 4 * n_embd - 1)
    return int((last - first + 1).sum())


def density(n_embd: int, band: int) -> float:
    """Return the kept share of a 4C x C matrix, exact, between 0 and 1."""
    return kept_weights(n_embd, band) / (4 * n_embd * n_embd)


def is_dense(n_embd: int, band: int) -> bool:
    """Return whether a band of this width keeps every weight."""
    return kept_weights(n_embd, band) == 4 * n_embd * n_embd


def band_widths(config: GPTConfig) -> dict[str, int]:
    """Return {tensor name: full width in hidden units} for the matrices whose band removes weights."""
    widths = {"fcw": config.fc1_band, "fcprojw": config.fc2_band}
    return {name: band for name, band in widths.items() if not is_dense(config.n_embd, band)}


def banded_tensors(config: GPTConfig) -> dict[str, np.ndarray]:
    """Return {tensor name: bool mask without the L axis} for the matrices whose band removes weights."""
    masks = {name: band_mask(config.n_embd, band) for name, band in band_widths(config).items()}
    return {name: np.ascontiguousarray(mask.T) if name == "fcprojw" else mask for name, mask in masks.items()}


def apply_bands(params: Params, config: GPTConfig) -> Params:
    """Return `params` with exact zeros outside the bands; tensors without a band are passed through."""
    masks = banded_tensors(config)
    return {
        name: np.where(masks[name], array, array.dtype.type(0)) if name in masks else array
        for name, array in params.items()
    }
