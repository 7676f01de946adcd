"""What the PyTorch engine would do for a spec, said without importing PyTorch."""

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.passes import count_work
from gpt2lab.engine.plan import EnginePlan, TokenBatch
from gpt2lab.model.band_tiles import PRODUCTS, ProductCost, block_multiply_adds, hidden_blocks, mlp_tiles
from gpt2lab.schema import DeviceChoice

# cpu: fitted in fp32 on two cores of an AMD EPYC with AVX-512, to 11 cases of C = 128 and 384 whose record was
# not kept; only their ratios matter. Compared with all tiles in the 31 cases of `python tools/bench.py costs`, C from
# 128 to 1,024, what they choose takes 1.03 times as long as the best at most and 1.01 on average; of SETUP_CALLS 0, 2,
# 4 and MARGIN 0.8 to 1 no pair does clearly better, nor does a fit to these cases. cuda: not measured but derived from
# an H200 (790 TFLOP/s in bf16, 4.3 TB/s, values of two bytes) and 5 us for a call from Python; in fp32 products take
# longer, so tiles may pay where these costs say dense. Other devices (mps) were never tried: their products are dense.
COSTS = {
    "cpu": ProductCost(call_s=2.0e-5, multiply_add_s=1.6e-11, value_s=3.7e-10),
    "cuda": ProductCost(call_s=5e-6, multiply_add_s=2.5e-15, value_s=4.7e-13),
}


def plan(spec: EngineSpec, batch: TokenBatch | None = None) -> EnginePlan:
    """Return what the engine of `spec` multiplies and computes; PyTorch allocates as it goes, which is not planned."""
    device = "cpu" if spec.engine.device is DeviceChoice.auto else spec.engine.device.name
    tiles, model = choose_tiles(spec, device), spec.model
    multiply_adds = {
        name: len(PRODUCTS) * _multiply_adds(model.n_embd, band, tiles[name]) for name, band in model.bands.items()
    }
    return EnginePlan(
        device=device,
        tiles={name: dict.fromkeys(PRODUCTS, tile) for name, tile in tiles.items()},
        why_dense=_why_dense(spec, device),
        work=count_work(spec, batch, device=device, mlp_multiply_adds=multiply_adds),
        memory=None,
    )


def choose_tiles(spec: EngineSpec, device: str) -> dict[str, int | None]:
    """Return the hidden units per tile of each MLP matrix in passes on `device`; None where its products are dense."""
    return mlp_tiles(spec.model, spec.rows, COSTS.get(device), spec.engine.banded_products)


def _why_dense(spec: EngineSpec, device: str) -> str:
    if not spec.engine.banded_products:
        return "engine.banded_products=false"
    return "blocks would not be faster" if device in COSTS else f"blocks were never timed on {device}"


def _multiply_adds(n_embd: int, band: int, tile: int | None) -> int:
    """Return the multiply-adds of one product for one row, windows of blocks included."""
    if tile is None:
        return 4 * n_embd * n_embd
    return block_multiply_adds(hidden_blocks(n_embd, band, tile, clipped=True))
