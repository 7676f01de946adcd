"""Curves of several runs side by side: where one reaches a value, what another has at the same step, at what cost.

Plain functions over measured curves. Between two measurements a curve is a straight line; beyond them it says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import numpy as np

from gpt2lab.report.inputs import Curve, Inputs

SMOOTHING_WINDOW = 5  # measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRange:
    """The seeds of one setting at the steps that all of them measured: steps int64 (S,), the others float64 (S,)."""

    n: int
    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray  # sample standard deviation, with n - 1; zeros when n = 1
    low: np.ndarray
    high: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


def smoothed(curve: Curve, window: int = SMOOTHING_WINDOW) -> Curve:
    """Return the centred running median over `window` (odd) measurements.

    Towards the ends the window shrinks on both sides alike, so the first and the last measurement stay as they are and
    a curve that only falls or only rises is not changed at all.
    """
    assert window % 2 == 1, f"a centred window is odd, got {window}"
    N, half = len(curve), window // 2
    medians = curve.values.copy()
    if window <= N:
        medians[half : N - half] = np.median(np.lib.stride_tricks.sliding_window_view(curve.values, window), axis=1)
    for side in range(1, min(half, (N + 1) // 2)):  # measurements from the nearer end
        medians[side] = np.median(curve.values[: 2 * side + 1])
        medians[N - 1 - side] = np.median(curve.values[N - 1 - 2 * side :])
    return Curve(curve.steps, medians)


def running_minimum(curve: Curve) -> Curve:
    """Return the lowest value measured so far, at each step."""
    return Curve(curve.steps, np.minimum.accumulate(curve.values))


def first_reaching(curve: Curve, target: float, *, rising: bool = False) -> float | None:
    """Return the first step at which a curve is at `target` or below (`rising`: or above), None where it never is.

    Interpolated between the measurement that is there and the one before; a curve that begins there gives its first.
    """
    there = np.flatnonzero(curve.values >= target if rising else curve.values <= target)
    if not len(there):
        return None
    index = int(there[0])
    if index == 0:
        return float(curve.steps[0])
    (before, after), (start, end) = curve.values[index - 1 : index + 1], curve.steps[index - 1 : index + 1]
    return float(start + (target - before) / (after - before) * (end - start))


def value_at(curve: Curve, step: float) -> float | None:
    """Return the value of a curve at `step`, interpolated; None before its first and after its last measurement."""
    if not len(curve) or not curve.steps[0] <= step <= curve.steps[-1]:
        return None
    return float(np.interp(step, curve.steps, curve.values))


def common_steps(curves: Sequence[Curve]) -> np.ndarray:
    """Return the steps at which all of `curves` were measured, ascending, int64 (S,)."""
    if not curves:
        return np.array([], dtype=np.int64)
    return reduce(np.intersect1d, [curve.steps for curve in curves])


def at_steps(curve: Curve, steps: np.ndarray) -> np.ndarray:
    """Return the values of a curve at `steps`, all of which it measured, float64 (S,)."""
    return curve.values[np.searchsorted(curve.steps, steps)]


def gap(train: Curve, val: Curve) -> Curve:
    """Return validation minus training, at the steps at which both were measured."""
    steps = common_steps([train, val])
    return Curve(steps, at_steps(val, steps) - at_steps(train, steps))


def split_gap(inputs: Inputs) -> Curve:
    """Return validation minus training loss of a run."""
    return gap(inputs.curve("train_eval_loss"), inputs.curve("val_loss"))


def seed_range(curves: Sequence[Curve], most: int | None = None) -> SeedRange:
    """Return mean, spread and range over `curves` at the steps they have in common, of which `most` are taken."""
    steps = common_steps(curves)
    if most is not None and len(steps) > most:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))]
    if not len(steps):
        return SeedRange(n=len(curves), steps=steps, **{part: np.empty(0) for part in ("mean", "std", "low", "high")})
    values = np.stack([at_steps(curve, steps) for curve in curves])
    several = len(curves) > 1
    return SeedRange(
        n=len(curves),
        steps=steps,
        mean=values.mean(axis=0),
        std=values.std(axis=0, ddof=1) if several else np.zeros(len(steps)),
        low=values.min(axis=0),
        high=values.max(axis=0),
    )


def seconds_at(inputs: Inputs, step: float) -> float | None:
    """Return the seconds of training that a run had spent at `step`, evaluation not counted; 0 at step 0."""
    elapsed = inputs.curve("elapsed_s")
    if not len(elapsed):
        return None
    if elapsed.steps[0] > 0:
        elapsed = Curve(np.insert(elapsed.steps, 0, 0), np.insert(elapsed.values, 0, 0.0))
    return value_at(elapsed, step)


def outside_share(inputs: Inputs) -> float | None:
    """Return the share of a run's time from start to end that was not spent in training steps, 0 to 1.

    Evaluation, checkpoints, samples and start-up; of a run that was continued also the pause. None where the record
    does not tell.
    """
    started, ended, training = (inputs.fact(f"status.{key}") for key in ("started", "ended", "training_s"))
    if isinstance(training, bool) or not isinstance(training, int | float):
        return None
    try:
        whole = (datetime.fromisoformat(str(ended)) - datetime.fromisoformat(str(started))).total_seconds()
    except (TypeError, ValueError):  # null, no date, or one of the two without its time zone
        return None
    return 1 - training / whole if 0 <= training <= whole and whole > 0 else None
