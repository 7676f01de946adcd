"""What a run will need, from its config alone: parameters, operations and memory before anything is allocated."""

import math
from dataclasses import dataclass

import numpy as np

from gpt2lab.data import describe_source, read_source
from gpt2lab.engine import EngineSpec, check_spec
from gpt2lab.engine.cuda.gemm.cublas import WORKSPACE_BYTES
from gpt2lab.engine.cuda.memory import MemoryPlan, plan_memory, size, workload_of
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.passes import LONGEST_SHARED, NEVER_SHARED_ON
from gpt2lab.errors import EngineError
from gpt2lab.model.band_tiles import products_in_words
from gpt2lab.model.bands import density, is_dense
from gpt2lab.model.flops import count_active_parameters, dense_flop_per_token, kept_flop_per_token, rows_in_words
from gpt2lab.model.params import GPTConfig, count_parameters, tensor_shapes
from gpt2lab.schema import (
    Device,
    EngineConfig,
    EngineName,
    OptimConfig,
    RunConfig,
    counted_positions,
)
from gpt2lab.train.setup import choose_seq_len, model_shape, training_batches
from gpt2lab.train.work import Work, unread_work, work_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Sizes of one run. `batch_size` is None for train.batch_size=full on a corpus that was not read."""

    model: GPTConfig
    seq_len: int  # T
    batch_size: int | None  # sequences per update
    counted: tuple[int, ...] | None  # target positions in the loss; None = all
    n_steps: int
    micro_batch_size: int | None  # sequences per pass; None: the whole batch
    engine: EngineConfig
    first_batch: tuple[np.ndarray, np.ndarray] | None  # (B, T) int32 each; None: the data was not read

    @property
    def n_counted(self) -> int:
        """Target positions per sequence in the loss."""
        return self.seq_len if self.counted is None else len(self.counted)

    @property
    def tokens_per_step(self) -> int | None:
        return None if self.batch_size is None else self.batch_size * self.seq_len


def make_plan(config: RunConfig) -> Plan:
    """Plan the run of `config`; of the data only synthetic rows are made, nothing is read.

    Raises ConfigError, and DataError for a batch larger than the rows that were made.
    """
    source = describe_source(config.data, vocab_size=config.model.vocab_size)
    if source.is_synthetic:
        source = read_source(config.data, vocab_size=config.model.vocab_size)
    seq_len = choose_seq_len(config.train.seq_len, source, config.model.max_seq_len)
    counted = counted_positions(config.task_position, seq_len, source.answer_span)
    first_batch = training_batches(config, source, seq_len).batch(0) if source.is_synthetic else None
    batch_size = config.train.batch_size if isinstance(config.train.batch_size, int) else None
    return Plan(
        model=model_shape(config, source.vocab_size),
        seq_len=seq_len,
        batch_size=len(first_batch[0]) if first_batch else batch_size,
        counted=counted,
        n_steps=config.train.max_steps,
        micro_batch_size=config.train.micro_batch_size,
        engine=config.engine,
        first_batch=first_batch,
    )


def spec_of(plan: Plan) -> EngineSpec:
    """Return what an engine would be made from; where the batch is not known, for one sequence."""
    return EngineSpec(
        model=plan.model,
        optim=OptimConfig(),
        engine=plan.engine,
        counted=plan.counted,
        batch_size=plan.batch_size or 1,
        seq_len=plan.seq_len,
        micro_batch_size=plan.micro_batch_size,
    )


def first_work(plan: Plan) -> Work | None:
    """Return what the first update computes; where the data is not known, for rows of which no two begin alike.

    None where not even the size of the batch is known.
    """
    if plan.batch_size is None:
        return None
    if plan.first_batch is None:
        return unread_work(spec_of(plan), device=planned_device(plan))
    return work_of(spec_of(plan), *plan.first_batch, device=planned_device(plan))


def planned_device(plan: Plan) -> str:
    """Return the device that is planned for: a processor where the run would look for one."""
    return "cpu" if plan.engine.device is Device.auto else plan.engine.device.name


def memory_of(plan: Plan) -> MemoryPlan | None:
    """Return what engine=cuda allocates for the run; None where the batch is not known.

    Raises EngineError for a shape that its kernels do not take.
    """
    if plan.batch_size is None:
        return None
    numerics = Numerics(plan.engine.precision, np.dtype(np.float32))
    workspace_bytes = 0 if plan.engine.device is Device.host else WORKSPACE_BYTES
    return plan_memory(plan.model, numerics, workload_of(spec_of(plan)), workspace_bytes=workspace_bytes)


def describe(plan: Plan) -> list[tuple[str, str]]:
    """Return the plan as (what, value with its unit) lines."""
    model, T, work = plan.model, plan.seq_len, first_work(plan)
    lines = [
        ("shape", f"{model.n_layer} layers, {model.n_head} heads of {model.head_size}, {model.n_embd} channels"),
        ("vocabulary", f"{model.vocab_size:,} (stored as {model.padded_vocab_size:,} rows)"),
        ("parameters", f"{count_active_parameters(model):,} trained of {count_parameters(model):,} stored"),
        ("largest tensors", _largest(model)),
    ]
    for name, band in (("FC1", model.fc1_band), ("FC2", model.fc2_band)):
        share = density(model.n_embd, band)
        wide = "; the band keeps everything: dense" if is_dense(model.n_embd, band) else ""
        products = wide or ("; " + _products(plan, work, name.lower()) if work else "")
        text = f"band {band} of {model.n_hidden} hidden units, density {share:.2%}{products}"
        lines.append((name, text if band else "dense"))
    lines.append(("sequence", f"{T} positions, {plan.n_counted} of them in the loss"))
    dense, kept = dense_flop_per_token(model, T), kept_flop_per_token(model, T)
    saved = f"; the bands keep {kept / dense:.1%} of it" if kept < dense else ""
    lines.append(("work", f"{dense:,} FLOP per token (6N + 12LCT, dense){saved}"))
    if plan.tokens_per_step is not None:
        lines.append(("batch", f"{plan.batch_size:,} sequences, {plan.tokens_per_step:,} tokens"))
        total = plan.tokens_per_step * plan.n_steps
        lines.append(("step", f"{dense * plan.tokens_per_step:.3g} FLOP dense, forward and backward"))
        lines.append(("run", f"{plan.n_steps:,} steps, {total:,} tokens, {dense * total:.3g} FLOP dense"))
    left_out = _left_out(plan, work) if work else ["known when the data is read, and with it the size of the batch"]
    depends = work is not None and (work.trees > 0 or model.fc1_band > 0 or model.fc2_band > 0)
    if depends and plan.engine.name is not EngineName.cuda and plan.engine.device is Device.auto:
        left_out.append("(on a CPU; engine.device=auto takes a card where PyTorch finds one)")
    lines += [("" if i else "left out", text) for i, text in enumerate(left_out)]
    try:
        memory = memory_of(plan)
    except EngineError as error:
        if plan.engine.name is EngineName.cuda:
            raise
        return [*lines, ("memory", f"not planned: {error}")]
    return [*lines, *(describe_memory(memory) if memory else []), *_verdict(plan)]


def _left_out(plan: Plan, work: Work) -> list[str]:
    """Return what of an update is not computed, what is because a key says so, and how many FLOP that leaves."""
    engine, rows, last = plan.engine, work.counts.rows, work.counts.last_rows
    lines = []
    if work.trees:
        lines.append(rows_in_words(rows, rows, work.positions, trees=work.trees, passes=work.passes))
    elif rows < work.positions:
        assert plan.counted is not None
        lines.append(f"positions behind the last counted one, {plan.counted[-1]}: {rows:,} of {work.positions:,} stay")
    if last < rows:
        lines.append(f"the last layer, but for keys and values, away from the {last:,} that count")
    if plan.counted is not None and not engine.skip_uncounted:
        lines.append("engine.skip_uncounted=false: positions that no counted one needs are computed")
    if plan.seq_len <= LONGEST_SHARED and not work.trees:
        lines.append(_why_rows(plan))
    if work.flop_done < work.flop_dense:
        left = f"{work.flop_done:.3g} of {work.flop_dense:.3g} FLOP are left in the first step (causal pairs counted)"
        lines.append(f"{left}: {work.flop_dense / work.flop_done:.2f} times fewer")
    return lines or ["nothing: every position counts, and the products are dense"]


def _why_rows(plan: Plan) -> str:
    """Return why no row is taken to share what it begins with, though all are short enough."""
    if not plan.engine.share_prefixes:
        return "engine.share_prefixes=false: every row by itself"
    if (device := planned_device(plan)) in NEVER_SHARED_ON:
        return f"nothing is shared on {device}: every row by itself"
    if plan.first_batch is None:
        return "rows that begin alike share that: how many, is known when the data is read"
    return "too few rows begin alike for sharing to pay"


def _products(plan: Plan, work: Work, name: str) -> str:
    """Return how the products of a banded matrix are done."""
    engine = plan.engine
    return products_in_words(
        plan.model.n_embd,
        work.mlp_tiles[name],
        engine="cuda" if engine.name is EngineName.cuda else "torch",
        device=planned_device(plan),
        precision=engine.precision.name,
        enabled=engine.banded_products,
    )


def _verdict(plan: Plan) -> list[tuple[str, str]]:
    """Return whether engine=cuda, where it is asked for, would run here."""
    if plan.engine.name is not EngineName.cuda:
        return [("", "that is engine=cuda; PyTorch allocates as it goes, and its activations are not planned")]
    try:
        check_spec(spec_of(plan))
    except EngineError as error:
        return [("here", f"it does not run: {error}")]
    return [("here", "it fits")]


def describe_memory(memory: MemoryPlan) -> list[tuple[str, str]]:
    """Return the arena of engine=cuda as (group, array) lines, and what computing parts of it again would save."""
    lines = [("memory", f"{size(memory.n_bytes)} in one piece on engine=cuda, {memory.rows:,} positions per pass:")]
    for group, n_bytes in memory.group_bytes().items():
        lines.append(("", f"{size(n_bytes):>13}  {group}"))
        for name, slot in memory.slots.items():
            if slot.group == group:
                shape = " x ".join(f"{length:,}" for length in slot.shape)
                kind = "bfloat16" if slot.dtype == np.uint16 else slot.dtype.name
                lines.append(("", f"{size(slot.n_bytes):>13}    {name:<14}  {shape} {kind}"))
    saved = memory.recomputable_bytes()
    cheap = sum(saved[name] for name in ("ln1", "ln2", "fch_gelu"))
    lines.append(
        ("recomputation", f"{size(cheap)} less if backward made ln1, ln2 and fch_gelu again: no matrix product")
    )
    lines.append(("", f"{size(sum(saved.values()))} less if it made whole layers again: another forward pass per step"))
    return lines


def _largest(model: GPTConfig) -> str:
    sizes = {name: math.prod(shape) for name, shape in tensor_shapes(model).items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return ", ".join(f"{name} {sizes[name]:,}" for name in largest)
