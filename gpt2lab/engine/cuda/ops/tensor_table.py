"""The model's 16 tensors in the flat buffers, as a table that kernels read: cuda/tensors.cuh."""

import itertools
import math

import numpy as np

from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.errors import EngineError
from gpt2lab.model.bands import band_widths
from gpt2lab.model.params import TENSORS, GPTConfig, tensor_shapes
from gpt2lab.schema import Decay

TABLE_COLUMNS = constant("tensors.cuh", "TABLE_COLUMNS")
_NO_BAND = constant("band.cuh", "NO_BAND")
_BAND_KINDS = {"fcw": constant("band.cuh", "FC1_BAND"), "fcprojw": constant("band.cuh", "FC2_BAND")}
_MAX_SIZE = 2**30  # of one tensor: its entries and one stride more are counted in 32 bits


def tensor_table(config: GPTConfig, decay: Decay) -> np.ndarray:
    """Return (16, 7) int64: begin, size, decays, band kind, half band, rows and columns of each tensor.

    Rows and columns are those of one layer's matrix; a band that keeps everything counts as none. Raises EngineError
    for a tensor of more than 2^30 parameters.
    """
    shapes = tensor_shapes(config)
    bands = band_widths(config)
    sizes = [math.prod(shape) for shape in shapes.values()]
    begins = itertools.accumulate(sizes, initial=0)
    table = []
    for spec, begin, size in zip(TENSORS, begins, sizes, strict=False):
        if size > _MAX_SIZE:
            raise EngineError(f"model: {spec.name} has {size} parameters; engine=cuda takes up to {_MAX_SIZE} a tensor")
        band = bands.get(spec.name, 0)
        kind = _BAND_KINDS[spec.name] if band else _NO_BAND
        rows, columns = shapes[spec.name][-2:] if len(shapes[spec.name]) > 1 else (1, *shapes[spec.name])
        table.append([begin, size, spec.decays or decay is Decay.all, kind, band // 2, rows, columns])
    return np.array(table, dtype=np.int64)


def pack_of(numerics: Numerics, n_embd: int) -> int:
    """Return how many floats one access takes: 16 bytes, so that a warp's stores are whole, or what divides C."""
    return math.gcd(16 // numerics.float_dtype.itemsize, n_embd)


def grid_of(table: np.ndarray, values_per_block: int, most: int) -> tuple[int, int]:
    """Return the grid of a kernel in which blockIdx.y is the tensor and x the blocks that the largest one fills."""
    return min(most, -(-int(table[:, 1].max()) // values_per_block)), len(table)
