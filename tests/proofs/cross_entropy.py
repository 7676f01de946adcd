"""Cross entropy against numpy float64."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare
from proofs.arrays import Arrays, same

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.ops.cross_entropy import CrossEntropy
from gpt2lab.schema import Precision

# rows, V, Vp: narrower than a warp; odd; padded; a row shared by 2, 4 and 16 warps
CASES = [(1, 5, 7), (5, 1, 8), (33, 97, 128), (17, 31, 31), (3, 2500, 2560), (5, 4100, 4224), (2, 33000, 33024)]


def check(device: Device, precision: Precision) -> Iterator[Check]:
    for rows, V, Vp in CASES:
        arrays = Arrays(device, precision)
        case = f"cross_entropy {arrays.store} rows={rows} V={V} Vp={Vp}"
        op = CrossEntropy(device, arrays.numerics, vocab_size=V, padded_vocab_size=Vp)
        start = 4 * arrays.normal(rows, Vp)
        start[0] += 300  # exp would overflow without subtracting the largest
        start[-1, : V // 2 + 1] = 20  # equal largest logits: the first one counts
        start[:, V:] = [np.nan, np.inf, 1e30][rows % 3]
        host_targets = arrays.rng.integers(0, V, rows).astype(np.int32)
        host_targets[1::2] = start[1::2, :V].argmax(axis=1)
        times = np.zeros((rows, V))
        times[np.arange(rows), host_targets] = 1
        yield from _check(case, arrays, op, start, times, {"targets": arrays.int(host_targets)})

        times = _times(arrays, start[:, :V])
        row, targets = np.nonzero(times)
        begins = np.searchsorted(row, np.arange(rows + 1))
        pairs = {"pair_begins": begins, "targets": targets, "counts": times[row, targets]}
        pairs = {name: arrays.int(values) for name, values in pairs.items()}
        yield from _check(f"{case} pairs", arrays, op, start, times, pairs)


def _times(arrays: Arrays, logits: np.ndarray) -> np.ndarray:
    """Return how often each target of each row is counted: all of them in row 0, none in row 2, else some."""
    rows, V = logits.shape
    rng = arrays.rng
    times = rng.integers(1, 60, (rows, V)) * (rng.random((rows, V)) < np.minimum(rng.random((rows, 1)), 40 / V))
    times[0] = rng.integers(1, 60, V)
    times[2:3] = 0
    times[1::2, :] += 7 * (np.arange(V) == logits[1::2].argmax(axis=1)[:, None])
    return times.astype(np.float64)


def _check(
    case: str, arrays: Arrays, op: CrossEntropy, start: np.ndarray, times: np.ndarray, targets: dict[str, Array]
) -> Iterator[Check]:
    """Compare with what follows from `times` (rows, V): how often each target is counted in each row."""
    (rows, Vp), V = start.shape, times.shape[1]
    logits, logits64 = arrays.act(start)
    x = logits64[:, :V]
    every = np.arange(rows)
    largest = x.max(axis=1, keepdims=True)
    exps = np.exp(x - largest)
    losses64 = (times * (np.log(exps.sum(axis=1, keepdims=True)) + largest - x)).sum(axis=1)
    terms = V + int((times > 0).sum(axis=1).max())

    losses, correct = arrays.empty_float(rows), arrays.empty((rows,), np.dtype("i4"))
    op.forward(losses=losses, correct=correct, logits=logits, **targets)
    yield compare(f"{case}: losses", arrays.values(losses), losses64, arrays.float_tolerance(terms))
    expected = times[every, x.argmax(axis=1)].astype(np.int32)
    yield same(f"{case}: correct", arrays.device.download(correct), expected)

    scale = 1 / 37
    gradient64 = np.zeros((rows, Vp))
    gradient64[:, :V] = times.sum(axis=1, keepdims=True) * exps / exps.sum(axis=1, keepdims=True) - times
    found = []
    for _ in range(2):
        (gradient, _), losses = arrays.act(start), arrays.empty_float(rows)
        op.backward(losses=losses, logits=gradient, **targets, scale=scale)
        found.append((arrays.values(gradient), arrays.values(losses)))
    yield compare(f"{case}: gradient", found[0][0], gradient64 * scale, arrays.act_tolerance(V))
    padded = found[0][0][:, V:]
    yield same(f"{case}: gradient of padded columns", padded, np.zeros((rows, Vp - V)))
    idle = found[0][0][times.sum(axis=1) == 0, :V]
    yield same(f"{case}: gradient of rows that nothing is counted in", np.abs(idle), np.zeros_like(idle))
    yield compare(f"{case}: losses beside the gradient", found[0][1], losses64, arrays.float_tolerance(terms))
    yield same(f"{case}: gradient twice", found[1][0], found[0][0])

    stats, stats64 = arrays.float(np.array([0.5, 7.0, 8.0]))
    op.add_losses(stats=stats, losses=losses, scale=scale)
    stats64[0] += scale * losses64.sum()
    yield compare(f"{case}: loss", arrays.values(stats), stats64, arrays.float_tolerance(terms + rows))
    yield same(f"{case}: other statistics", arrays.values(stats)[1:], stats64[1:])
