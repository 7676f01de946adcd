"""The training loop: updates, evaluations, rows of metrics, checkpoints, and the reasons to stop.

It does not touch files: rows and checkpoints are passed to functions.
"""

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpt2lab.errors import DivergedError
from gpt2lab.record.columns import column, evaluated
from gpt2lab.record.metrics import Row
from gpt2lab.schema import parse_stop_when
from gpt2lab.train.evaluate import check_ids, evaluate, evaluated_splits
from gpt2lab.train.schedule import learning_rate
from gpt2lab.train.setup import Parts

WARMUP_UPDATES = 2  # of each process, left out of timings: the first ones allocate and compile
COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(kw_only=True, slots=True)
class Hooks:
    """What the loop calls while it runs."""

    on_row: Callable[[Row], None]  # a measured row, at most one per step
    on_step: Callable[[int], None]  # updates done, every update
    save: Callable[[float], None]  # write a checkpoint of the engine as it is, after that many seconds of updates
    interrupted: Callable[[], str | None]  # why to stop now, or None


@dataclass(kw_only=True, slots=True)
class Ending:
    """How a loop ended."""

    state: str  # finished or interrupted
    reason: str  # in words
    step: int  # updates done
    last_row: Row
    training_s: float  # seconds spent in updates by all processes of the run


@dataclass(slots=True)
class Clock:
    """Time spent in updates, evaluations left out."""

    elapsed_s: float = 0.0
    window_s: float = 0.0  # since the last reading, warm-up left out
    n_window: int = -WARMUP_UPDATES  # updates in window_s; below 0 during warm-up

    def add(self, seconds: float, *, n_updates: int) -> None:
        """Add one update or the queueing of one; without an update, what a device still needed for queued ones."""
        self.elapsed_s += seconds
        self.n_window += n_updates
        if self.n_window > 0:
            self.window_s += seconds

    def read(self, tokens_per_step: int) -> Row:
        """Return the timing columns of the window since the last call, and begin a new one."""
        row: Row = {"elapsed_s": self.elapsed_s}
        if self.n_window > 0:
            # A mean: of updates that were queued, only the time that all of them took is known.
            mean = self.window_s / self.n_window
            row |= {"step_ms": 1000 * mean, "tokens_per_s": tokens_per_step / mean}
            self.window_s, self.n_window = 0.0, 0
        return row


def run_loop(parts: Parts, hooks: Hooks, *, elapsed_s: float = 0.0) -> Ending:
    """Train from `parts.engine.step` to the end, and return how it ended.

    A run that was interrupted and continued computes what an uninterrupted one does: batches and learning rates are
    functions of the step, and everything else is the engine's state. Raises DivergedError and DataError.
    """
    config, engine = parts.config, parts.engine
    train = config.train
    clock = Clock(elapsed_s=elapsed_s)
    tokens_per_step = parts.batches.tokens_per_batch
    row: Row = {"step": engine.step, "tokens": engine.step * tokens_per_step}
    if engine.step == 0:
        row |= measure(parts)
        hooks.on_row(row)
        _check_finite(row)
    state, reason = "finished", _reached(train.stop_when, row)
    while engine.step < train.max_steps and reason is None:
        rate = learning_rate(engine.step, max_steps=train.max_steps, optim=config.optim, schedule=config.schedule)
        started = time.perf_counter()
        inputs, targets = parts.batches.batch(engine.step)
        check_ids(parts.source.name, parts.spec.model.vocab_size, inputs, targets)
        engine.train_step(inputs, targets, learning_rate=rate)
        clock.add(time.perf_counter() - started, n_updates=1)
        hooks.on_step(engine.step)

        out_of_time = train.time_limit is not None and clock.elapsed_s - elapsed_s >= train.time_limit
        last = engine.step == train.max_steps or out_of_time
        evaluates = last or (train.eval_every > 0 and engine.step % train.eval_every == 0)
        interruption = hooks.interrupted()
        if evaluates or engine.step % train.log_every == 0:
            started = time.perf_counter()
            result = engine.result()
            clock.add(time.perf_counter() - started, n_updates=0)
            row = {"step": engine.step, "tokens": engine.step * tokens_per_step, "train_loss": result.loss}
            row |= {"lr": rate, "grad_norm": result.grad_norm, "peak_mem_mib": engine.peak_mem_mib()}
            row |= clock.read(tokens_per_step)
            if evaluates:
                row |= measure(parts)
            reason = _reached(train.stop_when, row)
            if last or reason:
                row |= measure(parts, final=True, known=row)
            hooks.on_row(row)
            _check_finite(row)
        if out_of_time and reason is None:
            reason = f"time limit of {train.time_limit:g} s reached"
        if interruption and reason is None and not last:
            state, reason = "interrupted", interruption
        if train.checkpoint_every and engine.step % train.checkpoint_every == 0 and not last and reason is None:
            hooks.save(clock.elapsed_s)
    hooks.save(clock.elapsed_s)
    reason = reason or f"all {train.max_steps} steps done"
    return Ending(state=state, reason=reason, step=engine.step, last_row=row, training_s=clock.elapsed_s)


def measure(parts: Parts, *, final: bool = False, known: Row | None = None) -> Row:
    """Return the evaluation columns. `final` adds the test split and what `known` lacks."""
    row: Row = {}
    for split in evaluated_splits(parts.config.train, final=final):
        measures = evaluated(split)
        if split in parts.source.splits and (known is None or known.get(measures["loss"].name) is None):
            result = evaluate(parts, split)
            row |= {entry.name: getattr(result, measure) for measure, entry in measures.items()}
    return row


def _check_finite(row: Row) -> None:
    """Raise DivergedError when an evaluation is not a number any more: the last update broke the model."""
    for name, value in row.items():
        if value is None or math.isfinite(value) or column(name).measure != "loss":
            continue
        if row["step"] == 0:
            raise DivergedError(f"step 0: {name} {value} before any update: the starting weights are not finite")
        raise DivergedError(
            f"step {row['step']}: {name} {value}, learning rate {row.get('lr')}, gradient norm "
            f"{row.get('grad_norm')}: the model has diverged; the last checkpoint before it is kept. "
            "Lower optim.learning_rate, or set optim.grad_clip"
        )


def _reached(stop_when: str | None, row: Row) -> str | None:
    """Return why to stop when a measured value of `row` satisfies `stop_when`."""
    if stop_when is None:
        return None
    metric, comparison, threshold = parse_stop_when(stop_when)
    value = row.get(metric)
    if value is None or not COMPARISONS[comparison](value, threshold):
        return None
    return f"{stop_when} reached: {metric} is {value:.6g}"
