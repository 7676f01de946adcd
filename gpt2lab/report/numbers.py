"""Numbers as a reader wants them: enough digits to compare, none that mean nothing, and never rounded to a limit.

Each function returns plain text for a number, and `MISSING` for None.
"""

import math
from collections.abc import Callable
from functools import wraps

from gpt2lab.record.columns import Format, column, evaluated

MISSING = "–"


def _or_missing(show: Callable[[float], str]) -> Callable[[float | None], str]:
    @wraps(show)
    def shown(value: float | None) -> str:
        return MISSING if value is None else show(value)

    return shown


def plural(number: int, word: str) -> str:
    """Return `1 arm` or `7 arms`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


@_or_missing
def count(value: float) -> str:
    """`1234567` as `1,234,567`."""
    return f"{value:,.0f}"


@_or_missing
def compact(value: float) -> str:
    """`4096000` as `4.10 million`; below ten thousand as it is."""
    for scale, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= scale:
            return f"{significant(value / scale)} {word}"
    return count(value)


@_or_missing
def loss(value: float) -> str:
    """Four decimals; two significant digits below 0.01, where four decimals would hide the size."""
    if value == 0:
        return "0"
    return _exponent(value, 1) if abs(value) < 0.01 else f"{value:.4f}"


@_or_missing
def share(value: float) -> str:
    """An accuracy between 0 and 1, four decimals; only 1 itself is written 1."""
    return "1.0000" if value == 1 else f"{min(value, 0.9999):.4f}"


@_or_missing
def percent(value: float) -> str:
    """A share between 0 and 1 as a percentage with two decimals; only 1 itself is 100 %."""
    return "100 %" if value == 1 else f"{min(100 * value, 99.99):.2f} %"


@_or_missing
def decimal(value: float) -> str:
    """As `loss`; a hundred or more as whole numbers."""
    return loss(value) if abs(value) < 100 else count(value)


def significant(value: float, digits: int = 3) -> str:
    """`value` rounded to significant digits, written without an exponent between 0.001 and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    nearest = float(f"{value:.{digits - 1}e}")
    if not 1e-3 <= abs(nearest) < 1e6:
        return _exponent(value, digits - 1)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(nearest))))
    return f"{nearest:,.{decimals}f}"


def _exponent(value: float, decimals: int) -> str:
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


@_or_missing
def rounded(value: float) -> str:
    """Three significant digits."""
    return significant(value)


@_or_missing
def setting(value: float) -> str:
    """A number a person typed, as short as it can be written exactly."""
    return f"{value:,d}" if isinstance(value, int) else f"{value:.12g}"


@_or_missing
def duration(value: float) -> str:
    """Seconds as `8.31 s`, `12 min 05 s` or `3 h 20 min`."""
    if value < 60:
        return f"{significant(value)} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


_BY_FORMAT: dict[Format, Callable[[float | None], str]] = {
    "loss": decimal,
    "share": share,
    "count": count,
    "decimal": decimal,
    "scientific": rounded,
}


def formatter(metric: str) -> Callable[[float | None], str]:
    """Return how a report writes values of a metric, with digits enough to compare."""
    return _BY_FORMAT[column(metric).format]


def measure_formatter(measure: str) -> Callable[[float | None], str]:
    """Return how a report writes a value of an evaluation, of whichever split."""
    return formatter(evaluated("val")[measure].name)
