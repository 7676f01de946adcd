"""Values of JSON and YAML files: numbers, and nested mappings."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: value} of nested mappings; an empty one is a value."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def look_up(mapping: Any, path: str) -> Any:
    """Return the value at a dotted path, None where any part of it is absent."""
    for key in path.split("."):
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping


def common(mappings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys that all mappings have with the same value, in the order of the first, at any depth.

    Values are the same when they are written alike in JSON: true is not 1, and nan is nan. No mappings give {}.
    """
    found: dict[str, Any] = {}
    for key, value in mappings[0].items() if mappings else ():
        others: list[Any] = [other[key] for other in mappings[1:] if key in other]
        if len(others) < len(mappings) - 1:
            continue
        written = _written(value)
        if all(_written(other) == written for other in others):
            found[key] = value
        elif all(isinstance(each, dict) for each in (value, *others)) and (part := common([value, *others])):
            found[key] = part
    return found


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
