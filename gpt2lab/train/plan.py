"""What a run will need, from its config alone: parameters, operations and memory before anything is allocated."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt2lab.data import describe_source, read_source
from gpt2lab.engine import EnginePlan, EngineSpec, MemoryPlan, TokenBatch, bytes_in_words, check_spec, plan_engine
from gpt2lab.errors import EngineError
from gpt2lab.model.band_tiles import products_in_words
from gpt2lab.model.bands import density, is_dense
from gpt2lab.model.flops import count_active_parameters, dense_flop_per_token, rows_in_words
from gpt2lab.model.params import count_parameters, tensor_shapes
from gpt2lab.schema import DeviceChoice, EngineName, RunConfig
from gpt2lab.train.setup import choose_seq_len, engine_spec, training_batches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPlan:
    """Sizes of one run. `batch_size` is None for train.batch_size=full on a corpus that was not read."""

    spec: EngineSpec  # where the batch is not known, of one sequence
    seq_len: int  # T
    batch_size: int | None  # sequences per update
    n_steps: int
    first_batch: TokenBatch | None  # None: the data was not read


def make_plan(config: RunConfig) -> RunPlan:
    """Plan the run of `config`; of the data only synthetic rows are made, nothing is read.

    Raises ConfigError, and DataError for a batch larger than the rows that were made.
    """
    source = describe_source(config.data, vocab_size=config.model.vocab_size)
    if source.is_synthetic:
        source = read_source(config.data, vocab_size=config.model.vocab_size)
    seq_len = choose_seq_len(config.train.seq_len, source, config.model.max_seq_len)
    first_batch = training_batches(config, source, seq_len).batch(0) if source.is_synthetic else None
    batch_size = config.train.batch_size if isinstance(config.train.batch_size, int) else None
    batch_size = len(first_batch[0]) if first_batch else batch_size
    spec = engine_spec(config, source, seq_len, batch_size or 1)
    n_steps = config.train.max_steps
    return RunPlan(spec=spec, seq_len=seq_len, batch_size=batch_size, n_steps=n_steps, first_batch=first_batch)


def engine_plan(plan: RunPlan) -> EnginePlan | None:
    """Return what the engine says of the first update; None where not even the size of the batch is known.

    Raises EngineError for a shape that the engine does not take.
    """
    return None if plan.batch_size is None else plan_engine(plan.spec, plan.first_batch)


def cuda_memory(plan: RunPlan) -> MemoryPlan | None:
    """Return what engine=cuda allocates for the run, whichever engine it has; None where the batch is not known.

    Raises EngineError for a shape that its kernels do not take.
    """
    if plan.batch_size is None:
        return None
    engine = plan.spec.engine
    if engine.name is not EngineName.cuda:
        engine = replace(engine, name=EngineName.cuda, device=DeviceChoice.cuda)
    return plan_engine(replace(plan.spec, engine=engine)).memory


def describe(plan: RunPlan) -> list[tuple[str, str]]:
    """Return the plan as (what, value with its unit) lines."""
    engine = engine_plan(plan)
    lines = [*_describe_model(plan, engine), *_describe_work(plan)]
    left_out = _left_out(plan, engine) if engine else ["known when the data is read, and with it the size of the batch"]
    lines += [("" if i else "left out", text) for i, text in enumerate(left_out)]
    try:
        memory = cuda_memory(plan)
    except EngineError as error:
        return [*lines, ("memory", f"not planned: {error}")]
    lines += describe_memory(memory) if memory else []
    if plan.spec.engine.name is not EngineName.cuda:
        return [*lines, ("", "that is engine=cuda; PyTorch allocates as it goes, and its activations are not planned")]
    try:
        check_spec(plan.spec)
    except EngineError as error:
        return [*lines, ("here", f"it does not run: {error}")]
    return [*lines, ("here", "it fits")]


def _describe_model(plan: RunPlan, engine: EnginePlan | None) -> Iterator[tuple[str, str]]:
    model = plan.spec.model
    yield "shape", f"{model.n_layer} layers, {model.n_head} heads of {model.head_size}, {model.n_embd} channels"
    yield "vocabulary", f"{model.vocab_size:,} (stored as {model.padded_vocab_size:,} rows)"
    yield "parameters", f"{count_active_parameters(model):,} trained of {count_parameters(model):,} stored"
    sizes = {name: math.prod(shape) for name, shape in tensor_shapes(model).items()}
    largest = heapq.nlargest(3, sizes.items(), key=lambda tensor: tensor[1])
    yield "largest tensors", ", ".join(f"{name} {size:,}" for name, size in largest)
    for name, band in model.bands.items():
        products = ""
        if is_dense(model.n_embd, band):
            products = "; the band keeps everything: dense"
        elif engine:
            products = "; " + products_in_words(model.n_embd, engine.tiles[name], engine.why_dense)
        share = density(model.n_embd, band)
        text = f"band {band} of {model.n_hidden} hidden units, density {share:.2%}{products}"
        yield name.upper(), text if band else "dense"


def _describe_work(plan: RunPlan) -> Iterator[tuple[str, str]]:
    T, batch_size = plan.seq_len, plan.batch_size
    dense = dense_flop_per_token(plan.spec.model, T)
    n_counted = T if plan.spec.counted is None else len(plan.spec.counted)
    yield "sequence", f"{T} positions, {n_counted} of them in the loss"
    yield "work", f"{dense:,} FLOP per token (6N + 12LCT, dense)"
    if batch_size is not None:
        tokens = batch_size * T
        yield "batch", f"{batch_size:,} sequences, {tokens:,} tokens"
        yield "step", f"{dense * tokens:.3g} FLOP dense, forward and backward"
        total = tokens * plan.n_steps
        yield "run", f"{plan.n_steps:,} steps, {total:,} tokens, {dense * total:.3g} FLOP dense"


def _left_out(plan: RunPlan, engine: EnginePlan) -> list[str]:
    """Return what of an update is not computed, what is because a key says so, and how many FLOP are computed."""
    spec, work = plan.spec, engine.work
    rows, last = work.counts.rows, work.counts.last_rows
    lines = []
    if work.trees:
        lines.append(rows_in_words(rows, rows, work.positions, trees=work.trees, passes=work.passes))
    elif rows < work.positions:
        assert spec.counted is not None
        lines.append(f"positions behind the last counted one, {spec.counted[-1]}: {rows:,} of {work.positions:,} stay")
    if last < rows:
        lines.append(f"the last layer, except keys and values, away from the {last:,} that count")
    if spec.counted is not None and not spec.engine.skip_uncounted:
        lines.append("engine.skip_uncounted=false: positions that no counted one needs are computed")
    if work.why_not_shared:
        lines.append(work.why_not_shared)
    dense = work.positions * dense_flop_per_token(spec.model, plan.seq_len)
    if work.flop < dense:
        times = f"{dense / work.flop:.2f} times fewer"
        lines.append(f"{work.flop:.3g} of {dense:.3g} FLOP are computed in the first step: {times}")
    lines = lines or ["nothing: every position counts, and the products are dense"]
    depends = work.trees > 0 or any(spec.model.bands.values())
    if depends and spec.engine.name is not EngineName.cuda and spec.engine.device is DeviceChoice.auto:
        lines.append("(on a CPU; engine.device=auto takes a card where PyTorch finds one)")
    return lines


def describe_memory(memory: MemoryPlan) -> list[tuple[str, str]]:
    """Return the arena of engine=cuda as (group, array) lines, and what computing parts of it again would save."""
    total = bytes_in_words(memory.n_bytes)
    lines = [("memory", f"{total} in one piece on engine=cuda, {memory.rows:,} positions per pass:")]
    for group, n_bytes in memory.group_bytes().items():
        lines.append(("", f"{bytes_in_words(n_bytes):>13}  {group}"))
        for name, slot in memory.slots.items():
            if slot.group == group:
                shape = " x ".join(f"{length:,}" for length in slot.shape)
                lines.append(("", f"{bytes_in_words(slot.n_bytes):>13}    {name:<14}  {shape} {slot.kind}"))
    savings = [f"{bytes_in_words(saved)} less if {what}" for what, saved in memory.recomputation.items()]
    return lines + [("" if i else "recomputation", text) for i, text in enumerate(savings)]
