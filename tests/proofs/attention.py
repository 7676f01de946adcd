"""Attention against numpy in float64, for the host device and for a card."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from proof import Check, compare, compare_sums, tolerance

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.engine.cuda.ops.attention import LONGEST_SHORT, Attention
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
    positions: tuple[int, ...] | None = None  # of the n queries of each row; None = all T, by the plain op

    @property
    def at(self) -> np.ndarray:
        """Positions of the queries (n,)."""
        return np.arange(self.T) if self.positions is None else np.array(self.positions, dtype=np.int32)

    @property
    def kernels(self) -> str:
        return "short" if self.longest_short >= self.T else "long"

    def __str__(self) -> str:
        where = "" if self.positions is None else f" {len(self.at)} queries {self.at[0]}..{self.at[-1]}"
        shape = f"B{self.B} T{self.T} NH{self.NH} HS{self.HS}"
        return f"{self.kernels} {shape}{where}" + " large scores" * self.large_scores


CASES = (
    Case(B=3, T=1, NH=2, HS=20),
    Case(B=1, T=5, NH=3, HS=7),
    Case(B=5, T=8, NH=4, HS=32),  # more heads than one block takes
    Case(B=1, T=31, NH=1, HS=64),
    Case(B=2, T=32, NH=1, HS=64),
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
    Case(B=3, T=1, NH=2, HS=7, positions=(0,)),
    Case(B=2, T=5, NH=2, HS=32, positions=(0,)),  # keys that no query sees
    Case(B=9, T=5, NH=2, HS=32, positions=(4,)),
    Case(B=2, T=32, NH=3, HS=7, positions=tuple(range(1, 32, 2))),
    Case(B=1, T=1, NH=2, HS=20, positions=(0,), longest_short=0),
    Case(B=3, T=5, NH=1, HS=20, positions=(1, 3), longest_short=0),
    Case(B=2, T=33, NH=2, HS=20, positions=tuple(range(0, 33, 2))),
    Case(B=2, T=40, NH=1, HS=256, positions=(3, 4, 11, 12, 13, 14, 15, 16, 17, 38)),  # several tiles of each kind
    Case(B=1, T=33, NH=1, HS=130, positions=tuple(range(33))),
    Case(B=2, T=70, NH=1, HS=64, positions=(0, 1, 66)),
    Case(B=1, T=70, NH=3, HS=1, positions=tuple(range(1, 70))),
    Case(B=1, T=65, NH=1, HS=64, positions=tuple(range(0, 65, 4)), large_scores=True),
)
BOTH = (Case(B=2, T=8, NH=2, HS=20), Case(B=1, T=32, NH=2, HS=64))  # short and long must agree
CAUSAL = (Case(B=2, T=8, NH=2, HS=20), Case(B=1, T=70, NH=1, HS=64))


def split_heads(wide: np.ndarray, case: Case) -> np.ndarray:
    """Return (B*T, N*C) as (N, B, NH, T, HS)."""
    return wide.reshape(case.B, len(wide) // case.B, -1, case.NH, case.HS).transpose(2, 0, 3, 1, 4)


def join_heads(parts: np.ndarray, case: Case) -> np.ndarray:
    """Return (N, B, NH, T, HS) as (B*T, N*C)."""
    return parts.transpose(1, 3, 0, 2, 4).reshape(case.B * parts.shape[3], -1)


def split_parts(qkv: np.ndarray, case: Case) -> list[np.ndarray]:
    """Return q (B*n, C), k and v (B*T, C) of qkv (B*T, 3C)."""
    q, k, v = np.split(qkv, 3, axis=1)
    return [q.reshape(case.B, case.T, -1)[:, case.at].reshape(case.B * len(case.at), -1), k, v]


def masked_scores(q: np.ndarray, k: np.ndarray, case: Case) -> np.ndarray:
    """Return the scores (B, NH, n, T) of heads, -inf where a query does not see the key."""
    return np.where(case.at[:, None] >= np.arange(case.T), q @ k.swapaxes(-1, -2) / np.sqrt(case.HS), -np.inf)


def reference_forward(qkv: np.ndarray, case: Case) -> tuple[np.ndarray, ...]:
    """Return out (B*n, C) and lse (B, NH, n), each with its sums of |terms|, from qkv (B*T, 3C), in float64."""
    q, k, v = (split_heads(part, case)[0] for part in split_parts(qkv.astype(np.float64), case))
    scores = masked_scores(q, k, case)
    highest = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - highest)  # not exp(scores - lse): a large lse would round p
    total = p.sum(axis=-1, keepdims=True)
    products = masked_scores(np.abs(q), np.abs(k), case).max(axis=-1, keepdims=True)
    out, out_sums = (join_heads((p @ x / total)[None], case) for x in (v, np.abs(v)))
    lse, lse_sums = ((largest + np.log(total))[..., 0] for largest in (highest, products))
    return out, out_sums, lse, lse_sums


def reference_backward(
    dout: np.ndarray, out: np.ndarray, lse: np.ndarray, qkv: np.ndarray, case: Case
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return dq (B*n, C), dk and dv (B*T, C), in float64, from stored out and lse; and their sums of |terms|."""
    q, k, v = (split_heads(part, case)[0] for part in split_parts(qkv.astype(np.float64), case))
    (o,), (do,) = (split_heads(x.astype(np.float64), case) for x in (out, dout))
    p = np.exp(masked_scores(q, k, case) - lse[..., None])

    def gradients(
        do: np.ndarray, minus_o: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
    ) -> dict[str, np.ndarray]:
        ds = p * (do @ v.swapaxes(-1, -2) + (do * minus_o).sum(axis=-1, keepdims=True)) / np.sqrt(case.HS)
        parts = {"dq": ds @ k, "dk": ds.swapaxes(-1, -2) @ q, "dv": p.swapaxes(-1, -2) @ do}
        return {name: join_heads(part[None], case) for name, part in parts.items()}

    return gradients(do, -o, q, k, v), gradients(*(np.abs(x) for x in (do, o, q, k, v)))


class Bench:
    """The op for one case, between arrays of float64 on this side and stored arrays on the device."""

    def __init__(self, device: Device, precision: Precision, case: Case) -> None:
        self.case, self.C = case, case.NH * case.HS
        self.rows, self.queries = case.B * case.T, case.B * len(case.at)
        self._device, self._numerics = device, Numerics.of(device, precision)
        self.compute = "fp64" if device.float_dtype == np.float64 else "fp32"
        self.store = "bf16" if self._numerics.act_dtype == np.uint16 else self.compute
        self._op = Attention(
            device, self._numerics, n_head=case.NH, head_size=case.HS, longest_short=case.longest_short
        )

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Return values as a stored activation holds them."""
        if self._numerics.act_dtype == np.uint16:
            return from_bfloat16(to_bfloat16(values))
        return values.astype(self._numerics.act_dtype)

    def forward(self, qkv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return out (B*n, C) and lse (B, NH, n)."""
        out, lse = self._act(np.full((self.queries, self.C), np.nan)), self._float()
        self._op.forward(out=out, lse=lse, **self._inputs(qkv), B=self.case.B, T=self.case.T)
        return self._values(out), self._device.download(lse)

    def backward(self, dout: np.ndarray, out: np.ndarray, lse: np.ndarray, qkv: np.ndarray) -> list[np.ndarray]:
        """Return dq (B*n, C), dk and dv (B*T, C)."""
        dqkv = self._act(np.full((self.rows, 3 * self.C), np.nan))
        arrays = {"dqkv": dqkv, "dout": self._act(dout), "out": self._act(out), "lse": self._float(lse)}
        arrays |= {"delta": self._float()} | self._inputs(qkv)
        if self.case.positions is None:
            self._op.backward(**arrays, B=self.case.B, T=self.case.T)
            return np.split(self._values(dqkv), 3, axis=1)
        dq = self._act(np.full((self.queries, self.C), np.nan))
        self._op.backward(dq=dq, **arrays, B=self.case.B, T=self.case.T)
        untouched, dk, dv = np.split(self._values(dqkv), 3, axis=1)
        assert np.isnan(untouched).all(), "with positions the first C columns of dqkv are left alone"
        return [self._values(dq), dk, dv]

    def _inputs(self, qkv: np.ndarray) -> dict[str, Array]:
        if self.case.positions is None:
            return {"qkv": self._act(qkv)}
        keys_and_values = qkv.copy()
        keys_and_values[:, : self.C] = np.nan  # not to be read
        q = self._act(split_parts(qkv, self.case)[0])
        return {"q": q, "qkv": self._act(keys_and_values), "positions": self._upload(self.case.at)}

    def inputs(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return qkv (B*T, 3C) and dout (B*n, C), random."""
        rng = np.random.default_rng(seed)
        qkv = rng.standard_normal((self.rows, 3 * self.C))
        if self.case.large_scores:
            # Small whole numbers times 30, so that scores of heads of 64 are exact: else their own rounding would be
            # amplified.
            qkv[:, : 2 * self.C] = 30.0 * rng.integers(-2, 3, (self.rows, 2 * self.C))
        return self.stored(qkv), self.stored(rng.standard_normal((self.queries, self.C)))

    def allowed(self, terms: int, *, stored: bool = True, values: int = 1) -> float:
        """Return the tolerance of a value that sums `terms` products, or of the difference of several such values."""
        store = self.store if stored else self.compute
        return tolerance(terms=values**2 * terms, compute=self.compute, store=store, roundings=values)

    def _act(self, values: np.ndarray) -> Array:
        return self._upload(to_bfloat16(values) if self._numerics.act_dtype == np.uint16 else self.stored(values))

    def _float(self, values: np.ndarray | None = None) -> Array:
        shape = (self.case.B, self.case.NH, len(self.case.at))
        return self._upload((np.full(shape, np.nan) if values is None else values).astype(self._numerics.float_dtype))

    def _upload(self, values: np.ndarray) -> Array:
        array = self._device.empty(values.nbytes).view(values.dtype).reshape(values.shape)
        self._device.upload(array, values)
        return array

    def _values(self, array: Array) -> np.ndarray:
        found = self._device.download(array)
        return from_bfloat16(found) if found.dtype == np.uint16 else found


def check(device: Device, precision: Precision, cases: Sequence[Case] = CASES) -> Iterator[Check]:
    """Yield every comparison of the op on this device."""
    for case in cases:
        yield from check_case(Bench(device, precision, case))
    for case in BOTH:
        yield from check_agreement(device, precision, case)
    for case in CAUSAL:
        yield from check_causality(Bench(device, precision, case))


def check_case(bench: Bench) -> Iterator[Check]:
    """Compare forward, and backward from the reference's out and lse, with the reference."""
    case, (qkv, dout) = bench.case, bench.inputs()
    out, out_sums, lse, lse_sums = reference_forward(qkv, case)
    found_out, found_lse = bench.forward(qkv)
    terms, compute, store = case.HS + case.T, bench.compute, bench.store
    yield compare_sums(f"{case} out", found_out, out, out_sums, terms=terms, compute=compute, store=store)
    yield compare_sums(f"{case} lse", found_lse, lse, lse_sums, terms=terms, compute=compute, store=compute)

    out, lse = bench.stored(out), lse.astype(found_lse.dtype)
    expected, sums = reference_backward(dout, out, lse, qkv, case)
    parts = bench.backward(dout, out, lse, qkv)
    terms = 2 * case.HS + case.T
    for (name, x), found in zip(expected.items(), parts, strict=True):
        yield compare_sums(f"{case} {name}", found, x, sums[name], terms=terms, compute=compute, store=store)

    yield same_bits(f"{case} forward twice", bench.forward(qkv)[0], found_out)
    again = bench.backward(dout, out, lse, qkv)
    yield same_bits(f"{case} backward twice", np.concatenate(again), np.concatenate(parts))


def check_agreement(device: Device, precision: Precision, case: Case) -> Iterator[Check]:
    """Compare the kernels for short rows with those for long ones, on rows that both can take."""
    benches = [Bench(device, precision, replace(case, longest_short=longest)) for longest in (LONGEST_SHORT, 0)]
    qkv, dout = benches[0].inputs()
    short, long = (bench.forward(qkv) for bench in benches)
    terms = 2 * case.HS + case.T
    for name, found, expected, stored in zip(("out", "lse"), short, long, (True, False), strict=True):
        allowed = benches[0].allowed(terms, stored=stored, values=2)
        yield compare(f"{case} and long {name}", found, expected.astype(np.float64), allowed)
    short_dqkv, long_dqkv = (np.hstack(bench.backward(dout, *long, qkv)).astype(np.float64) for bench in benches)
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
