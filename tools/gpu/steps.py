"""Complete training steps, ours and PyTorch's, in turns within one process."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.cuda_engine import CudaEngine
from gpt2lab.engine.device import Device, open_device
from gpt2lab.errors import EngineError
from gpt2lab.model.flops import dense_flop_per_token
from gpt2lab.model.init import init_params
from gpt2lab.model.params import Params
from gpt2lab.schema import Device as DeviceChoice
from gpt2lab.schema import EngineConfig, EngineName, OptimConfig
from gpu.cases import Case
from gpu.clock import Budget, spread
from gpu.memory import release
from gpu.peer import Peer
from gpu.report import first_line

OPTIM = OptimConfig(learning_rate=1e-4, grad_clip=1.0)
BATCHES = 8  # different ones, in turns: each step uploads its own


class Ours:
    """A model in training with our kernels."""

    def __init__(self, case: Case, params: Params, device: Device) -> None:
        kind = EngineConfig(name=EngineName.cuda, device=DeviceChoice[device.name], precision=case.precision)
        spec = EngineSpec(
            model=case.model,
            optim=OPTIM,
            engine=kind,
            counted=case.counted,
            batch_size=case.batch_size,
            seq_len=case.seq_len,
        )
        self._device, self._engine = device, CudaEngine(spec, params, device)

    def steps(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Do one update per batch, and wait for the device at the end."""
        for inputs, targets in batches:
            self._engine.train_step(inputs, targets, learning_rate=OPTIM.learning_rate)
        self.result = self._engine.result()

    def peak_mem_mib(self) -> float:
        """Return what the engine has allocated; it plans its memory, so that is all it ever takes."""
        return self._device.allocated_bytes / 2**20


def time_cases(
    cases: list[Case], choice: DeviceChoice, budget: Budget, *, skip_torch: bool = False, rehearsal: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield a row per case; one that does not fit, fails or is left out says so in `status`."""
    for case in cases:
        row = {
            "case": case.name,
            "precision": case.precision.name,
            "batch_size": case.batch_size,
            "seq_len": case.seq_len,
            "counted": "all" if case.counted is None else list(case.counted),
            "flop_per_token": dense_flop_per_token(case.model, case.seq_len),
            "status": "ok",
            "notes": [],
            "ours": None,
            "torch": None,
            "ratio": None,
        }
        started = budget.spent
        if case.seconds > budget.left:
            row["status"] = f"left out: {budget.left:.0f} s left, about {case.seconds:.0f} s wanted"
        else:
            try:
                _time_case(case, choice, row, skip_torch=skip_torch, rehearsal=rehearsal)
            except EngineError as error:
                row["status"] = f"{'does not fit' if ' free' in str(error) else 'failed'}: {first_line(error)}"
            except Exception as error:  # one case must not take the others' figures with it
                row["status"] = f"failed: {first_line(error)}"
        _forget_unused()
        row["seconds"] = budget.spent - started
        yield row


def _time_case(case: Case, choice: DeviceChoice, row: dict[str, Any], *, skip_torch: bool, rehearsal: bool) -> None:
    """Fill in `ours`, `torch` and `ratio`. What it makes is freed when it returns or raises."""
    device, params = open_device(choice), init_params(case.model, seed=0)
    batches = _batches(case)
    ours, peer = Ours(case, params, device), None
    ours.steps(batches[:4])  # kernels are loaded, algorithms chosen, the graph recorded and replayed
    if not skip_torch:
        try:
            peer = _fastest_peer(case, params, device, batches, compiled=not rehearsal)
        except torch.cuda.OutOfMemoryError as error:
            row["status"] = f"PyTorch does not fit beside ours: {first_line(error)}"
            row["notes"] = ["ours was measured alone"]

    least, most, seconds, rounds = (2, 4, 0.0, 4) if rehearsal else (2, 400, 0.5, 9)
    sides: dict[str, tuple[Callable[[list[Any]], None], list[Any]]] = {"ours": (ours.steps, batches)}
    if peer:
        sides["torch"] = peer.steps, [peer.pin(*batch) for batch in batches]
    slowest = max(_seconds(*side, least) for side in sides.values())
    n = max(least, min(most, round(seconds / slowest)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:  # whoever comes second finds the card warmer
            times[name].append(_seconds(*sides[name], n))

    row["steps_per_round"] = n
    row["ours"] = _figures(case, times["ours"]) | {"peak_mem_mib": ours.peak_mem_mib(), "loss": ours.result.loss}
    if peer:
        row["torch"] = _figures(case, times["torch"]) | {
            "peak_mem_mib": peer.peak_mem_mib,
            "loss": peer.loss(),
            "variant": peer.variant,
        }
        row["notes"] = peer.notes
        row["ratio"] = spread([theirs / own for own, theirs in zip(times["ours"], times["torch"], strict=True)])


def _fastest_peer(
    case: Case, params: Params, device: Device, batches: list[tuple[np.ndarray, np.ndarray]], *, compiled: bool
) -> Peer:
    """Return PyTorch's side in the fastest of its variants, measured once each."""
    where = torch.device("cuda" if device.name == "cuda" else "cpu")
    peer = Peer(case, params, OPTIM, where, compiled=compiled)
    if where.type == "cuda":
        pinned = [peer.pin(*batch) for batch in batches]

        def step_ms() -> float:
            return 1000 * statistics.median(_seconds(peer.steps, pinned, 4) for _ in range(3))

        plain = step_ms()
        if peer.record_graph():
            replayed = step_ms()
            peer.notes.append(f"{peer.variant.split(',')[0]} {plain:.3f} ms, as a CUDA graph {replayed:.3f} ms")
            if replayed > plain:
                peer.drop_graph()
    return peer


def _batches(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    size = (BATCHES, 2, case.batch_size, case.seq_len)
    return [tuple(pair) for pair in rng.integers(0, case.model.vocab_size, size, dtype=np.int32)]


def _seconds(steps: Callable[[list[Any]], None], batches: list[Any], n: int) -> float:
    """Return the seconds per step of a round of n steps, from an idle device to an idle device."""
    chosen = [batches[i % len(batches)] for i in range(n)]
    started = time.perf_counter()
    steps(chosen)
    return (time.perf_counter() - started) / n


def _figures(case: Case, times: list[float]) -> dict[str, Any]:
    seconds = spread(times)
    tokens_per_s = case.tokens / seconds["median"]
    flop_per_s = tokens_per_s * dense_flop_per_token(case.model, case.seq_len)
    return {
        "ms": {name: 1000 * value for name, value in seconds.items()},
        "tokens_per_s": tokens_per_s,
        "tflop_per_s": flop_per_s / 1e12,
    }


def _forget_unused() -> None:
    """Free what no case uses any more: PyTorch's compiled functions keep their models alive."""
    if sys.modules.get("torch._dynamo"):
        torch._dynamo.reset()
    release()
