"""How far a kernel may be from its float64 reference: the one table of tolerances, by formula.

Used by the tests on the host device and by tools/gpu_check.py on a card.
"""

from dataclasses import dataclass

import numpy as np

# How far rounding to nearest moves a value at most, relative to it: 2^-p for p significant bits.
UNIT_ROUNDOFF = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison; errors are relative to the largest magnitude of the reference, or of what it sums."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for nan

    def __str__(self) -> str:
        return f"{self.name}: error {self.error:.2e}, allowed {self.tolerance:.2e}"


def tolerance(*, terms: int, compute: str = "fp32", store: str = "fp32", roundings: int = 1) -> float:
    """Return the allowed relative error of a value that sums `terms` products.

    The sum, in `compute` precision, errs by the unit roundoff times the square root of its length (random walk),
    with a factor 8 for the constant and for the largest of many values; each of `roundings` stored intermediates adds
    one unit roundoff of `store`.
    """
    return 8 * UNIT_ROUNDOFF[compute] * terms**0.5 + roundings * UNIT_ROUNDOFF[store]


def compare(name: str, found: np.ndarray, expected: np.ndarray, allowed: float) -> Check:
    """Return the largest difference of `found` from the float64 `expected`, relative to the largest |expected|."""
    assert np.shape(found) == np.shape(expected), f"{name}: {np.shape(found)}, expected {np.shape(expected)}"
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    error = float(np.abs(np.asarray(found, dtype=np.float64) - expected).max(initial=0.0)) / scale
    return Check(name=name, error=error, tolerance=allowed)


def compare_sums(
    name: str, found: np.ndarray, expected: np.ndarray, summed: np.ndarray, *, terms: int, compute: str, store: str
) -> Check:
    """Return what `compare` does, for sums of terms that may cancel; `summed`, float64: the sums of |terms|.

    Adding errs relative to what is added, so error and tolerance are relative to the largest of `summed`; rounding
    when the value is stored remains relative to the largest value.
    """
    assert np.shape(found) == np.shape(expected), f"{name}: {np.shape(found)}, expected {np.shape(expected)}"
    scale = float(np.max(summed)) or 1.0
    error = float(np.abs(np.asarray(found, dtype=np.float64) - expected).max()) / scale
    rounded = UNIT_ROUNDOFF[store] * float(np.abs(expected).max()) / scale
    allowed = tolerance(terms=terms, compute=compute, roundings=0) + rounded
    return Check(name=name, error=error, tolerance=allowed)
