"""Layers of bands: what their products cost, and the chosen tiles against the best: the case `costs` of tools/bench.py.

A measurement is forward and backward of FC1 and FC2 with one band: six products. All tiles of a case run in turns
within one process, and the least time of each counts, because other programs only ever add to it. With one thread
(OMP_NUM_THREADS=1) it is processor time, to which waiting for others does not add.
"""

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from gpt2lab.engine.torch.banded import BandedLinear
from gpt2lab.engine.torch.plan import COSTS
from gpt2lab.model.band_tiles import (
    TILES,
    BandBlock,
    ProductCost,
    blocks_seconds,
    choose_tile,
    hidden_blocks,
)

CASES = [  # C, band, rows
    *((128, band, rows) for band in (64, 128, 256, 384, 512) for rows in (256, 2048)),
    *((384, band, rows) for band in (64, 256, 512, 1024, 1536) for rows in (256, 1024)),
    *((768, band, rows) for band in (256, 512, 1024, 2048, 3072) for rows in (256, 1024)),
    (1024, 256, 512),
]
ROUNDS = 25
EACH = [ProductCost(call_s=float(i == 0), multiply_add_s=float(i == 1), value_s=float(i == 2)) for i in range(3)]
PRODUCTS = 6  # forward, input gradient and weight gradient of two layers


class Layers:
    """FC1 and FC2 with their inputs; `tile` 0 stands for dense products."""

    def __init__(self, n_embd: int, band: int, tile: int, rows: int) -> None:
        self._pairs = []
        for widens in (True, False):
            sizes = (n_embd, 4 * n_embd) if widens else (4 * n_embd, n_embd)
            layer = BandedLinear(n_embd, band, tile, widens=widens) if tile else nn.Linear(*sizes)
            with torch.no_grad():
                for p in layer.parameters():
                    p.normal_(std=0.02)
            self._pairs.append((layer, torch.randn(rows, sizes[0], requires_grad=True)))
        self._upstream = [torch.randn(rows, 4 * n_embd), torch.randn(rows, n_embd)]

    def seconds(self) -> float:
        """Do forward and backward of both layers."""
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        started = clock()
        for (layer, x), upstream in zip(self._pairs, self._upstream, strict=True):
            x.grad = None
            for p in layer.parameters():
                p.grad = None
            layer(x).backward(upstream)
        return clock() - started


def measure(n_embd: int, band: int, rows: int) -> dict[int, float]:
    """Return {tile, or 0 for dense: least seconds per product}."""
    layers = {tile: Layers(n_embd, band, tile, rows) for tile in (0, *TILES) if tile < 4 * n_embd}
    times = [{tile: one.seconds() for tile, one in layers.items()} for _ in range(ROUNDS)]
    return {tile: min(row[tile] for row in times) / PRODUCTS for tile in layers}


def counts(n_embd: int, band: int, rows: int, tile: int) -> list[float]:
    """Return calls, multiply-adds and values moved of one product: what it costs where one of them costs 1 s each."""
    whole = [BandBlock(slice(0, 4 * n_embd), slice(0, n_embd))]
    blocks = hidden_blocks(n_embd, band, tile, clipped=True) if tile else whole
    return [blocks_seconds(blocks, rows, cost) for cost in EACH]


def fit(measured: dict[tuple[int, int, int], dict[int, float]]) -> ProductCost:
    """Return the constants whose predictions have the least squared relative error."""
    rows = [
        [count / seconds for count in counts(*case, tile)]
        for case, times in measured.items()
        for tile, seconds in times.items()
    ]
    call_s, multiply_add_s, value_s = np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)[0].tolist()
    return ProductCost(call_s=call_s, multiply_add_s=multiply_add_s, value_s=value_s)


def chosen(case: tuple[int, int, int], times: dict[int, float]) -> dict[str, Any]:
    """Return what `choose_tile` takes for a case, and how much longer that takes than the best one measured."""
    tile, best = choose_tile(*case, COSTS["cpu"]) or 0, min(times, key=times.__getitem__)
    n_embd, band, rows = case
    return {
        "n_embd": n_embd,
        "band": band,
        "rows": rows,
        "product_ms": {name(tile): 1000 * seconds for tile, seconds in times.items()},
        "chosen": name(tile),
        "best": name(best),
        "chosen_over_best": times[tile] / times[best],
        "dense_over_chosen": times[0] / times[tile],
    }


def name(tile: int) -> str:
    return str(tile) if tile else "dense"


def bench_band_costs() -> dict[str, Any]:
    """Measure, fit, and compare the choices of the constants in use with the best tiles measured."""
    measured = {case: measure(*case) for case in CASES}
    choices = [chosen(case, times) for case, times in measured.items()]
    return {
        "fitted": asdict(fit(measured)),
        "used": asdict(COSTS["cpu"]),
        "worst_chosen_over_best": max(choice["chosen_over_best"] for choice in choices),
        "choices": choices,
    }
