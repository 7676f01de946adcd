"""What every training engine does, in plain values: numpy arrays in, floats and numpy arrays out.

An engine owns parameters, gradients and optimizer state of one model. Parameters and moments cross this border as the
16 tensors of `model/params.py` in float32, so a checkpoint of one engine continues on another.
"""

import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gpt2lab.errors import DivergedError
from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.model.params import GPTConfig, Params
from gpt2lab.schema import EngineConfig, OptimConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Everything an engine must know to train one model."""

    model: GPTConfig
    optim: OptimConfig
    engine: EngineConfig
    counted: tuple[int, ...] | None = None  # target positions the loss counts; None = all
    batch_size: int = 1  # most sequences of an update; memory is planned for it, larger evaluations take several passes
    seq_len: int | None = None  # positions per sequence, T; None = the model's longest
    micro_batch_size: int | None = None  # sequences per pass; None = the whole batch at once

    @property
    def computed_len(self) -> int:
        """Positions computed of each sequence: without what follows the last counted one where that is left out."""
        if self.engine.skip_uncounted and self.counted is not None:
            return self.counted[-1] + 1
        return self.seq_len or self.model.max_seq_len

    @property
    def pass_size(self) -> int:
        """Sequences of a pass of an update."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    @property
    def rows(self) -> int:
        """Rows of activations that a pass of an update has where none are shared."""
        return self.pass_size * self.computed_len


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one update reports."""

    loss: float  # mean nats per counted token, before the update
    grad_norm: float  # global L2 norm before clipping


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Sums over the counted tokens of one or more batches."""

    loss_sum: float = 0.0  # nats
    n_correct: int = 0  # counted tokens whose likeliest prediction is the target
    n_counted: int = 0

    def __add__(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    @property
    def loss(self) -> float:
        """Mean nats per counted token."""
        return self.loss_sum / self.n_counted

    @property
    def accuracy(self) -> float:
        """Share of counted tokens predicted right, 0 to 1."""
        return self.n_correct / self.n_counted


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """Whether an engine can use a device of this machine."""

    name: str
    available: bool
    text: str  # what was found, or what is missing


class Engine(Protocol):
    """The protocol. Arrays named `inputs`, `targets` and `tokens` are (B, T) int32."""

    name: str  # "torch" or "cuda"
    device: str  # "cpu", "cuda", "mps", "host"
    device_name: str  # the model of the processor or card
    precision: str
    deterministic: bool  # whether the same seed gives the same bits here
    device_details: dict[str, object]  # driver, runtime, memory ... where the device has them
    mlp_tiles: ProductTiles
    threads: int  # processor threads it computes with
    step: int  # updates done

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        """Do one update; a GPU may still be at it when this returns, and `result` waits for it.

        Raises DivergedError, before anything is changed, when loss or gradient norm is not finite. An engine that
        does not wait raises it from the next `result`, `parameters` or `moments`, and sets `step` back to the last
        update that was done.
        """

    def result(self) -> StepResult:
        """Return what the last update reports. Raises DivergedError."""

    def evaluate(self, inputs: np.ndarray, targets: np.ndarray) -> Evaluation:
        """Return loss and accuracy over the counted positions; changes nothing."""

    def logits(self, tokens: np.ndarray, *, last_only: bool = False) -> np.ndarray:
        """Return float32 logits (B, T, V), or (B, 1, V) of the last position."""

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Params]:
        """Return the mean loss over counted positions and its 16 gradients (unclipped); changes nothing."""

    def parameters(self) -> Params:
        """Return a copy of the 16 tensors, float32."""

    def moments(self) -> dict[str, np.ndarray]:
        """Return copies of AdamW's first ("m.NAME") and second ("v.NAME") moments, float32."""

    def restore(self, params: Params, moments: dict[str, np.ndarray], step: int) -> None:
        """Continue from parameters, moments and a number of updates done."""

    def peak_mem_mib(self) -> float:
        """Return the most memory held so far: the device's, or the process's on a CPU."""


def process_peak_mib() -> float:
    """Return the most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def processor_name() -> str:
    """Return the model of this machine's processor."""
    return proc_value("cpuinfo", "model name") or platform.processor() or platform.machine()


def proc_value(file: str, key: str) -> str:
    """Return what stands behind the first `key:` in /proc/`file`, "" where there is none."""
    try:
        lines = Path("/proc", file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def not_finite(update: int, loss: float, grad_norm: float, learning_rate: float) -> DivergedError:
    """Return the error for an update that was left out, because its loss or gradient norm is not a number any more."""
    return DivergedError(
        f"step {update}: loss {loss}, gradient norm {grad_norm}, learning rate {learning_rate:.3g}: "
        "not finite; nothing was updated. Lower optim.learning_rate, or set optim.grad_clip"
    )
