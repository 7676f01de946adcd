"""Does an engine compute what llm.c computed? Logits, loss and the 16 gradients of one batch, side by side."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2lab.engine import EngineSpec, create_engine
from gpt2lab.model.llmc import read_checkpoint, read_debug_state
from gpt2lab.schema import EngineConfig, OptimConfig, Precision

# Largest relative change of a value by rounding to nearest: 2^-p for p significant bits.
UNIT_ROUNDOFF = {Precision.fp32: 2.0**-24, Precision.tf32: 2.0**-11, Precision.bf16: 2.0**-8}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRow:
    """One row of the parity table. Errors are relative to the largest magnitude of the reference."""

    name: str
    max_abs: float  # largest absolute value of the reference
    max_error: float  # largest absolute difference
    relative_error: float  # max_error / max_abs
    tolerance: float  # allowed relative error

    @property
    def passed(self) -> bool:
        return self.relative_error <= self.tolerance  # False for nan


def compare_with_llmc(model_path: Path, state_path: Path, engine: EngineConfig) -> list[ParityRow]:
    """Return the comparisons: logits, loss, then each gradient in file order. Raises DataError, EngineError.

    Tolerance, for each layer crossed: unit roundoff of float32 times the square root of the longest sum that feeds a
    value (random-walk growth of rounding), with a factor 8 for the two engines' differing orders of summation; in
    tf32 and bf16, whose products round their inputs but add up in float32, plus their own unit roundoff.
    """
    params, config = read_checkpoint(model_path)
    state = read_debug_state(state_path, config)
    B, T = state.inputs.shape
    spec = EngineSpec(model=config, optim=OptimConfig(), engine=engine, batch_size=B, seq_len=T)
    built = create_engine(spec, params)
    loss, gradients = built.loss_and_gradients(state.inputs, state.targets)
    logits = built.logits(state.inputs)
    depth = 2 * config.n_layer + 1
    unit = 8 * UNIT_ROUNDOFF[Precision.fp32]
    inputs = 0.0 if engine.precision is Precision.fp32 else UNIT_ROUNDOFF[engine.precision]
    forward = depth * (unit * np.sqrt(config.n_hidden) + inputs)
    backward = depth * (unit * np.sqrt(max(state.inputs.size, config.n_hidden, config.vocab_size)) + inputs)
    return [
        _compare("logits", logits, state.logits, forward),
        _compare("loss", np.array(loss), np.array(state.loss), forward),
        *(_compare(f"gradient {name}", gradients[name], true, backward) for name, true in state.gradients.items()),
    ]


def _compare(name: str, found: np.ndarray, reference: np.ndarray, tolerance: float) -> ParityRow:
    max_abs = float(np.abs(reference).max())
    max_error = float(np.abs(np.asarray(found, dtype=np.float64) - reference).max())
    return ParityRow(
        name=name,
        max_abs=max_abs,
        max_error=max_error,
        relative_error=max_error / max_abs if max_abs else max_error,
        tolerance=float(tolerance),
    )
