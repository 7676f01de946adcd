"""Embeddings against numpy float64."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare
from proofs.arrays import Arrays, same

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.ops.embedding import Embedding, group_rows
from gpt2lab.schema import Precision

# B, T, C, V: one row; odd channels; several slices of channels; tokens with more rows than a group of threads takes;
# more tokens than blocks
CASES = [
    (1, 1, 7, 97),
    (3, 5, 20, 97),
    (3, 33, 48, 11),
    (1, 33, 136, 97),
    (50, 2, 20, 3),
    (9, 8, 7, 2),
    (60, 40, 9, 601),
]


def check(device: Device, precision: Precision) -> Iterator[Check]:
    for B, T, C, V in CASES:
        yield from _check(Arrays(device, precision), B, T, C, V)
        yield from _check_nodes(Arrays(device, precision), B * T, T, C, V)


def _check(arrays: Arrays, B: int, T: int, C: int, V: int) -> Iterator[Check]:
    case = f"embedding {arrays.store} B={B} T={T} C={C} V={V}"
    op = Embedding(arrays.device, arrays.numerics, n_embd=C)
    host_tokens = arrays.rng.integers(0, V, (B, T)).astype(np.int32)
    host_tokens[0, :] = V - 1  # a token with many rows
    tokens = arrays.int(host_tokens)
    wte, wte64 = arrays.float(arrays.normal(640, C))
    wpe, wpe64 = arrays.float(arrays.normal(40, C))
    x = arrays.empty_act(B, T, C)
    op.forward(x=x, tokens=tokens, wte=wte, wpe=wpe)
    yield compare(f"{case}: x", arrays.values(x), wte64[host_tokens] + wpe64[:T], arrays.act_tolerance(2))

    order, segments = group_rows(host_tokens, V)
    dx, dx64 = arrays.act(arrays.normal(B, T, C))
    start_wte, start_wpe = arrays.normal(640, C), arrays.normal(40, C)
    found = []
    for _ in range(2):
        (dwte, dwte64), (dwpe, dwpe64) = arrays.float(start_wte), arrays.float(start_wpe)
        op.backward(dwte=dwte, dwpe=dwpe, dx=dx, tokens=tokens, order=arrays.int(order), segments=arrays.int(segments))
        found.append((arrays.values(dwte), arrays.values(dwpe)))
    unused = np.setdiff1d(np.arange(640), host_tokens)
    yield same(f"{case}: dwte of tokens that do not occur", found[0][0][unused], dwte64[unused])
    yield same(f"{case}: dwpe of positions that do not occur", found[0][1][T:], dwpe64[T:])
    np.add.at(dwte64, host_tokens, dx64)
    dwpe64[:T] += dx64.sum(axis=0)
    most = int(np.bincount(host_tokens.ravel()).max()) + 1
    yield compare(f"{case}: dwte", found[0][0], dwte64, arrays.float_tolerance(most))
    yield compare(f"{case}: dwpe", found[0][1], dwpe64, arrays.float_tolerance(B + 1))
    yield same(f"{case}: dwte twice", found[1][0], found[0][0])
    yield same(f"{case}: dwpe twice", found[1][1], found[0][1])


def _check_nodes(arrays: Arrays, n: int, T: int, C: int, V: int) -> Iterator[Check]:
    """n nodes of a tree at any positions; the last one, where there are several, is padding and adds nothing."""
    case = f"embedding {arrays.store} nodes={n} T={T} C={C} V={V}"
    op = Embedding(arrays.device, arrays.numerics, n_embd=C)
    host_tokens, host_positions = (arrays.rng.integers(0, most, n).astype(np.int32) for most in (V, T))
    tokens, positions = arrays.int(host_tokens), arrays.int(host_positions)
    (wte, wte64), (wpe, wpe64) = arrays.float(arrays.normal(640, C)), arrays.float(arrays.normal(40, C))
    x = arrays.empty_act(1, n, C)
    op.forward(x=x, tokens=tokens, wte=wte, wpe=wpe, positions=positions)
    expected = wte64[host_tokens] + wpe64[host_positions]
    yield compare(f"{case}: x", arrays.values(x)[0], expected, arrays.act_tolerance(2))

    real = slice(max(1, n - 1))
    groups = {"tokens": tokens, "positions": positions}
    for prefix, keys, vocab_size in (("", host_tokens, V), ("position_", host_positions, T)):
        order, segments = group_rows(keys[real], vocab_size)
        groups |= {f"{prefix}order": arrays.int(order), f"{prefix}segments": arrays.int(segments)}
    (dx, dx64), found = arrays.act(arrays.normal(1, n, C)), []
    start_wte, start_wpe = arrays.normal(640, C), arrays.normal(40, C)
    for _ in range(2):
        (dwte, dwte64), (dwpe, dwpe64) = arrays.float(start_wte), arrays.float(start_wpe)
        op.backward(dwte=dwte, dwpe=dwpe, dx=dx, **groups)
        found.append((arrays.values(dwte), arrays.values(dwpe)))
    np.add.at(dwte64, host_tokens[real], dx64[0, real])
    np.add.at(dwpe64, host_positions[real], dx64[0, real])
    for i, (name, expected, keys) in enumerate((("dwte", dwte64, host_tokens), ("dwpe", dwpe64, host_positions))):
        most = int(np.bincount(keys).max()) + 1
        yield compare(f"{case}: {name}", found[0][i], expected, arrays.float_tolerance(most))
        yield same(f"{case}: {name} twice", found[1][i], found[0][i])
