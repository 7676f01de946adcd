"""Complete training steps, ours and PyTorch's, in turns within one process."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from bench_equal import OPTIM, Trained, differences, longest_sum, strong_params, two_updates
from proof import tolerance

from gpt2lab.engine import EngineSpec
from gpt2lab.engine.cuda.device import Device, open_device
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.errors import EngineError
from gpt2lab.model.flops import dense_flop_per_token
from gpt2lab.model.init import init_params
from gpt2lab.model.params import Params
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName
from gpu.cases import Case, batches_of
from gpu.clock import Budget, spread
from gpu.memory import release
from gpu.peer import Peer
from gpu.report import first_line

BATCHES = 8  # in turns: each step uploads its own, but the whole training split is the same one and stays on the card

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
        self._device, self.engine = device, CudaEngine(spec, params, device)

    def steps(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Do one update per batch, and wait for the device at the end."""
        for inputs, targets in batches:
            self.engine.train_step(inputs, targets, learning_rate=OPTIM.learning_rate)
        self.result = self.engine.result()

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
    ours.steps(batches[:4])  # kernels are loaded, algorithms chosen, the graph recorded and replayed
    equal = Equal(case, ours.engine, batches[0])
    if case.leaves_out:
        everything = Ours(case, params, device, **EVERYTHING)
        everything.steps(batches[:4])
        equal.require("the same with everything computed", everything.engine)
        sides["everything"] = everything.steps, batches
    if not skip_torch:
        try:
            peer = _fastest_peer(case, params, device, batches, equal, compiled=not rehearsal)
        except torch.cuda.OutOfMemoryError as error:
            row["status"] = f"PyTorch does not fit beside ours: {first_line(error)}"
            row["notes"] = ["ours was measured alone"]
    if peer:
        sides["torch"] = peer.steps, peer.pin_all(batches)

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
            "loss": peer.result().loss,
            "variant": peer.variant,
        }
        row["notes"] = peer.notes
        row["ratio"] = _ratio(times["ours"], times["torch"])


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    return spread([other / own for own, other in zip(ours, theirs, strict=True)])


class Equal:
    """What our engine holds after two updates, which the other sides must hold too."""

    def __init__(self, case: Case, ours: Trained, batch: tuple[np.ndarray, np.ndarray]) -> None:
        model, terms = case.model, longest_sum(case.model, case.tokens)
        self._allowed = tolerance(terms=terms, store=case.precision.name, roundings=4 * (model.n_layer + 1))
        self._case, self._batch = case, batch
        self._first, self._start = init_params(case.model, seed=0), strong_params(case.model)
        self._ours = self._updated(ours)

    def require(self, name: str, side: Trained) -> None:
        """Raise EngineError unless a side does the same updates, to rounding, with the functions that are timed."""
        theirs, V = self._updated(side), self._case.model.vocab_size
        if found := list(differences(self._start, self._ours, theirs, vocab_size=V, allowed=self._allowed)):
            raise EngineError(f"ours and {name} differ: {'; '.join(found)}")

    def _updated(self, side: Trained) -> Params:
        found = two_updates(side, self._start, self._batch)
        side.restore(self._first, {}, 0)
        return found


def _fastest_peer(
    case: Case,
    params: Params,
    device: Device,
    batches: list[tuple[np.ndarray, np.ndarray]],
    equal: Equal,
    *,
    compiled: bool,
) -> Peer:
    """Return PyTorch's side in the fastest of its variants, measured once each, all of which do what ours does."""
    where = torch.device("cuda" if device.name == "cuda" else "cpu")
    best, best_ms, notes = None, math.inf, list[str]()
    for masked_weights in (True, False) if case.banded else (False,):
        peer = Peer(case, params, OPTIM, where, compiled=compiled, masked_weights=masked_weights)
        pinned = peer.pin_all(batches)

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
        equal.require(f"PyTorch, {peer.variant},", peer)
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
