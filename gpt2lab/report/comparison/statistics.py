"""What several seeds support: means with intervals, differences paired by seed, and a verdict in words.

Plain functions over arrays of one value per run. Nothing here knows what the values measure.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
_ROUNDING = 4 * float(np.finfo(np.float64).eps)  # of the largest value: a spread below it is that of the subtraction

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "not distinguishable", "not compared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The mean of a few runs; what one run cannot tell is None."""

    n: int
    mean: float
    std: float | None  # sample standard deviation, with n - 1
    interval: Interval | None  # of the mean, by the t distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Estimate):
    """The mean difference of n pairs, a setting minus the baseline at the same seed."""

    p: float | None  # two-sided, of the paired t test; None for one pair, and where all differ by the same amount


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Censored:
    """How long runs took to get somewhere, when some of them had not by the time they ended."""

    n: int
    reached: int
    median: float | None  # None: at least half did not reach it while they were observed
    median_beyond: float | None  # what it is known to exceed then, infinity when half or more never will
    beyond: float | None  # the longest time in which a run did not reach it, infinity for one that diverged
    low: float | None  # the first and the last to reach it; None when none did
    high: float | None

    def median_text(self, show: Callable[[float], str]) -> str:
        """The median in words: `1,250`, `> 2,000` when it lies beyond what was watched, `never`."""
        if self.median is not None:
            return show(self.median)
        assert self.median_beyond is not None
        return "never" if math.isinf(self.median_beyond) else f"> {show(self.median_beyond)}"

    def range_text(self, show: Callable[[float], str]) -> str:
        """First to last in words: `900 to 1,500`, `900 to > 2,000`, `900 to never`, `900; others not by 500`."""
        if self.low is None or self.high is None:
            text = self.median_text(show)
            return text if text == "never" or self.beyond == self.median_beyond else f"{text} to never"
        reached = show(self.low) if self.low == self.high else f"{show(self.low)} to {show(self.high)}"
        if self.beyond is None:
            return reached
        if self.beyond <= self.high:  # watched for less time than the last took: its place is not known
            return f"{reached}; others not by {show(self.beyond)}"
        return f"{show(self.low)} to {'never' if math.isinf(self.beyond) else f'> {show(self.beyond)}'}"


def estimate(values: np.ndarray) -> Estimate:
    """Return mean, sample standard deviation and t interval of `values`, finite, (N,), N at least 1."""
    n, mean, std = _moments(values)
    return Estimate(n=n, mean=mean, std=std, interval=None if std is None else _interval(n, mean, std))


def difference_by_seed(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return the mean of `values` - `baseline`, both by seed; None without a seed in common."""
    pairs = np.array([(values[seed], baseline[seed]) for seed in sorted(values.keys() & baseline.keys())])
    return paired_difference(pairs[:, 0], pairs[:, 1]) if len(pairs) else None


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> Difference:
    """Return the mean of `values` - `baseline`, both finite, (N,), N at least 1, entry i of each with the same seed.

    The p-value is that of the paired t test, t = mean / (std / sqrt(N)) with N - 1 degrees of freedom. Equal pairs have
    p = 1; pairs that all differ by the same amount (up to rounding) have none, since a spread of 0 estimated from a
    few seeds is not certainty.
    """
    assert values.shape == baseline.shape, f"pairs need equally many values, got {values.shape} and {baseline.shape}"
    n, mean, std = _moments(values - baseline)
    if std is not None and std <= _ROUNDING * max(np.abs(values).max(), np.abs(baseline).max()):
        std = 0.0
    if std is None or (std == 0 and mean):
        return Difference(n=n, mean=mean, std=std, interval=None, p=None)
    return Difference(n=n, mean=mean, std=std, interval=_interval(n, mean, std), p=_p_value(n, mean, std))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for how many there are, in their order (Holm 1979, the step-down procedure).

    The i-th smallest of m (i from 0) is multiplied by m - i, never ends below a smaller one's, and not above 1.
    """
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    p[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return p.tolist()


def corrected_interval(difference: Difference, corrected_p: float, comparisons: int) -> Interval | None:
    """Return the interval of a difference, one of `comparisons` that Holm's procedure corrected; None without a p.

    It contains 0 just when `corrected_p` is 1 - CONFIDENCE or above. Then its error is (1 - CONFIDENCE) / comparisons
    (Bonferroni): the corrected p-value is capped at 1 and raised to that of a smaller one, so it does not tell the
    level. Of a difference that was found, a p-value raised by a factor k is the test at an error of
    (1 - CONFIDENCE) / k, and that is the error of its interval.
    """
    if difference.p is None or difference.std is None:
        return None
    found = corrected_p < 1 - CONFIDENCE and difference.p > 0
    level = 1 - (1 - CONFIDENCE) / (corrected_p / difference.p if found else comparisons)
    return _interval(difference.n, difference.mean, difference.std, level)


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


def censored_median(values: np.ndarray, reached: np.ndarray) -> Censored:
    """Return the median of `values` (N,), N at least 1; where `reached` (N,) is False, a value is only a lower bound.

    A bound of infinity stands for a run that never will. The median is where the estimate of Kaplan and Meier (1958)
    of the share that is not there yet falls below one half; halfway between two values when it rests at one half
    between them, so that without bounds it is the ordinary median.
    """
    values, reached = np.asarray(values, dtype=np.float64), np.asarray(reached, dtype=bool)
    assert values.shape == reached.shape and len(values), f"expected (N,) twice, got {values.shape}, {reached.shape}"
    times = values[reached]
    finite = values[np.isfinite(values)]
    never = len(values) - len(finite)
    median = _kaplan_meier_median(values, reached)
    return Censored(
        n=len(values),
        reached=int(reached.sum()),
        median=median,
        median_beyond=None if median is not None else math.inf if 2 * never >= len(values) else float(finite.max()),
        beyond=None if reached.all() else float(values[~reached].max()),
        low=float(times.min()) if len(times) else None,
        high=float(times.max()) if len(times) else None,
    )


def _kaplan_meier_median(values: np.ndarray, reached: np.ndarray) -> float | None:
    from scipy import stats

    if not reached.any():
        return None
    times = values[reached]
    bounds = np.minimum(values[~reached], times.max())  # scipy takes no infinity, and later bounds tell no more
    share = stats.ecdf(stats.CensoredData(uncensored=times, right=bounds)).sf  # of runs that are not there yet
    below = share.quantiles[share.probabilities < 0.5 - _ROUNDING]
    at_half = share.quantiles[np.abs(share.probabilities - 0.5) <= _ROUNDING]
    return float((at_half[0] + below[0]) / 2 if len(at_half) else below[0]) if len(below) else None


def judge(
    difference: Difference | None,
    *,
    corrected_p: float | None,
    comparisons: int,
    floor: NoiseFloor | None,
    higher_is_better: bool,
) -> Judgement:
    """Return the verdict on a difference to the baseline (None: no seed in common), and the rule that decided it.

    `corrected_p` is one of `comparisons`. Not distinguishable with fewer than two pairs, without a spread between them,
    when the interval at the corrected level contains 0, or when the difference is not larger than the noise floor;
    else better or worse.
    """
    if difference is None:
        return _undecided("no seed in common with the baseline")
    if difference.n < 2:
        return _undecided("n = 1: one pair of runs holds no spread over seeds")
    if corrected_p is None or difference.p is None:
        return _undecided("no spread between the pairs: not tested")
    size = f"{difference.mean:+.4g}"
    interval = corrected_interval(difference, corrected_p, comparisons)
    assert interval is not None
    # Of the p-value, which does not suffer from the rounding of the interval's ends.
    if corrected_p >= 1 - CONFIDENCE:
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


def _interval(n: int, mean: float, std: float, confidence: float = CONFIDENCE) -> Interval:
    from scipy.special import stdtrit  # Student's t; scipy.stats wraps it and takes a second to import

    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n)
    return mean - half, mean + half


def _p_value(n: int, mean: float, std: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(mean) / (std / math.sqrt(n)))) if std else 1.0
