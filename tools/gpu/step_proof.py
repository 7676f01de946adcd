"""The whole step on a device: against the reference model in float64, replayed against launched, and run twice."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from proof import Check, compare, tolerance
from tiny_models import random_params

from gpt2lab.engine import EngineSpec
from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.model.params import GPTConfig, Params
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName, OptimConfig, Precision
from gpu.proof import summary
from tests.reference_gpt import GPT

# Rows that take the kernels of attention for long rows and for short ones; heads of 20; V = 97, Vp = 128.
LONG = GPTConfig(n_layer=2, n_head=2, n_embd=40, max_seq_len=33, vocab_size=97)
SHORT = replace(LONG, max_seq_len=8)
BANDS = {"fc1_band": 24, "fc2_band": 9}
VARIANTS: dict[str, tuple[GPTConfig, tuple[int, ...] | None]] = {
    "dense": (LONG, None),
    "banded": (replace(LONG, **BANDS), None),
    "masked": (LONG, (4, 32)),
    "short rows, banded, masked": (replace(SHORT, **BANDS), (4,)),
}


def prove_steps(device: Device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what was found for each variant and precision; `quick` leaves most of them out."""
    variants = {name: VARIANTS[name] for name in (["short rows, banded, masked"] if quick else VARIANTS)}
    for name, (model, counted) in variants.items():
        for precision in [Precision.fp32, Precision.bf16] if quick else Precision:
            step = _Step(device, model, counted, precision, updates=6 if quick else 20)
            yield summary(f"step, {name}", precision.name, step.check)


class _Step:
    def __init__(
        self,
        device: Device,
        model: GPTConfig,
        counted: tuple[int, ...] | None,
        precision: Precision,
        *,
        updates: int = 0,
    ) -> None:
        self.device, self.model, self.counted, self.precision = device, model, counted, precision
        self.updates = updates
        self.params = random_params(model)
        self.reference_device = "cuda" if device.name == "cuda" and torch.cuda.is_available() else "cpu"

    def check(self) -> Iterator[Check]:
        engine = self.engine()
        yield from self.check_gradients(engine)
        yield from self.check_evaluation(engine)
        yield from self.check_sampling(engine)
        yield from self.check_bits()

    def engine(self, *, graph: bool = False, micro_batch_size: int | None = None) -> CudaEngine:
        kind = EngineConfig(
            name=EngineName.cuda,
            device=DeviceChoice[self.device.name],
            precision=self.precision,
            graph=graph and self.device.name == "cuda",  # only a card has graphs
        )
        spec = EngineSpec(
            model=self.model,
            optim=OptimConfig(weight_decay=0.1, grad_clip=1.0),
            engine=kind,
            counted=self.counted,
            batch_size=3,
            seq_len=self.model.max_seq_len,
            micro_batch_size=micro_batch_size,
        )
        return CudaEngine(spec, self.params, self.device)

    def batch(self, seed: int, B: int = 3) -> tuple[np.ndarray, np.ndarray]:
        size = (2, B, self.model.max_seq_len)
        inputs, targets = np.random.default_rng(seed).integers(0, self.model.vocab_size, size, dtype=np.int32)
        return inputs, targets

    def allowed(self, *, backward: bool) -> float:
        """Forward and backward cross every layer; at each a value meets four roundings: norm, weight, product, sum.

        The longest sum is over all rows, the hidden units or the vocabulary; it is kept in float32 in every precision.
        """
        depth = (2 if backward else 1) * self.model.n_layer + 1
        terms = max(3 * self.model.max_seq_len, self.model.n_hidden, self.model.vocab_size)
        return depth * tolerance(terms=terms, store=self.precision.name, roundings=4)

    def reference(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float, Params]:
        """Return logits at the counted positions, mean loss and gradients, all float64."""
        model = GPT(self.model, self.params, dtype=torch.float64).to(self.reference_device)
        tokens, expected = (
            torch.from_numpy(array.astype(np.int64)).to(self.reference_device) for array in (inputs, targets)
        )
        counted = None if self.counted is None else torch.tensor(self.counted, device=self.reference_device)
        with torch.no_grad():
            logits = model(tokens, counted)
        loss = model.loss(tokens, expected, counted)
        loss.backward()
        return logits.cpu().numpy(), loss.item(), model.collect(lambda p: p.grad)

    def check_gradients(self, engine: CudaEngine) -> Iterator[Check]:
        inputs, targets = self.batch(1)
        _, expected_loss, expected = self.reference(inputs, targets)
        loss, gradients = engine.loss_and_gradients(inputs, targets)
        allowed = self.allowed(backward=True)
        yield compare("loss", np.array(loss), np.array(expected_loss), allowed)
        C = self.model.n_embd
        for name, found in gradients.items():
            wanted = expected[name]
            found = found[: len(wanted)]  # not the rows of the vocabulary's padding
            if name == "qkvb":  # a softmax ignores the bias of the keys: its gradient is rounding noise
                found, wanted = (np.delete(array, np.s_[C : 2 * C], axis=1) for array in (found, wanted))
            yield compare(f"gradient of {name}", found, wanted, allowed)

    def check_evaluation(self, engine: CudaEngine) -> Iterator[Check]:
        inputs, targets = self.batch(2)
        logits, loss, _ = self.reference(inputs, targets)
        found = engine.evaluate(inputs, targets)
        allowed = self.allowed(backward=False)
        yield compare("evaluated loss", np.array(found.loss), np.array(loss), allowed)
        # How far the target is ahead of all others; where that is within rounding it may count or not.
        chosen = targets if self.counted is None else targets[:, self.counted]
        at_target = np.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
        others = logits.copy()
        np.put_along_axis(others, chosen[..., None], -np.inf, axis=-1)
        lead, doubt = at_target - others.max(axis=-1), 2 * allowed * np.abs(logits).max()
        outside = max((lead > doubt).sum() - found.n_correct, found.n_correct - (lead > -doubt).sum(), 0)
        yield Check(name="evaluated accuracy", error=float(outside), tolerance=0.0)

    def check_sampling(self, engine: CudaEngine) -> Iterator[Check]:
        tokens = self.batch(3)[0][:, :1]
        allowed = self.allowed(backward=False)
        whole = _Step(self.device, self.model, None, self.precision)  # every position counted
        for _ in range(min(4, self.model.max_seq_len - 1)):
            logits, _, _ = whole.reference(tokens, tokens)
            found = engine.logits(tokens, last_only=True)
            yield compare(f"logits after {tokens.shape[1]} tokens", found[:, 0], logits[:, -1], allowed)
            tokens = np.concatenate([tokens, found[:, 0].argmax(axis=-1)[:, None].astype(np.int32)], axis=1)
        yield compare("logits of every position", engine.logits(tokens), whole.reference(tokens, tokens)[0], allowed)

    def check_bits(self) -> Iterator[Check]:
        """Graphs, a second run and a resumed one must end with the same bits; parts of a batch too, run twice."""
        for micro in (None, 2):
            replayed = self.trained(self.engine(graph=True, micro_batch_size=micro))
            name = f"after {self.updates} updates" + (f" in passes of {micro}" if micro else "")
            again = self.trained(self.engine(graph=True, micro_batch_size=micro))
            yield _same(f"the same bits twice {name}", again, replayed)
            launched = self.trained(self.engine(graph=False, micro_batch_size=micro))
            yield _same(f"replayed and launched {name}", launched, replayed)
        first = self.engine(graph=True)
        self.trained(first, until=self.updates // 2)
        second = self.engine(graph=True)
        second.restore(first.parameters(), first.moments(), first.step)
        resumed = self.trained(second)
        yield _same(
            f"resumed and straight after {self.updates} updates", resumed, self.trained(self.engine(graph=True))
        )
        moved = all(not np.array_equal(resumed[name], values) for name, values in self.params.items())
        yield Check(name="updates change the parameters", error=float(not moved), tolerance=0.0)

    def trained(self, engine: CudaEngine, *, until: int | None = None) -> dict[str, np.ndarray]:
        """Train up to update `until` (the last) and return parameters, moments and loss; some batches are smaller."""
        while engine.step < (until or self.updates):
            B = 2 if engine.step % 5 == 4 else 3  # a graph of its own, between replays of the other
            engine.train_step(*self.batch(100 + engine.step, B), learning_rate=1e-3)
        result = engine.result()
        stats = {"result": np.array([result.loss, result.grad_norm])}
        return engine.parameters() | engine.moments() | stats


def _same(name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> Check:
    differing = [key for key in expected if found[key].tobytes() != expected[key].tobytes()]
    shown = f" ({', '.join(differing[:3])} differ)" if differing else ""
    return Check(name=name + shown, error=float(len(differing)), tolerance=0.0)
