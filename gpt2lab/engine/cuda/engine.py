"""The CUDA core as an engine: our own kernels and library products, on a card or, for proofs, on a processor."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gpt2lab.engine.base import EngineSpec, Evaluation, StepResult, not_finite, process_peak_mib
from gpt2lab.engine.cuda.check import check_precision
from gpt2lab.engine.cuda.device import Array, Device, open_device
from gpt2lab.engine.cuda.gemm import create_gemm
from gpt2lab.engine.cuda.memory import allocate, plan_within, workload_of
from gpt2lab.engine.cuda.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.engine.cuda.ops.adamw import schedule_of
from gpt2lab.engine.cuda.ops.positions import slots_of
from gpt2lab.engine.cuda.passes import DevicePass, PassUploads, block_size
from gpt2lab.engine.cuda.step import Step
from gpt2lab.engine.passes import LONGEST_SHARED, PassPlanner
from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.model.bands import apply_bands
from gpt2lab.model.params import Params, check_params, split_flat
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
        self, spec: EngineSpec, params: Params, device: Device | None = None, *, mlp_tiles: ProductTiles | None = None
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
        limits = {"workspace_bytes": gemm.workspace_bytes, "free_bytes": self._device.free_bytes()}
        self.memory = plan_within(self._config, self._numerics, self._workload, **limits)
        self._arena = allocate(self._device, self.memory)
        if gemm.workspace_bytes:
            gemm.set_workspace(self._arena["workspace"])
        self._step = Step(self._device, gemm, self._numerics, self._config, spec.optim, self._arena, tiles)
        if spec.counted is not None:
            positions = np.array(spec.counted)
            self._upload("counted", positions)
            self._upload("slots", slots_of(positions, self._workload.seq_len))
        vocab_size = self._config.padded_vocab_size
        self._uploads = PassUploads(self._device, self._arena, vocab_size=vocab_size, shares=self._workload.shares)
        # One each, because a planner remembers the batch that it planned last.
        self._training, self._evaluating = (
            PassPlanner(spec.counted, skip_uncounted=spec.engine.skip_uncounted, share_prefixes=self._workload.shares)
            for _ in range(2)
        )
        self._rates: dict[int, float] = {}  # of the updates since the device was last waited for
        self._updates: dict[tuple[tuple[int, ...], ...], Callable[[], None] | None] = {}  # by the keys of the passes
        self.device = self._device.name
        self.device_name = self._device.device_name
        self.precision = spec.engine.precision.name
        self.mlp_tiles = tiles
        self.device_details = self._device.details | {"graph": self._graph}
        self.step = 0
        self.restore(params, {}, 0)

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        passes, n_counted = self._upload_batch(inputs, targets)
        self.step += 1
        self._upload("schedule", np.array(schedule_of(self._spec.optim, self.step, learning_rate)))
        self._upload("update", np.array([self.step]))
        self._rates[self.step] = learning_rate
        self._queue_update(passes, n_counted)

    def result(self) -> StepResult:
        assert self._updates, "no update was done yet"
        self._raise_if_diverged()
        loss, grad_norm, _ = self._device.download(self._arena["stats"])
        return StepResult(loss=float(loss), grad_norm=float(grad_norm))

    def evaluate(self, inputs: np.ndarray, targets: np.ndarray) -> Evaluation:
        self._raise_if_diverged()
        total = Evaluation()
        for each in self._evaluating.passes(inputs, targets, self._most_evaluated(inputs.shape[1])):
            (of,) = self._uploads.upload([each], repeats=False)
            self._step.forward(of)
            self._step.evaluate(of)
            losses, correct = (
                self._device.download(self._arena[name][: of.n_logits]) for name in ("losses", "correct")
            )
            total += Evaluation(
                loss_sum=float(losses.sum(dtype=np.float64)), n_correct=int(correct.sum()), n_counted=each.n_counted
            )
        return total

    def logits(self, tokens: np.ndarray, *, last_only: bool = False) -> np.ndarray:
        self._raise_if_diverged()
        B, T = tokens.shape
        self._check_length(T)
        found, at_once = [], min(self.memory.rows // T, max(1, self.memory.counted_rows // self._n_counted(T)))
        for first in range(0, B, at_once):
            of = self._uploads.upload_tokens(tokens[first : first + at_once])
            self._step.forward(of)
            x = self._arena["lnf"][: of.rows]
            if last_only:
                position = self._upload("position", np.array([T - 1]))
                x = self._step.at_positions(self._arena["dnarrow"][: of.B], position, B=of.B, T=T)
            size = self.memory.counted_rows  # rows of logits that there is room for
            for begin in range(0, len(x), size):
                part = self._device.download(self._step.logits_of(x[begin : begin + size]))
                part = from_bfloat16(part) if self._spec.engine.precision is Precision.bf16 else part
                found.append(part[:, : self._config.vocab_size].astype(np.float32))
        return np.concatenate(found).reshape(B, -1, self._config.vocab_size)

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Params]:
        self._raise_if_diverged()
        last_update = self._device.download(self._arena["stats"])  # which `result` may still be asked for
        passes, n_counted = self._upload_batch(inputs, targets)
        self._step.gradients(passes, n_counted=n_counted)
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

    def _queue_update(self, passes: list[DevicePass], n_counted: int) -> None:
        """Queue the kernels of one update: one by one at first, then, with graphs, as one."""

        def update() -> None:
            self._step.update(passes, n_counted=n_counted)

        key = ((n_counted,), *(of.key for of in passes))
        replay = self._updates.get(key)
        if replay is not None:
            replay()
        elif not self._graph or key not in self._updates:
            update()
            self._updates[key] = None  # kernels are loaded and algorithms chosen: it can be recorded next time
        else:
            self._updates[key] = replay = self._device.capture(update)
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

    def _upload_batch(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[list[DevicePass], int]:
        """Upload the passes of one update; return them, and how many targets they count."""
        (B, T), planned = inputs.shape, self._workload
        fits = planned.batch_size >= B and (planned.seq_len >= T or planned.trims_last)
        assert fits, f"an update of {B} x {T} tokens, planned as {planned}"
        passes = self._training.passes(inputs, targets, planned.micro_batch_size)
        comes_again = not (inputs.flags.writeable or targets.flags.writeable)
        return self._uploads.upload(passes, repeats=comes_again), sum(each.n_counted for each in passes)

    def _most_evaluated(self, seq_len: int) -> int:
        """Return how many sequences of that length one pass of an evaluation has room for."""
        self._check_length(seq_len)
        planned = self._workload
        T = planned.seq_len if planned.trims_last else seq_len
        n, V, room = self._n_counted(T), self._config.padded_vocab_size, len(self._arena["passes"])
        size, tree = min(self.memory.rows // T, self.memory.counted_rows // n), planned.shares and T <= LONGEST_SHARED
        while size > 1 and block_size(size, T, n, V, shares=tree) > room:
            size //= 2
        assert size, f"an evaluation of {seq_len} positions, planned as {planned}"
        return size

    def _check_length(self, seq_len: int) -> None:
        longest = self._config.max_seq_len
        assert longest >= seq_len, f"{seq_len} positions, the model has {longest}"

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
        return {name: part.copy() for name, part in split_flat(flat, self._config).items()}
