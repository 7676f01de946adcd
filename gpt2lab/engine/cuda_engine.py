"""The CUDA core as an engine: our own kernels and library products, on a card or, for proofs, on a processor."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import numpy as np

from gpt2lab.engine.base import EngineSpec, Evaluation, StepResult, not_finite, process_peak_mib
from gpt2lab.engine.cuda_blas import WORKSPACE_BYTES
from gpt2lab.engine.cuda_memory import allocate, check_fit, plan_memory, workload_of
from gpt2lab.engine.cuda_step import Step
from gpt2lab.engine.device import Array, Device, open_device
from gpt2lab.engine.gemm import create_gemm
from gpt2lab.engine.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.engine.ops.adamw import schedule_of
from gpt2lab.engine.ops.banded_linear import MlpTiles
from gpt2lab.engine.ops.embedding import group_rows
from gpt2lab.engine.ops.positions import slots_of
from gpt2lab.errors import EngineError
from gpt2lab.model.bands import apply_bands
from gpt2lab.model.params import Params, check_params, tensor_shapes
from gpt2lab.schema import Precision


class CudaEngine:
    """GPT-2 with AdamW in CUDA C++; see `Engine` for the protocol.

    The device is given work and not waited for: loss and gradient norm stay there until `result` asks. When they are
    not finite nothing is updated from then on, and `result`, `parameters` or `moments` raises DivergedError.
    """

    name = "cuda"
    deterministic = True  # no floating-point atomics, and one algorithm per product
    threads = 1

    def __init__(
        self, spec: EngineSpec, params: Params, device: Device | None = None, *, mlp_tiles: MlpTiles | None = None
    ) -> None:
        """Build the engine on `device`, or on the one that `spec` asks for; `mlp_tiles`: instead of the chosen ones."""
        self._device = device or open_device(spec.engine.device, checked=spec.engine.checked)
        check_precision(self._device, spec.engine.precision)
        self._graph = self._device.name == "cuda" and spec.engine.graph is not False
        self._numerics = Numerics.of(self._device, spec.engine.precision)
        self._spec, self._config = spec, spec.model
        self._workload = workload_of(spec)
        if mlp_tiles is not None:
            self._workload = replace(self._workload, mlp_tiles=mlp_tiles)
        tiles = self._workload.mlp_tiles
        gemm = create_gemm(self._device, spec.engine.precision)
        self.plan = plan_memory(self._config, self._numerics, self._workload, workspace_bytes=gemm.workspace_bytes)
        free = self._device.free_bytes()
        check_fit(self.plan, self._config, self._numerics, self._workload, free_bytes=free)
        self._arena = allocate(self._device, self.plan)
        if gemm.workspace_bytes:
            gemm.set_workspace(self._arena["workspace"])
        self._step = Step(self._device, gemm, self._numerics, self._config, spec.optim, self._arena, tiles)
        self._counted: slice | np.ndarray = slice(None)
        if spec.counted is not None:
            self._counted = np.array(spec.counted)
            self._upload("counted", self._counted)
            self._upload("slots", slots_of(self._counted, self._workload.seq_len))
        self._rates: dict[int, float] = {}  # of the updates since the device was last waited for
        self._updates: dict[tuple[int, int], Callable[[], None] | None] = {}
        self.device = self._device.name
        self.device_name = self._device.device_name
        self.precision = spec.engine.precision.name
        chosen = {name: asdict(products) for name, products in tiles.items()}
        self.device_details = self._device.details | {"graph": self._graph, "mlp_tiles": chosen}
        self.step = 0
        self.restore(params, {}, 0)

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        self._upload_batch(inputs, targets)
        self.step += 1
        self._upload("schedule", np.array(schedule_of(self._spec.optim, self.step, learning_rate)))
        self._upload("update", np.array([self.step]))
        self._rates[self.step] = learning_rate
        self._queue_update(*inputs.shape)

    def result(self) -> StepResult:
        assert self._updates, "no update was done yet"
        self._raise_if_diverged()
        loss, grad_norm, _ = self._device.download(self._arena["stats"])
        return StepResult(loss=float(loss), grad_norm=float(grad_norm))

    def evaluate(self, inputs: np.ndarray, targets: np.ndarray) -> Evaluation:
        self._raise_if_diverged()
        B, T = inputs.shape
        total = Evaluation()
        wanted = targets[:, self._counted]
        for rows in self._passes(B, T):
            n = self._forward(inputs[rows])
            expected = self._upload("targets", wanted[rows])
            self._step.evaluate(expected, B=n, T=T)
            losses, correct = (
                self._device.download(self._arena[name][: expected.size]) for name in ("losses", "correct")
            )
            total += Evaluation(
                loss_sum=float(losses.sum(dtype=np.float64)), n_correct=int(correct.sum()), n_counted=expected.size
            )
        return total

    def logits(self, tokens: np.ndarray, *, last_only: bool = False) -> np.ndarray:
        self._raise_if_diverged()
        B, T = tokens.shape
        found = []
        for rows in self._passes(B, T):
            n = self._forward(tokens[rows])
            x = self._arena["lnf"][: n * T]
            if last_only:
                position = self._upload("position", np.array([T - 1]))
                x = self._step.at_positions(self._arena["dnarrow"][:n], position, B=n, T=T)
            size = self.plan.counted_rows  # rows of logits that there is room for
            for first in range(0, len(x), size):
                part = self._device.download(self._step.logits_of(x[first : first + size]))
                part = from_bfloat16(part) if self._spec.engine.precision is Precision.bf16 else part
                found.append(part[:, : self._config.vocab_size].astype(np.float32))
        return np.concatenate(found).reshape(B, -1, self._config.vocab_size)

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Params]:
        self._raise_if_diverged()
        last_update = self._device.download(self._arena["stats"])  # which `result` may still be asked for
        self._upload_batch(inputs, targets)
        B, T = inputs.shape
        self._step.gradients(B=B, T=T, micro_batch_size=self._workload.micro_batch_size, n_counted=self._n_counted(T))
        loss = float(self._device.download(self._arena["stats"])[0])
        self._upload("stats", last_update)
        return loss, apply_bands(self._tensors("gradients"), self._config)

    def parameters(self) -> Params:
        self._raise_if_diverged()
        return self._tensors("parameters")

    def moments(self) -> dict[str, np.ndarray]:
        self._raise_if_diverged()
        slots = {"m": "first moments", "v": "second moments"}
        return {
            f"{prefix}.{name}": array for prefix, slot in slots.items() for name, array in self._tensors(slot).items()
        }

    def restore(self, params: Params, moments: dict[str, np.ndarray], step: int) -> None:
        check_params(params, self._config)
        flat = np.concatenate([array.ravel() for array in params.values()])
        self._upload("parameters", flat)
        if self._spec.engine.precision is Precision.bf16:
            self._upload("weights", to_bfloat16(flat))
        for prefix, slot in (("m", "first moments"), ("v", "second moments")):
            if step == 0:
                self._device.fill_zero(self._arena[slot])
            else:
                self._upload(slot, np.concatenate([moments[f"{prefix}.{name}"].ravel() for name in params]))
        for name in ("diverged_at", "stats"):
            self._device.fill_zero(self._arena[name])
        self.step = step

    def peak_mem_mib(self) -> float:
        if self.device == "cuda":
            return self._device.allocated_bytes / 2**20
        return process_peak_mib()

    def _queue_update(self, B: int, T: int) -> None:
        """Queue the kernels of one update: one by one at first, then, with graphs, as one."""

        def update() -> None:
            self._step.update(B=B, T=T, micro_batch_size=self._workload.micro_batch_size, n_counted=self._n_counted(T))

        replay = self._updates.get((B, T))
        if replay is not None:
            replay()
        elif not self._graph or (B, T) not in self._updates:
            update()
            self._updates[B, T] = None  # kernels are loaded and algorithms chosen: it can be recorded next time
        else:
            self._updates[B, T] = replay = self._device.capture(update)
            replay()

    def _raise_if_diverged(self) -> None:
        """Wait for the device; raise DivergedError when an update found loss or norm not finite, and go back to it."""
        diverged_at = int(self._device.download(self._arena["diverged_at"])[0])
        if diverged_at:
            loss, grad_norm = self._device.download(self._arena["failure"])
            self._device.fill_zero(self._arena["diverged_at"])
            self.step = diverged_at - 1
            raise not_finite(diverged_at, float(loss), float(grad_norm), self._rates[diverged_at])
        self._rates.clear()

    def _upload_batch(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Upload the tokens of one update, the order in which each pass adds up embedding gradients, and targets."""
        B, T = inputs.shape
        planned = self._workload
        assert planned.batch_size >= B and planned.seq_len >= T, f"an update of {B} x {T} tokens, planned as {planned}"
        size = self._workload.micro_batch_size
        self._upload("tokens", inputs)
        groups = [group_rows(inputs[i : i + size], self._config.padded_vocab_size) for i in range(0, B, size)]
        self._upload("order", np.concatenate([order for order, _ in groups]))
        self._upload("segments", np.concatenate([segments for _, segments in groups]))
        self._upload("targets", targets[:, self._counted])

    def _forward(self, inputs: np.ndarray) -> int:
        """Run one pass up to the final norm and return how many sequences it has."""
        B, T = inputs.shape
        assert self._config.max_seq_len >= T, f"{T} positions, the model has {self._config.max_seq_len}"
        self._step.forward(self._upload("tokens", inputs), B=B, T=T)
        return B

    def _passes(self, B: int, T: int) -> Iterator[slice]:
        """Yield the sequences of each pass: as many as there is room for."""
        size = min(self.plan.rows // T, max(1, self.plan.counted_rows // self._n_counted(T)))
        yield from (slice(first, first + size) for first in range(0, B, size))

    def _n_counted(self, T: int) -> int:
        return T if self._spec.counted is None else len(self._spec.counted)

    def _upload(self, name: str, values: np.ndarray) -> Array:
        """Queue a copy of `values`, as the array's type, to the front of array `name`; return that part (size,)."""
        target = self._arena[name].reshape(-1)[: values.size]
        self._device.upload(target, np.ascontiguousarray(values.reshape(-1), dtype=target.dtype))
        return target

    def _tensors(self, name: str) -> Params:
        """Return the 16 tensors that lie in the flat array `name`, float32 copies."""
        flat = self._device.download(self._arena[name]).astype(np.float32, copy=False)
        shapes = tensor_shapes(self._config)
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
        parts = np.split(flat, ends[:-1])
        return {name: part.reshape(shape).copy() for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def check_precision(device: Device, precision: Precision) -> None:
    """Raise EngineError when the card is too old for the precision."""
    capability = str(device.details.get("compute_capability", "")) or None
    if capability and precision is not Precision.fp32 and int(capability.partition(".")[0]) < 8:
        raise EngineError(
            f"engine.precision={precision.name} needs compute capability 8.0 or above; {device.device_name} has "
            f"{capability}: use fp32"
        )


def check_spec(spec: EngineSpec) -> None:
    """Raise EngineError when device, precision, shape or memory are not to be had; nothing is allocated."""
    device = open_device(spec.engine.device)
    check_precision(device, spec.engine.precision)
    numerics, workload = Numerics.of(device, spec.engine.precision), workload_of(spec)
    workspace = WORKSPACE_BYTES if device.name == "cuda" else 0
    plan = plan_memory(spec.model, numerics, workload, workspace_bytes=workspace)
    check_fit(plan, spec.model, numerics, workload, free_bytes=device.free_bytes())
