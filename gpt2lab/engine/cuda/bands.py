"""Which products of the MLP the CUDA core computes block by block along their band, and how large the blocks are.

On a card the blocks of one shape are one launch: where the tile divides the matrix all of a product, otherwise all but
the last block. What decides is whether they keep all multiprocessors busy, the activations that are read and written
once more because batches have no epilogue, and the operations saved. The model below has these three and the launches.
It was not measured: `CudaEngine(..., mlp_tiles=...)` takes any tiles, so that they can be.
"""

import numpy as np

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.banded_linear import DENSE, alignment, block_shape, product_blocks
from gpt2lab.model.band_tiles import PRODUCTS, ProductTiles
from gpt2lab.model.bands import is_dense
from gpt2lab.schema import Precision

TILES = (64, 128, 192, 256, 384, 512, 768, 1024)  # hidden units; larger than a processor's, as a launch does many

# One H200. Operations per second: bf16 measured at 8192^3, tf32 and fp32 from the data sheet. Copies: measured.
FLOP_PER_S = {Precision.bf16: 790e12, Precision.tf32: 494e12, Precision.fp32: 67e12}
BYTES_PER_S = 4.3e12
LAUNCH_S = 1e-6  # about what a node of a graph costs
MULTIPROCESSORS = 132
CLEARLY = 0.9  # what was not measured should promise this much
# Channels of a model have to be a multiple, so that tensor cores can read blocks: 16 bytes. fp32 does not use them.
ALIGNED_TO = {Precision.bf16: 8, Precision.tf32: 4, Precision.fp32: 1}
# A multiprocessor is taken to make at most 128 x 128 results at a time; its work comes in steps of 64 on all sides.
LARGEST, STEP = 128, 64


def choose_mlp_tiles(spec: EngineSpec) -> ProductTiles:
    """Return the tiles that are expected to be fastest for full passes of `spec`: dense ones, or blocks.

    The same on every device: the host is there to prove what a card runs.
    """
    config, precision, rows = spec.model, spec.engine.precision, spec.rows
    if not spec.engine.banded_products or config.n_embd % ALIGNED_TO[precision]:
        return DENSE
    return {
        name: {product: _choose(name, product, config.n_embd, band, rows, precision) for product in PRODUCTS}
        for name, band in config.bands.items()
    }


def why_dense(spec: EngineSpec) -> str:
    """Return why products are dense where `choose_mlp_tiles` chooses no blocks for a band."""
    precision, n_embd = spec.engine.precision, spec.model.n_embd
    if not spec.engine.banded_products:
        return "engine.banded_products=false"
    if n_embd % ALIGNED_TO[precision]:
        return f"in {precision.name} blocks need a multiple of {ALIGNED_TO[precision]} channels"
    return "blocks would not be faster"


def _choose(name: str, product: str, n_embd: int, band: int, rows: int, precision: Precision) -> int | None:
    """Return the tile with the lowest `product_seconds`; None when that is not clearly below dense."""
    if is_dense(n_embd, band):
        return None

    def seconds(tile: int | None) -> float:
        return product_seconds(name, product, tile, n_embd, band, rows, precision)

    tile = min((tile for tile in TILES if tile < 4 * n_embd), key=seconds, default=None)
    return tile if tile and seconds(tile) < CLEARLY * seconds(None) else None


def product_seconds(
    name: str, product: str, tile: int | None, n_embd: int, band: int, rows: int, precision: Precision
) -> float:
    """Return what one product of matrix `name` is expected to take, with what it costs to have no epilogue."""
    C, F = n_embd, 4 * n_embd
    item = Numerics(precision, np.dtype(np.float32)).act_dtype.itemsize
    rate = FLOP_PER_S[precision]
    if tile is None:
        # All of the card works: where results are few the library splits the sums.
        moved = rows * (C + F) * item + (C * F * 8 if product == "weight" else C * F * item)
        return LAUNCH_S + max(2 * rows * C * F / rate, moved / BYTES_PER_S)
    blocks = product_blocks(name, product, n_embd=C, band=band, tile=tile, align=alignment(item))
    hidden, channels = block_shape(blocks[0])
    if product == "weight":
        height, width, depth = hidden, channels, rows
    else:
        tiled_by_hidden = (name == "fc1") == (product == "forward")
        height, (width, depth) = rows, (hidden, channels) if tiled_by_hidden else (channels, hidden)
    h, w = (min(LARGEST, _up(size)) for size in (height, width))
    parts = len(blocks) * -(-height // h) * -(-width // w)
    rounds = -(-parts // MULTIPROCESSORS)
    work = rounds * MULTIPROCESSORS * 2 * h * w * _up(depth) / rate
    results = height * width * (8 if product == "weight" else item)  # gradients are read and written, as float
    moved = len(blocks) * ((height + width) * depth * item + results)
    # Activations that a kernel reads and writes once more: libraries know GELU in bf16 only, the bias always.
    again = {("fc2", "forward"): 2 * C}
    if precision is Precision.bf16:
        again |= {("fc1", "forward"): 2 * F, ("fc2", "input"): 2 * F}
    extra = rows * again.get((name, product), 0) * item
    launches = len(set(map(block_shape, blocks))) + (extra > 0)
    return launches * LAUNCH_S + max(work, moved / BYTES_PER_S) + extra / BYTES_PER_S


def _up(size: int) -> int:
    return -(-size // STEP) * STEP
