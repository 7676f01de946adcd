"""What the CUDA core keeps in device memory: one arena, planned by arithmetic before anything is allocated."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.cuda.bands import choose_mlp_tiles
from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops import attention, banded_linear, bias, grad_norm, layer_norm
from gpt2lab.engine.cuda.ops.tensor_table import TABLE_COLUMNS
from gpt2lab.engine.cuda.ops.tree_attention import key_work_sizes
from gpt2lab.engine.cuda.passes import block_size
from gpt2lab.engine.passes import LONGEST_SHARED
from gpt2lab.engine.plan import MemoryPlan, Slot, bytes_in_words
from gpt2lab.errors import EngineError
from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.model.params import GPTConfig, count_parameters

LAYERS = "activations by layer"
# Arrays (L, rows, ...) and (rows, ...), of which a pass takes its first B*T rows.
BY_LAYER = (
    *("ln1", "ln1_mean", "ln1_rstd", "qkv", "atty", "lse", "residual2"),
    *("ln2", "ln2_mean", "ln2_rstd", "fch", "fch_gelu", "residual3"),
)
BY_ROW = ("encoded", "lnf", "lnf_mean", "lnf_rstd", "dresidual", "dwide", "dnarrow")
BY_COUNTED = ("ln1_counted", "q_counted")  # of a last layer that is trimmed: as many rows as there are of logits
ALIGNMENT = 256  # bytes, as cudaMalloc aligns: every array of the arena may be read 16 bytes at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The sizes of one engine's passes."""

    batch_size: int  # sequences per update
    micro_batch_size: int  # sequences per pass
    seq_len: int  # T, without what follows the last counted position where that is left out
    n_counted: int  # target positions per sequence that enter the loss
    gathers: bool = False  # the counted rows are not simply all of them
    trims_last: bool = False  # the last layer computes no more than keys and values away from the counted ones
    shares: bool = False  # a pass may be a tree of the rows' prefixes
    mlp_tiles: ProductTiles = field(default_factory=lambda: banded_linear.DENSE)


def plan_memory(config: GPTConfig, numerics: Numerics, workload: Workload, *, workspace_bytes: int = 0) -> MemoryPlan:
    """Lay out the arena for training `config` with passes of `workload`.

    There is always room for one sequence of the model's longest length, so that a model trained on short rows can
    still be sampled from. Raises EngineError for a shape that the kernels do not take.
    """
    attention.check_head_size(config.head_size)
    rows = max(workload.micro_batch_size * workload.seq_len, config.max_seq_len)
    counted_rows = workload.micro_batch_size * workload.n_counted
    slots: dict[str, Slot] = {}
    end = 0
    for group, name, shape, dtype in _arrays(config, numerics, workload, rows, counted_rows):
        slots[name] = Slot(group, shape, np.dtype(dtype), end)
        end += -(-slots[name].n_bytes // ALIGNMENT) * ALIGNMENT
    if workspace_bytes:
        slots["workspace"] = Slot("library workspace", (workspace_bytes,), np.dtype(np.uint8), end)
        end += workspace_bytes
    return MemoryPlan(slots, rows, counted_rows, end, _recomputation(slots))


def _recomputation(slots: dict[str, Slot]) -> dict[str, int]:
    """Return the bytes that are saved where backward computes arrays again, kept for one layer only."""
    layered = {name: slot for name, slot in slots.items() if slot.group == LAYERS and name != "residual3"}
    saved = {name: slot.n_bytes * (slot.shape[0] - 1) // slot.shape[0] for name, slot in layered.items()}
    return {
        "backward made ln1, ln2 and fch_gelu again: no matrix product": sum(
            saved[name] for name in ("ln1", "ln2", "fch_gelu")
        ),
        "it made whole layers again: another forward pass per step": sum(saved.values()),
    }


def _arrays(
    config: GPTConfig, numerics: Numerics, workload: Workload, rows: int, counted_rows: int
) -> Iterator[tuple[str, str, tuple[int, ...], np.dtype | type]]:
    """Yield (group, name, shape, dtype) of each array, in the arena's order."""
    C, L, NH, Vp = config.n_embd, config.n_layer, config.n_head, config.padded_vocab_size
    N, real, act = count_parameters(config), numerics.float_dtype, numerics.act_dtype

    for name in ("parameters", "gradients", "first moments", "second moments"):  # each flat, in llm.c's order
        yield "training state", name, (N,), real
    if act != real:
        yield "training state", "weights", (N,), act  # parameters, rounded, for products

    for name, width in (("ln1", C), ("qkv", 3 * C), ("atty", C), ("residual2", C)):
        yield LAYERS, name, (L, rows, width), act
    for name, width in (("ln2", C), ("fch", 4 * C), ("fch_gelu", 4 * C), ("residual3", C)):
        yield LAYERS, name, (L, rows, width), act
    for name in ("ln1_mean", "ln1_rstd", "ln2_mean", "ln2_rstd"):
        yield LAYERS, name, (L, rows), real
    yield LAYERS, "lse", (L, rows, NH), real  # of each pass in the order (B, NH, T)
    yield "activations", "encoded", (rows, C), act
    yield "activations", "lnf", (rows, C), act
    yield "activations", "lnf_mean", (rows,), real
    yield "activations", "lnf_rstd", (rows,), real

    if workload.trims_last:
        yield "activations", "ln1_counted", (counted_rows, C), act
        yield "activations", "q_counted", (counted_rows, C), act

    if workload.gathers and not workload.trims_last:
        yield "output layer", "lnf_counted", (counted_rows, C), act
    yield "output layer", "logits", (counted_rows, Vp), act  # their gradient overwrites them
    yield "output layer", "losses", (counted_rows,), real
    yield "output layer", "correct", (counted_rows,), np.int32

    for name, width in (("dresidual", C), ("dwide", 4 * C), ("dnarrow", C)):  # shared by all layers
        yield "gradients of activations", name, (rows, width), act

    yield "scratch", "delta", (rows * NH,), real
    yield "scratch", "partials", (partials_size(config, numerics, workload, rows),), real
    n_pointers = banded_linear.pointer_tables_size(config, numerics, workload.mlp_tiles)
    if n_pointers:
        yield "scratch", "pointers", (n_pointers,), np.int64  # where the blocks of banded products begin

    yield "batch", "passes", (passes_size(config, workload),), np.int32  # see passes.py
    if workload.gathers:
        yield "batch", "counted", (workload.n_counted,), np.int32  # positions
        yield "batch", "slots", (workload.seq_len,), np.int32  # of each position among the counted ones
    yield "batch", "position", (1,), np.int32  # the one that a sample continues
    yield "update", "tensors", (16, TABLE_COLUMNS), np.int64
    yield "update", "schedule", (3,), real  # learning rate and bias corrections
    yield "update", "update", (1,), np.int32  # its number
    yield "update", "stats", (3,), real  # loss, gradient norm, factor for the gradient
    yield "update", "diverged_at", (1,), np.int32  # the update whose loss or norm was not finite, 0 = none
    yield "update", "failure", (2,), real  # that loss and norm


def partials_size(config: GPTConfig, numerics: Numerics, workload: Workload, rows: int) -> int:
    """Return the floats that the two-stage sums of passes of up to `rows` rows need at most, one after the other."""
    C = config.n_embd
    widest = max(bias.partials_size(rows, width) for width in (C, 3 * C, 4 * C))
    widest = max(widest, layer_norm.partials_size(numerics, rows, C), grad_norm.partials_size(numerics, config))
    if not workload.shares:
        return widest
    nodes = workload.micro_batch_size * workload.seq_len
    return max(widest, key_work_sizes(nodes, nodes, workload.seq_len)[2] * 2 * C)


def passes_size(config: GPTConfig, workload: Workload) -> int:
    """Return the int32 of the passes of one update, or of a pass over one sequence of the longest length."""
    size, T, n, V = workload.micro_batch_size, workload.seq_len, workload.n_counted, config.padded_vocab_size
    passes = [min(size, workload.batch_size - first) for first in range(0, workload.batch_size, size)]
    longest = block_size(1, config.max_seq_len, n if workload.gathers else config.max_seq_len, V, shares=False)
    return max(longest, sum(block_size(B, T, n, V, shares=workload.shares) for B in passes))


def workload_of(spec: EngineSpec) -> Workload:
    """Return the sizes of the passes that an engine of `spec` makes."""
    seq_len, gathers = spec.computed_len, spec.counted is not None
    return Workload(
        batch_size=spec.batch_size,
        micro_batch_size=spec.pass_size,
        seq_len=seq_len,
        n_counted=seq_len if spec.counted is None else len(spec.counted),
        gathers=gathers,
        trims_last=gathers and spec.engine.skip_uncounted,
        shares=spec.engine.share_prefixes and seq_len <= LONGEST_SHARED,
        mlp_tiles=choose_mlp_tiles(spec),
    )


def allocate(device: Device, plan: MemoryPlan) -> dict[str, Array]:
    """Allocate the arena and return its arrays. Raises EngineError when it does not fit."""
    arena = device.empty(plan.n_bytes)
    return {
        name: arena[slot.offset : slot.offset + slot.n_bytes].view(slot.dtype).reshape(slot.shape)
        for name, slot in plan.slots.items()
    }


def plan_within(
    config: GPTConfig, numerics: Numerics, workload: Workload, *, workspace_bytes: int, free_bytes: int
) -> MemoryPlan:
    """Return `plan_memory`. Raises EngineError, with the largest pass that would fit, for more than `free_bytes`."""

    def planned(size: int) -> MemoryPlan:
        passes = replace(workload, micro_batch_size=size)
        return plan_memory(config, numerics, passes, workspace_bytes=workspace_bytes)

    plan = planned(workload.micro_batch_size)
    if plan.n_bytes <= free_bytes:
        return plan
    sizes = range(1, workload.batch_size + 1)
    largest = bisect_left(sizes, True, key=lambda size: planned(size).n_bytes > free_bytes)
    groups = ", ".join(f"{group} {bytes_in_words(n_bytes)}" for group, n_bytes in plan.group_bytes().items())
    advice = (
        f"train.micro_batch_size={largest} is the largest that fits"
        if largest
        else "not even one sequence at a time fits: use a smaller model, or a shorter model.max_seq_len"
    )
    needed, free = bytes_in_words(plan.n_bytes), bytes_in_words(free_bytes)
    raise EngineError(f"engine=cuda needs {needed} and the device has {free} free; {advice} (planned: {groups})")
