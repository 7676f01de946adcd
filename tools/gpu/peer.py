"""The other side of the comparison: the same model trained by PyTorch, as fast as PyTorch does it.

The model is that of tools/plain_gpt.py, which has no part of ours. torch.compile, fused AdamW,
scaled_dot_product_attention (flash where the precision allows it), products in the same precision, batches in pinned
memory as 64-bit integers before the clock starts; and, where that is faster, the whole step as one CUDA graph. The
output layer has all padded columns, as nanoGPT's: odd row lengths would slow it down.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from plain_gpt import PlainGPT, create_adamw
from torch import Tensor, nn

from gpt2lab.engine.torch_device import set_precision
from gpt2lab.model.params import Params
from gpt2lab.schema import OptimConfig, Precision
from gpu.cases import Case
from gpu.report import first_line

COMPILED, EAGER = "compiled", "eager"


class Peer:
    """A model in training with PyTorch. `variant` says how; `notes` why not otherwise.

    Bands are dense products with masked gradients, or with masked weights. `first_loss` is the loss of the batch
    `first` before any update.
    """

    def __init__(
        self,
        case: Case,
        params: Params,
        optim: OptimConfig,
        device: torch.device,
        *,
        first: tuple[np.ndarray, np.ndarray],
        compiled: bool,
        masked_weights: bool = False,
    ) -> None:
        self._device, self._case, self._clip = device, case, optim.grad_clip
        # A processor has no tf32: in a rehearsal float32 stands in for it.
        on_cpu = device.type == "cpu" and case.precision is Precision.tf32
        self._autocast = set_precision(device, Precision.fp32 if on_cpu else case.precision)
        torch.use_deterministic_algorithms(False)
        self._model = PlainGPT(case.model, params, masked_weights=masked_weights).to(device)
        self._optimizer = create_adamw(self._model, optim, capturable=device.type == "cuda")
        self._counted = None if case.counted is None else torch.tensor(case.counted, device=device)
        self._static = tuple(self._empty() for _ in range(2))  # inputs, targets: where a graph reads them
        self._graph: Any = None
        self.notes: list[str] = []
        self._mean_loss: Callable[..., Tensor] = self._model.loss
        self._masking = ("masked weights" if masked_weights else "masked gradients") if case.banded else None
        self.variant = EAGER
        with torch.no_grad(), self._autocast:
            inputs, targets = (part.to(device) for part in self.pin(*first))
            self.first_loss = float(self._model.loss(inputs, targets, self._counted))
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
        """Do one update per batch (of `pin`), and wait for the device at the end."""
        for batch in batches:
            for place, values in zip(self._static, batch, strict=True):
                place.copy_(values, non_blocking=True)
            if self._graph is None:
                self._update()
            else:
                self._graph.replay()
        self.synchronize()

    def pin(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return a batch as PyTorch's own loader would hand it over."""
        inputs64, targets64 = (torch.from_numpy(array.astype(np.int64)) for array in (inputs, targets))
        if self._device.type != "cuda":
            return inputs64, targets64
        return inputs64.pin_memory(), targets64.pin_memory()

    def record_graph(self) -> bool:
        """Let one CUDA graph do the step from now on; return whether that worked."""
        try:
            self._optimizer.zero_grad(set_to_none=True)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._update()
            torch.cuda.current_stream().wait_stream(side)
            self._optimizer.zero_grad(set_to_none=True)
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
        self._optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def loss(self) -> float:
        """Return the loss of the last update."""
        return float(self._loss)

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _read_peak(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**20 if self._device.type == "cuda" else None

    def _update(self) -> None:
        inputs, targets = self._static
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast:
            loss = self._mean_loss(inputs, targets, self._counted, self._case.model.padded_vocab_size)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._loss = loss.detach()

    def _compile(self) -> None:
        try:
            self._mean_loss = torch.compile(self._model.loss, dynamic=False)
            self._update()
            self.synchronize()
            self.variant = COMPILED
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler, or the compiler's compiler, raises
            self.notes.append(f"not compiled: {first_line(error)}")
            self._mean_loss = self._model.loss

    def _empty(self) -> Tensor:
        return torch.zeros(self._case.batch_size, self._case.seq_len, dtype=torch.long, device=self._device)
