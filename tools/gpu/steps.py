"""Complete training steps, ours and PyTorch's, in turns within one process."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from proof import compare, tolerance

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.cuda_engine import CudaEngine
from gpt2lab.engine.device import Device, open_device
from gpt2lab.errors import EngineError
from gpt2lab.model.flops import dense_flop_per_token
from gpt2lab.model.init import init_params
from gpt2lab.model.params import Params
from gpt2lab.schema import Device as DeviceChoice
from gpt2lab.schema import EngineConfig, EngineName, OptimConfig
from gpu.cases import Case, batches_of
from gpu.clock import Budget, spread
from gpu.memory import release
from gpu.peer import Peer
from gpu.report import first_line

OPTIM = OptimConfig(learning_rate=1e-4, grad_clip=1.0)
BATCHES = 8  # different ones, in turns: each step uploads its own


# What leaves work out, switched off: the same step with everything computed.
EVERYTHING = {"banded_products": False, "skip_uncounted": False, "share_prefixes": False}


class Ours:
    """A model in training with our kernels; `keys` of engine.* may switch off what it leaves out."""

    def __init__(self, case: Case, params: Params, device: Device, **keys: bool) -> None:
        kind = EngineConfig(name=EngineName.cuda, device=DeviceChoice[device.name], precision=case.precision, **keys)
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

    def mean_loss(self, batch: tuple[np.ndarray, np.ndarray]) -> float:
        """Return the loss of a batch with the parameters as they are; changes nothing."""
        return self._engine.evaluate(*batch).loss

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
            "everything": None,
            "ratio": None,
            "saved": None,
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
    """Fill in the sides and their ratios. What it makes is freed when it returns or raises."""
    device, params = open_device(choice), init_params(case.model, seed=0)
    batches = batches_of(case, BATCHES)
    ours, peer = Ours(case, params, device), None
    memory = ours.peak_mem_mib()  # before another engine allocates on the device
    sides: dict[str, tuple[Callable[[list[Any]], None], list[Any]]] = {"ours": (ours.steps, batches)}
    if case.leaves_out:
        everything = Ours(case, params, device, **EVERYTHING)
        _require_equal(case, "our steps", ours.mean_loss(batches[0]), everything.mean_loss(batches[0]))
        everything.steps(batches[:4])
        sides["everything"] = everything.steps, batches
    loss = ours.mean_loss(batches[0])
    ours.steps(batches[:4])  # kernels are loaded, algorithms chosen, the graph recorded and replayed
    if not skip_torch:
        try:
            peer = _fastest_peer(case, params, device, batches, loss, compiled=not rehearsal)
        except torch.cuda.OutOfMemoryError as error:
            row["status"] = f"PyTorch does not fit beside ours: {first_line(error)}"
            row["notes"] = ["ours was measured alone"]
    if peer:
        sides["torch"] = peer.steps, [peer.pin(*batch) for batch in batches]

    least, most, seconds, rounds = (2, 4, 0.0, 4) if rehearsal else (2, 400, 0.5, 9)
    slowest = max(_seconds(*side, least) for side in sides.values())
    n = max(least, min(most, round(seconds / slowest)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:  # whoever comes second finds the card warmer
            times[name].append(_seconds(*sides[name], n))

    row["steps_per_round"] = n
    row["ours"] = _figures(case, times["ours"]) | {"peak_mem_mib": memory, "loss": ours.result.loss}
    if case.leaves_out:
        row["everything"] = _figures(case, times["everything"]) | {"loss": everything.result.loss}
        row["saved"] = _ratio(times["ours"], times["everything"])
    if peer:
        row["torch"] = _figures(case, times["torch"]) | {
            "peak_mem_mib": peer.peak_mem_mib,
            "loss": peer.loss(),
            "variant": peer.variant,
        }
        row["notes"] = peer.notes
        row["ratio"] = _ratio(times["ours"], times["torch"])


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    return spread([other / own for own, other in zip(ours, theirs, strict=True)])


def _require_equal(case: Case, name: str, loss: float, other: float) -> None:
    """Raise EngineError unless two sides have the same loss, to rounding, before anything was updated."""
    terms = max(case.model.n_hidden, case.model.vocab_size)
    allowed = (case.model.n_layer + 1) * tolerance(terms=terms, store=case.precision.name, roundings=4)
    check = compare(f"losses of {name}", np.array(loss), np.array(other), allowed)
    if not check.passed:
        raise EngineError(str(check))


def _fastest_peer(
    case: Case,
    params: Params,
    device: Device,
    batches: list[tuple[np.ndarray, np.ndarray]],
    loss: float,
    *,
    compiled: bool,
) -> Peer:
    """Return PyTorch's side in the fastest of its variants, measured once each; `loss` is ours, of the first batch."""
    where = torch.device("cuda" if device.name == "cuda" else "cpu")
    best, best_ms, notes = None, math.inf, list[str]()
    for masked_weights in (True, False) if case.banded else (False,):
        peer = Peer(case, params, OPTIM, where, first=batches[0], compiled=compiled, masked_weights=masked_weights)
        _require_equal(case, "ours and PyTorch's", loss, peer.first_loss)
        pinned = [peer.pin(*batch) for batch in batches]

        def step_ms(peer: Peer = peer, pinned: list[Any] = pinned) -> float:
            return 1000 * statistics.median(_seconds(peer.steps, pinned, 4) for _ in range(3))

        ms = step_ms()
        notes += peer.notes
        if where.type == "cuda":
            plain = peer.variant
            if peer.record_graph():
                replayed = step_ms()
                notes.append(f"{plain} {ms:.3f} ms, as a CUDA graph {replayed:.3f} ms")
                if replayed > ms:
                    peer.drop_graph()
                ms = min(ms, replayed)
            elif peer.notes:
                notes.append(peer.notes[-1])
        if ms < best_ms:
            best, best_ms = peer, ms
    assert best is not None
    best.notes = list(dict.fromkeys(notes))
    return best


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
