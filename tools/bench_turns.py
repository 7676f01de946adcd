"""Sides of a comparison, measured in turns within one process, once it is known that they compute the same."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Side = Callable[[], object]

WARM_UP = 3  # rounds that are not counted: by then memory is where it stays from step to step


def in_turns(sides: Mapping[str, Side], *, rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Return the seconds of a call of each side, one value per round, after those to warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-WARM_UP, rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:  # whoever comes second finds the processor warmer
            started = time.perf_counter()
            for _ in range(calls):
                sides[name]()
            if turn >= 0:
                times[name].append((time.perf_counter() - started) / calls)
    return times


def fastest(sides: Mapping[str, Side], *, rounds: int = 3, calls: int = 1) -> str:
    """Return the name of the side with the lowest median."""
    times = in_turns(sides, rounds=rounds, calls=calls)
    return min(times, key=lambda name: statistics.median(times[name]))


def quartiles(seconds: list[float], others: list[float]) -> dict[str, float]:
    """Return how many times longer the others took, round by round: median, quartiles and the number of rounds."""
    q1, median, q3 = statistics.quantiles([b / a for a, b in zip(seconds, others, strict=True)], n=4)
    return {"ratio": median, "ratio_q1": q1, "ratio_q3": q3, "rounds": len(seconds)}


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return how many times longer theirs took, and the medians of both."""
    medians = {"ours_ms": 1000 * statistics.median(ours), "theirs_ms": 1000 * statistics.median(theirs)}
    return quartiles(ours, theirs) | medians


def compare(sides: Mapping[str, Side], *, rounds: int, calls: int = 1) -> dict[str, Any]:
    """Measure "ours" and "theirs" in turns and return their figures."""
    times = in_turns(sides, rounds=rounds, calls=calls)
    return ratio(times["ours"], times["theirs"])


def rounding(terms: int) -> float:
    """Return how far a float32 result of which each value sums `terms` products may be from exact, relative to it."""
    # The tests' formula: eight unit roundoffs times the root of the length, and one for each stored intermediate.
    return 2.0**-24 * (8 * math.sqrt(terms) + 4)


def require_equal(what: str, ours: Tensor, theirs: Tensor, *, terms: int) -> None:
    """Stop unless two float32 results, of which each value sums `terms` products, are equal to rounding."""
    allowed = rounding(terms)
    error = ((ours - theirs).norm() / theirs.norm()).item()
    if not error <= allowed:
        raise SystemExit(f"{what}: differs from PyTorch's by {error:.1e}, allowed {allowed:.1e}: nothing was timed")
