"""What the PyTorch engine would do for a spec, said without importing PyTorch."""

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.passes import count_work
from gpt2lab.engine.plan import EnginePlan, TokenBatch
from gpt2lab.model.band_tiles import PRODUCTS, TORCH_COSTS, block_multiply_adds, hidden_blocks, mlp_tiles
from gpt2lab.schema import DeviceChoice


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
        work=count_work(spec, batch, device=device, mlp_multiply_adds=multiply_adds),
        memory=None,
    )


def choose_tiles(spec: EngineSpec, device: str) -> dict[str, int | None]:
    """Return the hidden units per tile of each MLP matrix in passes on `device`; None where its products are dense."""
    return mlp_tiles(spec.model, spec.rows, TORCH_COSTS.get(device), spec.engine.banded_products)


def _multiply_adds(n_embd: int, band: int, tile: int | None) -> int:
    """Return the multiply-adds of one product for one row, windows of blocks included."""
    if tile is None:
        return 4 * n_embd * n_embd
    return block_multiply_adds(hidden_blocks(n_embd, band, tile, clipped=True))
