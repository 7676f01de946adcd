"""Models on data that they were not necessarily trained on: everything is checked, then everything is evaluated.

A model on a task is one cell. Every model must see the same tokens of a task, cut and counted in the same way:
otherwise the numbers in a column could not be compared, and nothing is evaluated.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from gpt2lab.data import Source, Tokenizer, describe_source, eval_batches, read_source
from gpt2lab.engine import Engine, EngineSpec, Evaluation, check_spec, create_engine, read_weights, read_weights_shape
from gpt2lab.errors import ConfigError, DivergedError, Gpt2labError
from gpt2lab.model.bands import apply_bands
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import EngineConfig, OptimConfig, RunConfig, TokenizerName, counted_positions, plain
from gpt2lab.train.evaluate import check_ids
from gpt2lab.train.evaluation_task import EvaluationTask
from gpt2lab.train.setup import choose_seq_len


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model to evaluate."""

    name: str
    checkpoint: str  # an llm.c file, or hf:NAME
    shape: GPTConfig
    trained: RunConfig | None  # config of its run; None for a bare checkpoint
    engine: EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelOnTask:
    """One model on one task, checked and ready."""

    model: Candidate
    task: str
    source: Source
    spec: EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The result of a cell."""

    model: str
    task: str
    loss: float  # mean nats per counted token
    accuracy: float  # share of counted tokens predicted right
    tokens: int  # counted
    n_bytes: int | None  # UTF-8 bytes that the counted tokens stand for; None where they stand for no text
    engine: str
    device: str
    device_name: str
    precision: str


def open_candidate(
    name: str, checkpoint: str, trained: RunConfig | None, engine: EngineConfig | None = None
) -> Candidate:
    """Return a candidate with the shape that its checkpoint names and the bands of its run.

    engine: None for that of its run. Raises ConfigError or DataError for a checkpoint that cannot be read.
    """
    shape = read_weights_shape(checkpoint)
    if trained is not None:
        shape = replace(shape, fc1_band=trained.fc1_band, fc2_band=trained.fc2_band)
    chosen = engine or (trained.engine if trained else EngineConfig())
    return Candidate(name=name, checkpoint=checkpoint, shape=shape, trained=trained, engine=chosen)


def plan_evaluation(
    candidates: Sequence[Candidate], tasks: Sequence[Sequence[EvaluationTask]], *, split: str, batch_size: int
) -> list[list[ModelOnTask]]:
    """Return the cells of each candidate, tasks[i][j] being task j as candidate i reads it; evaluates nothing.

    Raises ConfigError, DataError or EngineError that names the model and the task which do not fit.
    """
    sources: dict[str, Source] = {}
    rows = []
    for candidate, own_tasks in zip(candidates, tasks, strict=True):
        row = []
        for task in own_tasks:
            try:
                row.append(_plan_cell(candidate, task, sources, split, batch_size))
            except Gpt2labError as error:
                raise type(error)(f"{candidate.name} on {task.name}: {error}") from error
        rows.append(row)
    for column in zip(*rows, strict=True):
        for cell in column[1:]:
            _check_alike(column[0], cell)
    return rows


def evaluate_cells(rows: Sequence[Sequence[ModelOnTask]], *, split: str, count: int | None) -> Iterator[Measured]:
    """Yield the result of each cell, over `count` batches of a split (None: all of it); one model is held at a time."""
    for row in rows:
        params = apply_bands(read_weights(row[0].model.checkpoint)[0], row[0].model.shape)
        for spec, cells in groupby(row, key=lambda cell: cell.spec):
            engine = create_engine(spec, params)
            for cell in cells:
                yield _evaluate_cell(cell, engine, split, count)
            del engine  # two at once may not fit


def _plan_cell(
    candidate: Candidate, task: EvaluationTask, sources: dict[str, Source], split: str, batch_size: int
) -> ModelOnTask:
    shape = candidate.shape
    _check_tokenizer(candidate, describe_source(task.data, vocab_size=shape.vocab_size).tokenizer)
    key = repr((plain(task.data), shape.vocab_size))
    if key not in sources:
        sources[key] = read_source(task.data, vocab_size=shape.vocab_size)
    source = sources[key]
    if split not in source.splits:
        raise ConfigError(f"--split {split}: data.source={source.name} has {', '.join(source.splits)}")
    seq_len = choose_seq_len(task.seq_len, source, shape.max_seq_len)
    spec = EngineSpec(
        model=shape,
        optim=OptimConfig(),
        engine=candidate.engine,
        counted=counted_positions(task.task_position, seq_len, source.answer_span),
        batch_size=batch_size,
        seq_len=seq_len,
    )
    check_spec(spec)
    cell = ModelOnTask(model=candidate, task=task.name, source=source, spec=spec)
    _batches(cell, split, count=1)  # raises for a split that holds not even one example
    return cell


def _check_tokenizer(candidate: Candidate, found: Tokenizer) -> None:
    """Raise ConfigError when the task's tokens would mean something else to the model."""
    vocab_size = candidate.shape.vocab_size
    way_out = "evaluate it on data of its own tokenizer"
    if candidate.trained is None:
        if found.vocab_size != vocab_size:
            raise ConfigError(
                f"the checkpoint has a vocabulary of {vocab_size} tokens, the data one of {found.vocab_size} "
                f"({found.name}): {way_out}, or name data.tokenizer"
            )
        return
    own = describe_source(candidate.trained.data, vocab_size=vocab_size).tokenizer
    if not _same_tokens(own, found) or found.vocab_size > vocab_size:
        raise ConfigError(
            f"the model was trained on tokens of {own.name} ({own.vocab_size}), the data has those of {found.name} "
            f"({found.vocab_size}): {way_out}"
        )


def _same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    if (one.name, one.vocab_size) != (other.name, other.vocab_size):
        return False
    if one.name in TokenizerName.__members__:
        return True
    symbols = np.arange(one.vocab_size)
    return one.decode(symbols) == other.decode(symbols)


def _check_alike(first: ModelOnTask, cell: ModelOnTask) -> None:
    """Raise ConfigError when two models would not see the same tokens of a task, cut and counted in the same way."""
    counted = [c.spec.counted for c in (first, cell)]
    spans = tuple("all" if positions is None else f"{positions[0]} to {positions[-1]}" for positions in counted)
    for what, key, values in (
        ("positions a sequence", "train.seq_len", (first.spec.seq_len, cell.spec.seq_len)),
        ("counted positions", "task_position", spans),
        ("tokenizer", "data.tokenizer", (first.source.tokenizer.name, cell.source.tokenizer.name)),
        ("data files", "data", (first.source.files, cell.source.files)),
    ):
        if values[0] != values[1]:
            shown = f" ({values[0]} and {values[1]})" if key != "data" else ""
            raise ConfigError(
                f"{first.model.name} and {cell.model.name} on {cell.task}: their {what} differ{shown}, so their "
                f"numbers could not be compared; name {key} in --on, or evaluate them apart"
            )


def _batches(cell: ModelOnTask, split: str, count: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    assert cell.spec.seq_len is not None
    return eval_batches(
        cell.source.splits[split],
        seq_len=cell.spec.seq_len,
        batch_size=cell.spec.batch_size,
        row_len=cell.source.row_len,
        count=count,
        split_name=split,
    )


def _evaluate_cell(cell: ModelOnTask, engine: Engine, split: str, count: int | None) -> Measured:
    source, total = cell.source, Evaluation()
    n_bytes = 0
    has_bytes = source.tokenizer.name in TokenizerName.__members__ and cell.spec.counted is None
    for inputs, targets in _batches(cell, split, count):
        check_ids(source.name, cell.spec.model.vocab_size, inputs, targets)
        total += engine.evaluate(inputs, targets)
        n_bytes += source.tokenizer.count_bytes(targets) if has_bytes else 0
    if not math.isfinite(total.loss):
        raise DivergedError(f"{cell.model.name} on {cell.task}: the loss is {total.loss}; the checkpoint is unusable")
    return Measured(
        model=cell.model.name,
        task=cell.task,
        loss=total.loss,
        accuracy=total.accuracy,
        tokens=total.n_counted,
        n_bytes=n_bytes if has_bytes else None,
        engine=engine.name,
        device=engine.device,
        device_name=engine.device_name,
        precision=engine.precision,
    )
