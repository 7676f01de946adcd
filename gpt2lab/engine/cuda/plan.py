"""What the CUDA core would do for a spec, by arithmetic: no device is opened."""

import numpy as np

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.cuda.bands import why_dense
from gpt2lab.engine.cuda.gemm.cublas import WORKSPACE_BYTES
from gpt2lab.engine.cuda.memory import plan_memory, workload_of
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.banded_linear import mlp_blocks
from gpt2lab.engine.passes import count_work
from gpt2lab.engine.plan import EnginePlan, TokenBatch
from gpt2lab.model.band_tiles import PRODUCTS, ProductTiles, block_multiply_adds
from gpt2lab.schema import DeviceChoice


def plan(spec: EngineSpec, batch: TokenBatch | None = None) -> EnginePlan:
    """Return what the engine of `spec` multiplies, computes and allocates.

    Raises EngineError for a shape that the kernels do not take.
    """
    numerics, workload = Numerics(spec.engine.precision, np.dtype(np.float32)), workload_of(spec)
    device = DeviceChoice.host if spec.engine.device is DeviceChoice.host else DeviceChoice.cuda
    workspace_bytes = 0 if device is DeviceChoice.host else WORKSPACE_BYTES
    multiply_adds = _multiply_adds(spec, numerics, workload.mlp_tiles)
    return EnginePlan(
        device=device.name,
        tiles=workload.mlp_tiles,
        why_dense=why_dense(spec),
        work=count_work(spec, batch, device=device.name, mlp_multiply_adds=multiply_adds),
        memory=plan_memory(spec.model, numerics, workload, workspace_bytes=workspace_bytes),
    )


def _multiply_adds(spec: EngineSpec, numerics: Numerics, tiles: ProductTiles) -> dict[str, int]:
    """Return the multiply-adds of each matrix for one row, in its three products together, windows included."""
    dense = spec.model.n_embd * spec.model.n_hidden
    return {
        name: sum(block_multiply_adds(blocks[product]) if product in blocks else dense for product in PRODUCTS)
        for name, blocks in mlp_blocks(spec.model, numerics, tiles).items()
    }
