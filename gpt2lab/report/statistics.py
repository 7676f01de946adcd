"""What several seeds support: means with intervals, differences paired by seed, and a verdict in words.

Plain functions over arrays of one value per run. Nothing here knows what the values measure.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The mean of a few runs; what one run cannot tell is None."""

    n: int
    mean: float
    std: float | None  # sample standard deviation, with n - 1
    interval: Interval | None  # of the mean, by the t distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean difference of pairs, a setting minus the baseline at the same seed."""

    n: int  # pairs
    mean: float
    std: float | None
    interval: Interval | None
    p: float | None  # two-sided, of the paired t test

    def interval_at(self, confidence: float) -> Interval | None:
        """Return the interval at another confidence, between 0 and 1; None for one pair."""
        return None if self.std is None else _interval(self.n, self.mean, self.std, confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """The spread among runs that differ in nothing but their seed."""

    std: float
    groups: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict, and the rule with its numbers that decided it."""

    verdict: Verdict
    rule: str


def estimate(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Return mean, sample standard deviation and t interval of `values`, finite, (N,), N at least 1."""
    n, mean, std = _moments(values)
    return Estimate(n=n, mean=mean, std=std, interval=None if std is None else _interval(n, mean, std, confidence))


def paired_difference(values: np.ndarray, baseline: np.ndarray, confidence: float = CONFIDENCE) -> Difference:
    """Return the mean of `values` - `baseline`, both finite, (N,), N at least 1, entry i of each with the same seed.

    The p-value is that of the paired t test, t = mean / (std / sqrt(N)) with N - 1 degrees of freedom; pairs that all
    differ by the same amount have p = 0, equal ones p = 1.
    """
    assert values.shape == baseline.shape, f"pairs need equally many values, got {values.shape} and {baseline.shape}"
    n, mean, std = _moments(values - baseline)
    if std is None:
        return Difference(n=n, mean=mean, std=None, interval=None, p=None)
    return Difference(n=n, mean=mean, std=std, interval=_interval(n, mean, std, confidence), p=_p_value(n, mean, std))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for how many there are, in their order (Holm 1979, the step-down procedure).

    The i-th smallest of m (i from 0) is multiplied by m - i, never ends below a smaller one's, and not above 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def corrected_interval(difference: Difference, corrected_p: float, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the interval of a difference at the level that the correction tests it at; None for one pair.

    A p-value raised by a factor k is the same test as an error of (1 - confidence) / k, so this interval contains 0
    just when `corrected_p` is 1 - confidence or above.
    """
    if difference.p is None:
        return None
    factor = corrected_p / difference.p if difference.p else 1.0
    return difference.interval_at(1 - (1 - confidence) / factor)


def noise_floor(groups: Iterable[np.ndarray]) -> NoiseFloor | None:
    """Return the pooled standard deviation of groups of runs of equal config; None where no group has two runs.

    std^2 = sum of squared deviations from each group's own mean / sum of (group size - 1).
    """
    several = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 1]
    if not several:
        return None
    squares = sum(float(np.square(group - group.mean()).sum()) for group in several)
    runs = sum(len(group) for group in several)
    return NoiseFloor(std=math.sqrt(squares / (runs - len(several))), groups=len(several), runs=runs)


def judge(
    difference: Difference | None,
    *,
    corrected_p: float | None,
    floor: NoiseFloor | None,
    higher_is_better: bool,
    confidence: float = CONFIDENCE,
) -> Judgement:
    """Return the verdict on a difference to the baseline (None: no seed in common), and the rule that decided it.

    Not distinguishable with fewer than two pairs, when the interval at the corrected level contains 0, or when the
    difference is not larger than the noise floor; else better or worse.
    """
    if difference is None:
        return _undecided("no seed in common with the baseline")
    if difference.n < 2 or corrected_p is None:
        return _undecided("n = 1: one pair of runs holds no spread over seeds")
    size = f"{difference.mean:+.4g}"
    interval = corrected_interval(difference, corrected_p, confidence)
    assert interval is not None
    # Of the p-value, which does not suffer from the rounding of the interval's ends.
    if corrected_p >= 1 - confidence:
        return _undecided(
            f"the interval of the difference, {interval[0]:+.4g} to {interval[1]:+.4g}, contains 0 "
            f"(corrected p = {corrected_p:.2g})"
        )
    if floor is not None and abs(difference.mean) <= floor.std:
        return _undecided(f"the difference {size} is inside the noise floor of {floor.std:.4g}")
    beyond = "" if floor is None else f" and is larger than the noise floor of {floor.std:.4g}"
    better = (difference.mean > 0) == higher_is_better
    return Judgement(
        verdict="better" if better else "worse",
        rule=f"the difference {size} has an interval without 0 (corrected p = {corrected_p:.2g}){beyond}",
    )


def _undecided(rule: str) -> Judgement:
    return Judgement(verdict="not distinguishable", rule=rule)


def _moments(values: np.ndarray) -> tuple[int, float, float | None]:
    values = np.asarray(values, dtype=np.float64)
    assert values.ndim == 1 and len(values) and np.isfinite(values).all(), f"expected finite values (N,), got {values}"
    return len(values), float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def _interval(n: int, mean: float, std: float, confidence: float) -> Interval:
    from scipy.special import stdtrit  # Student's t; scipy.stats wraps it and takes a second to import

    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n)
    return mean - half, mean + half


def _p_value(n: int, mean: float, std: float) -> float:
    from scipy.special import stdtr

    if std == 0:
        return 0.0 if mean else 1.0
    return float(2 * stdtr(n - 1, -abs(mean) / (std / math.sqrt(n))))
