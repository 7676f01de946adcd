"""Small wordings that tables, figures and sentences of a comparison share."""

import math
from collections.abc import Callable, Iterable, Sequence

from gpt2lab.record.columns import column
from gpt2lab.report import numbers
from gpt2lab.report.comparison.compare import ArmResult
from gpt2lab.report.comparison.statistics import Estimate, Interval
from gpt2lab.report.markdown import Markdown, escape
from gpt2lab.report.numbers import plural

NO_BREAK, NO_BREAK_HYPHEN = "\u00a0", "\u2011"
CORRECTED = (
    "intervals of arms that are not distinguishable hold together with 95 % (Bonferroni), those of the others are at "
    "the level at which Holm's procedure rejects, each for itself"
)


def jobs_line(counts: dict[str, int]) -> str:
    """Return `18 jobs: 15 finished, 1 diverged, 1 interrupted, 1 not started`."""
    total = sum(counts.values())
    return f"{plural(total, 'job')}: " + ", ".join(f"{number:,} {word}" for word, number in counts.items())


def listed(items: Sequence[str], most: int = 8) -> str:
    """Return items as `a, b and c`, those beyond `most` as a number."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most:,} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1] if items else ""]))


def signed(value: float) -> str:
    """A difference with its sign, and digits enough to compare."""
    sign = "−" if value < 0 else "+"
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{sign}{abs(value):.4f}"
    return f"{sign}{numbers.decimal(abs(value))}"


def signed_percent(value: float) -> str:
    """A share as a percentage with its sign; what rounds to nothing has none."""
    shown = f"{100 * value:+.1f}"
    return f"{'0.0' if float(shown) == 0 else shown.replace('-', '−')} %"


def two_digits(value: float) -> str:
    """A deviation with two significant digits."""
    return numbers.significant(value, 2)


def signed_interval(ends: Interval | None) -> str:
    """Return `−0.0100 to +0.0300`."""
    return numbers.MISSING if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def difference_words(row: ArmResult) -> str:
    """Return `+0.0200 (+0.0100 to +0.0300), worse`."""
    if row.judgement is None or row.difference is None:
        return numbers.MISSING
    interval = signed_interval(row.corrected_interval) if row.corrected_interval else "one pair"
    return f"{signed(row.difference.mean)} ({interval}), {row.judgement.verdict}"


def spread(value: float) -> str:
    """A standard deviation, with the decimals of the mean beside it where they say something."""
    return f"{value:.4f}" if 0.0005 <= value < 100 else numbers.significant(value, 2)


def mean_std(estimate: Estimate | None, show: Callable[[float], str], of: Callable[[float], str] = spread) -> Markdown:
    """Return `1.8123 ± 0.0042`, never broken after the sign; the mean alone without a spread, which `of` shows."""
    if estimate is None:
        return Markdown(numbers.MISSING)
    deviation = "" if estimate.std is None else " " + unbroken(f"± {of(estimate.std)}").replace("-", NO_BREAK_HYPHEN)
    return Markdown(f"{show(estimate.mean)}{deviation}")


def mean_std_of(metric: str, estimate: Estimate | None) -> Markdown:
    """Return mean and deviation of `metric`; of an accuracy nothing below the decimals that it is shown with."""
    if column(metric).format != "share":
        return mean_std(estimate, numbers.formatter(metric))
    return mean_std(estimate, numbers.formatter(metric), lambda std: "< 0.0001" if 0 < std < 1e-4 else f"{std:.4f}")


def within(ends: Interval | None, metric: str) -> Interval | None:
    """Return the part of the interval of a mean of `metric` that a mean can lie in: no loss is below 0."""
    if ends is None:
        return None
    lowest, highest = column(metric).limits
    return max(ends[0], lowest), min(ends[1], highest)


def interval_of(metric: str, ends: Interval | None) -> Markdown:
    """Return `1.8012 to 1.8210`, the interval of a mean of `metric`."""
    ends, show = within(ends, metric), numbers.formatter(metric)
    return Markdown(f"{show(ends[0])}{NO_BREAK}to {show(ends[1])}" if ends else numbers.MISSING)


def interval_words(metric: str, intervals: Iterable[Interval | None]) -> str:
    """Say what the intervals of means of `metric` are, and whether they are shown whole."""
    cut = any(within(ends, metric) != ends for ends in intervals)
    limits = " and ".join(f"{limit:g}" for limit in column(metric).limits if math.isfinite(limit))
    return "intervals are 95 %, by Student's t" + (f", truncated at {limits}" if cut else "")


def unbroken(text: str) -> Markdown:
    """Return text that no line break parts."""
    return Markdown(escape(text).replace(" ", NO_BREAK))


def p_value(p: float | None) -> str:
    """A p-value, one below 0.0001 as no more than that."""
    return "< 0.0001" if p is not None and p < 1e-4 else numbers.rounded(p)


def sentence(text: str) -> str:
    """Return text with a capital at its beginning and a full stop at its end; of nothing, nothing."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if not text or text.endswith(".") else ".")


def lowered(text: str) -> str:
    """Return text with a small letter at its beginning."""
    return text[:1].lower() + text[1:]


def count_verdicts(verdicts: Sequence[str]) -> str:
    """Return `All 6 arms are worse than the baseline`, `Of 5 arms, 3 are better than the baseline, 2 not ...`."""
    preposition = {"better": "than", "worse": "than", "not distinguishable": "from", "not compared": "with"}
    found = [word for word in preposition if word in verdicts]
    if len(found) == 1:
        who = "The one other arm is" if len(verdicts) == 1 else f"All {len(verdicts):,} other arms are"
        return f"{who} {found[0]} {preposition[found[0]]} the baseline"
    said = [f"{verdicts.count(word):,} {word} {preposition[word]}" for word in found]
    said[0] = said[0].replace(" ", " is " if verdicts.count(found[0]) == 1 else " are ", 1)
    return f"Of {len(verdicts):,} other arms, {listed(said)} the baseline"
