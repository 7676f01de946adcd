"""Adding a bias to rows, and the sum over rows, against float64."""

from collections.abc import Iterator

import numpy as np
from proof import Check, compare, tolerance
from proofs.arrays import Arrays

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.cuda.ops.bias import Bias, partials_size
from gpt2lab.schema import Precision

# Rows in one block and in several, in one chunk of backward and in several; rows in one block of packs and in several.
SHAPES = [(1, 20), (5, 48), (33, 97), (33, 128), (200, 7), (130, 300), (70, 1)]


def check(device: Device, precision: Precision) -> Iterator[Check]:
    """Yield every comparison on this device."""
    arrays = Arrays(device, precision)
    for rows, n in SHAPES:
        name = f"{rows}x{n}"
        op = Bias(device, arrays.numerics, n=n)
        bias, bias_values = arrays.float(arrays.normal(n))

        x, x_values = arrays.act(arrays.normal(rows, n))
        op.forward(x=x, bias=bias)
        allowed = tolerance(terms=1, compute=arrays.compute, store=arrays.store)
        yield compare(f"bias_forward {name}", arrays.values(x), x_values + bias_values, allowed)

        dy, dy_values = arrays.act(arrays.normal(rows, n))
        dbias, before = arrays.float(arrays.normal(n))
        start = device.download(dbias)
        partials = arrays.empty_float(partials_size(rows, n))
        op.backward(dbias=dbias, dy=dy, partials=partials)
        found = arrays.values(dbias)
        allowed = tolerance(terms=rows + 1, compute=arrays.compute, store=arrays.compute)
        yield compare(f"bias_backward {name}", found, before + dy_values.sum(axis=0), allowed)

        device.upload(dbias, start)
        op.backward(dbias=dbias, dy=dy, partials=partials)
        yield compare(f"bias_backward {name}: twice the same bits", arrays.values(dbias), found, 0.0)
        yield compare(f"bias_backward {name}: dy as it was", arrays.values(dy), dy_values, 0.0)
        yield compare(f"bias {name}: bias as it was", arrays.values(bias), np.asarray(bias_values), 0.0)

        # N columns in the middle of a wider matrix, on whose other columns nothing is done.
        wide, wide_values = arrays.act(arrays.normal(rows, 3 * n))
        op.forward(x=wide, bias=bias, first_column=n)
        wide_values[:, n : 2 * n] += bias_values
        allowed = tolerance(terms=1, compute=arrays.compute, store=arrays.store)
        yield compare(f"bias_forward {name} of {3 * n} columns", arrays.values(wide), wide_values, allowed)
        seen = arrays.values(wide)[:, n : 2 * n]
        dbias, before = arrays.float(arrays.normal(n))
        op.backward(dbias=dbias, dy=wide, partials=partials, first_column=n)
        allowed = tolerance(terms=rows + 1, compute=arrays.compute, store=arrays.compute)
        yield compare(
            f"bias_backward {name} of {3 * n} columns", arrays.values(dbias), before + seen.sum(axis=0), allowed
        )
