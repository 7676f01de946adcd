"""Attention against numpy in float64, for the host device and for a card."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from proof import Check, compare, tolerance

from gpt2lab.engine.device import Array, Device
from gpt2lab.engine.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.engine.ops.attention import LONGEST_SHORT, Attention
from gpt2lab.schema import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape; `longest_short` = 0 sends it to the kernels for long rows whatever its length."""

    B: int
    T: int
    NH: int
    HS: int
    longest_short: int = LONGEST_SHORT
    large_scores: bool = False  # |scores| in the thousands, where exp overflows unless the maximum goes first

    def __str__(self) -> str:
        kernels = "short" if self.longest_short >= self.T else "long"
        return f"{kernels} B{self.B} T{self.T} NH{self.NH} HS{self.HS}" + " large scores" * self.large_scores


CASES = (
    Case(B=3, T=1, NH=2, HS=20),
    Case(B=1, T=5, NH=3, HS=7),
    Case(B=5, T=8, NH=4, HS=32),  # more heads than one block takes
    Case(B=1, T=31, NH=1, HS=64),
    Case(B=2, T=32, NH=1, HS=80),
    Case(B=2, T=1, NH=1, HS=20, longest_short=0),
    Case(B=3, T=33, NH=1, HS=20),
    Case(B=1, T=65, NH=2, HS=64),
    Case(B=1, T=100, NH=3, HS=7),
    Case(B=2, T=33, NH=1, HS=80),
    Case(B=1, T=34, NH=1, HS=128),
    Case(B=1, T=19, NH=2, HS=256, longest_short=0),
    Case(B=2, T=40, NH=3, HS=1),
    Case(B=2, T=31, NH=1, HS=64, large_scores=True),
    Case(B=1, T=65, NH=1, HS=64, large_scores=True),
)
BOTH = (Case(B=2, T=8, NH=2, HS=20), Case(B=1, T=32, NH=2, HS=64))  # short and long must agree
CAUSAL = (Case(B=2, T=8, NH=2, HS=20), Case(B=1, T=70, NH=1, HS=64))


def split_heads(wide: np.ndarray, case: Case) -> np.ndarray:
    """Return (B*T, n*C) as (n, B, NH, T, HS)."""
    return wide.reshape(case.B, case.T, -1, case.NH, case.HS).transpose(2, 0, 3, 1, 4)


def join_heads(parts: np.ndarray, case: Case) -> np.ndarray:
    """Return (n, B, NH, T, HS) as (B*T, n*C)."""
    return parts.transpose(1, 3, 0, 2, 4).reshape(case.B * case.T, -1)


def reference_forward(qkv: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return out (B*T, C) and lse (B, NH, T), from qkv (B*T, 3C), in float64."""
    q, k, v = split_heads(qkv.astype(np.float64), case)
    scores = np.where(np.tri(case.T, dtype=bool), q @ k.swapaxes(-1, -2) / np.sqrt(case.HS), -np.inf)
    highest = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - highest)  # not exp(scores - lse): a large lse would round p
    total = p.sum(axis=-1, keepdims=True)
    return join_heads((p @ v / total)[None], case), (highest + np.log(total))[..., 0]


def reference_backward(
    dout: np.ndarray, out: np.ndarray, lse: np.ndarray, qkv: np.ndarray, case: Case
) -> dict[str, np.ndarray]:
    """Return dq, dk and dv, (B*T, C) each, in float64, from out and lse as they were stored."""
    q, k, v = split_heads(qkv.astype(np.float64), case)
    (o,), (do,) = (split_heads(x.astype(np.float64), case) for x in (out, dout))
    scores = np.where(np.tri(case.T, dtype=bool), q @ k.swapaxes(-1, -2) / np.sqrt(case.HS), -np.inf)
    p = np.exp(scores - lse[..., None])
    ds = p * (do @ v.swapaxes(-1, -2) - (do * o).sum(axis=-1, keepdims=True)) / np.sqrt(case.HS)
    parts = {"dq": ds @ k, "dk": ds.swapaxes(-1, -2) @ q, "dv": p.swapaxes(-1, -2) @ do}
    return {name: join_heads(part[None], case) for name, part in parts.items()}


class Bench:
    """The op for one case, between arrays of float64 on this side and stored arrays on the device."""

    def __init__(self, device: Device, precision: Precision, case: Case) -> None:
        self.case, self.rows, self.C = case, case.B * case.T, case.NH * case.HS
        self._device, self._numerics = device, Numerics.of(device, precision)
        self._op = Attention(
            device, self._numerics, n_head=case.NH, head_size=case.HS, longest_short=case.longest_short
        )

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Return values as a stored activation holds them."""
        if self._numerics.act_dtype == np.uint16:
            return from_bfloat16(to_bfloat16(values))
        return values.astype(self._numerics.act_dtype)

    def forward(self, qkv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return out (B*T, C) and lse (B, NH, T)."""
        out, lse = self._act(np.full((self.rows, self.C), np.nan)), self._float()
        self._op.forward(out=out, lse=lse, qkv=self._act(qkv), B=self.case.B, T=self.case.T)
        return self._values(out), self._device.download(lse)

    def backward(self, dout: np.ndarray, out: np.ndarray, lse: np.ndarray, qkv: np.ndarray) -> np.ndarray:
        """Return dqkv (B*T, 3C)."""
        dqkv = self._act(np.full((self.rows, 3 * self.C), np.nan))
        arrays = {"dout": self._act(dout), "out": self._act(out), "qkv": self._act(qkv)}
        self._op.backward(dqkv=dqkv, **arrays, lse=self._float(lse), delta=self._float(), B=self.case.B, T=self.case.T)
        return self._values(dqkv)

    def inputs(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return qkv (B*T, 3C) and dout (B*T, C), random."""
        rng = np.random.default_rng(seed)
        qkv = rng.standard_normal((self.rows, 3 * self.C))
        if self.case.large_scores:
            # Small whole numbers times 30, so that scores are exact: else their own rounding would be amplified.
            qkv[:, : 2 * self.C] = 30.0 * rng.integers(-2, 3, (self.rows, 2 * self.C))
        return self.stored(qkv), self.stored(rng.standard_normal((self.rows, self.C)))

    def allowed(self, terms: int, *, stored: bool = True, values: int = 1) -> float:
        """Return the tolerance of a value that sums `terms` products, or of the difference of several such values."""
        compute = "fp64" if self._numerics.float_dtype == np.float64 else "fp32"
        store = "bf16" if stored and self._numerics.act_dtype == np.uint16 else compute
        return tolerance(terms=values**2 * terms, compute=compute, store=store, roundings=values)

    def _act(self, values: np.ndarray) -> Array:
        return self._upload(to_bfloat16(values) if self._numerics.act_dtype == np.uint16 else self.stored(values))

    def _float(self, values: np.ndarray | None = None) -> Array:
        shape = (self.case.B, self.case.NH, self.case.T)
        return self._upload((np.full(shape, np.nan) if values is None else values).astype(self._numerics.float_dtype))

    def _upload(self, values: np.ndarray) -> Array:
        array = self._device.empty(values.nbytes).view(values.dtype).reshape(values.shape)
        self._device.upload(array, values)
        return array

    def _values(self, array: Array) -> np.ndarray:
        found = self._device.download(array)
        return from_bfloat16(found) if found.dtype == np.uint16 else found


def check(device: Device, precision: Precision) -> Iterator[Check]:
    """Yield every comparison of the op on this device."""
    for case in CASES:
        yield from check_case(Bench(device, precision, case))
    for case in BOTH:
        yield from check_agreement(device, precision, case)
    for case in CAUSAL:
        yield from check_causality(Bench(device, precision, case))


def check_case(bench: Bench) -> Iterator[Check]:
    """Compare forward, and backward from the reference's out and lse, with the reference."""
    case, (qkv, dout) = bench.case, bench.inputs()
    out, lse = reference_forward(qkv, case)
    found_out, found_lse = bench.forward(qkv)
    yield compare(f"{case} out", found_out, out, bench.allowed(case.HS + case.T))
    yield compare(f"{case} lse", found_lse, lse, bench.allowed(case.HS + case.T, stored=False))

    out, lse = bench.stored(out), lse.astype(found_lse.dtype)
    expected = reference_backward(dout, out, lse, qkv, case)
    dqkv = bench.backward(dout, out, lse, qkv)
    found = dict(zip(expected, np.split(dqkv, 3, axis=1), strict=True))
    if case.T == 1:  # dq and dk are zero but for rounding, which has no scale but that of dv
        found, expected = {"dqkv": dqkv}, {"dqkv": np.concatenate(list(expected.values()), axis=1)}
    for name in expected:
        yield compare(f"{case} {name}", found[name], expected[name], bench.allowed(2 * case.HS + case.T))

    yield same_bits(f"{case} forward twice", bench.forward(qkv)[0], found_out)
    yield same_bits(f"{case} backward twice", bench.backward(dout, out, lse, qkv), dqkv)


def check_agreement(device: Device, precision: Precision, case: Case) -> Iterator[Check]:
    """Compare the kernels for short rows with those for long ones, on rows that both can take."""
    benches = [Bench(device, precision, replace(case, longest_short=longest)) for longest in (LONGEST_SHORT, 0)]
    qkv, dout = benches[0].inputs()
    short, long = (bench.forward(qkv) for bench in benches)
    terms = 2 * case.HS + case.T
    for name, found, expected, stored in zip(("out", "lse"), short, long, (True, False), strict=True):
        allowed = benches[0].allowed(terms, stored=stored, values=2)
        yield compare(f"{case} and long {name}", found, expected.astype(np.float64), allowed)
    short_dqkv, long_dqkv = (bench.backward(dout, *long, qkv).astype(np.float64) for bench in benches)
    yield compare(f"{case} and long dqkv", short_dqkv, long_dqkv, benches[0].allowed(terms, values=2))


def check_causality(bench: Bench) -> Iterator[Check]:
    """Another token must not change a bit of what comes before it."""
    case, (qkv, _) = bench.case, bench.inputs()
    out, lse = bench.forward(qkv)
    for changed in (1, case.T // 2, case.T - 1):
        other = qkv.reshape(case.B, case.T, -1).copy()
        other[:, changed:] = bench.stored(-3.0 * other[:, changed:])
        found_out, found_lse = bench.forward(other.reshape(qkv.shape))
        before = [x.reshape(case.B, case.T, -1)[:, :changed] for x in (found_out, out)]
        yield same_bits(f"{case} out before {changed}", *before)
        yield same_bits(f"{case} lse before {changed}", found_lse[..., :changed], lse[..., :changed])


def same_bits(name: str, found: np.ndarray, expected: np.ndarray) -> Check:
    """Return how many values differ; none may."""
    return Check(name=name, error=float(np.count_nonzero(found != expected)), tolerance=0.0)
