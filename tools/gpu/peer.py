"""The other side of the comparison: the same model trained by PyTorch, as fast as PyTorch does it.

The model is that of tests/reference_gpt.py, which has no part of ours. torch.compile, fused AdamW,
scaled_dot_product_attention (flash where the precision allows it), products in the same precision, batches in pinned
memory as 64-bit integers before the clock starts; and, where that is faster, the whole step as one CUDA graph. A batch
that comes again stays on the card, as with ours. The output layer has all padded columns, as nanoGPT's: odd row
lengths would slow it down.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_peers import mask_gradients
from torch import Tensor, nn

from gpt2lab.engine.torch.device import set_precision
from gpt2lab.model.params import Params
from gpt2lab.schema import OptimConfig, Precision
from gpu.cases import Case
from gpu.report import first_line
from tests.reference_gpt import GPT, Training, create_adamw

COMPILED, EAGER = "compiled", "eager"


class Peer(Training):
    """A model in training with PyTorch. `variant` says how; `notes` why not otherwise.

    Bands are dense products with masked gradients, or with masked weights.
    """

    def __init__(
        self,
        case: Case,
        params: Params,
        optim: OptimConfig,
        device: torch.device,
        *,
        compiled: bool,
        masked_weights: bool = False,
    ) -> None:
        self._device, self._case, self._optim = device, case, optim
        # A processor has no tf32: in a rehearsal float32 stands in for it.
        on_cpu = device.type == "cpu" and case.precision is Precision.tf32
        self._autocast = set_precision(device, Precision.fp32 if on_cpu else case.precision)
        torch.use_deterministic_algorithms(False)
        model = GPT(case.model, params, padded=True).to(device)
        if not masked_weights:
            mask_gradients(model)
        super().__init__(model, create_adamw(model, optim, capturable=device.type == "cuda"))
        self._counted = None if case.counted is None else torch.tensor(case.counted, device=device)
        self._static = tuple(self._empty() for _ in range(2))  # inputs, targets: where a graph reads them
        self._resident: tuple[Tensor, Tensor] | None = None  # the batch that they hold
        self._graph: Any = None
        self.notes: list[str] = []
        self._mean_loss: Callable[..., Tensor] = model.loss
        self._masking = ("masked weights" if masked_weights else "masked gradients") if case.banded else None
        self.variant = EAGER
        if compiled:
            self._compile()
        if self._masking:
            self.variant = f"{self.variant} with {self._masking}"
        self._reset_peak()
        for _ in range(3):
            self._update()
        self.synchronize()
        self._peak = self._plain_peak = self._read_peak()

    @property
    def peak_mem_mib(self) -> float | None:
        """The most that PyTorch's allocator has handed out in a step of this variant; None on a processor."""
        return self._peak

    def steps(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        """Do one update per batch (of `pin_all`), and wait for the device at the end."""
        for batch in batches:
            if batch is not self._resident:
                for place, values in zip(self._static, batch, strict=True):
                    place.copy_(values, non_blocking=True)
                self._resident = batch
            if self._graph is None:
                self._update()
            else:
                self._graph.replay()
        self.synchronize()

    def train_step(self, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float) -> None:
        """Do one of the updates that are timed, whose learning rate is fixed."""
        assert learning_rate == self._optim.learning_rate
        self.steps([self.pin(inputs, targets)])

    def pin_all(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[Tensor, Tensor]]:
        """Return all batches as `pin` does; one that comes several times is the same object each time."""
        pinned = {id(batch): self.pin(*batch) for batch in batches}
        return [pinned[id(batch)] for batch in batches]

    def pin(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return a batch as PyTorch's own loader would hand it over."""
        inputs64, targets64 = (torch.from_numpy(array.astype(np.int64)) for array in (inputs, targets))
        if self._device.type != "cuda":
            return inputs64, targets64
        return inputs64.pin_memory(), targets64.pin_memory()

    def record_graph(self) -> bool:
        """Let one CUDA graph do the step from now on; return whether that worked."""
        try:
            self.optimizer.zero_grad(set_to_none=True)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._update()
            torch.cuda.current_stream().wait_stream(side)
            self.optimizer.zero_grad(set_to_none=True)
            self._reset_peak()  # a replay hands out nothing: what the recording takes is what the graph keeps
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._update()
        except Exception as error:  # PyTorch raises errors of many kinds here
            self.drop_graph()
            self.notes.append(f"no CUDA graph: {first_line(error)}")
            return False
        self._graph, self.variant, self._peak = graph, f"{self.variant}, one CUDA graph", self._read_peak()
        return True

    def drop_graph(self) -> None:
        """Do the step as before the graph."""
        self._graph, self.variant, self._peak = None, self.variant.split(",")[0], self._plain_peak
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _read_peak(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**20 if self._device.type == "cuda" else None

    def _update(self) -> None:
        inputs, targets = self._static
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast:
            loss = self._mean_loss(inputs, targets, self._counted)
        loss.backward()
        self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._optim.grad_clip)
        self.optimizer.step()
        self._loss = loss.detach()

    def _compile(self) -> None:
        try:
            self._mean_loss = torch.compile(self.model.loss, dynamic=False)
            self._update()
            self.synchronize()
            self.variant = COMPILED
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler, or the compiler's compiler, raises
            self.notes.append(f"not compiled: {first_line(error)}")
            self._mean_loss = self.model.loss

    def _empty(self) -> Tensor:
        return torch.zeros(self._case.batch_size, self._case.seq_len, dtype=torch.long, device=self._device)
