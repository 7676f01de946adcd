"""How the products of a banded matrix are cut into small dense ones, and whether that pays.

The band connects hidden unit h and channel c where |h - 4c| <= w/2 (`bands.py`). So a tile of neighbouring hidden units
needs a window of channels and no others, and a tile of channels a window of hidden units. Each tile with its window is
an ordinary dense product on a part of the matrix as it lies in memory; what it holds outside the band is zero.
At the edges windows are clipped, or keep their width and are shifted inwards, so that products have one shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gpt2lab.model.bands import is_dense
from gpt2lab.model.params import GPTConfig

PRODUCTS = ("forward", "input", "weight")  # of a matrix in training: its output, the gradients of input and weight
ProductTiles = dict[str, dict[str, int | None]]  # {"fc1", "fc2": {product: hidden units of a block; None: dense}}

TILES = (64, 128, 192, 256, 384, 512)  # hidden units; a tile of channels has a quarter as many
SETUP_CALLS = 2  # besides the products of tiles: laying out the band, taking its gradient out
MARGIN = 0.95  # tiles are used where they are expected to take less than this share of the dense product


@dataclass(frozen=True, slots=True)
class BandBlock:
    """A part of the matrix: the hidden units and the channels of one product."""

    hidden: slice
    channels: slice


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductCost:
    """What products cost on a device: seconds = calls * call_s + multiply-adds * multiply_add_s + moved * value_s."""

    call_s: float  # to start one product
    multiply_add_s: float
    value_s: float  # to read or write one value of an activation


# PyTorch. cpu: fitted in fp32 on two cores of an AMD EPYC with AVX-512, to 11 cases of C = 128 and 384 whose record was
# not kept; only their ratios matter. In the 31 cases of `python tools/bench.py costs`, C from 128 to 1,024, the tile
# chosen by these costs takes at most 1.03 times as long as the fastest tile, 1.01 on average; of SETUP_CALLS 0, 2, 4
# and MARGIN 0.8 to 1 no pair does clearly better, nor does a fit to these cases. cuda: not measured but derived from
# an H200 (790 TFLOP/s in bf16, 4.3 TB/s, values of two bytes) and 5 us for a call from Python; in fp32 products take
# longer, so tiles may pay where these costs say dense. Other devices (mps) were never tried: their products are dense.
TORCH_COSTS = {
    "cpu": ProductCost(call_s=2.0e-5, multiply_add_s=1.6e-11, value_s=3.7e-10),
    "cuda": ProductCost(call_s=5e-6, multiply_add_s=2.5e-15, value_s=4.7e-13),
}


def hidden_blocks(n_embd: int, band: int, size: int, *, clipped: bool = False) -> list[BandBlock]:
    """Return blocks of `size` hidden units (the last may be smaller) with their windows of channels.

    Together they hold every kept weight; the hidden units of different blocks are different ones. `clipped` windows
    hold what the tile needs and no more, also at the edges: they differ in width, down to none.
    """
    F, half_band = 4 * n_embd, band // 2
    tiles = [slice(h, min(h + size, F)) for h in range(0, F, size)]
    needed = [
        (max(-(-(tile.start - half_band) // 4), 0), min((tile.stop - 1 + half_band) // 4 + 1, n_embd)) for tile in tiles
    ]
    return [BandBlock(tile, window) for tile, window in zip(tiles, _windows(needed, n_embd, clipped), strict=True)]


def channel_blocks(n_embd: int, band: int, size: int, *, clipped: bool = False) -> list[BandBlock]:
    """Return blocks of `size` channels with their windows of hidden units; otherwise as `hidden_blocks`."""
    F, half_band = 4 * n_embd, band // 2
    tiles = [slice(c, min(c + size, n_embd)) for c in range(0, n_embd, size)]
    needed = [(max(4 * tile.start - half_band, 0), min(4 * (tile.stop - 1) + half_band + 1, F)) for tile in tiles]
    return [BandBlock(window, tile) for tile, window in zip(tiles, _windows(needed, F, clipped), strict=True)]


def _windows(spans: list[tuple[int, int]], end: int, clipped: bool) -> list[slice]:
    """Return the spans (first, past the last), or windows as wide as the widest of them, moved to end at `end`."""
    if clipped:
        return [slice(*span) for span in spans]
    width = max(last - first for first, last in spans)
    return [slice(start, start + width) for start in (min(first, end - width) for first, _ in spans)]


def block_multiply_adds(blocks: list[BandBlock]) -> int:
    """Return the multiply-adds of the blocks for one row of activations."""
    return sum((b.hidden.stop - b.hidden.start) * (b.channels.stop - b.channels.start) for b in blocks)


def choose_tile(n_embd: int, band: int, rows: int, cost: ProductCost) -> int | None:
    """Return how many hidden units a tile should have for products of `rows` rows, None where tiles do not pay."""
    if band > 4 * n_embd or is_dense(n_embd, band):  # stored row by row it would be larger than the matrix
        return None
    dense = cost.call_s + rows * (4 * n_embd * n_embd * cost.multiply_add_s + 5 * n_embd * cost.value_s)
    best, chosen = MARGIN * dense, None
    for tile in TILES:
        if tile >= 4 * n_embd:
            continue
        blocks = hidden_blocks(n_embd, band, tile, clipped=True)
        seconds = SETUP_CALLS * cost.call_s + blocks_seconds(blocks, rows, cost)
        if seconds < best:
            best, chosen = seconds, tile
    return chosen


def mlp_tiles(config: GPTConfig, rows: int, cost: ProductCost | None, enabled: bool = True) -> dict[str, int | None]:
    """Return the hidden units per tile of each MLP matrix ("fc1", "fc2"); None where its products are dense.

    `rows` is how many rows of activations a pass is expected to have, `cost` None on a device whose costs are not
    known; `enabled` is `engine.banded_products`.
    """
    if cost is None or not enabled:
        return dict.fromkeys(config.bands)
    return {name: choose_tile(config.n_embd, band, rows, cost) for name, band in config.bands.items()}


def blocks_seconds(blocks: list[BandBlock], rows: int, cost: ProductCost) -> float:
    """Return what the products of `blocks` are expected to take for `rows` rows."""
    values = sum(b.hidden.stop - b.hidden.start + b.channels.stop - b.channels.start for b in blocks)
    return len(blocks) * cost.call_s + rows * (
        block_multiply_adds(blocks) * cost.multiply_add_s + values * cost.value_s
    )


def aligned_to(precision: str) -> int:
    """Return of how many channels an engine=cuda model must have a multiple, so that tensor cores can read blocks."""
    return {"bf16": 8, "tf32": 4, "fp32": 1}[precision]  # 16 bytes; fp32 does not use tensor cores


def products_in_words(
    n_embd: int, tiles: Mapping[str, int | None], *, engine: str, device: str, precision: str, enabled: bool
) -> str:
    """Return how the products of a banded matrix, {product: hidden units of a block; None: dense}, are done, and why.

    `engine` is "torch" or "cuda", `enabled` is `engine.banded_products`.
    """
    sizes = set(tiles.values())
    if sizes == {None}:
        return f"dense products ({_why_dense(n_embd, engine, device, precision, enabled)})"
    if len(sizes) == 1:
        [size] = sizes
        assert size is not None
        return f"products over {-(-4 * n_embd // size)} blocks of {size} hidden units"
    names = {"forward": "forward", "input": "gradient of the input", "weight": "gradient of the weight"}
    return ", ".join(f"{names[which]} {f'blocks of {size}' if size else 'dense'}" for which, size in tiles.items())


def _why_dense(n_embd: int, engine: str, device: str, precision: str, enabled: bool) -> str:
    if not enabled:
        return "engine.banded_products=false"
    if engine == "torch" and device not in TORCH_COSTS:
        return f"blocks were never timed on {device}"
    if engine == "cuda" and n_embd % aligned_to(precision):
        return f"in {precision} blocks need a multiple of {aligned_to(precision)} channels"
    return "blocks would not be faster"
