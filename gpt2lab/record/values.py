"""Values of JSON and YAML files that may come from a stranger."""

import math
from typing import TypeGuard

_LARGEST = 2**63  # beyond it no count of a record lies, and float() may fail


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number that can be shown and reckoned with: finite, no truth value, no int beyond ±2^63."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
