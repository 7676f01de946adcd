"""Values of JSON and YAML files that may come from a stranger."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

_LARGEST = 2**63  # beyond it no count of a record lies, and float() may fail


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number that can be shown and reckoned with: finite, no truth value, no int beyond ±2^63."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: value} of nested mappings; an empty one is a value."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
