"""The PyTorch engine: the reference, and the default where there is no GPU."""

import math
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gpt2lab.engine.base import EngineSpec, Evaluation, StepResult, not_finite, process_peak_mib
from gpt2lab.engine.passes import planner_of
from gpt2lab.engine.torch.device import (
    choose_device,
    device_details,
    device_name,
    memory_errors,
    set_deterministic,
    set_precision,
)
from gpt2lab.engine.torch.model import GPT
from gpt2lab.engine.torch.passes import DeviceRows, TorchPlanner, Tree
from gpt2lab.engine.torch.plan import choose_tiles
from gpt2lab.model.band_tiles import PRODUCTS, ProductTiles
from gpt2lab.model.params import TENSORS, Params
from gpt2lab.schema import Decay


class TorchEngine:
    """GPT-2 with AdamW in PyTorch; see `Engine` for the protocol."""

    name = "torch"

    @memory_errors()
    def __init__(self, spec: EngineSpec, params: Params) -> None:
        if spec.engine.deterministic:
            # Read by cuBLAS when its first handle is made.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._device = choose_device(spec.engine.device)
        self._autocast = set_precision(self._device, spec.engine.precision)
        set_deterministic(self._device, spec.engine.deterministic)
        self.device = self._device.type
        self.device_name = device_name(self._device)
        self.precision = spec.engine.precision.name
        self.threads = torch.get_num_threads()
        self.deterministic = self.device == "cpu" or (self.device == "cuda" and spec.engine.deterministic)
        self.device_details = device_details(self._device)
        self.step = 0
        self._result: StepResult | None = None
        self._spec = spec
        tiles = choose_tiles(spec, self.device)
        self.mlp_tiles: ProductTiles = {name: dict.fromkeys(PRODUCTS, tile) for name, tile in tiles.items()}
        self._model = GPT.from_params(spec.model, params, tiles=tiles).to(self._device)
        self._parameters = list(self._model.parameters())
        self._planner = TorchPlanner(planner_of(spec, self.device), n_head=spec.model.n_head, device=self._device)
        self._optimizer = self._create_optimizer()

    @memory_errors()
    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        loss_sum = self._backward(inputs, targets)
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        n_counted = self._n_counted(targets)
        loss, grad_norm = torch.stack([loss_sum / n_counted, norm]).tolist()  # one wait for the device
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise not_finite(self.step + 1, loss, grad_norm, learning_rate)
        clip = self._spec.optim.grad_clip
        if clip and grad_norm > clip:
            torch._foreach_mul_(grads, clip / grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.step += 1
        self._result = StepResult(loss=loss, grad_norm=grad_norm)

    def result(self) -> StepResult:
        assert self._result is not None, "no update was done yet"
        return self._result

    @memory_errors()
    @torch.no_grad()
    def evaluate(self, inputs: np.ndarray, targets: np.ndarray) -> Evaluation:
        total = Evaluation()
        for rows in self._passes(inputs, targets):
            with self._autocast:
                loss_sum, n_correct = self._model.evaluate(rows)
            total += Evaluation(loss_sum=float(loss_sum), n_correct=n_correct, n_counted=rows.n_counted)
        return total

    @memory_errors()
    @torch.no_grad()
    def logits(self, tokens: np.ndarray, *, last_only: bool = False) -> np.ndarray:
        positions = torch.tensor([tokens.shape[1] - 1], device=self._device) if last_only else None
        rows = DeviceRows(torch.from_numpy(tokens.astype(np.int64)).to(self._device), counted=positions)
        with self._autocast:
            logits = self._model(rows)
        return logits.float().cpu().numpy()

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Params]:
        loss_sum = self._backward(inputs, targets)
        gradients = {key: p.grad for key, p in self._model.named_parameters() if p.grad is not None}
        return float(loss_sum) / self._n_counted(targets), self._model.collect(gradients)

    def parameters(self) -> Params:
        return self._model.params()

    def moments(self) -> dict[str, np.ndarray]:
        found = {}
        for prefix, key in (("m", "exp_avg"), ("v", "exp_avg_sq")):
            values = {
                name: self._optimizer.state[p].get(key, torch.zeros_like(p))
                for name, p in self._model.named_parameters()
            }
            found.update({f"{prefix}.{name}": array for name, array in self._model.collect(values).items()})
        return found

    def restore(self, params: Params, moments: dict[str, np.ndarray], step: int) -> None:
        self._model.load_params(params)
        self.step = step
        self._optimizer.state.clear()
        if step == 0:
            return
        first, second = ({spec.name: moments[f"{prefix}.{spec.name}"] for spec in TENSORS} for prefix in "mv")
        for (p, m), (_, v) in zip(self._model.shared_out(first), self._model.shared_out(second), strict=True):
            m, v = (value.to(p.device, copy=True) for value in (m, v))
            count = torch.tensor(float(step), device=p.device if p.device.type == "cuda" else "cpu")
            self._optimizer.state[p] = {"step": count, "exp_avg": m, "exp_avg_sq": v}

    def peak_mem_mib(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        return process_peak_mib()

    def _backward(self, inputs: np.ndarray, targets: np.ndarray) -> Tensor:
        """Leave the gradient of the mean loss in `.grad` and return the summed loss (a scalar on the device)."""
        for p in self._parameters:
            p.grad = None
        n_counted = self._n_counted(targets)
        total = torch.zeros((), dtype=self._parameters[0].dtype, device=self._device)
        for rows in self._passes(inputs, targets):
            with self._autocast:
                loss_sum = self._model.loss_sum(rows)
            (loss_sum / n_counted).backward()
            total += loss_sum.detach()
        self._model.clear_gradients_outside_bands()
        return total

    def _passes(self, inputs: np.ndarray, targets: np.ndarray) -> Iterator[DeviceRows | Tree]:
        return self._planner.passes(inputs, targets, self._spec.micro_batch_size or len(inputs))

    def _n_counted(self, targets: np.ndarray) -> int:
        return targets.size if self._spec.counted is None else len(targets) * len(self._spec.counted)

    def _create_optimizer(self) -> torch.optim.AdamW:
        optim = self._spec.optim
        decays = {spec.name: spec.decays or optim.decay is Decay.all for spec in TENSORS}
        decayed = [p for name, _, _, p in self._model.named_tensors() if decays[name]]
        others = [p for name, _, _, p in self._model.named_tensors() if not decays[name]]
        groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=optim.learning_rate,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=self._device.type in ("cpu", "cuda"),
        )
